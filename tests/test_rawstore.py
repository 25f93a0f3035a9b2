"""raw/ of many sidecars in one object store: one chain, every record once, nothing believed that is not what was sealed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.seal import seal
from schemas import manifest
from schemas.errors import UsageError
from schemas.home import Home
from schemas.rawstore import DivergedError, RawStore, RawStoreError
from schemas.records import Instant
from tests.clients import Ask, Door, ask_sync
from tests.rawdata import NOON, call, rows, spool, write_book
from tests.sidecar import Priced, Way, command, sidecar
from tests.sidecar import write_book as write_routes
from tests.stores import BUCKET, WEED, client, moto, seaweed
from tests.upstream import Upstream, serving

SERVERS = [
    "moto",
    pytest.param(
        "seaweed",
        marks=[pytest.mark.peers, pytest.mark.skipif(not WEED.exists(), reason="SeaweedFS is not installed: run `make test-peers`")],
    ),
]


@dataclass(frozen=True)
class Place:
    """A folder of a running store, and the variables that lead a client to it."""

    url: str
    folder: str
    variables: Mapping[str, str]

    def open(self) -> RawStore:
        """The store, as a process that has just started opens it."""
        return RawStore(self.url)

    def home(self, folder: Path, name: str) -> Home:
        """A sidecar's home whose book names the store."""
        home = Home(folder / name)
        write_book(home, book=f'+[raw]\nstore = "{self.url}"\n')
        return home


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """An S3 server with an empty bucket."""
    with {"moto": moto, "seaweed": seaweed}[request.param](tmp_path_factory.mktemp("server")) as variables:
        yield variables


@pytest.fixture
def store(server: Mapping[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder of its own for each test; the environment leads to it."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    folder = request.function.__name__
    return Place(f"s3://{BUCKET}/{folder}", folder, server)


def told(*_: int) -> None:
    """Nobody listens."""


def test_sidecars_that_seal_at_once_share_one_chain(store: Place, tmp_path: Path) -> None:
    """Four sidecars seal eight times each, all at once; one home that has none of their disks charges every call once."""

    def sealed(name: str) -> None:
        home = store.home(tmp_path, name)
        for turn in range(8):
            spool(home, call(f"{name}-{turn}", NOON + turn), writer=name, first_seq=1 + 3 * turn)
            seal(home, Instant(NOON), store.open())

    names = [f"w{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(sealed, names))
    builder = store.home(tmp_path, "builder")
    chain = store.open().join(builder)
    assert [line.number for line in chain] == list(range(1, 33))
    assert chain == manifest.read(builder.manifest)
    assert manifest.sealed_up_to(chain) == dict.fromkeys(names, 24)
    assert store.open().fetch(builder, told) == 96
    assert store.open().fetch(builder, told) == 0


def test_a_store_that_does_not_answer_loses_nothing(store: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing fails with what to check, the spool keeps the records, and the next run seals them."""
    home = store.home(tmp_path, "w1")
    spool(home, call("a"))
    with monkeypatch.context() as dead:
        dead.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
        dead.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(RawStoreError, match="AWS_"):
            seal(home, Instant(NOON), store.open())
    assert manifest.read(home.manifest) == []
    assert seal(home, Instant(NOON), store.open()).rows["response"] == 1


def test_a_home_that_sealed_before_brings_its_chain_along(store: Place, tmp_path: Path) -> None:
    """What lay on its disk alone is in the store afterwards, and another home's next line goes on from there."""
    old, young = store.home(tmp_path, "old"), store.home(tmp_path, "young")
    spool(old, call("a"), writer="old")
    seal(old, Instant(NOON))
    seal(old, Instant(NOON), store.open())
    spool(young, call("b"), writer="young")
    seal(young, Instant(NOON), store.open())
    assert [line.writer for line in store.open().join(old)] == ["old", "young"]


def test_two_histories_do_not_mix(store: Place, tmp_path: Path) -> None:
    """A home with a chain of its own cannot join a store that began with another."""
    one, other = store.home(tmp_path, "one"), store.home(tmp_path, "other")
    spool(one, call("a"), writer="one")
    seal(one, Instant(NOON), store.open())
    spool(other, call("b"), writer="other")
    seal(other, Instant(NOON))
    with pytest.raises(DivergedError, match="line 1"):
        store.open().join(other)


def test_a_changed_object_is_not_believed(store: Place, tmp_path: Path) -> None:
    """A file whose bytes are not those that were sealed is not fetched; a changed line breaks the chain by name."""
    home, reader = store.home(tmp_path, "w1"), store.home(tmp_path, "reader")
    spool(home, call("a"))
    seal(home, Instant(NOON), store.open())
    (line,) = manifest.read(home.manifest)
    client(store.variables).put_object(Bucket=BUCKET, Key=f"{store.folder}/{line.files[0].path}", Body=b"PAR1 something else PAR1")
    store.open().join(reader)
    store.open().fetch(reader, told)
    assert [(reader.raw / file.path).exists() for file in line.files] == [False, *[True] * (len(line.files) - 1)]
    client(store.variables).put_object(Bucket=BUCKET, Key=f"{store.folder}/manifest/000000000002.json", Body=line.line())
    with pytest.raises(manifest.ManifestError, match="000000000002"):
        store.open().join(reader)


def test_an_answer_that_was_lost_is_no_second_line(store: Place, tmp_path: Path) -> None:
    """A line that was put, but of which the home never heard, is found there and not put again."""
    home = store.home(tmp_path, "w1")
    spool(home, call("a"))
    seal(home, Instant(NOON), store.open())
    home.manifest.write_bytes(b"")  # as after a power cut between the put and the line on the disk
    spool(home, call("a"))
    assert seal(home, Instant(NOON), store.open()).files == 0
    assert len(manifest.read(home.manifest)) == 1


def test_a_sidecar_seals_there_and_another_home_builds_the_ledger(store: Place, tmp_path: Path) -> None:
    """Real traffic through one machine's proxy; `tokenledger ledger` on another has its request, its charge and its balance."""
    settings = f'[raw]\nstore = "{store.url}"'
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    with serving(Upstream(name="vendor")) as vendor:
        for home in (one, other):
            write_routes(home, [Way("official", f"{vendor.url}/v1")], prices=[Priced("official", "*", "input", "1")], settings=settings)
        with sidecar(one) as running:
            ask_sync(Door(running.base_url), Ask())
    done = subprocess.run(command(other, "ledger", "--no-close"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(other, "select status from ledger")] == ["ok"]


def test_what_is_no_store_is_refused() -> None:
    """A scheme that the library does not know is a bad book, with its cure."""
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX"):
        RawStore("ftp://somewhere/else")
