"""What a try would cost under another tier, region, date, class of token or without a term: the book's own rules, asked again.

Prices are `schemas.rates.applicable`, the definition that the SQL is held to; multipliers, exchange rates and the channel's
rounding are worked as the models work them, so that under its own conditions a try costs what was booked (a test says so).
Quantities are those booked: what a term of the contract gave or added stays, unless it is what is asked about. Where one
answer is made of several prompts (a batch), the limits of the price rows are held to their sum.
"""

from __future__ import annotations

import decimal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

from etl.reconcile.records import OK, ZERO, ChargeLine, Try
from schemas.book import Book
from schemas.dated import ANY
from schemas.fx import Fx
from schemas.meters import BY_NAME, chain
from schemas.money import EXACT, PLACES
from schemas.rates import Rate, Use, applicable
from schemas.records import Instant
from schemas.registry import Rounding
from schemas.terms import Term

NOT_PRICED = frozenset(("flat_fee", "rounding", "conversion"))
BOOKED: Any = object()  # a condition as it was booked

_CENT = Decimal(1).scaleb(-PLACES)
_EVEN = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is asked otherwise than booked; a member that is BOOKED is the try's own."""

    tier: str | None = BOOKED
    region: str | None = BOOKED
    at: int = BOOKED  # of the prices and the terms
    fx_at: int = BOOKED  # of the exchange rates
    without: str | None = None  # a slot of terms.csv that is not applied


AS_BOOKED = Conditions()


class Pricer:
    """The charge book of a home: prices, terms, exchange rates, and the channels' zones and roundings."""

    def __init__(
        self,
        rates: Iterable[Rate],
        terms: Iterable[Term] = (),
        exchange: Iterable[Fx] = (),
        zones: Iterable[tuple[str, str]] = (),
        roundings: Iterable[tuple[str, Rounding]] = (),
    ) -> None:
        self.rates = tuple(rate for rate in rates if rate.book == "charge")
        self.terms = tuple(terms)
        self.exchange = tuple(exchange)
        self.zones = dict(zones)
        self.roundings = dict(roundings)
        self._of: dict[tuple[str, str], tuple[Rate, ...]] = {}

    @classmethod
    def of_book(cls, book: Book) -> Pricer:
        """That of a book."""
        zones = [(channel.name, channel.timezone or "UTC") for channel in book.channels]
        roundings = [(channel.name, channel.rounding) for channel in book.channels if channel.rounding is not None]
        return cls(book.rates, book.terms, book.fx, zones, roundings)

    def of(self, channel: str, model: str) -> tuple[Rate, ...]:
        """The rows that can apply to a model on a channel."""
        key = (channel, model)
        if key not in self._of:
            self._of[key] = tuple(rate for rate in self.rates if rate.channel in (ANY, channel) and rate.model in (ANY, model))
        return self._of[key]

    # ---- one unit ----

    def unit(self, one: Try, meter: str, asked: Conditions = AS_BOOKED, position: int = 0) -> tuple[Decimal, str] | None:
        """The price of one unit in its own currency, the contract's multiplier in it, and that currency; None where there is none."""
        at = _else(asked.at, one.created_at)
        for name in chain(meter):
            use = Use(
                one.channel,
                one.model or "",
                name,
                at,
                _else(asked.tier, one.tier),
                _prompt(one),
                self.zones.get(one.channel, "UTC"),
                _else(asked.region, one.region),
                one.endpoint,
                position,
            )
            found = applicable(self.of(use.channel, use.model), "charge", use)
            if found:
                term = None if asked.without == "multiplier" else self.term(one, meter, "multiplier", at)
                return EXACT.multiply(found[0].unit_price, term.value if term else Decimal(1)), found[0].currency
        return None

    def term(self, one: Try, meter: str, slot: str, at: int) -> Term | None:
        """The most specific term of a slot that applies to a meter."""
        found = [
            term
            for term in self.terms
            if term.slot == slot
            and term.channel in (ANY, one.channel)
            and term.model in (ANY, one.model or "")
            and (term.meter == ANY or term.meter in chain(meter))
            and term.in_force(at)
        ]
        return max(found, key=lambda term: term.rank, default=None)

    def price(self, one: Try, meter: str) -> Decimal | None:
        """The price of one unit of a try in the book's currency, with 12 places."""
        found = self.unit(one, meter)
        worth = found and self._worth(found[1], one.created_at)
        return None if not found or worth is None else (found[0] * worth).quantize(_CENT, context=_EVEN)

    def _worth(self, currency: str, at: int) -> Decimal | None:
        """What one unit of a currency is worth; 1 for the book's own, which fx.csv never names."""
        rows = [row for row in self.exchange if row.currency == currency]
        return next((row.rate for row in rows if row.in_force(at)), None) if rows else Decimal(1)

    # ---- a whole try ----

    def total(self, one: Try, asked: Conditions = AS_BOOKED, meter_of: Callable[[str], str] = str) -> Decimal | None:
        """What a try costs under other conditions; `meter_of` counts a meter as another. None where a price is not known."""
        by_currency: dict[str, Decimal] = defaultdict(lambda: ZERO)
        flat = ZERO
        for model in dict.fromkeys(line.model for line in one.lines):
            lines = [line for line in one.lines if line.model == model]
            flat += sum((line.unit_price * line.quantity for line in lines if line.meter == "flat_fee"), ZERO)
            part = replace(one, model=model or one.model, lines=tuple(lines))
            for meter, quantity, position in self._stretches(part, _else(asked.at, one.created_at), asked.without):
                found = self.unit(part, meter_of(meter), asked, position)
                if found is None:
                    if BY_NAME[meter].optional:
                        continue
                    return None
                by_currency[found[1]] += found[0] * quantity
        total = ZERO
        for currency, amount in by_currency.items():
            worth = self._worth(currency, _else(asked.fx_at, one.created_at))
            if worth is None:
                return None
            total += (amount * worth).quantize(_CENT, context=_EVEN)
        return flat + self._rounded(one.channel, total)

    def _rounded(self, channel: str, total: Decimal) -> Decimal:
        rule = self.roundings.get(channel)
        if rule is None or total <= 0:
            return total
        rest = total % rule.unit
        return max(total - rest + (rule.unit if rest + rest >= rule.unit else ZERO), rule.minimum or ZERO)

    def _stretches(self, one: Try, at: int, without: str | None) -> Iterator[tuple[str, int, int]]:
        """Meter, quantity and how many tokens of the prompt stand before it, cut where a marginal row begins."""
        before = 0
        for meter in sorted({line.meter for line in one.lines} - NOT_PRICED, key=_place):
            lines = [line for line in one.lines if line.meter == meter]
            free = sum(line.quantity for line in lines if line.is_free)
            measured = sum(line.quantity for line in lines if not line.is_added)
            added = sum(line.quantity for line in lines if line.is_added and line.term != without)
            first, last = before, before + measured
            if BY_NAME[meter].family == "input":
                before = last
            if without == "allowance":
                free = 0
            cuts = {c for c in self._cuts(one, meter, at) if first < c < last}
            edges = [first, *sorted(cuts), last]
            for begin, end in pairwise(edges):
                begin = max(begin, first + free)
                if begin < end:
                    yield meter, end - begin, begin
            if added:
                yield meter, added, max(last - 1, first)

    def _cuts(self, one: Try, meter: str, at: int) -> set[int]:
        return {
            (rate.min_input_tokens or 1) - 1
            for rate in self.of(one.channel, one.model or "")
            if rate.marginal and rate.meter in chain(meter) and rate.in_force(at)
        }

    def elsewhere(self, one: Try, channel: str, model: str) -> Try:
        """The same measured units sent to another channel's model, with what the terms there add; its allowances are not counted.

        Which region the other channel would have used is not known: none in particular.
        """
        lines: list[ChargeLine] = []
        target = replace(one, channel=channel, model=model, region=None, lines=())
        for meter in sorted({line.meter for line in one.lines} - NOT_PRICED):
            measured = sum(line.quantity for line in one.lines if line.meter == meter and not line.is_added)
            lines.append(ChargeLine(meter, measured, ZERO, model))
            least = self.term(target, meter, "minimum", one.created_at)
            step = self.term(target, meter, "step", one.created_at)
            short = max(int(least.value) - measured, 0) if least else 0
            up = -(measured + short) % int(step.value) if step else 0
            lines += [ChargeLine(meter, more, ZERO, model, slot) for slot, more in (("minimum", short), ("step", up)) if more]
        return replace(target, lines=tuple(lines))

    # ---- what can be asked ----

    def tiers(self, one: Try) -> tuple[str | None, ...]:
        """The service tiers that the rows name, and the ordinary one."""
        return (None, *sorted({rate.service_tier for rate in self.of(one.channel, one.model or "") if rate.service_tier}))

    def regions(self, one: Try) -> tuple[str | None, ...]:
        """The regions that the rows name, and none in particular."""
        return (None, *sorted({rate.region for rate in self.of(one.channel, one.model or "") if rate.region}))

    def versions(self, one: Try) -> tuple[int, ...]:
        """The instants at which a price or a multiplier of this model changed."""
        prices = {rate.effective_from for rate in self.of(one.channel, one.model or "")}
        return tuple(sorted(prices | {t.effective_from for t in self._agreed(one) if t.slot == "multiplier"}))

    def exchanged(self, one: Try) -> tuple[int, ...]:
        """The instants at which an exchange rate of one of its currencies changed."""
        currencies = {rate.currency for rate in self.of(one.channel, one.model or "")}
        return tuple(sorted({row.effective_from for row in self.exchange if row.currency in currencies}))

    def agreed(self, tries: Sequence[Try]) -> tuple[str, ...]:
        """The slots of the terms that apply to these tries."""
        return tuple(sorted({term.slot for one in tries for term in self._agreed(one) if term.in_force(one.created_at)}))

    def _agreed(self, one: Try) -> Iterator[Term]:
        models = {ANY, one.model or "", *(line.model for line in one.lines)}
        return (term for term in self.terms if term.channel in (ANY, one.channel) and term.model in models)


def _else(asked: Any, own: Any) -> Any:
    return own if asked is BOOKED else asked


def _prompt(one: Try) -> int:
    """The tokens of the whole prompt, cached included, without what a term added."""
    counted = sum(line.quantity for line in one.lines if not line.is_added and BY_NAME[line.meter].family == "input")
    return counted or one.input_tokens or 0


def _place(meter: str) -> tuple[int, str]:
    """A cache knows the beginning of a prompt: what was read from it, what was written to it, the rest."""
    return (0 if meter.startswith("cached") else 1 if meter.startswith("cache_write") else 2), meter


def alone(channel: str, model: str, at: Instant, tier: str | None, counts: Iterable[tuple[str, int]]) -> Try:
    """A try of which only a bill knows, to be priced."""
    lines = tuple(ChargeLine(meter, quantity, ZERO) for meter, quantity in counts if quantity)
    return Try("", 1, channel, "", at, None, at, OK, None, model, frozenset(), None, None, tier, lines=lines)


def with_counts(one: Try, deltas: Iterable[tuple[str, int]]) -> Try:
    """The same try with so many units more or less of these meters; none goes below nothing."""
    lines = list(one.lines)
    for meter, delta in deltas:
        place = next((n for n, line in enumerate(lines) if line.meter == meter and not line.is_free and not line.is_added), None)
        if place is None:
            lines.append(ChargeLine(meter, max(delta, 0), ZERO, one.model))
        else:
            lines[place] = replace(lines[place], quantity=max(lines[place].quantity + delta, 0))
    return replace(one, lines=tuple(line for line in lines if line.quantity))
