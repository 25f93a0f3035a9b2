"""The books against a plain model of them: any history of calls, failures, copies, entries, closes, late records and reopenings.

A close is the costly step, and one close serves many: a hundred histories run side by side in one home, each with its own key and
wallet and its own chances, under one book and one calendar. A seed draws what happens to each of them in one step.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
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
from schemas.instants import write_instant
from schemas.records import Record
from tests.rawdata import HOUR, Archive, attempt, event, failure, request, response, rows, usage, write_book

HISTORIES = 100
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
BUCKETS = sorted(BASE)
SEEDS = st.integers(0, 2**32 - 1)
LAST_HOUR = 27 * 24
ENTRIES = {"topup": "topup", "adjust": "adjustment", "expire": "expiry", "refund": "refund", "transfer": "transfer", "reverse": "reversal"}


@dataclass
class Item:
    """Something that happened in one history: in which month, to which bucket, and what it moves. `booked` is the closed month that holds it."""

    name: str
    history: int
    month: int
    hour: int
    bucket: str
    kind: str
    amount: Decimal  # of a request what it costs without the fee
    booked: int | None = None
    had_fee: bool = False  # as it was booked
    given_back: Decimal = Decimal(0)
    copies: int = 0
    reversed: bool = False


def keys(label: str) -> str:
    """A key of its own for each history, all with this word in their labels."""
    return "".join(
        f'[[key]]\nid = "k-{n}"\nlabel = "{label} {n}"\nfingerprint = "fp_{n:032x}"\nuser = "u{n}"\nproject = "p"\nwallet = "w{n}"\n'
        "from = 2026-01-01T00:00:00Z\n"
        for n in range(HISTORIES)
    )


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
        self.labels = 0
        self.sealed: list[dict[str, str]] = []  # of each closed month, in order, the hash of every file

    @initialize()
    def open_books(self) -> None:
        self._write_book()
        self.archive = Archive(self.home)
        for number in range(len(MONTHS)):  # so that every month has something to close
            self._enter("topup", 0, number, 0, "official_credit", Decimal(1))

    def _write_book(self) -> None:
        rates = {"rates": "+" + FEE_ROWS} if self.fee else {}
        write_book(self.home, keys=keys(f"label {self.labels}"), **rates)

    # ---- what can happen to one history ----

    @rule(seed=SEEDS)
    def go_on(self, seed: int) -> None:
        """One step of each history, and of some a second."""
        chance = random.Random(seed)
        for history in [*range(HISTORIES), *range(0, HISTORIES, 3)]:
            happens = chance.choice(HAPPENINGS)
            happens(self, history, chance.randrange(len(MONTHS)), chance.randrange(LAST_HOUR), chance.choice(BUCKETS), chance)

    def _mine(self, history: int, *kinds: str) -> list[Item]:
        return [item for item in self.items if item.history == history and item.kind in kinds]

    def _happen(self, item: Item, records: list[Record]) -> Item:
        self.items.append(item)
        self.records[item.name] = records
        self.waiting += records
        return item

    def _name(self, letter: str, history: int) -> str:
        return f"{letter}{history}-{len(self.items)}"

    def _ask(self, kind: str, history: int, month: int, hour: int, bucket: str, tries: list[tuple[str, str, int]]) -> None:
        """One request with these tries: channel, reason, status."""
        name, at = self._name("r", history), BOUNDS[month][0] + hour * HOUR
        told: list[Record] = [request(name, at, match_sha256=f"{name:m<64}", credential=f"fp_{history:032x}")]
        for ordinal, (channel, reason, status) in enumerate(tries, 1):
            role = "backup" if reason == "fallback" else "primary"
            told.append(attempt(name, ordinal, at + ordinal, channel=channel, reason=reason, role=role))
            last = {"relayed": ordinal == len(tries)}
            end = at + HOUR + ordinal
            told.append(
                response(name, ordinal, end, usage=usage(1000, 500), **last)
                if status == 200
                else failure(name, ordinal, end, status=status, **last)
            )
        self._happen(Item(name, history, month, hour, bucket, kind, BASE[bucket] if kind == "charge" else Decimal(0)), told)

    def call(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        self._ask("charge", history, month, hour, bucket, [(CHANNELS[bucket], "first", 200)])

    def fail(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        self._ask("free", history, month, hour, bucket, [(CHANNELS[bucket], "first", 500)])

    def retry(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        channel = CHANNELS[bucket]
        self._ask("charge", history, month, hour, bucket, [(channel, "first", 429), (channel, "retry", 200)])

    def fall_back(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        """The failed try is free by policy; the backup's bucket pays, and the primary's does not."""
        other = next(channel for name, channel in CHANNELS.items() if name != bucket)
        self._ask("charge", history, month, hour, bucket, [(other, "first", 503), (CHANNELS[bucket], "fallback", 200)])

    def _enter(self, kind: str, history: int, month: int, hour: int, bucket: str, amount: Decimal, **more: Any) -> Item:
        name, at = self._name("e", history), BOUNDS[month][0] + hour * HOUR
        told = {"actor": "a", "reason": "r", "reference": "x", "wallet": f"w{history}", "bucket": bucket, "amount": f"{amount:f}"}
        moved = -amount if kind in ("expire", "transfer") else amount
        return self._happen(
            Item(name, history, month, hour, bucket, ENTRIES[kind], moved), [event(name, f"wallet_{kind}", at, **told | more)]
        )

    def top_up(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        self._enter("topup", history, month, hour, bucket, Decimal(chance.randint(1, 10_000)) / 100)

    def adjust(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        self._enter("adjust", history, month, hour, bucket, Decimal(chance.randint(1, 10_000)) / 100 * chance.choice((1, -1)))

    def expire(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        self._enter("expire", history, month, hour, bucket, Decimal(chance.randint(1, 10_000)) / 100)

    def transfer(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        """Both of its sides are one transaction, and no other account moves."""
        to, amount = next(name for name in BUCKETS if name != bucket), Decimal(chance.randint(1, 10_000)) / 100
        item = self._enter("transfer", history, month, hour, bucket, amount, to_wallet=f"w{history}", to_bucket=to)
        other = Item(self._name("t", history), history, month, hour, to, "transfer", amount)
        self.items.append(other)
        self.records[other.name] = self.records[item.name]

    def hold(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        """It reserves and moves nothing."""
        name, at = self._name("h", history), BOUNDS[month][0] + hour * HOUR
        who = {"actor": "a", "reason": "r", "reference": "x", "wallet": f"w{history}", "bucket": bucket, "amount": "5"}
        self._happen(
            Item(name, history, month, hour, bucket, "hold", Decimal(0)),
            [event(name, "wallet_hold", at, until=write_instant(at + 20 * HOUR), **who)],
        )

    def step_clock(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        name = self._name("c", history)
        stepped = event(name, "clock_step", BOUNDS[month][0] + hour * HOUR, stepped_us=-3_600_000_000)
        self._happen(Item(name, history, month, hour, bucket, "clock", Decimal(0)), [stepped])

    def refund(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        charged = self._mine(history, "charge")
        if charged:
            item = chance.choice(charged)
            amount = min(item.amount - item.given_back, BASE[item.bucket] * chance.randint(1, 3) / 3)
            if amount > 0:
                item.given_back += amount
                self._enter("refund", history, month, hour, item.bucket, amount, request_id=item.name)

    def reverse(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        """An entry is taken back at most once, by its exact negation, not before it was made."""
        entries = [item for item in self._mine(history, "topup", "adjustment", "expiry") if not item.reversed]
        if entries:
            item = chance.choice(entries)
            item.reversed = True
            later, of = max((month, hour), (item.month, item.hour)), hashlib.sha256(f"event\x1f{item.name}".encode()).hexdigest()[:32]
            name, who = self._name("v", history), {"actor": "a", "reason": "r", "reference": "x"}
            back = event(name, "wallet_reverse", BOUNDS[later[0]][0] + later[1] * HOUR, transaction=f"tx_{of}", **who)
            self._happen(Item(name, history, *later, item.bucket, "reversal", -item.amount), [back])

    def see_twice(self, history: int, month: int, hour: int, bucket: str, chance: random.Random) -> None:
        mine = self._mine(history, "charge", "free", *ENTRIES.values())
        if mine:
            item = chance.choice(mine)
            self.waiting += self.records[item.name]
            item.copies += item.booked is None and item.kind in ("charge", "free")

    # ---- what happens to all of them ----

    @precondition(lambda self: self.labels < 3)
    @rule()
    def rename_keys(self) -> None:
        """A label is what a key is called; nothing that was or will be booked depends on it."""
        self.labels += 1
        self._write_book()

    @precondition(lambda self: not self.fee)
    @rule()
    def learn_a_price(self) -> None:
        self.fee = True
        self._write_book()

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
        expected: dict[tuple[str, str, str, str], Decimal] = {}
        for item in self.items:
            if item.kind not in ("free", "hold", "clock"):
                place = self._posted(item)
                period = MONTHS[place] if place < len(MONTHS) else "2027-01"
                where = (period, f"w{item.history}", item.bucket, item.kind)
                expected[where] = expected.get(where, Decimal(0)) + self._moved(item)
        found = rows(
            self.home,
            "SELECT j.period, s.wallet, s.bucket, s.kind, sum(s.amount) AS amount "
            "FROM wallet_statement s JOIN journal j USING (entry_id) GROUP BY ALL",
        )
        assert {(row["period"], row["wallet"], row["bucket"], row["kind"]): row["amount"] for row in found} == expected
        sums: dict[tuple[str, str], Decimal] = {}
        for (_, wallet, bucket, _), amount in expected.items():
            sums[wallet, bucket] = sums.get((wallet, bucket), Decimal(0)) + amount
        assert {(row["wallet"], row["bucket"]): row["balance"] for row in rows(self.home, "FROM wallet_balances")} == sums
        assert rows(self.home, "SELECT currency FROM journal GROUP BY currency HAVING sum(amount) <> 0") == []
        assert rows(self.home, "SELECT transaction_id FROM journal GROUP BY transaction_id HAVING sum(amount) <> 0") == []
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


HAPPENINGS = (
    *(Books.call, Books.call, Books.fail, Books.retry, Books.fall_back, Books.top_up, Books.adjust, Books.expire),
    *(Books.refund, Books.refund, Books.transfer, Books.hold, Books.reverse, Books.step_clock, Books.see_twice),
)
COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@pytest.mark.timeout(900)
def test_any_history_keeps_the_books() -> None:
    """Zero-sum, buckets apart, charged once, closed months unchanged, every raw row accounted for: 500 histories."""
    examples = 500 // HISTORIES
    run_state_machine_as_test(Books, settings=settings(max_examples=examples, stateful_step_count=10, derandomize=True, **COMMON))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(10))  # so that no worker waits for another
def test_any_history_keeps_the_books_for_long(part: int) -> None:
    """The same of 10,000 longer histories, other ones each time."""
    examples = 1000 // HISTORIES
    run_state_machine_as_test(Books, settings=settings(max_examples=examples, stateful_step_count=25, **COMMON))
