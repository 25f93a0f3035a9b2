"""Keys are added, rotated and revoked by rows in keys.toml, and never so that the book would not stand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from schemas.book import BookError, load_book
from schemas.instants import parse_instant
from schemas.keybook import KeyExistsError, NoSuchKeyError, append_key, revoke_key, rotate_key
from schemas.registry import Key

EXAMPLE = Path(__file__).parent.parent / "data" / "book"
NOON = parse_instant("2026-11-20T12:00:00Z")
ONE, TWO = "fp_" + "1" * 32, "fp_" + "2" * 32


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The keys.toml of a copy of the example book."""
    shutil.copytree(EXAMPLE, tmp_path / "book")
    return tmp_path / "book" / "keys.toml"


def key(name: str = "k-ada", fingerprint: str = ONE, **more: Any) -> Key:
    """A key of Ada's."""
    facts = {"id": name, "label": 'Ada\'s "laptop" é', "fingerprint": fingerprint, "user": "ada", "project": "search", "wallet": "research"}
    return Key.model_validate({**facts, **more})


def test_a_key_that_was_added_reads_back_as_it_was_given(keys: Path) -> None:
    """Every field survives the file, the comments above stay, and the mode of the file stays."""
    keys.chmod(0o600)
    before = keys.read_text()
    given = key(
        models=("gpt-6-luna", "gpt-4o-mini"), routes=("official", "pool"), monthly_limit="200.50", enforce=True, trusted=True,
        expires="2027-01-01T00:00:00Z", **{"from": "2026-11-01T00:00:00.000001Z", "to": "2026-12-01T00:00:00+01:00"},
    )  # fmt: skip
    book = append_key(keys, given)
    assert book.keys == load_book(keys.parent).keys == (given,)
    assert keys.read_text().startswith(before.rstrip("\n"))
    assert keys.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in keys.parent.iterdir() if path.name.startswith(".")] == []


def test_an_id_or_a_credential_is_added_once(keys: Path) -> None:
    """The second registration names the row that is there and what to do; the file stays byte for byte."""
    append_key(keys, key())
    before = keys.read_bytes()
    with pytest.raises(KeyExistsError, match=r"k-ada is registered already \(line 26\)[\s\S]*key rotate --id k-ada"):
        append_key(keys, key(fingerprint=TWO))
    with pytest.raises(KeyExistsError, match=r"already as k-ada \(line 26\)[\s\S]*revoke k-ada first"):
        append_key(keys, key("k-bob"))
    assert keys.read_bytes() == before


def test_rotation_keeps_the_id_and_the_past(keys: Path) -> None:
    """After a rotation the old credential is known before the instant and the new one from it on, with all else the same."""
    append_key(keys, key(monthly_limit="5"))
    book = rotate_key(keys, "k-ada", TWO, NOON)
    rows = [book.key(fingerprint, at) for fingerprint in (ONE, TWO) for at in (NOON - 1, NOON)]
    assert [row and row.id for row in rows] == ["k-ada", None, None, "k-ada"]
    assert book.keys[1].monthly_limit == 5
    with pytest.raises(KeyExistsError, match="has this credential already"):
        rotate_key(keys, "k-ada", TWO, NOON + 1)


def test_revoking_ends_the_row_that_is_in_force(keys: Path) -> None:
    """A revoked key is unknown from the instant on, what was before stays, and it cannot be revoked or rotated again."""
    append_key(keys, key(models=("a", "b")))
    rotate_key(keys, "k-ada", TWO, NOON)
    append_key(keys, key("k-bob", "fp_" + "3" * 32))
    book = revoke_key(keys, "k-ada", NOON + 5)
    assert [book.key(TWO, at) is not None for at in (NOON + 4, NOON + 5)] == [True, False]
    assert book.key(ONE, NOON - 1) is not None
    assert book.key("fp_" + "3" * 32, NOON + 5) is not None
    with pytest.raises(NoSuchKeyError, match="key list"):
        revoke_key(keys, "k-ada", NOON + 6)
    with pytest.raises(NoSuchKeyError, match="key list"):
        rotate_key(keys, "k-ada", ONE, NOON + 6)


def test_a_revoked_credential_may_be_registered_again(keys: Path) -> None:
    """A credential may come back under another id, from a later instant."""
    append_key(keys, key())
    revoke_key(keys, "k-ada", NOON)
    book = append_key(keys, key("k-bob", **{"from": "2026-11-21T00:00:00Z"}))
    found = [book.key(ONE, at) for at in (NOON - 1, NOON, parse_instant("2026-11-21T00:00:00Z"))]
    assert [row and row.id for row in found] == ["k-ada", None, "k-bob"]


def test_a_book_that_does_not_stand_is_not_touched(keys: Path) -> None:
    """A fault anywhere in the book, or one that the new row would make, refuses the change and leaves the file."""
    append_key(keys, key())
    before = keys.read_bytes()
    with pytest.raises(BookError, match=r"keys\.toml:27 to"):
        revoke_key(keys, "k-ada", 0)
    (keys.parent / "book.toml").write_text('currency = "dollars"\n')
    with pytest.raises(BookError, match=r"book\.toml:1 currency"):
        append_key(keys, key("k-bob", TWO))
    assert keys.read_bytes() == before


def test_the_first_key_makes_the_file(keys: Path) -> None:
    """A book without keys.toml gets one."""
    keys.unlink()
    append_key(keys, key())
    assert keys.read_text().startswith("[[key]]\n")
