"""Laws of the comparison: whatever a bill says, its steps add up to the gap, everything is in one class, and order is nothing."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.bills.lines import Bill, BillLine
from etl.bills.mapping import known
from etl.bills.read import read_bill
from etl.reconcile.matching import match
from etl.reconcile.pricing import Pricer
from etl.reconcile.records import CLASSES, ZERO, ChargeLine, Request, Try, plain_models
from etl.reconcile.waterfall import STEPS, Explained, explain
from schemas.book import load_book
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.money import amount
from schemas.rates import Rate
from schemas.records import Instant
from tests.billed import RATES
from tests.rawdata import SECOND, write_book

MONTH = (parse_instant("2026-10-01T00:00:00Z"), parse_instant("2026-11-01T00:00:00Z"))
HOUR = 3600 * SECOND


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rate, ...]:
    """The prices of the golden bills."""
    home = Home(Path(tmp_path_factory.mktemp("rates")))
    write_book(home, rates=RATES)
    return load_book(home.book).rates


@st.composite
def requests(draw: st.DrawFn, name: str) -> Request:
    """A request of one or two tries, about the month's beginning or end, some of them of the neighbour month."""
    tries = []
    at = draw(st.sampled_from(MONTH)) + draw(st.integers(-5, 5)) * HOUR // 2
    period = "2026-10" if MONTH[0] <= at < MONTH[1] else "2026-09" if at < MONTH[0] else "2026-11"
    for ordinal in range(1, draw(st.integers(1, 2)) + 1):
        prompt, completion, cached = draw(st.integers(0, 3)) * 500, draw(st.integers(0, 2)) * 250, draw(st.integers(0, 1)) * 100
        cached = min(cached, prompt)
        lines: tuple[ChargeLine, ...] = (
            ChargeLine("cached_input", cached, Decimal("0.0000005")),
            ChargeLine("input", prompt - cached, Decimal("0.000001")),
        )
        lines += (ChargeLine("output", completion, Decimal("0.000004")),)
        charged = draw(st.sampled_from((None, ZERO, sum((line.quantity * line.unit_price for line in lines), ZERO))))
        tries.append(
            Try(
                request_id=name,
                ordinal=ordinal,
                channel="routed",
                period=period,
                started_at=Instant(at + ordinal * SECOND),
                ended_at=draw(st.sampled_from((None, Instant(at + (ordinal + 1) * SECOND)))),
                created_at=Instant(at),
                status=draw(st.sampled_from(("ok", "aborted", "failed", "missing"))),
                charged=charged,
                model="openai/gpt-4o-mini",
                models=plain_models(("openai/gpt-4o-mini",)),
                input_tokens=draw(st.sampled_from((None, prompt))),
                output_tokens=draw(st.sampled_from((None, completion))),
                tier=draw(st.sampled_from((None, "priority"))),
                lines=lines if charged else (),
                ids=frozenset((f"id-{name}-{ordinal}",)),
            )
        )
    return Request(name, period, tuple(tries), frozenset((name,)))


@st.composite
def bill_lines(draw: st.DrawFn, number: int, ids: list[str]) -> BillLine:
    """A line of any kind and grain, with any of what a line may say."""
    kind = draw(st.sampled_from(("usage", "usage", "usage", "fee", "payment")))
    grain = draw(st.sampled_from(("request", "request", "hour", "day")))
    at = Instant(draw(st.sampled_from(MONTH)) + draw(st.integers(-6, 6)) * HOUR // 2 + draw(st.integers(0, 2)) * SECOND)
    money = draw(st.none() | st.integers(-200, 4000).map(lambda n: amount(Decimal(n) / 1_000_000)))
    maybe = st.none() | st.integers(0, 3).map(lambda n: n * 500)
    return BillLine(
        number=number,
        kind=kind,
        grain=grain,
        at=at,
        until=None if grain == "request" else Instant(at + (HOUR if grain == "hour" else 24 * HOUR)),
        ids=tuple(draw(st.lists(st.sampled_from([*ids, "stranger"]), max_size=2))),
        model=draw(st.sampled_from((None, "gpt-4o-mini-2024-07-18", "another"))),
        item=None,
        requests=draw(st.none() | st.integers(0, 3)),
        input_tokens=draw(maybe),
        cached_tokens=draw(maybe),
        cache_write_tokens=None,
        output_tokens=draw(maybe),
        reasoning_tokens=None,
        tier=draw(st.sampled_from((None, "priority", "default"))),
        multiplier=draw(st.sampled_from((None, Decimal("1.2")))),
        input_price=draw(st.sampled_from((None, Decimal("0.0000015")))),
        cached_price=None,
        output_price=None,
        amount=money,
        priced_amount=draw(st.sampled_from((None, money))),
        fee=ZERO if money is None else draw(st.sampled_from((ZERO, Decimal("0.000001")))),
        written_amount=None,
        written_currency=None,
        account=None,
    )


def bill(lines: tuple[BillLine, ...], account: str = "a", period: str = "2026-10") -> Bill:
    return Bill("Router", period, account, "f", "0" * 64, "test", "UTC", ("routed",), Decimal("0.000001"), False, lines)


def compared(bills: list[Bill], ours: list[Request], rates: tuple[Rate, ...]) -> tuple[Explained, ...]:
    pricer = Pricer(rates)
    return tuple(explain(group, pricer, MONTH, MONTH) for group in match(bills, ours))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_steps_add_up_and_everything_is_in_one_class(rates: tuple[Rate, ...], data: st.DataObject) -> None:
    """Any bill beside any traffic: each group's steps sum to its difference, totals are those of the two sides, no line or request twice."""
    ours = [data.draw(requests(f"r{n}")) for n in range(data.draw(st.integers(0, 4)))]
    ids = [name for request in ours for one in request.tries for name in one.ids] + [request.request_id for request in ours]
    lines = tuple(data.draw(bill_lines(n, ids)) for n in range(data.draw(st.integers(0, 6))))
    cut = data.draw(st.integers(0, len(lines)))
    bills = [bill(lines[:cut]), bill(lines[cut:], "b")]
    found = compared(bills, ours, rates)
    for one in found:
        assert one.kind in CLASSES
        assert one.steps.keys() <= STEPS.keys()
        assert sum(one.steps.values(), ZERO) == one.difference, one
    # both totals are those of the two sides
    assert sum((f.our_amount or ZERO for f in found), ZERO) == sum((r.amount for r in ours if r.period == "2026-10"), ZERO)
    charged = [line for line in lines if line.kind != "payment"]
    if all(line.amount is not None for line in charged):
        assert sum((f.vendor_amount or ZERO for f in found), ZERO) == sum((line.amount or ZERO for line in charged), ZERO)
    # a partition of both sides
    assert sorted(line.line.number for f in found for line in f.group.lines) == sorted(line.number for line in charged)
    assert Counter(r.request_id for f in found for r in f.group.own) == Counter(r.request_id for r in ours if r.period == "2026-10")
    # in whatever order they come
    shuffled = list(lines)
    random.Random(data.draw(st.integers(0, 9))).shuffle(shuffled)
    cut_by_account = {line.number: n < cut for n, line in enumerate(lines)}
    again = compared(
        [
            bill(tuple(line for line in shuffled if cut_by_account[line.number])),
            bill(tuple(line for line in shuffled if not cut_by_account[line.number]), "b"),
        ][::-1],
        ours[::-1],
        rates,
    )
    assert _told(found) == _told(again)


def _told(found: tuple[Explained, ...]) -> list[tuple[object, ...]]:
    return sorted(
        (f.kind, f.vendor_amount or ZERO, f.our_amount or ZERO, sorted(f.steps.items()), sorted(r.request_id for r in f.group.requests), sorted(line.line.number for line in f.group.lines))
        for f in found
    )  # fmt: skip


def test_every_known_format_says_where_it_is_described() -> None:
    """A mapping is data with a source, and knows its own records."""
    assert known()
    for name, mapping in known().items():
        assert mapping.source, name
        assert mapping.detect, name


@pytest.mark.parametrize(
    ("written", "amount_read"),
    [("1.5e-05", "0.000015"), ("$1,234.50", "1234.5"), ("0.00014520000000000002", "0.0001452"), ("-0.3", "-0.3"), (".5", "0.5")],
)
def test_amounts_are_read_exactly(written: str, amount_read: str) -> None:
    """However a vendor writes a number; a binary fraction's noise beyond 12 places is rounded off."""
    content = f'request_id,spend,prompt_tokens,completion_tokens,startTime,model\nx,"{written}",1,1,2026-10-10 12:00:00+02:00,m\n'
    reading = read_bill("f", content.encode(), None, "USD", MONTH)
    assert reading.lines[0].amount == Decimal(amount_read)
    assert reading.lines[0].at == parse_instant("2026-10-10T10:00:00Z")


def test_a_day_is_one_of_the_vendors_calendar() -> None:
    """25 October 2026 has 25 hours in Berlin: its bucket ends when the 26th begins there."""
    own = known()["openrouter-activity"]
    content = b'{"data":[{"date":"2026-10-25","model":"m","model_permaslug":"m","usage":1,"requests":1}]}'
    line = read_bill("f", content, replace(own, zone="Europe/Berlin"), "USD", MONTH).lines[0]
    assert (line.at, line.until) == (parse_instant("2026-10-24T22:00:00Z"), parse_instant("2026-10-25T23:00:00Z"))
