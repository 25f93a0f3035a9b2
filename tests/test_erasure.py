"""Erasure of bodies: what goes, what stays as it was, and what a missing file is without it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import tokenledger
from etl.build import build
from etl.close import reopen
from etl.verify import verify
from schemas.errors import LedgerError
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.rawdata import DAY, NOON, Archive, attempt, body, broken, call, request, rows, write_book

LATE = NOON + 10 * DAY
NOVEMBER = parse_instant("2026-11-10T12:00:00Z")
ASKED = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Tell me of the ledger"}]}'
SAID = b'data: {"choices":[{"delta":{"content":"Once upon a time"}}]}\n\n'


@pytest.fixture
def closed(tmp_path: Path) -> Home:
    """October closed, with a reply whose tokens were counted from its body; November open, with a body too."""
    home = Home(tmp_path / "home")
    write_book(home)
    cut: list[Record] = [
        request("r2", LATE, match_sha256="c" * 64, api_model="gpt-4o-mini"),
        attempt("r2", at=LATE, sent_model="gpt-4o-mini"),
    ]
    told: list[Record] = [broken("r2", at=LATE, output_seen=True), body("r2", 0, ASKED, LATE), body("r2", 1, SAID, LATE)]
    Archive(home).seal([*call("r1"), *cut, *told, *call("n1", NOVEMBER), body("n1", 0, ASKED, NOVEMBER)])
    assert ledger(home, "2026-11-12T00:00:00Z") == 0
    assert rows(home, "SELECT period FROM periods WHERE status = 'closed'") == [{"period": "2026-10"}]
    return home


def ledger(home: Home, as_of: str, *options: str) -> int:
    return tokenledger.run(["--home", str(home.root), "ledger", "--as-of", as_of, *options])


def bodies(home: Home) -> list[Path]:
    return sorted((home.raw / "body").rglob("*.parquet"))


def sealed(home: Home) -> dict[str, str]:
    folder = home.ledger / "2026-10"
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


MONEY = "SELECT request_id, period, final_charge, input_tokens, output_tokens, receipt_digest FROM ledger ORDER BY ALL"


def test_bodies_go_after_their_days_and_nothing_else_changes(closed: Home) -> None:
    """A body of the closed month stays its 30 days and then goes; that of the open one stays; money, seals and manifest do not move."""
    before, money, manifest = sealed(closed), rows(closed, MONEY), closed.manifest.read_bytes()
    old, new = bodies(closed)
    digest = hashlib.sha256(old.read_bytes()).hexdigest()
    assert ledger(closed, "2026-11-14T00:00:00Z") == 0
    assert bodies(closed) == [old, new]
    assert ledger(closed, "2026-11-30T23:00:00Z") == 0
    assert bodies(closed) == [new]
    (event,) = rows(closed, "SELECT actor, reason, facts FROM audit_trail WHERE event = 'bodies_erased'")
    assert (event["actor"], event["reason"]) == ("tokenledger ledger", "[capture] body_days = 30")
    assert json.loads(event["facts"]) == {"files": [{"path": str(old.relative_to(closed.root)), "sha256": digest}]}
    assert (sealed(closed), rows(closed, MONEY)) == (before, money)
    assert closed.manifest.read_bytes().startswith(manifest)
    verify(closed)
    verify(closed, "2026-10")
    assert ledger(closed, "2026-11-30T23:30:00Z") == 0
    assert len(rows(closed, "FROM audit_trail WHERE event = 'bodies_erased'")) == 1


def test_a_person_erases_what_is_closed_and_never_what_is_open(closed: Home) -> None:
    """The command takes the closed month's body at once, by name and reason; the open month's stays though it is before the day too."""
    old, new = bodies(closed)
    words = ["erase", "--before", "2027-01-01", "--by", "ann", "--reason", "a person asked"]
    assert tokenledger.run(["--home", str(closed.root), *words]) == 0
    assert bodies(closed) == [new]
    verify(closed)
    build(closed)
    (event,) = rows(closed, "SELECT actor, reason FROM audit_trail WHERE event = 'bodies_erased'")
    assert event == {"actor": "ann", "reason": "a person asked"}
    assert not old.exists()


def test_a_file_that_is_missing_without_an_event_is_a_loss(closed: Home) -> None:
    """Nobody erased it, so verification names it; and one that was erased and lies there again in other bytes is named too."""
    old, new = bodies(closed)
    new.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        verify(closed)
    tokenledger.run(["--home", str(closed.root), "erase", "--before", "2026-11-01", "--by", "ann", "--reason", "asked"])
    with pytest.raises(LedgerError, match=new.name):
        verify(closed)
    old.write_bytes(b"another")
    with pytest.raises(LedgerError, match=old.name):
        verify(closed)


def test_a_reopened_month_says_what_it_cannot_count_again(closed: Home) -> None:
    """Its body was erased, so the count is unknown and said to be, and the file is no loss; a missing one blocks the close."""
    tokenledger.run(["--home", str(closed.root), "erase", "--before", "2026-11-01", "--by", "ann", "--reason", "asked"])
    reopen(closed, "2026-10")
    build(closed)
    found = rows(closed, "SELECT kind, detail FROM data_quality WHERE kind IN ('not_recounted', 'quarantined_file')")
    assert [row["kind"] for row in found] == ["not_recounted"]
    assert "was not kept" in found[0]["detail"]
    assert rows(closed, "SELECT final_charge FROM ledger WHERE request_id = 'r1'")[0]["final_charge"] is not None


def test_a_body_that_only_disappeared_keeps_its_month_open(tmp_path: Path) -> None:
    """What is needed for the count and is missing without an event is quarantined, and blocks the close."""
    home = Home(tmp_path / "home")
    write_book(home)
    cut: list[Record] = [request("r2", match_sha256="c" * 64, api_model="gpt-4o-mini"), attempt("r2", sent_model="gpt-4o-mini")]
    Archive(home).seal([*cut, broken("r2", output_seen=True), body("r2", 0, ASKED)])
    bodies(home)[0].unlink()
    build(home)
    assert rows(home, "SELECT blocks_close FROM data_quality WHERE kind = 'quarantined_file'") == [{"blocks_close": True}]
