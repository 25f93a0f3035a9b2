"""Holds, releases, reversals and transfers: explicit entries that keep every transaction at zero and every bucket apart."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from etl.build import build
from etl.close import close
from etl.commands.wallets import list_wallets
from etl.verify import verify
from proxy.commands.wallet import hold, release, reverse, transfer
from schemas.frames import Frame
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Event
from schemas.spool import unsealed
from tests.rawdata import DAY, HOUR, NOON, Archive, built, call, event, one, rows, topup, write_book

WHO: dict[str, Any] = {"actor": "ann", "reason": "r", "reference": "x"}
WHERE: dict[str, Any] = {**WHO, "wallet": "research", "bucket": "official_credit"}
NOVEMBER = parse_instant("2026-11-01T00:00:00Z")
CHARGE = Decimal("0.00045")  # call(): 1000 in at 0.15 and 500 out at 0.60 a million


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def transaction(event_id: str) -> str:
    """The id of the transaction of an entry, as its model makes it."""
    return "tx_" + hashlib.sha256(f"event\x1f{event_id}".encode()).hexdigest()[:32]


def reversal(event_id: str, of: str, at: int = NOON + DAY, **facts: Any) -> Event:
    return event(event_id, "wallet_reverse", at, **WHO | {"transaction": of} | facts)


def held(home: Home, at: int) -> tuple[Decimal, Decimal, int]:
    """Held, available, and the findings that tell of it, of a build at an instant."""
    build(home, as_of=at)
    row = one(home, "FROM wallet_balances")
    return row["held"], row["available"], len(rows(home, "FROM data_quality WHERE kind = 'open_hold'"))


# ---- holds ----


def test_a_hold_ends_by_itself_at_its_instant(home: Home) -> None:
    """4 of 10 are held from noon for a day: to the microsecond, and without moving; nobody asks a clock but the build's instant."""
    built(home, [topup("t1", "10"), event("h1", "wallet_hold", NOON, **WHERE, amount="4", until="2026-10-11T12:00:00Z")])
    nothing, whole = (Decimal(0), Decimal(10), 0), (Decimal(4), Decimal(6), 1)
    assert [held(home, at) for at in (NOON - 1, NOON, NOON + DAY - 1, NOON + DAY)] == [nothing, whole, whole, nothing]
    assert one(home, "FROM wallet_balances")["balance"] == 10
    assert rows(home, "SELECT DISTINCT kind FROM journal") == [{"kind": "topup"}]


def test_a_released_hold_ends_then(home: Home) -> None:
    """Released after an hour of its day; the entry between saw it, the one after did not."""
    built(
        home,
        [
            topup("t1", "10"),
            event("h1", "wallet_hold", NOON, **WHERE, amount="4", until="2026-10-11T12:00:00Z"),
            *call("r1", NOON + HOUR // 2),
            event("l1", "wallet_release", NOON + HOUR, **WHO, hold="h1"),
            *call("r2", NOON + HOUR),
        ],
    )
    seen = rows(home, "SELECT request_id, held_after FROM wallet_statement WHERE kind = 'charge' ORDER BY posted_at")
    assert [row["held_after"] for row in seen] == [Decimal(4), Decimal(0)]
    assert held(home, NOON + HOUR) == (Decimal(0), 10 - 2 * CHARGE, 0)


def test_a_hold_outlives_the_close_of_its_month(home: Home) -> None:
    """Placed in October until mid-November, October closed: held until it is released in November, and that is sealed there."""
    write_book(home)
    archive = Archive(home)
    archive.seal([topup("t1", "10"), event("h1", "wallet_hold", NOON, **WHERE, amount="4", until="2026-11-15T00:00:00Z")])
    assert close(home, NOVEMBER, period="2026-10").closed == ("2026-10",)
    assert held(home, NOVEMBER + DAY) == (Decimal(4), Decimal(6), 1)
    archive.seal([event("l1", "wallet_release", NOVEMBER + 2 * DAY, **WHO, hold="h1"), *call("n1", NOVEMBER + DAY)])
    assert held(home, NOVEMBER + 2 * DAY)[0] == 0
    december = parse_instant("2026-12-02T06:00:00Z")
    assert close(home, december).closed == ("2026-11",)
    assert one(home, "FROM wallet_holds")["released_period"] == "2026-11"
    archive.seal(call("d1", december))
    assert held(home, NOVEMBER + 3 * DAY)[0] == 0
    verify(home)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (event("x", "wallet_hold", NOON, **WHERE, amount="1"), "it does not end after it begins"),
        (event("x", "wallet_hold", NOON, **WHERE, amount="1", until="2026-10-10T12:00:00Z"), "it does not end after it begins"),
        (event("x", "wallet_hold", NOON, **WHERE, amount="-1", until="2027-01-01T00:00:00Z"), "its amount is not above zero"),
        (event("x", "wallet_release", NOON, **WHO, hold="nobody"), "it names no hold that is recorded"),
        (event("x", "wallet_transfer", NOON, **WHERE, amount="1"), "it names no wallet or no bucket to go to"),
        (
            event("x", "wallet_transfer", NOON, **WHERE, amount="1", to_wallet="research", to_bucket="official_credit"),
            "it goes where it comes from",
        ),
        (reversal("x", "tx_nothing"), "it names no transaction that is booked"),
        (reversal("x", transaction("t1"), NOON - 2 * DAY), "it is older than what it names"),
        (reversal("x", transaction("t1"), actor=None), "it lacks an actor, a reason or a reference"),
    ],
)
def test_an_entry_that_cannot_be_is_a_finding(home: Home, entry: Event, fault: str) -> None:
    """It is not booked, and stands against the close."""
    built(home, [topup("t1", "10"), entry])
    found = one(home, "FROM data_quality WHERE kind = 'faulty_entry'")
    assert (found["subject"], found["blocks_close"]) == ("x", True)
    assert found["detail"] == f"{entry.event} is not booked: {fault}"
    assert one(home, "FROM wallet_balances")["available"] == 10


# ---- reversals ----


def test_a_reversal_is_the_exact_negation_of_every_leg(home: Home) -> None:
    """A top-up with a bonus has three legs, a charge two; account by account the reversal takes back what they gave, and is linked."""
    built(home, [topup("t1", "10", bonus="1"), *call("r1")])
    charge = one(home, "SELECT DISTINCT transaction_id FROM journal WHERE kind = 'charge'")["transaction_id"]
    again = Home(home.root.parent / "again")
    built(again, [topup("t1", "10", bonus="1"), *call("r1"), reversal("v1", transaction("t1")), reversal("v2", charge)])
    left = rows(again, "SELECT account, sum(amount) AS amount FROM journal GROUP BY account")
    assert {row["amount"] for row in left} == {Decimal(0)}
    assert len(left) == 4  # wallet, funding, bonus, usage
    linked = rows(again, "SELECT DISTINCT reverses, actor, reason, reference FROM journal WHERE kind = 'reversal'")
    assert {row["reverses"] for row in linked} == {transaction("t1"), charge}
    assert {(row["actor"], row["reason"], row["reference"]) for row in linked} == {("ann", "r", "x")}
    request = one(again, "FROM ledger")
    assert (request["final_charge"], request["adjustment_amount"], request["adjustment_reason"]) == (CHARGE, CHARGE, "r")
    proof = one(again, "FROM balance_proof")
    assert (proof["closing"], proof["reversals"]) == (Decimal(0), CHARGE - 10)


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ([reversal("v1", transaction("t1")), reversal("v2", transaction("t1"), NOON + DAY + 1)], "what it names was reversed before"),
        (
            [reversal("v1", transaction("t1")), reversal("v2", transaction("v1"), NOON + DAY + 1)],
            "it names no transaction that is booked",
        ),
    ],
)
def test_a_transaction_is_reversed_at_most_once(home: Home, entries: list[Event], fault: str) -> None:
    """The second is a finding, and so is the reversal of a reversal."""
    built(home, [topup("t1", "10"), topup("t2", "3"), *entries])
    assert one(home, "FROM wallet_balances")["balance"] == 3
    assert one(home, "FROM data_quality WHERE kind = 'faulty_entry'")["detail"] == f"wallet_reverse is not booked: {fault}"


def test_a_charge_is_not_given_back_twice(home: Home) -> None:
    """A charge that was refunded in part cannot be reversed as well."""
    built(home, call("r1"))
    charge = one(home, "SELECT DISTINCT transaction_id FROM journal")["transaction_id"]
    again = Home(home.root.parent / "again")
    built(
        again, [*call("r1"), event("f1", "wallet_refund", NOON + HOUR, **WHERE, amount="0.0001", request_id="r1"), reversal("v1", charge)]
    )
    assert "the request that it names was refunded" in one(again, "FROM data_quality WHERE kind = 'faulty_entry'")["detail"]
    assert one(again, "FROM wallet_balances")["balance"] == Decimal("0.0001") - CHARGE


def test_what_a_closed_month_booked_is_reversed_in_the_open_one(home: Home) -> None:
    """October's charge is negated in November, October stays as sealed; a second reversal, and a refund after it, are findings."""
    write_book(home)
    archive = Archive(home)
    archive.seal(call("r1"))
    close(home, NOVEMBER, period="2026-10")
    charge = one(home, "SELECT DISTINCT transaction_id FROM journal")["transaction_id"]
    archive.seal([reversal("v1", charge, NOVEMBER + DAY)])
    close(home, NOVEMBER + 40 * DAY, period="2026-11")
    assert one(home, "FROM wallet_balances")["balance"] == 0
    refund = event("f1", "wallet_refund", NOVEMBER + 32 * DAY, **WHERE, amount="0.0001", request_id="r1")
    archive.seal([reversal("v2", charge, NOVEMBER + 31 * DAY), refund])
    build(home)
    told = {row["subject"]: row["detail"] for row in rows(home, "FROM data_quality WHERE kind = 'faulty_entry'")}
    assert told["v2"].endswith("what it names was reversed before")
    assert "exceed what it was charged" in told["f1"]
    assert one(home, "FROM wallet_balances")["balance"] == 0
    verify(home)


# ---- transfers ----


def test_a_transfer_has_both_its_legs_in_one_transaction(home: Home) -> None:
    """3 of 10 move to another wallet's pool: one transaction, two wallet legs and nothing else; its reversal moves them back."""
    move = event("m1", "wallet_transfer", NOON, **WHERE, amount="3", to_wallet="ops", to_bucket="pool")
    built(home, [topup("t1", "10"), move])
    legs = rows(home, "SELECT account, amount FROM journal WHERE kind = 'transfer' ORDER BY account")
    assert [(row["account"], row["amount"]) for row in legs] == [
        ("wallet:ops:pool", Decimal(3)),
        ("wallet:research:official_credit", Decimal(-3)),
    ]
    assert one(home, "SELECT sum(amount) AS total FROM wallet_statement")["total"] == 10
    again = Home(home.root.parent / "again")
    built(again, [topup("t1", "10"), move, reversal("v1", transaction("m1"))])
    balances = {(row["wallet"], row["bucket"]): row["balance"] for row in rows(again, "FROM wallet_balances")}
    assert balances == {("ops", "pool"): Decimal(0), ("research", "official_credit"): Decimal(10)}


# ---- the commands ----


def test_each_command_records_what_was_said(home: Home) -> None:
    """Hold, release, reverse and transfer append their events; `wallet list` tells what is held at this moment."""
    write_book(home)
    where = ["--wallet", "research", "--bucket", "official_credit", "--amount", "2.5"]
    why = ["--by", "ann", "--reference", "ticket-7", "--reason", "batch"]
    placed = CliRunner().invoke(hold, [*where, *why, "--until", "2999-01-01T02:00:00+02:00", "--json"], obj=home)
    assert placed.exit_code == 0, placed.output
    hold_id = orjson.loads(placed.output)["event_id"]
    assert orjson.loads(placed.output)["until"] == "2999-01-01T00:00:00Z"
    build(home)
    listed = CliRunner().invoke(list_wallets, ["--json"], obj=home)
    assert [(row["held"], row["available"]) for row in orjson.loads(listed.output)] == [("2.500000000000", "-2.500000000000")]
    for command, words in (
        (release, [hold_id]),
        (reverse, ["tx_1"]),
        (transfer, [*where, "--to-wallet", "ops", "--to-bucket", "routed_balance"]),
    ):
        done = CliRunner().invoke(command, [*words, *why], obj=home)
        assert done.exit_code == 0, done.output
    for command, words in (
        (hold, [*where, *why, "--until", "2020-01-01T00:00:00Z"]),
        (transfer, [*where, *why, "--to-wallet", "research", "--to-bucket", "official_credit"]),
        (transfer, [*where, *why, "--to-wallet", "ops", "--to-bucket", "mistyped"]),
        (reverse, ["tx_1", "--by", " ", "--reference", "x", "--reason", "y"]),
    ):
        assert CliRunner().invoke(command, words, obj=home).exit_code != 0
    events = [found.fields for _, found, _ in unsealed(home, {}) if isinstance(found, Frame)]
    told = [(event["event"], orjson.loads(event["facts"])) for event in events]
    assert [name for name, _ in told] == ["wallet_hold", "wallet_release", "wallet_reverse", "wallet_transfer"]
    assert told[1][1] == {"hold": hold_id}
    assert told[2][1] == {"transaction": "tx_1"}
    assert told[3][1]["to_wallet"] == "ops"
    assert {event["actor"] for event in events} == {"ann"}
