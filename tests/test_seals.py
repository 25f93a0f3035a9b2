"""The chain of closed months: a seal counts only where it lies in its month's folder, signed, after the one before it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from etl.close import close
from etl.inclusion import inclusion
from etl.published import open_ledger
from etl.seals import SEAL_FILE, MonthSeal, SealBroken, load, read_seals
from schemas.home import Home
from schemas.instants import parse_instant
from tests.rawdata import DAY, NOON, Archive, call, write_book

SEPTEMBER, OCTOBER = "2026-09", "2026-10"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """September and October, a request each, closed."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_book(home)
    Archive(home).seal([*call("r1", NOON - 31 * DAY), *call("r2")])
    assert close(home, parse_instant("2026-11-02T06:00:00Z")).closed == (SEPTEMBER, OCTOBER)
    return home


def place(home: Home, period: str) -> Path:
    return home.ledger / period / SEAL_FILE


def forged(home: Home, change: Callable[[MonthSeal], MonthSeal]) -> None:
    """October's seal with other words, its hash made to fit."""
    seal = change(load(place(home, OCTOBER)))
    place(home, OCTOBER).write_bytes(replace(seal, hash=seal.digest()).as_bytes())


def unsigned(home: Home) -> None:
    forged(home, lambda seal: replace(seal, ends_at="2026-11-01T00:00:01Z"))


def signed_by_nobody(home: Home) -> None:
    forged(home, lambda seal: replace(seal, public_key="no key"))


def without_the_first(home: Home) -> None:
    shutil.rmtree(home.ledger / SEPTEMBER)


def in_another_folder(home: Home) -> None:
    (home.ledger / OCTOBER).rename(home.ledger / "2026-12")


def no_seal_at_all(home: Home) -> None:
    place(home, OCTOBER).write_text("{}")


FORGERIES: dict[str, tuple[Callable[[Home], None], str]] = {
    "words changed, hash made to fit": (unsigned, "its signature does not hold"),
    "signed by what is no key": (signed_by_nobody, "its signature does not hold"),
    "the month before is gone": (without_the_first, "does not follow the seal before it"),
    "it lies in another month's folder": (in_another_folder, "lies in another month's folder"),
    "it says nothing": (no_seal_at_all, "is unreadable"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_seal_that_is_not_the_one_that_was_made_is_told(closed: Home, tmp_path: Path, case: str) -> None:
    """Whoever can write the files cannot write the signature, and no month can be left out or moved."""
    change, words = FORGERIES[case]
    home = Home(shutil.copytree(closed.root, tmp_path / "home"))
    assert [seal.period for seal in read_seals(home)] == [SEPTEMBER, OCTOBER]
    change(home)
    with pytest.raises(SealBroken, match=words):
        read_seals(home)


def test_a_receipt_has_a_proof_only_against_the_seal_that_its_ledger_knows(closed: Home, tmp_path: Path) -> None:
    """Where the seal is not there, or is another one, there is no proof; nothing is proved wrongly."""
    home = Home(shutil.copytree(closed.root, tmp_path / "home"))
    with open_ledger(home) as db:
        assert inclusion(home, db, "r2", OCTOBER) is not None
        assert inclusion(home, db, "r2", "2026-11") is None
        place(home, OCTOBER).write_bytes(load(place(home, OCTOBER)).signed(Ed25519PrivateKey.generate()).as_bytes())
        assert inclusion(home, db, "r2", OCTOBER) is None
        place(home, OCTOBER).unlink()
        assert inclusion(home, db, "r2", OCTOBER) is None
