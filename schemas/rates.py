"""rates.csv: one price a row, with its conditions and dates, and which row wins where several apply.

A row applies to a use of its meter when every condition it names holds at the instant the request began:
channel, model (the upstream id), service tier, a whole prompt of at least `min_input_tokens` tokens (for a vendor's
"above N" write N + 1), local weekday and time of day in the channel's time zone, the region that processed it, and the
endpoint. An empty condition holds always. The columns of OPTIONAL may be left out of the header.

`min_input_tokens` is a cliff: a prompt that reaches it is priced by the row as a whole. With `marginal` the row prices
only the tokens from that one on; the prompt stands in the order in which a cache would know it: what was read from a
cache, what was written to one, the rest.

Specificity decides between rows that apply at once, compared in this order:
  1. a row that names its channel beats one for `*`;
  2. then a row that names its model beats one for `*`;
  3. then the row that names more of service_tier, min_input_tokens, hours, weekdays, region and endpoint;
  4. then the higher min_input_tokens, between rows that are otherwise alike.
Two rows that are level under 1 to 3, can apply at once and are not settled by 4 are refused, unless further rows that
name more cover all of what the two share. The four steps make one integer, `specificity`: the largest one wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

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
from schemas.instants import to_datetime
from schemas.meters import BY_NAME
from schemas.money import MoneyError, plain, unit_price

COLUMNS = (
    "channel",
    "model",
    "meter",
    "price",
    "per",
    "currency",
    "effective_from",
    "effective_to",
    "book",
    "service_tier",
    "min_input_tokens",
    "hours",
    "weekdays",
    "source",
    "note",
)
OPTIONAL = ("region", "endpoint", "marginal")
CONDITIONS = ("service_tier", "min_input_tokens", "hours", "weekdays", "region", "endpoint")
BOOKS = ("charge", "list")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WHOLE_DAY = 24 * 60
PRICED_ELSEWHERE = {
    "flat_fee": "write the flat charge of a failed request in failed_requests.csv",
    "rounding": "write the vendor's rounding rule in channels.toml",
    "conversion": "write the exchange rate in fx.csv",
}
_THRESHOLD_BITS = 40


class Rate(DatedRow):
    """One price: what one unit of a meter costs, for whom, under which conditions, and when."""

    rate_id: str
    channel: str  # a channel's name or *
    model: str  # an upstream model id or *
    meter: str
    unit_price: Decimal  # of one unit, exact in 12 decimals
    price: Decimal  # as written, for `per` units
    per: Decimal
    currency: str
    book: Literal["charge", "list"]
    service_tier: str | None
    min_input_tokens: int | None
    hours: str | None  # "22:00-06:00", half-open, local to the channel's zone; may cross midnight
    weekdays: str | None  # "mon,tue": the local day of the instant
    region: str | None  # where the vendor processed it, in the vendor's word
    endpoint: str | None  # as the ledger calls it, or a path
    marginal: bool  # only the tokens of the prompt from min_input_tokens on
    source: str
    note: str

    @property
    def conditions(self) -> tuple[str | int | None, ...]:
        """The columns of CONDITIONS."""
        return tuple(getattr(self, name) for name in CONDITIONS)

    @property
    def named_conditions(self) -> str:
        """The conditions that the row names, for people: `service_tier=flex min_input_tokens=1001`."""
        said = [f"{name}={value}" for name, value in zip(CONDITIONS, self.conditions, strict=True) if value is not None]
        return " ".join((*said, *(["marginal"] if self.marginal else [])))

    @property
    def key(self) -> tuple[object, ...]:
        """What is priced."""
        return (self.book, self.channel, self.model, self.meter, *self.conditions)

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Steps 1 to 3 of specificity."""
        return (self.channel != ANY, self.model != ANY, sum(condition is not None for condition in self.conditions))

    @property
    def specificity(self) -> int:
        """Steps 1 to 4 as one integer: the largest that applies wins."""
        channel, model, conditions = self.rank
        return ((channel << 5 | model << 4 | conditions) << _THRESHOLD_BITS) | (self.min_input_tokens or 0)

    @property
    def minutes(self) -> frozenset[int]:
        """The minutes of the local day in which the row applies."""
        return minutes_of(self.hours)

    @property
    def weekday_mask(self) -> int:
        """Bit 0 is Monday."""
        return weekday_mask(self.weekdays)


def minutes_of(hours: str | None) -> frozenset[int]:
    """The minutes of the day inside "HH:MM-HH:MM", which may cross midnight; every minute for None."""
    if hours is None:
        return frozenset(range(WHOLE_DAY))
    begin, end = bounds_of(hours)
    return frozenset(range(begin, end)) if begin < end else frozenset((*range(begin, WHOLE_DAY), *range(end)))


def bounds_of(hours: str) -> tuple[int, int]:
    """First minute and the minute after the last one; the second is less than the first across midnight."""
    begin, end = (int(time[:2]) * 60 + int(time[3:]) for time in hours.split("-"))
    return begin, end


def weekday_mask(weekdays: str | None) -> int:
    """The days of "mon,tue" as bits, Monday bit 0; all seven for None."""
    return sum(1 << DAYS.index(day) for day in weekdays.split(",")) if weekdays else (1 << len(DAYS)) - 1


# ---- cells ----


def _meter(text: str) -> str:
    meter = BY_NAME.get(text)
    if meter is None:
        raise RefusedError("no such meter", closest(text, BY_NAME))
    if text in PRICED_ELSEWHERE:
        raise RefusedError("not priced here", PRICED_ELSEWHERE[text])
    return text


def _per(text: str) -> Decimal:
    value = decimal(text)
    if not value:
        raise RefusedError("not a number of units", "write the number of units the price is for: 1000000 for tokens, 1 for a request")
    return value


def _book(text: str) -> str:
    if text and text not in BOOKS:
        raise RefusedError("no such book", closest(text, BOOKS))
    return text or "charge"


def _threshold(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 1 << _THRESHOLD_BITS:
        raise RefusedError(
            "not a whole number of tokens above zero", "write digits, for example 200001 for above 200000, or leave it empty"
        )
    return int(text)


def _hours(text: str) -> str | None:
    if not text:
        return None
    found = re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)", text)
    if not found or text[:5] == text[6:] or text == "00:00-24:00":
        raise RefusedError("not a part of the day", "write HH:MM-HH:MM, for example 16:30-00:30; leave it empty for the whole day")
    return text[:6] + ("00:00" if text.endswith("24:00") else text[6:])


def _weekdays(text: str) -> str | None:
    if not text:
        return None
    cure = "write days or a span, for example mon-fri or sat,sun; leave it empty for all days"
    days: set[str] = set()
    for part in text.lower().split(","):
        first, _, last = (day.strip() for day in part.partition("-"))
        if first not in DAYS or (last or first) not in DAYS or part.strip().endswith("-"):
            raise RefusedError("not days of the week", cure)
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days.update(DAYS[n % 7] for n in range(begin, end + 1 if end >= begin else end + 8))
    if len(days) == len(DAYS):
        raise RefusedError("names every day", cure)
    return ",".join(day for day in DAYS if day in days)


def _lower(text: str) -> str | None:
    return text.lower() or None


def _endpoint(text: str) -> str | None:
    """A path is told by its slash and keeps its letters."""
    return text if text.startswith("/") else _lower(text)


def _marginal(text: str) -> bool:
    if text.lower() not in ("", "true", "false"):
        raise RefusedError("neither true nor false", "write true where the row prices only the tokens above its limit, else leave it empty")
    return text.lower() == "true"


CELLS: dict[str, Cell] = {
    "channel": required,
    "model": required,
    "meter": _meter,
    "price": decimal,
    "per": _per,
    "currency": required,
    "effective_from": instant,
    "effective_to": instant_or_none,
    "book": _book,
    "service_tier": _lower,
    "min_input_tokens": _threshold,
    "hours": _hours,
    "weekdays": _weekdays,
    "region": _lower,
    "endpoint": _endpoint,
    "marginal": _marginal,
    "source": str,
    "note": str,
}


# ---- the file ----


def rates_of(file: str, content: bytes, channels: frozenset[str], currencies: Sequence[str], problems: list[Problem]) -> tuple[Rate, ...]:
    """The valid rows in file order, with `effective_to` resolved; everything that is wrong is added to `problems`.

    `currencies` is the book's own, then those that fx.csv converts into it.
    """
    rows, faults = read_csv(file, content, COLUMNS, OPTIONAL)
    problems.extend(faults)
    rates = [rate for row in rows if (rate := _rate(file, row, channels, currencies, problems)) is not None]
    before = len(problems)
    resolved = resolve(file, rates, rows, problems)
    # An overlap within one key would be told a second time as a tie.
    if len(problems) == before:
        problems.extend(_ties(file, resolved))
    return resolved


def _rate(file: str, row: CsvRow, channels: frozenset[str], currencies: Sequence[str], problems: list[Problem]) -> Rate | None:
    before = len(problems)
    values = read_cells(file, row, CELLS, problems)
    name, written = row.cells["channel"], row.cells["currency"]
    if name and name != ANY and name not in channels:
        problems.append(
            Problem(file, row.line, "channel", shown("channel", name), "no such channel in channels.toml", closest(name, {*channels, ANY}))
        )
    if written and written not in currencies:
        what, cure = (
            f"book.toml keeps the books in {currencies[0]}",
            f"convert the price and write {currencies[0]}, or add its rate to fx.csv",
        )
        problems.append(Problem(file, row.line, "currency", shown("currency", written), what, cure))
    if values is None:
        return None
    try:
        exact = unit_price(values["price"], values["per"])
    except MoneyError as error:
        problems.append(Problem(file, row.line, "price", shown("price", row.cells["price"]), error.what, error.cure))
        return None
    if not ends_after_it_begins(file, row, values["effective_from"], values["effective_to"], problems) or len(problems) > before:
        return None
    if values["marginal"] and (values["min_input_tokens"] is None or BY_NAME[values["meter"]].family != "input"):
        what, cure = "only tokens of a prompt lie above a limit", "name a meter of the input and min_input_tokens, or leave marginal empty"
        problems.append(Problem(file, row.line, "marginal", row.cells["marginal"], what, cure))
        return None
    said = [values[name] for name in COLUMNS if name not in ("price", "per", "source", "note")]
    # a row that does not use a later column keeps the id that it had before there was one
    said += [f"{name}={values[name]}" for name in OPTIONAL if values[name]]
    return Rate(rate_id=row_id("rate", plain(exact), *said), line=row.line, unit_price=exact, **values)


def _ties(file: str, rates: Iterable[Rate]) -> Iterable[Problem]:
    """Pairs of rows that can apply at once while nothing says which wins."""
    for level in grouped(rates, lambda rate: (rate.book, rate.meter, rate.channel, rate.model)):
        for group in grouped(level, lambda rate: (rate.rank[2],)):
            group.sort(key=lambda rate: (rate.effective_from, rate.line))
            for n, one in enumerate(group):
                for other in group[n + 1 :]:
                    if one.effective_to is not None and other.effective_from >= one.effective_to:
                        break
                    if _level(one, other) and not _settled(one, other, level):
                        first, second = sorted((one, other), key=lambda rate: rate.line)
                        what = f"can apply together with line {first.line} ({_shown(first)}), and neither is more specific"
                        cure = f"add a row that names both conditions, or make lines {first.line} and {second.line} exclude each other"
                        yield Problem(file, second.line, "conditions", _shown(second), what, cure)


def _shown(rate: Rate) -> str:
    return rate.named_conditions or "none"


_NAMED = ("service_tier", "region", "endpoint")  # conditions that hold for one name only


def _level(one: Rate, other: Rate) -> bool:
    """Whether two rows of one rank, in force at once, can apply to the same use and step 4 does not tell them apart."""
    if any(None not in (pair := (getattr(one, name), getattr(other, name))) and pair[0] != pair[1] for name in _NAMED):
        return False
    if not (one.minutes & other.minutes and one.weekday_mask & other.weekday_mask):
        return False
    alike = all(getattr(one, name) == getattr(other, name) for name in (*_NAMED, "hours", "weekdays"))
    return not (alike and one.min_input_tokens is not None and other.min_input_tokens is not None)


def _settled(one: Rate, other: Rate, level: Iterable[Rate]) -> bool:
    """Whether rows that name more cover all that the two share."""
    shared = {name: getattr(one, name) or getattr(other, name) for name in _NAMED}
    threshold = max(one.min_input_tokens or 0, other.min_input_tokens or 0)
    minutes = one.minutes & other.minutes
    days = one.weekday_mask & other.weekday_mask
    covering = [
        rate
        for rate in level
        if rate.rank > one.rank
        and all(getattr(rate, name) in (None, value) for name, value in shared.items())
        and (rate.min_input_tokens or 0) <= threshold
        and minutes <= rate.minutes
        and days & rate.weekday_mask == days
    ]
    begin = max(one.effective_from, other.effective_from)
    ends = [end for end in (one.effective_to, other.effective_to) if end is not None]
    return uncovered(covering, begin, min(ends, default=None)) is None


# ---- looking a price up: the definition that the SQL is held to ----


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a meter: all that decides which price it has."""

    channel: str
    model: str  # the upstream model id
    meter: str
    at: int  # when the request began, microseconds
    service_tier: str | None = None
    input_tokens: int = 0  # the whole prompt, cached tokens included
    zone: str = "UTC"  # the channel's time zone
    region: str | None = None
    endpoint: str | None = None
    position: int = 0  # of a token of the prompt: how many stand before it


def applicable(rates: Iterable[Rate], book: str, use: Use) -> list[Rate]:
    """Every row of a book that applies to the use, the winner first; empty where there is no price."""
    local = to_datetime(use.at).astimezone(ZoneInfo(use.zone))
    found = [
        rate
        for rate in rates
        if rate.book == book
        and rate.meter == use.meter
        and rate.channel in (ANY, use.channel)
        and rate.model in (ANY, use.model)
        and rate.in_force(use.at)
        and (rate.service_tier is None or rate.service_tier == (use.service_tier or "").lower())
        and (use.position + 1 if rate.marginal else use.input_tokens) >= (rate.min_input_tokens or 0)
        and rate.region in (None, (use.region or "").lower())
        and rate.endpoint in (None, use.endpoint)
        and local.hour * 60 + local.minute in rate.minutes
        and rate.weekday_mask >> local.weekday() & 1
    ]
    return sorted(found, key=lambda rate: rate.specificity, reverse=True)
