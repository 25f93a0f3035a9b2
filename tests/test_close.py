"""The monthly close: when a month may close, what stands against it, and that a closed one never changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from etl.build import build
from etl.close import Closing, Refusal, close, refusals, reopen
from etl.closed import UNOWNED, SettingChangedError, bounds, owned_by_month
from etl.published import open_ledger
from etl.receipt import find
from etl.seals import SealBroken, read_seals
from etl.summary import summarise
from etl.verify import verify
from schemas import manifest
from schemas.home import Home
from schemas.instants import parse_instant, write_instant
from schemas.ledger import TABLES
from schemas.records import Record
from tests.rawdata import (
    DAY,
    HOUR,
    NOON,
    SECOND,
    Archive,
    attempt,
    call,
    event,
    failure,
    one,
    request,
    response,
    rows,
    spool,
    topup,
    usage,
    write_book,
)
from tokenledger import run

ROOT = Path(__file__).parent.parent
NOVEMBER = parse_instant("2026-11-01T00:00:00Z")
MORNING = NOVEMBER + 30 * HOUR  # more than close_after_h = 24 after October's end
DECEMBER = parse_instant("2026-12-02T06:00:00Z")
CHARGE = Decimal("0.00045")  # call(): 1000 in at 0.15 and 500 out at 0.60 a million
FEE = "official,gpt-4o-mini,request,0.01,1,USD,2026-01-01T00:00:00Z,,charge,,,,,test,a fee that comes to light late\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    write_book(home)
    return home


def recorded(home: Home, *records: Record, **changes: str) -> Archive:
    """Sealed records under the test book."""
    write_book(home, **changes)
    archive = Archive(home)
    archive.seal(records)
    return archive


def status(home: Home) -> dict[str, str]:
    return {row["period"]: row["status"] for row in rows(home, "FROM periods")}


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def october(home: Home) -> dict[str, Any]:
    return one(home, "SELECT count(*) AS requests, sum(final_charge) AS charged FROM ledger WHERE period = '2026-10'")


@pytest.fixture(scope="module")
def two_months(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("closed"))
    recorded(home, *call("r1"), *call("n1", NOVEMBER + DAY))
    close(home, DECEMBER)
    return home


@pytest.fixture
def closed(two_months: Home, tmp_path: Path) -> Home:
    """October and November closed, a request each."""
    return Home(shutil.copytree(two_months.root, tmp_path / "closed"))


# ---- when ----


def test_a_month_waits_a_day_and_a_named_one_does_not(home: Home) -> None:
    """close_after_h is 24: an hour too early nothing happens, --period does not wait, and a month that is not over is refused."""
    recorded(home, *call("r1"), *call("n1", NOVEMBER + DAY))
    assert close(home, NOVEMBER + 23 * HOUR).closed == ()
    early = close(home, NOVEMBER - 1, period="2026-10")
    assert [refusal.reason for refusal in early.refusals] == ["it ends at 2026-11-01T00:00:00Z"]
    assert close(home, NOVEMBER, period="2026-10").closed == ("2026-10",)
    assert status(home) == {"2026-10": "closed", "2026-11": "open"}


def test_months_close_in_order(home: Home) -> None:
    """A later month is refused while an earlier one is open; in one run both close, each seal naming the one before."""
    recorded(home, *call("r1"), *call("n1", NOVEMBER + DAY))
    (refused,) = close(home, DECEMBER, period="2026-11").refusals
    assert str(refused) == "refused: 2026-11: 2026-10 is still open; cure: tokenledger ledger --period 2026-10"
    assert close(home, DECEMBER).closed == ("2026-10", "2026-11")
    first, second = read_seals(home)
    assert (second.number, second.previous) == (2, first.hash)


@pytest.mark.parametrize(
    ("zone", "period", "begin", "end"),
    [
        ("UTC", "2028-02", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),  # 29 days
        ("Europe/Berlin", "2026-10", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),  # summer time ends inside
        ("Europe/Berlin", "2026-03", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),  # and begins inside
        ("America/New_York", "2026-10", "2026-10-01T04:00:00Z", "2026-11-01T04:00:00Z"),  # it ends on 1 November, after midnight
    ],
)
def test_a_month_ends_at_local_midnight(home: Home, zone: str, period: str, begin: str, end: str) -> None:
    """The last microsecond is the month's, the next is the next one's; what is closed is what the zone says."""
    first, last = parse_instant(begin), parse_instant(end)
    assert bounds(zone, period) == (first, last)
    edges = [*call("before", first - 1), *call("begin", first), *call("end", last - 1), *call("after", last)]
    recorded(
        home,
        *edges,
        book=f'currency = "USD"\ntimezone = "{zone}"\n',
        rates="+official,gpt-4o-mini,request,0,1,USD,2025-01-01T00:00:00Z,,charge,,,,,test,\n",
    )
    done = close(home, last + 25 * HOUR)
    assert period in done.closed
    inside = rows(home, f"SELECT request_id FROM ledger WHERE period = '{period}' ORDER BY created_at")
    assert [row["request_id"] for row in inside] == ["begin", "end"]
    assert (read_seals(home)[-1].starts_at, read_seals(home)[-1].ends_at) == (begin, end)


def test_a_request_across_the_boundary_is_booked_once_where_it_began(home: Home) -> None:
    """Created before midnight, answered after it by a retry: all of it is October's, posted before October ends."""
    sent = NOVEMBER - SECOND
    across: list[Record] = [
        request("r1", sent),
        attempt("r1", at=sent),
        failure("r1", at=NOVEMBER + SECOND),
        attempt("r1", 2, NOVEMBER + 2 * SECOND, reason="retry"),
        response("r1", 2, NOVEMBER + 3 * SECOND, usage=usage(1000, 500)),
    ]
    recorded(home, *across, *call("n1", NOVEMBER + DAY))
    close(home, MORNING)
    assert october(home) == {"requests": 1, "charged": CHARGE}
    entry = one(home, "SELECT period, posted_at, service_at FROM journal WHERE request_id = 'r1' AND account LIKE 'wallet:%'")
    assert (entry["period"], str(entry["posted_at"])) == ("2026-10", "2026-10-31 23:59:59.999999")
    assert str(entry["service_at"]) == "2026-11-01 00:00:02"
    build(home)
    assert one(home, "SELECT count(*) AS entries FROM journal WHERE request_id = 'r1'") == {"entries": 2}


# ---- what stands against it ----


def reasons(done: Closing) -> list[str]:
    assert done.closed == ()
    return [refusal.reason for refusal in done.refusals]


def test_unpriced_requests_are_refused_until_their_row_is_written(home: Home) -> None:
    """A model without a price: named with its cure; acknowledging does not help, the row does."""
    archive = recorded(home, *call("r1", model="new-model"))
    done = close(home, MORNING)
    assert [reason.split(" for ")[1] for reason in reasons(done)] == [
        "input of new-model on official",
        "output of new-model on official",
    ]
    assert all(refusal.cure.startswith("add the row to book/rates.csv") for refusal in done.refusals)
    assert status(home) == {"2026-10": "open"}  # published all the same
    archive.seal([event("a1", "acknowledged", NOON + DAY, actor="ann", reason="fine", subject="official new-model input")])
    assert len(close(home, MORNING).refusals) == 2
    price = "official,new-model,{},1,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,\n"
    write_book(home, rates="+" + price.format("input") + price.format("output"))
    assert close(home, MORNING).closed == ("2026-10",)
    assert october(home)["charged"] == Decimal("0.0015")


def test_an_open_hold_is_refused_until_acknowledged_by_name(home: Home) -> None:
    """Sent and never ended: in suspense, and somebody must say so by its name."""
    archive = recorded(home, *call("r1"), request("r2", NOON + HOUR), attempt("r2", at=NOON + HOUR))
    found = reasons(close(home, MORNING))
    assert [reason.split(":")[0] for reason in found] == ["suspense is not empty", "open hold r2/1"]
    archive.seal([event("a1", "acknowledged", NOON + DAY, actor="ann", reason="vendor says no", subject="r2/1")])
    assert close(home, MORNING).closed == ("2026-10",)
    assert one(home, "SELECT status, final_charge FROM ledger WHERE request_id = 'r2'") == {"status": "unknown", "final_charge": None}


def test_an_unbalanced_journal_is_refused(home: Home) -> None:
    """The builder never publishes one; were it there, the close asks the published rows again."""
    recorded(home, *call("r1"))
    build(home)
    with duckdb.connect(str(home.ledger_file)) as connection:
        connection.execute("UPDATE journal SET amount = amount + 0.000000000001 WHERE account LIKE 'usage:%'")
    with open_ledger(home) as connection:
        (found,) = refusals(connection, home, "2026-10", *bounds("UTC", "2026-10"))
    assert found.reason.endswith("sums to 0.000000000001 USD")


def test_records_that_are_not_sealed_are_refused(home: Home) -> None:
    """A journal may still hold records of the month; the cure is the command that seals them. Later ones do not matter."""
    recorded(home, *call("r1"))
    spool(home, call("r2", NOON + HOUR), writer="w2")
    spool(home, call("n1", NOVEMBER + HOUR), writer="w3")
    (found,) = close(home, MORNING).refusals
    assert (found.reason, found.cure) == ("3 records of it are not sealed yet", "tokenledger ledger")


def test_a_loss_is_refused_until_acknowledged(home: Home) -> None:
    """Frames that the journal counted and nobody has: the month of the records before the gap cannot close."""
    archive = recorded(home, *call("r1"))
    archive.seal_frames(list(enumerate(call("n1", NOVEMBER + HOUR), 6)), missing=((4, 5),))
    (found,) = close(home, MORNING).refusals
    assert found.reason.startswith("loss w1 4-5:")
    assert found.cure == "tokenledger acknowledge 'w1 4-5' --by WHO --reason TEXT"
    archive.seal([event("a1", "acknowledged", NOVEMBER + 2 * HOUR, actor="ops", reason="disk died", subject="w1 4-5")], writer="admin")
    assert close(home, MORNING).closed == ("2026-10",)
    build(home)
    assert rows(home, "SELECT period FROM data_quality WHERE kind = 'loss'") == [{"period": "2026-10"}]  # told once, not every month


def test_a_quarantined_file_is_refused_until_restored(home: Home) -> None:
    """A file that is not what was sealed; restoring it cures."""
    archive = recorded(home, *call("r1"))
    (path, *_) = archive.seal(call("r2", NOON + HOUR))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0")
    found = reasons(close(home, MORNING))
    assert any(reason.startswith(f"quarantined file raw/{path.relative_to(home.raw)}") for reason in found)
    path.write_bytes(whole)
    assert close(home, MORNING).closed == ("2026-10",)


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({}, "above 500.000000000000 it needs a second person, and none agreed"),
        ({"second": " Ann "}, "above 500.000000000000 it needs a second person, and it names the first again"),
        ({"second": "bob", "reference": None}, "it lacks an actor, a reason or a reference"),
    ],
)
def test_a_large_adjustment_that_one_person_made_is_refused(home: Home, told: dict[str, Any], fault: str) -> None:
    """However it came into the records, past the command: above 500 nothing is booked without a second person, and the month stays open."""
    entry: dict[str, Any] = {"actor": "ann", "reason": "r", "reference": "x", "wallet": "research", "bucket": "official_credit"}
    settings = 'currency = "USD"\ntimezone = "UTC"\nsecond_person_above = "500"\n'
    limit, above = event("at", "wallet_adjust", amount="-500", **entry), event("above", "wallet_adjust", amount="-500.01", **entry | told)
    recorded(home, *call("r1"), limit, above, book=settings)
    (refused,) = close(home, MORNING).refusals
    assert refused.reason == f"faulty_entry above: wallet_adjust is not booked: {fault}"
    assert one(home, "SELECT sum(amount) AS booked FROM wallet_statement WHERE kind = 'adjustment'")["booked"] == -500


def test_the_summary_of_a_month_with_entries_alone_does_not_say_that_there_is_no_traffic(home: Home) -> None:
    """October has a top-up and no call: the example to look up is November's."""
    recorded(home, topup("t1", "10"), *call("n1", NOVEMBER + DAY))
    build(home)
    with open_ledger(home) as db:
        assert [(found.newest, found.month) for found in (summarise(db, "2026-10"), summarise(db, None))] == [("n1", "2026-11")] * 2


# ---- what a close leaves ----


def test_closing_again_changes_nothing(home: Home) -> None:
    """The second close verifies; not a byte of the month is other than before."""
    recorded(home, *call("r1"), topup("t1", "10"))
    close(home, MORNING)
    before = contents(home.ledger / "2026-10")
    again = close(home, DECEMBER)
    assert (again.closed, again.verified, again.refusals) == ((), ("2026-10",), ())
    assert contents(home.ledger / "2026-10") == before
    assert {"seal.json", "ledger.csv", "ledger.parquet", "statement.html", "receipts.merkle"} <= before.keys()
    (home.ledger / "2026-10" / "ledger.csv").write_text("other")
    with pytest.raises(SealBroken, match=r"ledger/2026-10/ledger\.csv"):
        close(home, DECEMBER)


def test_every_published_table_says_which_month_owns_its_rows() -> None:
    """A new table is sealed with its month, or named among those that no month owns; no close may find out first."""
    assert {table.name for table in TABLES if owned_by_month(table) is None} <= set(UNOWNED)


def test_the_published_ledger_of_a_closed_month_is_what_was_built(home: Home) -> None:
    """Every table says the same before and after the close, but for the month's state."""
    recorded(home, *call("r1"), *call("n1", NOVEMBER + DAY), topup("t1", "10"), request("r2", NOON), attempt("r2", at=NOON), failure("r2"))
    build(home)
    names = [row["name"] for row in rows(home, "SHOW TABLES")]
    before = {name: rows(home, f'FROM "{name}" ORDER BY ALL') for name in names}
    close(home, MORNING)
    for name in names:
        if name != "periods":
            assert rows(home, f'FROM "{name}" ORDER BY ALL') == before[name], name


def test_a_later_change_of_the_book_does_not_reach_a_closed_month(home: Home) -> None:
    """A price that comes to light late counts in the open month; October stays as sealed, and its files are not even read again."""
    archive = recorded(home, *call("r1"))
    close(home, MORNING)
    archive.seal(call("n1", NOVEMBER + DAY))
    write_book(home, rates="+" + FEE)
    for path in home.raw.rglob("date=2026-10-10/*.parquet"):
        path.unlink()
    assert close(home, MORNING + DAY).refusals == ()
    assert october(home) == {"requests": 1, "charged": CHARGE}
    assert one(home, "SELECT final_charge FROM ledger WHERE request_id = 'n1'") == {"final_charge": CHARGE + Decimal("0.01")}


def test_what_comes_late_is_booked_forward(home: Home) -> None:
    """A record of October that comes after its close is November's, with October as its service date and in its reference."""
    archive = recorded(home, *call("r1"), topup("t1", "10"))
    close(home, MORNING)
    sealed = contents(home.ledger / "2026-10")
    archive.seal([*call("late", NOON + DAY), *call("n1", NOVEMBER + DAY)], writer="w2")
    build(home)
    assert contents(home.ledger / "2026-10") == sealed
    assert one(home, "SELECT period, created_at::DATE::VARCHAR AS day FROM ledger WHERE request_id = 'late'") == {
        "period": "2026-11",
        "day": "2026-10-11",
    }
    entry = one(home, "SELECT period, posted_at, service_at, reference FROM journal WHERE request_id = 'late' AND account LIKE 'wallet:%'")
    assert {name: str(value) for name, value in entry.items()} == {
        "period": "2026-11",
        "posted_at": "2026-11-01 00:00:00",
        "service_at": "2026-10-11 12:00:00",
        "reference": "late:2026-10:late/1",
    }
    proof = rows(home, "SELECT period, opening, charges, closing FROM balance_proof ORDER BY period")
    assert proof == [
        {"period": "2026-10", "opening": 0, "charges": CHARGE, "closing": 10 - CHARGE},
        {"period": "2026-11", "opening": 10 - CHARGE, "charges": 2 * CHARGE, "closing": 10 - 3 * CHARGE},
    ]
    assert close(home, DECEMBER).closed == ("2026-11",)


def test_a_late_record_of_a_closed_request_is_a_finding(home: Home) -> None:
    """A copy is only told; the end of a hold that was given up stands against the next close, for its money is not booked."""
    hold: list[Record] = [request("r2", NOON + HOUR), attempt("r2", at=NOON + HOUR)]
    acknowledged = event("a1", "acknowledged", NOON + DAY, actor="ann", reason="given up", subject="r2/1")
    archive = recorded(home, *call("r1"), *hold, acknowledged)
    assert close(home, MORNING).closed == ("2026-10",)
    archive.seal([*call("r1"), response("r2", at=NOON + 2 * HOUR, usage=usage(1000, 500))], writer="w2")
    build(home)
    assert rows(home, "SELECT kind, subject, blocks_close FROM data_quality WHERE subject LIKE 'w2 %' ORDER BY subject") == [
        {"kind": "late_duplicate", "subject": "w2 1", "blocks_close": False},
        {"kind": "late_duplicate", "subject": "w2 2", "blocks_close": False},
        {"kind": "late_duplicate", "subject": "w2 3", "blocks_close": False},
        {"kind": "late_record", "subject": "w2 4", "blocks_close": True},
    ]
    assert october(home) == {"requests": 2, "charged": CHARGE}


def test_a_refund_of_a_closed_request_is_booked_now(home: Home) -> None:
    """It names a request of October, moves November's balance, and its limit counts what was refunded before the close."""
    facts = {"actor": "a", "reason": "r", "reference": "x", "wallet": "research", "bucket": "official_credit", "request_id": "r1"}
    archive = recorded(home, *call("r1"), event("f1", "wallet_refund", NOON + DAY, amount="0.0003", **facts))
    close(home, MORNING)
    archive.seal(
        [
            event("f2", "wallet_refund", NOVEMBER + HOUR, amount="0.00015", **facts),
            event("f3", "wallet_refund", NOVEMBER + 2 * HOUR, amount="0.000000000001", **facts),
        ]
    )
    build(home)
    assert rows(home, "SELECT period, refunds FROM balance_proof ORDER BY period") == [
        {"period": "2026-10", "refunds": Decimal("0.0003")},
        {"period": "2026-11", "refunds": Decimal("0.00015")},
    ]
    assert one(home, "SELECT subject FROM data_quality WHERE kind = 'faulty_entry'") == {"subject": "f3"}


def test_a_receipt_of_a_second_ago_knows_what_is_closed(home: Home) -> None:
    """Before the next build, a late call is shown where it will be booked, after the closed balance; a closed receipt stays as it is."""
    archive = recorded(home, *call("r1"), topup("t1", "10"))
    close(home, MORNING)
    archive.seal(call("late", NOON + DAY), writer="w2")
    late = find(home, "late")
    assert (late.published, late.facts["period"]) == (False, "2026-11")
    assert [posting.balance_after for posting in late.postings] == [10 - 2 * CHARGE]
    build(home)
    published = find(home, "late")
    assert published.facts == late.facts
    assert (published.proof, find(home, "r1").proof is not None) == (None, True)


def test_a_closed_month_keeps_its_zone_and_currency(home: Home) -> None:
    """Another zone would bound it elsewhere: the book is refused, with the line that cures it."""
    recorded(home, *call("r1"))
    close(home, MORNING)
    write_book(home, book='currency = "USD"\ntimezone = "Europe/Berlin"\n')
    with pytest.raises(SettingChangedError, match='write timezone = "UTC" again'):
        build(home)


# ---- reopening ----


def test_reopening_opens_every_later_month_and_keeps_the_seals(closed: Home) -> None:
    """October and November open again, their old seals stay beside; closing anew names them, and now the late price counts."""
    old = read_seals(closed)
    write_book(closed, rates="+" + FEE)
    assert reopen(closed, "2026-10") == ("2026-10", "2026-11")
    assert read_seals(closed) == ()
    assert (closed.ledger / "2026-10" / "seal-1.json").read_bytes() == old[0].as_bytes()
    assert close(closed, DECEMBER).closed == ("2026-10", "2026-11")
    assert [seal.supersedes for seal in read_seals(closed)] == [seal.hash for seal in old]
    assert october(closed) == {"requests": 1, "charged": CHARGE + Decimal("0.01")}


# What is gone of two closed months, and what else, so that only one witness of the close is left.
GONE: dict[str, tuple[str, ...]] = {
    "the last seal": ("2026-11/seal.json",),
    "the last month's folder": ("2026-11",),
    "every seal": ("2026-10/seal.json", "2026-11/seal.json"),
    "the last seal and the published ledger": ("2026-11/seal.json", "ledger.duckdb"),
    "the last seal and the published ledger's basis": ("2026-11/seal.json", "ledger.basis.json"),
}


@pytest.mark.parametrize("case", GONE)
def test_a_closed_month_whose_seal_is_lost_is_not_open(closed: Home, tmp_path: Path, case: str) -> None:
    """As long as anything published knows that it was closed, no build opens it for a late record; with its seal back all is as before."""
    Archive(closed, manifest.read(closed.manifest)).seal(call("late", NOVEMBER + 2 * DAY), writer="w2")
    whole = Home(tmp_path / "whole")
    shutil.copytree(closed.root, whole.root)
    for name in GONE[case]:
        path = closed.ledger / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(closed.ledger)
    for attempt_at in (build, lambda home: close(home, DECEMBER), lambda home: close(home, DECEMBER, period="2026-11")):
        with pytest.raises(SealBroken, match="is missing, though the month was closed") as caught:
            attempt_at(closed)
    assert caught.value.cure.endswith(f"tokenledger ledger --reopen {caught.value.subject[7:14]} --by WHO --reason TEXT")
    assert contents(closed.ledger) == before
    for name in GONE[case]:
        if name.startswith("2026"):
            path = whole.ledger / name
            shutil.copytree(path, closed.ledger / name) if path.is_dir() else shutil.copy(path, closed.ledger / name)
    build(closed)
    assert one(closed, "SELECT period FROM ledger WHERE request_id = 'late'") == {"period": "2026-12"}


def test_a_folder_that_a_close_left_half_way_is_no_closed_month(home: Home) -> None:
    """Nothing published says that it was closed, so the next close takes its place; and where all of ledger/ is gone, it is made again."""
    recorded(home, *call("r1"))
    build(home)
    (home.ledger / "2026-10" / "tables").mkdir(parents=True)
    assert close(home, MORNING).closed == ("2026-10",)
    shutil.rmtree(home.ledger)
    assert close(home, MORNING).closed == ("2026-10",)


# ---- from the command line ----


def tokenledger(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tokenledger", "--home", str(home.root), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_refuses_then_closes_and_the_receipt_can_be_proved(home: Home, tmp_path: Path) -> None:
    """Exit 1 with each reason on a line of stderr; acknowledged, it closes; a script that imports none of ours checks the receipt."""
    recorded(home, *call("r1"), *call("r3", NOON + 2 * HOUR), *call("r4", NOON + 3 * HOUR), request("r2", NOON + HOUR), attempt("r2"))
    as_of = ("--as-of", write_instant(MORNING))
    refused = tokenledger(home, "ledger", *as_of)
    assert refused.returncode == 1
    told = [line for line in refused.stderr.splitlines() if line.startswith("refused: 2026-10: ")]
    assert len(told) == 2
    for line in told:
        assert f"; cure: tokenledger --home {home.root} acknowledge r2/1 --by WHO --reason TEXT" in line
    assert tokenledger(home, "acknowledge", "r2/1", "--by", "ann", "--reason", "vendor says no").returncode == 0
    closed = tokenledger(home, "ledger", *as_of, "--period", "2026-10")
    assert closed.returncode == 0, closed.stderr
    assert tokenledger(home, "ledger", *as_of, "--period", "2026-10").returncode == 0

    receipt, seal = tmp_path / "receipt.json", home.ledger / "2026-10" / "seal.json"
    script = [sys.executable, "-I", str(ROOT / "tools" / "verify_receipt.py"), str(receipt), str(seal)]
    for asked in ("r1", "r2", "r3", "r4"):
        receipt.write_text(tokenledger(home, "receipt", asked, "--format", "json").stdout)
        done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
        assert (done.returncode, done.stdout) == (0, "the receipt is what was sealed\n"), (asked, done.stderr)
    for changed_file, pattern, other, said in (
        (receipt, r'"final_charge": "[0-9.]+"', '"final_charge": "9.000000000000"', "the receipt is not what its digest covers"),
        (receipt, r'"side": "left"', '"side": "right"', "the receipt is not among those that the seal covers"),
        (seal, r'"as_of": "2026', '"as_of": "2027', "the seal is not what its hash covers"),
        (seal, r'"signature": "..', '"signature": "00', "the seal's signature does not hold (InvalidSignature)"),
    ):
        whole = changed_file.read_text()
        changed_file.write_text(re.sub(pattern, other, whole))
        done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (1, f"{said}\n")
        changed_file.write_text(whole)

    changed = tokenledger(home, "ledger", "--reopen", "2026-10", "--by", "ann", "--reason", "wrong price", *as_of)
    assert changed.returncode == 0, changed.stderr
    trail = json.loads(
        tokenledger(home, "sql", "--json", "SELECT event, actor, reason FROM audit_trail WHERE event = 'month_reopened'").stdout
    )
    assert trail == [{"event": "month_reopened", "actor": "ann", "reason": "wrong price"}]
    assert tokenledger(home, "ledger", "--reopen", "2026-10", "--by", "ann").returncode == 2


@pytest.mark.parametrize(("gone", "reopened"), [("2026-11/seal.json", "2026-11"), ("2026-11/seal.json", "2026-10"), ("2026-10", "2026-10")])
def test_a_month_whose_seal_is_lost_is_opened_on_purpose(
    closed: Home, gone: str, reopened: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who and why is recorded with the lost seal's hash, whichever month is gone and from whichever on; interrupted after that, the
    next build goes on, and closed anew and lost again it is refused again.
    """
    hashes = {seal.period: seal.hash for seal in read_seals(closed)}
    path = closed.ledger / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    as_of = ["--as-of", write_instant(DECEMBER), "--home", str(closed.root)]
    assert run(["ledger", *as_of]) == 1
    assert f"{gone}: is missing" in capsys.readouterr().err or gone == "2026-10"  # of a month before others the chain tells
    with monkeypatch.context() as interrupted:
        interrupted.setattr("etl.close.build_locked", lambda *_, **__: sys.exit("interrupted"))
        with pytest.raises(SystemExit, match="interrupted"):
            run(["ledger", "--reopen", reopened, "--by", "ann", "--reason", "the disk died", *as_of])
    assert run(["ledger", "--no-close", *as_of]) == 0
    opened = {period: seal for period, seal in hashes.items() if period >= reopened}
    trail = rows(closed, "SELECT actor, facts FROM audit_trail WHERE event = 'month_reopened'")
    assert {json.loads(row["facts"])["period"]: json.loads(row["facts"])["seal"] for row in trail} == opened
    assert {row["actor"] for row in trail} == {"ann"}
    assert {period for period, state in status(closed).items() if state == "open"} == opened.keys()
    assert close(closed, DECEMBER).closed == tuple(opened)
    verify(closed)
    (closed.ledger / "2026-11" / "seal.json").unlink()
    with pytest.raises(SealBroken, match=r"2026-11/seal\.json: is missing"):
        build(closed)


def forget(ledger: Path) -> None:
    for path in (ledger / "2026-10" / "seal.json", ledger / "2026-11" / "seal.json"):
        path.write_bytes(b"")
    for path in ledger.glob("ledger.*"):
        path.unlink()


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


# What happens to the files of two closed months, each in its own way; what is written is the damaged seal.
DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the last seal": lambda ledger: rewrite(ledger / "2026-11" / "seal.json", b"2026-11-01", b"2026-11-02"),
    "the first seal holds nothing": lambda ledger: (ledger / "2026-10" / "seal.json").write_bytes(b""),
    "both, and everything published is gone": forget,
    "the last seal in the folder of the first": lambda ledger: shutil.copy(ledger / "2026-11" / "seal.json", ledger / "2026-10"),
    "the first month's folder is gone": lambda ledger: shutil.rmtree(ledger / "2026-10"),
    "an output": lambda ledger: (ledger / "2026-10" / "ledger.csv").write_text("other"),
    "a seal that was put aside": lambda ledger: (ledger / "2026-10" / "seal-1.json").write_bytes(b"{}"),
}


@pytest.fixture(scope="module")
def closed_twice(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """October and November, a request each; closed, opened and closed again."""
    home = Home(tmp_path_factory.mktemp("twice"))
    recorded(home, *call("r1"), *call("n1", NOVEMBER + DAY))
    close(home, DECEMBER)
    reopen(home, "2026-10")
    close(home, DECEMBER)
    return home


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_seal_is_put_aside_by_the_cure_that_is_printed(
    closed_twice: Home, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pasted as printed, the cure opens the months again, and they close anew; no byte of a seal is lost, damaged or not."""
    home = Home(shutil.copytree(closed_twice.root, tmp_path / "home"))
    DAMAGE[case](home.ledger)
    seals = {contents(path.parent)[path.name] for path in home.ledger.glob("2026-*/seal*.json")}
    at = ["--as-of", write_instant(DECEMBER)]
    code = run(["verify", "--home", str(home.root)])
    for _ in range(2):  # opening the month after one that is gone is refused, with the cure for that one
        if code:
            told = capsys.readouterr().err
            command = (
                told[told.rindex(f"tokenledger --home {home.root} ledger --reopen ") :].replace("WHO", "ann").replace("TEXT", "damaged")
            )
            code = run([*shlex.split(command)[1:], *at])
    assert code == 0, capsys.readouterr().err
    assert run(["ledger", *at, "--home", str(home.root)]) == 0, capsys.readouterr().err
    assert status(home) == {"2026-10": "closed", "2026-11": "closed"}
    verify(home)
    assert seals <= set(contents(home.ledger).values())


def test_every_change_of_the_book_is_in_the_audit_trail(home: Home) -> None:
    """The first build notes each file; what was added, changed and removed shows line by line, once, with who says so and whose the file is."""
    recorded(home, *call("r1"))
    assert tokenledger(home, "ledger", "--no-close").returncode == 0
    write_book(home, rates="+" + FEE, terms="", fx="")
    os.utime(home.book / "rates.csv", ns=(0, NOON * 1000))
    for said in (("--by", "ann", "--reason", "contract 7"), ("--by", "bob")):
        assert tokenledger(home, "ledger", "--no-close", *said).returncode == 0
    trail = rows(home, "SELECT facts, actor, reason FROM audit_trail WHERE event = 'book_changed' ORDER BY number")
    facts = [json.loads(row["facts"]) for row in trail]
    noted, told = facts[:-3], facts[-3:]
    assert [fact["file"] for fact in told] == ["fx.csv", "rates.csv", "terms.csv"]
    assert sorted(fact["file"] for fact in (*noted, told[0], told[2])) == sorted(path.name for path in home.book.iterdir())
    change = told[1]
    assert (change["removed"], change["added"]) == ([], [FEE.strip()])
    assert [len(change[name]) for name in ("before", "after", "digest")] == [64, 64, 64]
    assert (change["owner"], change["written_at"]) == ((home.book / "rates.csv").owner(), "2026-10-10T12:00:00Z")
    assert [(row["actor"], row["reason"]) for row in trail] == [(None, None)] * len(noted) + [("ann", "contract 7")] * 3
    assert tokenledger(home, "ledger", "--no-close", "--by", " ").returncode == 2


def test_a_refusal_reads_as_one_line() -> None:
    """Whatever a reason holds, it is one line with its month and its cure."""
    assert str(Refusal("2026-10", "why", "do this")) == "refused: 2026-10: why; cure: do this"
