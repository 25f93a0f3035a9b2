"""terms.csv: what a contract says beside its prices, dated: a multiplier, a least quantity, a step, a free allowance.

A row applies where its channel, model and meter do; `*` is any, and a meter stands for those too that have its price where
they have none of their own. Of the rows of one term that apply at the instant the request began, the most specific wins: a
named channel, then a named model, then the meter that is nearest. Terms are worked in this order, for each meter of each try:
  minimum          the least quantity that is billed;
  step             the quantity is rounded up to a multiple of it;
  allowance_day,   so much is free in each calendar day or month of the vendor's zone, counted in the order in which the
  allowance_month  requests began, then by their ids. A row is one allowance, which all that it applies to share; rows that
                   name one `pool` share one;
  multiplier       the unit price is the price times this: it must be exact in 12 decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import combinations

from schemas.bookfile import CsvRow, Problem, RefusedError, closest, read_csv, shown
from schemas.dated import (
    ANY,
    Cell,
    DatedRow,
    decimal,
    ends_after_it_begins,
    grouped,
    instant,
    instant_or_none,
    read_cells,
    required,
    resolve,
    row_id,
    uncovered,
)
from schemas.meters import BY_NAME, chain
from schemas.money import EXACT, MoneyError, plain, unit_price
from schemas.rates import PRICED_ELSEWHERE, Rate

COLUMNS = ("channel", "model", "meter", "term", "value", "effective_from", "effective_to", "source", "note")
OPTIONAL = ("pool",)
# Each term with its slot: of the rows of one slot, one applies.
SLOTS = {
    "multiplier": "multiplier",
    "minimum": "minimum",
    "step": "step",
    "allowance_day": "allowance",
    "allowance_month": "allowance",
}
_QUANTITIES = 1 << 40


class Term(DatedRow):
    """One term of a contract."""

    term_id: str
    channel: str  # a channel's name or *
    model: str  # an upstream model id or *
    meter: str  # a meter or *
    term: str
    value: Decimal  # a factor, or a whole number of units
    pool: str | None
    source: str
    note: str

    @property
    def slot(self) -> str:
        """Which rows it competes with."""
        return SLOTS[self.term]

    @property
    def key(self) -> tuple[object, ...]:
        """What is agreed."""
        return (self.slot, self.channel, self.model, self.meter)

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Specificity: the largest that applies wins."""
        return (self.channel != ANY, self.model != ANY, 0 if self.meter == ANY else len(chain(self.meter)))

    @property
    def shared(self) -> str | None:
        """Which allowance it is: rows with one name count together; None for other terms."""
        if self.slot != "allowance":
            return None
        return f"{self.channel}/pool={self.pool}" if self.pool else f"{self.channel}/{self.model}/{self.meter}"


# ---- cells ----


def _meter(text: str) -> str:
    if text != ANY and (text not in BY_NAME or text in PRICED_ELSEWHERE):
        raise RefusedError("no such meter", closest(text, {ANY, *(BY_NAME.keys() - PRICED_ELSEWHERE.keys())}))
    return text


def _term(text: str) -> str:
    if text not in SLOTS:
        raise RefusedError("no such term", closest(text, SLOTS))
    return text


CELLS: dict[str, Cell] = {
    "channel": required,
    "model": required,
    "meter": _meter,
    "term": _term,
    "value": decimal,
    "effective_from": instant,
    "effective_to": instant_or_none,
    "source": str,
    "note": str,
    "pool": lambda text: text or None,
}


# ---- the file ----


def terms_of(file: str, content: bytes, channels: frozenset[str], problems: list[Problem]) -> tuple[Term, ...]:
    """The valid rows in file order, with `effective_to` resolved; everything that is wrong is added to `problems`."""
    rows, faults = read_csv(file, content, COLUMNS, OPTIONAL)
    problems.extend(faults)
    terms = [term for row in rows if (term := _of(file, row, channels, problems)) is not None]
    resolved = resolve(file, terms, rows, problems)
    problems.extend(_pools(file, resolved))
    return resolved


def _of(file: str, row: CsvRow, channels: frozenset[str], problems: list[Problem]) -> Term | None:
    before = len(problems)
    values = read_cells(file, row, CELLS, problems)
    name = row.cells["channel"]
    if name and name != ANY and name not in channels:
        problems.append(
            Problem(file, row.line, "channel", shown("channel", name), "no such channel in channels.toml", closest(name, {*channels, ANY}))
        )
    if values is None:
        return None
    problems.extend(Problem(file, row.line, *told) for told in _unfit(row, values["term"], values["value"]))
    if not ends_after_it_begins(file, row, values["effective_from"], values["effective_to"], problems) or len(problems) > before:
        return None
    said = (values[name] for name in (*COLUMNS, *OPTIONAL) if name not in ("value", "source", "note"))
    return Term(term_id=row_id("term", plain(values["value"]), *said), line=row.line, **values)


def _unfit(row: CsvRow, term: str, value: Decimal) -> Iterator[tuple[str, str, str, str]]:
    """What this term cannot have: field, value, what and cure."""
    written = shown("value", row.cells["value"])
    if term == "multiplier":
        try:
            unit_price(value, Decimal(1))
        except MoneyError as error:
            yield "value", written, error.what, error.cure
    elif value != int(value) or not (0 if SLOTS[term] == "allowance" else 1) <= value < _QUANTITIES:
        yield "value", written, "not a whole number of units", "write digits: seconds, tokens, calls, whatever the meter counts"
    if term != "multiplier" and row.cells["meter"] == ANY:
        yield "meter", ANY, f"a {term} counts something", "name the meter: second, search_call, input"
    if SLOTS[term] == "allowance" and row.cells["channel"] == ANY:
        yield "channel", ANY, "an allowance is one vendor's, and counted in its zone", "name the channel, one row for each"
    if SLOTS[term] != "allowance" and row.cells["pool"]:
        yield "pool", shown("pool", row.cells["pool"]), f"a {term} is not shared", "leave pool empty; it is for allowances"


def _pools(file: str, terms: Sequence[Term]) -> Iterator[Problem]:
    """Rows of one pool, in force at once, that disagree about it."""
    for pool in grouped([term for term in terms if term.pool], lambda term: (term.shared,)):
        for one, other in combinations(pool, 2):
            same = (one.term, one.value, _unit(one)) == (other.term, other.value, _unit(other))
            if not same and _together(one, other):
                first, second = sorted((one, other), key=lambda term: term.line)
                what = f"line {first.line} says {first.term} {plain(first.value)} of one {_unit(first)} for the same pool"
                yield Problem(file, second.line, "pool", shown("pool", second.pool), what, "make them agree, or name another pool")


def _unit(term: Term) -> str:
    return BY_NAME[term.meter].unit


def _together(one: DatedRow, other: DatedRow) -> bool:
    """Whether there is an instant at which both are in force."""
    begin = max(one.effective_from, other.effective_from)
    return one.in_force(begin) and other.in_force(begin)


# ---- multipliers and the prices that they meet ----


def inexact(file: str, terms: Iterable[Term], rates_file: str, rates: Iterable[Rate]) -> Iterator[Problem]:
    """Each multiplier that makes a unit price which 12 decimals cannot hold, with the line of that price."""
    multipliers = [term for term in terms if term.term == "multiplier"]
    charged = [rate for rate in rates if rate.book == "charge"]
    for term in multipliers:
        for rate in charged:
            if not (_meets(term, rate) and _together(term, rate)):
                continue
            try:
                unit_price(EXACT.multiply(rate.unit_price, term.value), Decimal(1))
            except MoneyError as error:
                if _outranked(term, rate, multipliers):
                    continue
                what = f"times the price of {rates_file}:{rate.line}: {error.what}"
                cure = (
                    f"write the multiplied price in rates.csv and here a multiplier of 1 for {rate.channel} {rate.model} {rate.meter}, "
                    "or round the multiplier as the contract does"
                )
                yield Problem(file, term.line, "value", shown("value", f"{term.value:f}"), what, cure)


def _meets(term: Term, rate: Rate) -> bool:
    """Whether some use has both this multiplier and this price, if nothing more specific has a say."""
    channel = ANY in (term.channel, rate.channel) or term.channel == rate.channel
    model = ANY in (term.model, rate.model) or term.model == rate.model
    return channel and model and _outermost(term, rate) is not None


def _outermost(term: Term, rate: Rate) -> str | None:
    """Of the meters that may have this price and this multiplier, the one that all the others lie farther in than."""
    if term.meter == ANY:
        return rate.meter
    both = [meter for meter in BY_NAME if {term.meter, rate.meter} <= set(chain(meter))]
    return min(both, key=lambda meter: len(chain(meter)), default=None)


def _outranked(term: Term, rate: Rate, multipliers: Iterable[Term]) -> bool:
    """Whether more specific multipliers take every use that would have this one and the price."""
    channel = rate.channel if term.channel == ANY else term.channel
    model = rate.model if term.model == ANY else term.model
    outermost = _outermost(term, rate)
    assert outermost is not None
    covering = [
        other
        for other in multipliers
        if other.rank > term.rank
        and other.channel in (ANY, channel)
        and other.model in (ANY, model)
        and (other.meter == ANY or other.meter in chain(outermost))
    ]
    begin = max(term.effective_from, rate.effective_from)
    ends = [end for end in (term.effective_to, rate.effective_to) if end is not None]
    return uncovered(covering, begin, min(ends, default=None)) is None
