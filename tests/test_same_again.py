"""From the same records and book come the same exports, to the last byte: whatever the order, the copies, the threads or the zone."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from etl.build import build
from etl.close import close
from etl.export.month import SEALED, export
from schemas.home import Home
from schemas.instants import parse_instant, write_instant
from schemas.records import Record
from tests.rawdata import DAY, HOUR, NOON, Archive, attempt, call, event, failure, request, topup, write_book

ROOT = Path(__file__).parent.parent
MORNING = parse_instant("2026-11-02T06:00:00Z")


def traffic() -> list[Record]:
    """Calls, a failure, a hold that is given up, entries, and a call of the next month."""
    records: list[Record] = [topup("t1", "10", bonus="1", expires="2026-12-01T00:00:00Z"), topup("t2", "5", bucket="routed_balance")]
    for n in range(40):
        records += call(f"r{n:02d}", NOON + n * HOUR, prompt=1000 + n, completion=n)
    records += [request("f1", NOON + 9), attempt("f1", at=NOON + 9), failure("f1", at=NOON + 10)]
    records += [request("h1", NOON + HOUR), attempt("h1", at=NOON + HOUR, channel="routed")]
    records += [event("a1", "acknowledged", NOON + DAY, actor="ann", reason="given up", subject="h1/1")]
    return [*records, *call("n1", MORNING)]


def digests(home: Home) -> dict[str, str]:
    """The month's exports and its statement."""
    names = [f"ledger.{form}" for form in SEALED] + ["statement.html"]
    return {name: hashlib.sha256((home.ledger / "2026-10" / name).read_bytes()).hexdigest() for name in names}


def closed(folder: Path, parts: list[list[Record]], threads: int | None = None) -> dict[str, str]:
    """The exports of October, sealed in these parts, each by a journal of its own."""
    home = Home(folder)
    write_book(home)
    archive = Archive(home)
    for number, part in enumerate(parts):
        archive.seal(part, writer=f"w{number}")
    done = close(home, MORNING, threads=threads)
    assert done.closed == ("2026-10",), done.refusals
    return digests(home)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return closed(tmp_path_factory.mktemp("expected"), [traffic()])


def test_order_copies_and_files_do_not_matter(tmp_path: Path, expected: dict[str, str]) -> None:
    """Shuffled; split over seven files; every record twice: one hash."""
    chance = random.Random(7)
    shuffled = traffic()
    chance.shuffle(shuffled)
    assert closed(tmp_path / "shuffled", [shuffled]) == expected
    assert closed(tmp_path / "split", [shuffled[n::7] for n in range(7)]) == expected
    assert closed(tmp_path / "twice", [shuffled, traffic()]) == expected


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_matter(tmp_path: Path, expected: dict[str, str], threads: int) -> None:
    """One, two and four threads: one hash."""
    assert closed(tmp_path, [traffic()], threads) == expected


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_the_machines_zone_does_not_matter(tmp_path: Path, expected: dict[str, str], zone: str) -> None:
    """The command itself under three values of TZ: one hash."""
    home = Home(tmp_path)
    write_book(home)
    Archive(home).seal(traffic())
    command = [sys.executable, "-m", "tokenledger", "--home", str(home.root), "ledger", "--as-of", write_instant(MORNING)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=90, env={**os.environ, "TZ": zone})
    assert done.returncode == 0, done.stderr
    assert digests(home) == expected


def test_a_closed_month_exports_the_same_after_more_traffic(tmp_path: Path, expected: dict[str, str]) -> None:
    """What came after, late for October too, does not show in its exports."""
    home = Home(tmp_path)
    write_book(home)
    archive = Archive(home)
    archive.seal(traffic())
    close(home, MORNING)
    archive.seal([*call("late", NOON), *call("n2", MORNING + HOUR)], writer="w2")
    build(home)
    for form in SEALED:
        export(home, form, "2026-10", tmp_path / f"again.{form}")
        assert hashlib.sha256((tmp_path / f"again.{form}").read_bytes()).hexdigest() == expected[f"ledger.{form}"]
