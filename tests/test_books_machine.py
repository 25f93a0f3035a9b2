"""The books against a plain model of them: any history of calls, failures, copies, entries, closes, late records and reopenings."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from etl.close import close, reopen
from etl.closed import bounds
from etl.verify import verify
from schemas.home import Home
from schemas.records import Record
from tests.rawdata import HOUR, Archive, attempt, event, failure, request, response, rows, usage, write_book

MONTHS = ("2026-10", "2026-11", "2026-12")
BOUNDS = [bounds("UTC", month) for month in MONTHS]
END = bounds("UTC", "2027-01")[1]  # every month of a history ends before it
# call(): 1000 in and 500 out; official 0.15 and 0.60 a million, routed 0.03 and 0.12
BASE = {"official_credit": Decimal("0.00045"), "routed_balance": Decimal("0.00009")}
CHANNELS = {"official_credit": "official", "routed_balance": "routed"}
FEE = Decimal("0.01")
FEE_ROWS = "".join(
    f"{channel},{model},request,0.01,1,USD,2026-01-01T00:00:00Z,,charge,,,,,test,came to light late\n"
    for channel, model in (("official", "gpt-4o-mini"), ("routed", "openai/gpt-4o-mini"))
)
BUCKETS = st.sampled_from(sorted(BASE))
PLACES = st.integers(0, len(MONTHS) - 1)
HOURS = st.integers(0, 27 * 24)
CENTS = st.integers(1, 10_000)


@dataclass
class Item:
    """Something that happened: in which month, to which bucket, and what it moves. `booked` is the closed month that holds it."""

    name: str
    month: int
    bucket: str
    kind: str
    amount: Decimal  # of a request what it costs without the fee
    booked: int | None = None
    had_fee: bool = False  # as it was booked
    given_back: Decimal = Decimal(0)
    copies: int = 0


class Books(RuleBasedStateMachine):
    """Rules record something in raw/ and in the model; a close, and the end, compare the two."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.home = Home(Path(self.folder.name) / "home")
        self.items: list[Item] = []
        self.records: dict[str, list[Record]] = {}
        self.waiting: list[Record] = []
        self.fee = False
        self.sealed: list[dict[str, str]] = []  # of each closed month, in order, the hash of every file

    @initialize()
    def open_books(self) -> None:
        write_book(self.home)
        self.archive = Archive(self.home)
        for number in range(len(MONTHS)):  # so that every month has something to close
            self.entry("topup", number, "official_credit", 0, 100)

    # ---- what can happen ----

    def _happen(self, item: Item, records: list[Record]) -> None:
        self.items.append(item)
        self.records[item.name] = records
        self.waiting += records

    @rule(month=PLACES, bucket=BUCKETS, hour=HOURS)
    def call(self, month: int, bucket: str, hour: int) -> None:
        name, at = f"r{len(self.items)}", BOUNDS[month][0] + hour * HOUR
        channel = CHANNELS[bucket]
        answered: list[Record] = [
            request(name, at, match_sha256=f"{name:m<64}"),
            attempt(name, at=at, channel=channel),
            response(name, at=at + HOUR, usage=usage(1000, 500)),
        ]
        self._happen(Item(name, month, bucket, "charge", BASE[bucket]), answered)

    @rule(month=PLACES, bucket=BUCKETS, hour=HOURS)
    def fail(self, month: int, bucket: str, hour: int) -> None:
        name, at = f"r{len(self.items)}", BOUNDS[month][0] + hour * HOUR
        failed: list[Record] = [
            request(name, at, match_sha256=f"{name:m<64}"),
            attempt(name, at=at, channel=CHANNELS[bucket]),
            failure(name, at=at + 1),
        ]
        self._happen(Item(name, month, bucket, "free", Decimal(0)), failed)

    @rule(kind=st.sampled_from(["topup", "adjust", "expire"]), month=PLACES, bucket=BUCKETS, hour=HOURS, cents=CENTS)
    def entry(self, kind: str, month: int, bucket: str, hour: int, cents: int) -> None:
        amount = Decimal(cents) / 100 * (-1 if kind == "adjust" and cents % 2 else 1)
        self._enter(kind, month, bucket, hour, amount)

    def _enter(self, kind: str, month: int, bucket: str, hour: int, amount: Decimal, **more: Any) -> None:
        name, at = f"e{len(self.items)}", BOUNDS[month][0] + hour * HOUR
        told = {"actor": "a", "reason": "r", "reference": "x", "wallet": "research", "bucket": bucket, "amount": f"{amount:f}"}
        booked = {"topup": "topup", "adjust": "adjustment", "expire": "expiry", "refund": "refund"}[kind]
        item = Item(name, month, bucket, booked, -amount if kind == "expire" else amount)
        self._happen(item, [event(name, f"wallet_{kind}", at, **told | more)])

    @precondition(lambda self: any(item.kind == "charge" for item in self.items))
    @rule(data=st.data(), month=PLACES, hour=HOURS, part=st.integers(1, 3))
    def refund(self, data: st.DataObject, month: int, hour: int, part: int) -> None:
        item = data.draw(st.sampled_from([item for item in self.items if item.kind == "charge"]))
        amount = min(item.amount - item.given_back, BASE[item.bucket] * part / 3)
        if amount > 0:
            item.given_back += amount
            self._enter("refund", month, item.bucket, hour, amount, request_id=item.name)

    @precondition(lambda self: len(self.items) > len(MONTHS))
    @rule(data=st.data())
    def see_twice(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.items))
        self.waiting += self.records[item.name]
        item.copies += item.booked is None and item.kind in ("charge", "free")

    @precondition(lambda self: not self.fee)
    @rule()
    def learn_a_price(self) -> None:
        self.fee = True
        write_book(self.home, rates="+" + FEE_ROWS)

    @precondition(lambda self: len(self.sealed) < len(MONTHS))
    @rule()
    def close_next(self) -> None:
        self._build(period=MONTHS[len(self.sealed)])
        closing = len(self.sealed)
        for item in self.items:
            if item.booked is None and self._posted(item) == closing:
                item.booked, item.had_fee = closing, self.fee
        self.sealed.append(self._hashes(closing))
        self._compare()

    @precondition(lambda self: self.sealed)
    @rule(data=st.data())
    def reopen_from(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(self.sealed) - 1))
        assert reopen(self.home, MONTHS[first]) == MONTHS[first : len(self.sealed)]
        del self.sealed[first:]
        for item in self.items:
            if item.booked is not None and item.booked >= first:
                item.booked = None

    def teardown(self) -> None:
        if hasattr(self, "archive"):
            self._build(period=None)
            self._compare()
            verify(self.home)
        self.folder.cleanup()

    # ---- the plain model, and the comparison ----

    def _posted(self, item: Item) -> int:
        """The month that holds it, or will: its own, or the first open one."""
        return item.booked if item.booked is not None else max(item.month, len(self.sealed))

    def _moved(self, item: Item) -> Decimal:
        fee = FEE if (item.had_fee if item.booked is not None else self.fee) else Decimal(0)
        return -(item.amount + fee) if item.kind == "charge" else item.amount

    def _build(self, period: str | None) -> None:
        if self.waiting:
            self.archive.seal(self.waiting)
            self.waiting = []
        done = close(self.home, END, period=period, closes=period is not None)
        assert done.refusals == ()
        assert done.closed == (() if period is None else (period,))

    def _hashes(self, month: int) -> dict[str, str]:
        folder = self.home.ledger / MONTHS[month]
        kept = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("seal-")]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}

    def _compare(self) -> None:
        expected: Counter[tuple[str, str, str]] = Counter()
        for item in self.items:
            if item.kind != "free":
                place = self._posted(item)
                period = MONTHS[place] if place < len(MONTHS) else "2027-01"
                expected[period, item.bucket, item.kind] += self._moved(item)  # type: ignore[assignment]
        found = rows(
            self.home,
            "SELECT j.period, s.bucket, s.kind, sum(s.amount) AS amount FROM wallet_statement s JOIN journal j USING (entry_id) GROUP BY ALL",
        )
        assert {(row["period"], row["bucket"], row["kind"]): row["amount"] for row in found} == dict(expected)
        balances = {row["bucket"]: row["balance"] for row in rows(self.home, "FROM wallet_balances")}
        sums: Counter[str] = Counter()
        for (_, bucket, _), amount in expected.items():
            sums[bucket] += amount
        assert balances == dict(sums)
        calls = [item for item in self.items if item.kind in ("charge", "free")]
        told = rows(self.home, "SELECT request_id FROM ledger ORDER BY request_id")
        assert [row["request_id"] for row in told] == sorted(item.name for item in calls)
        (places,) = rows(
            self.home,
            "SELECT count(*) FILTER (WHERE disposition = 'charged') AS charged, count(*) FILTER (WHERE disposition = 'free') AS free, "
            "coalesce(sum(raw_rows), 0)::BIGINT AS raw, coalesce(sum(duplicates), 0)::BIGINT AS duplicates FROM dispositions",
        )
        assert places["raw"] == places["charged"] + places["free"] + places["duplicates"]
        assert (places["charged"], places["free"]) == (sum(i.kind == "charge" for i in calls), sum(i.kind == "free" for i in calls))
        for month, before in enumerate(self.sealed):
            assert self._hashes(month) == before


COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@pytest.mark.timeout(900)
def test_any_history_keeps_the_books() -> None:
    """Zero-sum, buckets apart, charged once, closed months unchanged, every raw row accounted for: as many histories as fit a test run."""
    run_state_machine_as_test(Books, settings=settings(max_examples=8, stateful_step_count=14, derandomize=True, **COMMON))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_any_history_keeps_the_books_for_long() -> None:
    """The same, for as long as somebody lets it run."""
    run_state_machine_as_test(Books, settings=settings(max_examples=10_000, stateful_step_count=30, **COMMON))
