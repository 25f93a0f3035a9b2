"""Wallets: what people enter, lots and the order they are drawn in, refunds at most once, and the proof of each balance."""

from __future__ import annotations

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import Any

import click
import duckdb
import orjson
import pytest
from click.testing import CliRunner

from etl.build import build
from etl.close import close
from etl.commands.wallets import list_wallets
from etl.lots import Lot, draw
from proxy.commands.wallet import (
    ADJUST,
    EXPIRE,
    REFUND,
    SNAPSHOT,
    TOPUP,
    Entry,
    WalletEntryError,
    adjust,
    check_second,
    event_of,
    expire,
    refund,
    snapshot,
)
from schemas.book import load_book
from schemas.frames import Frame
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Event, Instant
from schemas.spool import unsealed
from tests.rawdata import DAY, HOUR, NOON, SECOND, Archive, attempt, built, call, event, one, request, rows, topup, write_book

CHARGE = Decimal("0.00045")  # call(): 1000 in at 0.15 and 500 out at 0.60 a million = 0.00015 + 0.00030


def entry(event_id: str, kind: str, amount: str, at: int = NOON + DAY, bucket: str = "official_credit", **facts: Any) -> Event:
    told = {"actor": "finance", "reason": "because", "reference": "ref-1", "wallet": "research", "bucket": bucket, "currency": "USD"}
    return event(event_id, f"wallet_{kind}", at, **told | {"amount": amount} | facts)


def proof(home: Home, **where: str) -> dict[str, Any]:
    asked = " AND ".join(f"{name} = '{value}'" for name, value in where.items()) or "true"
    return one(home, f"SELECT * FROM balance_proof WHERE {asked}")


def faults(home: Home) -> dict[str, str]:
    return {row["subject"]: row["detail"] for row in rows(home, "FROM data_quality WHERE kind = 'faulty_entry' AND blocks_close")}


# ---- the balance proof ----


def test_a_months_balance_is_proved_by_hand(home: Home) -> None:
    """0 + 8 + 2 - 0.00045 - 1 + 0.00045 - 0.5 = 8.5: every kind of movement has its own column."""
    built(
        home,
        [
            *call("r1"),
            topup("t1", "10", bonus="2", paid="7.90"),
            entry("a1", "adjust", "-1"),
            entry("f1", "refund", "0.00045", request_id="r1"),
            entry("e1", "expire", "0.5"),
            entry("s1", "snapshot", "8.5", NOON + 2 * DAY),
        ],
    )
    found = proof(home)
    assert {name: value for name, value in found.items() if isinstance(value, Decimal)} == {
        "opening": 0,
        "topups": 8,
        "bonuses": 2,
        "charges": CHARGE,
        "adjustments": -1,
        "refunds": CHARGE,
        "expiries": Decimal("0.5"),
        "closing": Decimal("8.5"),
        "snapshot": Decimal("8.5"),
        "difference": 0,
        "suspense": 0,
        "transfers": 0,
        "reversals": 0,
    }
    assert found["first_broken_day"] is None


def test_the_first_day_that_breaks_is_named(home: Home) -> None:
    """Of three snapshots the second differs first; the proof shows the last one's difference and the second one's day."""
    built(
        home,
        [
            topup("t1", "10"),
            entry("s1", "snapshot", "10", NOON),
            entry("s2", "snapshot", "9.75", NOON + DAY),
            entry("s3", "snapshot", "9.5", NOON + 2 * DAY),
        ],
    )
    found = proof(home)
    assert (found["snapshot"], found["difference"], str(found["first_broken_day"])) == (Decimal("9.5"), Decimal("-0.5"), "2026-10-11")
    assert [row["blocks_close"] for row in rows(home, "FROM data_quality WHERE kind = 'balance_differs'")] == [False, False]


def test_buckets_never_net_and_go_below_zero_in_sight(home: Home) -> None:
    """Credit in one bucket does not cover the other; the overdrawn one is shown as it is, and goes on into the next month."""
    routed = [
        request("r1", match_sha256="r1" * 32),
        attempt("r1", channel="routed"),
        *call("r1")[2:],
        *call("n1", NOON + 31 * DAY),
    ]
    built(home, [topup("t1", "10"), *routed])
    # 1000 in at 0.03 and 500 out at 0.12 a million = 0.00003 + 0.00006
    assert proof(home, period="2026-10", bucket="routed_balance")["closing"] == Decimal("-0.00009")
    assert proof(home, period="2026-10", bucket="official_credit")["closing"] == 10
    november = proof(home, period="2026-11", bucket="routed_balance")
    assert (november["opening"], november["charges"], november["closing"]) == (Decimal("-0.00009"), 0, Decimal("-0.00009"))
    assert proof(home, period="2026-11", bucket="official_credit")["closing"] == 10 - CHARGE


# ---- refunds ----


@pytest.mark.parametrize(
    ("refunds", "booked", "fault"),
    [
        (["0.0002", "0.00025"], CHARGE, None),
        (["0.00045", "0.000000000001"], CHARGE, "exceed what it was charged"),
        (["0.0003", "0.0003", "0.0001"], Decimal("0.0003"), "exceed what it was charged"),
    ],
)
def test_a_request_is_refunded_at_most_once(home: Home, refunds: list[str], booked: Decimal, fault: str | None) -> None:
    """Partial refunds add up to the charge and not beyond; what goes beyond is not booked and stands against the close."""
    built(home, [*call("r1"), *(entry(f"f{n}", "refund", text, NOON + n * HOUR, request_id="r1") for n, text in enumerate(refunds, 1))])
    assert proof(home)["refunds"] == booked
    assert one(home, "SELECT adjustment_amount FROM ledger") == {"adjustment_amount": booked}
    assert all(fault is not None and fault in detail for detail in faults(home).values())
    assert bool(faults(home)) == (fault is not None)


def test_a_refund_goes_back_to_the_bucket_that_paid(home: Home) -> None:
    """A refund into another bucket, or of a request that nobody recorded, is not booked."""
    built(
        home,
        [
            *call("r1"),
            entry("f1", "refund", "0.0001", bucket="routed_balance", request_id="r1"),
            entry("f2", "refund", "0.0001", request_id="no-such"),
        ],
    )
    assert proof(home)["refunds"] == 0
    assert {subject: detail.split(": ")[-1] for subject, detail in faults(home).items()} == {
        "f1": "its request was charged nothing in this wallet and bucket",
        "f2": "it names a request that is not recorded",
    }


# ---- lots ----


def day(number: int) -> datetime:
    return datetime(2026, 10, number)  # noqa: DTZ001  TIMESTAMP columns are UTC without saying so


def lot(name: str, posted: int, credit: str, expires: int | None = None) -> Lot:
    return Lot(name, day(posted), Decimal(credit), None if expires is None else day(expires))


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        # the one that lapses first goes first, whichever is older
        ([(lot("old", 1, "5"), "0"), (lot("short", 2, "3", 20), "-4")], {"old": "4", "short": "0"}),
        # of equals the oldest
        ([(lot("a", 1, "5"), "0"), (lot("b", 2, "5"), "-6")], {"a": "0", "b": "4"}),
        # what was spent before a lot came was not taken from it
        ([(lot("a", 1, "5"), "-2"), (lot("b", 3, "5", 9), "0")], {"a": "3", "b": "5"}),
        # what is overdrawn is taken from the next
        ([(None, "-2"), (lot("a", 3, "5"), "-1")], {"a": "2"}),
        # a gain that no top-up brought is spent first
        ([(lot("a", 1, "5"), "2"), (lot("b", 3, "5"), "-3")], {"a": "4", "b": "5"}),
        # a top-up taken back, here the second, is its own lot, and nothing else moves
        ([(lot("a", 1, "5"), "0"), (lot("b", 2, "5"), "0"), (lot("b", 2, "5"), "0")], {"a": "5", "b": "0"}),
        # what was spent from it is drawn from credit that no top-up brought, then from the others, then overdraws
        ([(lot("a", 1, "5"), "-4"), (lot("b", 2, "5"), "1"), (lot("a", 1, "5"), "0")], {"a": "0", "b": "2"}),
        ([(lot("a", 1, "5"), "-4"), (lot("a", 1, "5"), "0"), (lot("b", 2, "5"), "0")], {"a": "0", "b": "1"}),
    ],
)
def test_lots_are_drawn_in_order(steps: list[tuple[Lot | None, str]], left: dict[str, str]) -> None:
    """The draw-down order worked by hand: first to lapse, then oldest; loose credit before any lot."""
    found = draw((lot, Decimal(amount)) for lot, amount in steps)
    assert {lot.lot_id: value for lot, value in found.left.items()} == {name: Decimal(text) for name, text in left.items()}


def test_what_is_left_of_the_lots_is_the_balance(home: Home) -> None:
    """Money paid, credit, bonus and expiry stand beside what is left; nothing lapses by itself, and the lapsed lot is drawn on.

    The call costs 0.00045. The lot that lapses first gives its 0.0003, and the other 0.00015, which cost 8 x 0.00015 / 10 = 0.00012.
    """
    built(
        home,
        [
            topup("t1", "10", NOON - 2 * DAY, paid="8", bonus="2"),
            topup("t2", "0.0003", NOON - DAY, expires="2026-10-10T00:00:00Z"),
            *call("r1"),
        ],
    )
    found = rows(home, "SELECT paid, credit, bonus, expires, remaining, paid_for_spent FROM wallet_lots ORDER BY posted_at")
    assert found == [
        {"paid": 8, "credit": 10, "bonus": 2, "expires": None, "remaining": Decimal("9.99985"), "paid_for_spent": Decimal("0.00012")},
        {"paid": None, "credit": Decimal("0.0003"), "bonus": 0, "expires": day(10), "remaining": 0, "paid_for_spent": None},
    ]
    assert sum(row["remaining"] for row in found) == one(home, "SELECT balance FROM wallet_balances")["balance"]


def reversal(event_id: str, of: str, at: int) -> Event:
    named = "tx_" + hashlib.sha256(f"event\x1f{of}".encode()).hexdigest()[:32]
    return event(event_id, "wallet_reverse", at, actor="ann", reason="r", reference="x", transaction=named)


LOTS = "SELECT paid, remaining, paid_for_spent FROM wallet_lots ORDER BY paid"


def test_a_reversed_top_up_takes_back_its_own_lot(home: Home) -> None:
    """Money taken back is not spent. The call costs 0.00045 and was drawn from the older lot.

    The younger one reversed: it goes whole, and the older one has 50 - 0.00045 = 49.99955 left, whose spent part cost
    40 x 0.00045 / 50 = 0.00036. The older one reversed: the call is drawn from the younger one, 45 x 0.00045 / 50 = 0.000405.
    """
    recorded = [topup("t1", "50", NOON - 2 * DAY, paid="40"), topup("t2", "50", NOON - DAY, paid="45"), *call("r1")]
    for reversed_id, left in {
        "t2": [(40, Decimal("49.99955"), Decimal("0.00036")), (45, 0, 0)],
        "t1": [(40, 0, 0), (45, Decimal("49.99955"), Decimal("0.000405"))],
    }.items():
        of_its_own = Home(home.root / reversed_id)
        built(of_its_own, [*recorded, reversal("v1", reversed_id, NOON + DAY)])
        assert [tuple(row.values()) for row in rows(of_its_own, LOTS)] == left
        assert one(of_its_own, "SELECT balance FROM wallet_balances") == {"balance": Decimal("49.99955")}


def test_a_lot_of_a_closed_month_is_taken_back_later(home: Home) -> None:
    """October is sealed with both lots whole and stays so; November's ledger takes the second back, built on or from the seal alone.

    What came late for October is posted at one instant, whatever its ids: there too the reversal stands behind its top-up.
    """
    write_book(home)
    archive = Archive(home)
    archive.seal([topup("t1", "50", paid="40"), topup("t2", "50", paid="45")])
    november = parse_instant("2026-11-03T00:00:00Z")
    assert close(home, november).closed == ("2026-10",)
    late = [record for n in range(8) for record in (topup(f"l{n}", "1", paid=f"{n}"), reversal(f"w{n}", f"l{n}", NOON + DAY))]
    archive.seal([reversal("v1", "t2", november), *late])
    for _ in ("going on", "from the seal"):
        build(home, as_of=november + DAY)
        assert [tuple(row.values()) for row in rows(home, LOTS)] == [*((n, 0, 0) for n in range(8)), (40, 50, 0), (45, 0, 0)]
        assert close(home, november + DAY, period="2026-10").verified == ("2026-10",)
        home.ledger_file.unlink()
    with duckdb.connect() as connection:
        connection.execute("SELECT remaining FROM read_parquet(?)", [str(home.ledger / "2026-10/tables/wallet_lots.parquet")])
        assert connection.fetchall() == [(50,), (50,)]


# ---- what a person may write ----


def written(**facts: Any) -> Entry:
    return Entry(**{"wallet": "w", "bucket": "pool", "amount": "1", "by": "ann", "reference": "r", "reason": "why"} | facts)


@pytest.mark.parametrize(("kind", "amount"), [(TOPUP, "0"), (TOPUP, "-1"), (ADJUST, "0"), (REFUND, "-1"), (EXPIRE, "0"), (EXPIRE, "-2")])
def test_an_amount_that_its_kind_does_not_take_is_refused(kind: str, amount: str) -> None:
    """Top-ups, refunds and expiries are positive, an adjustment is anything but zero; a snapshot may show any balance."""
    with pytest.raises(WalletEntryError):
        event_of(kind, written(amount=amount), "USD", Instant(NOON))
    assert event_of(SNAPSHOT, written(amount="-3", reference=None, reason=None), "USD", Instant(NOON)).event == SNAPSHOT


def test_what_the_build_would_not_book_is_refused_at_once(home: Home) -> None:
    """Below 10 to the 24th, either way, is recorded and booked; from there on the command says why, and so does a build that meets one."""
    limit = 10**24
    taken, not_taken = [f"{limit - 1}.{'9' * 12}", f"-{limit - 1}"], [f"{limit}", f"-{limit}", f"{limit * 10}", f"{limit * 1000}"]
    for amount in taken:
        event_of(ADJUST, written(amount=amount), "USD", Instant(NOON))
    for amount in not_taken:
        with pytest.raises(WalletEntryError, match=f"is not below {limit}, and sums of it would not fit"):
            event_of(ADJUST, written(amount=amount), "USD", Instant(NOON))
    built(home, [entry(amount, "adjust", amount) for amount in (*taken, *not_taken)])
    assert proof(home)["adjustments"] == Decimal("0.999999999999")  # of the first
    told = f"wallet_adjust is not booked: its amount is no decimal of at most 12 places below {limit}.000000000000"
    assert faults(home) == dict.fromkeys(not_taken, told)


def test_a_large_adjustment_needs_a_second_person(home: Home) -> None:
    """Above the book's limit, either way, somebody else must be named; at the limit nobody."""
    write_book(home, book='currency = "USD"\ntimezone = "UTC"\nsecond_person_above = "500"\n')
    book = load_book(home.book)
    check_second(book, written(amount="-500"))
    check_second(book, written(amount="-500.01", second="Bob"))
    for second in (None, "Ann "):
        with pytest.raises(WalletEntryError):
            check_second(book, written(amount="-500.01", second=second))
    assert '"second":"Bob"' in event_of(ADJUST, written(amount="501", second=" Bob"), "USD", Instant(NOON + SECOND)).facts


def test_every_kind_is_recorded_as_it_was_said(home: Home) -> None:
    """Each command appends its event; a snapshot has the instant at which the vendor showed it; a wrong option records nothing."""
    write_book(home, book='currency = "USD"\ntimezone = "UTC"\nsecond_person_above = "500"\n')
    where = ["--wallet", "research", "--bucket", "official_credit", "--by", "ann"]
    why = ["--reference", "inv-1", "--reason", "October"]
    good: list[tuple[click.Command, list[str]]] = [
        (refund, ["--amount", "0.1", "--request", "r1", *why]),
        (expire, ["--amount", "2", *why]),
        (snapshot, ["--amount", "-3.5", "--at", "2026-10-10T12:00:00Z"]),
        (adjust, ["--amount", "501", "--second", "bob", *why]),
    ]
    for command, words in good:
        done = CliRunner().invoke(command, [*where, *words], obj=home)
        assert done.exit_code == 0, done.output
    for command, words in ((refund, ["--amount", "1"]), (adjust, ["--amount", "501", *why]), (snapshot, ["--amount", "1", "--at", "noon"])):
        assert CliRunner().invoke(command, [*where, *words], obj=home).exit_code != 0
    events = [found.fields for _, found, _ in unsealed(home, {}) if isinstance(found, Frame)]
    assert [(event["event"], orjson.loads(event["facts"])["amount"], event["request_id"]) for event in events] == [
        ("wallet_refund", "0.100000000000", "r1"),
        ("wallet_expire", "2.000000000000", None),
        ("wallet_snapshot", "-3.500000000000", None),
        ("wallet_adjust", "501.000000000000", None),
    ]
    assert events[2]["at"] == NOON


def test_a_wallet_without_entries_is_told_by_its_name(home: Home) -> None:
    """Others may have entries: nothing is said of them."""
    built(home, [topup("t1", "10")])
    assert CliRunner().invoke(list_wallets, ["--wallet", "nosuch"], obj=home).output == "no entry of the wallet 'nosuch' has been booked\n"
