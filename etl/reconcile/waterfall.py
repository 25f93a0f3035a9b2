"""The gap between a vendor's total and ours, taken apart into named steps that add up to it exactly.

Each group (a line and its request, a bucket and its requests, or one side alone) has a difference, vendor less ours. STEPS
says what each step means; this module alone decides which step a difference goes to:

  1. Fees, taxes and credits, and what a change of currency added, are taken out of the line as the bill states them.
  2. What belongs to another month goes to the boundary, at our own price; the rest of such a group goes on as any other.
  3. One side alone: the vendor's lines to vendor_only; our requests to aborted or failed_attempts by how they ended, else
     to ours_only.
  4. A try that the client left, that failed, or whose usage we counted ourselves: the whole difference to that step.
  5. Else the difference is explained by what can be computed: cached tokens billed in another class, other token counts,
     another service tier, another version or region of the price, a multiplier, a term of the contract left out, another
     exchange rate. One explanation that leaves nothing beyond the bill's
     own rounding is taken first, what the bill states before what is only inferred; then two stated ones together; then
     those stated ones that bring the two sides closer. A factor of at most two decimals that turns ours into theirs is a
     multiplier, where a hundredth of our amount is far above the rounding.
  6. What is at most one step of the bill's own smallest unit for each line is unit_rounding, where what is expected could
     not be written in that unit or the bill counts whole units of its own. Everything else is unexplained.

Rounding helps to name a difference; it never removes one: every group's steps add up to its difference, to the last digit.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain, combinations

from etl.bills.lines import FEE, PAYMENT
from etl.reconcile.pricing import NOT_PRICED, Conditions, Pricer, alone, with_counts
from etl.reconcile.records import (
    ABORTED,
    FAILED,
    MATCHED,
    MISMATCH,
    MISSING,
    OK,
    OURS_ONLY,
    VENDOR_ONLY,
    ZERO,
    Group,
    Line,
    Try,
    plain_model,
)
from schemas.counts import counted
from schemas.instants import to_datetime
from schemas.money import EXACT, PLACES, plain
from schemas.records import Instant

# In order, each with its rule in plain words; published beside its amount.
STEPS: dict[str, str] = {
    "boundary_shift": "billed in this month and booked in another, or the other way round: months begin in different zones, or it came late",
    "vendor_only": "on the bill, and no request of ours is known for it; also a call that is billed twice",
    "ours_only": "booked by us and not on the bill, although it was served",
    "aborted": "the client left before the end: the bill and our policy count it differently",
    "failed_attempts": "the try failed: the bill and our policy count it differently",
    "missing_usage": "the vendor's reply told no usage, or we know no charge: what the bill says beyond our own count",
    "cache_class": "cached or cache-written tokens that the bill counts in another class than the vendor's reply did",
    "usage_count": "the bill counts other tokens than the vendor's reply did, or not what the contract adds or gives (terms.csv)",
    "tier": "billed at another service tier than the one that the reply told",
    "price_version": "billed at another unit price: that of another date or region in the rate table, or one that the bill states",
    "multiplier": "billed at a multiple of our price: a group's or a plan's factor, or without the one of terms.csv",
    "unit_rounding": "at most one step of the bill's own smallest unit for each line",
    "currency": "what the vendor's change of currency adds to its own figure in our currency, or another rate of fx.csv than ours",
    "fees": "fees, taxes, credits and corrections that belong to no request",
    "unexplained": "none of these: ask the vendor, line by line",
}

_LOOSE = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)
_MONEY = Decimal(1).scaleb(-PLACES)
_HUNDREDTH = Decimal("0.01")
_CLEAR = 20  # how many steps of rounding a hundredth of the amount must be, so that no factor fits by chance


@dataclass(frozen=True, slots=True)
class Explained:
    """One group with its class, its two amounts and the steps of its difference."""

    group: Group
    kind: str  # one of the four classes
    vendor_amount: Decimal | None  # None: nothing on the bill
    our_amount: Decimal | None  # None: nothing in our books of this month, or nothing that is known
    steps: dict[str, Decimal]
    reason: str | None
    is_implied: bool  # the bill names no money: its tokens at our prices

    @property
    def difference(self) -> Decimal:
        return (self.vendor_amount or ZERO) - (self.our_amount or ZERO)

    @property
    def shown_difference(self) -> Decimal | None:
        """The same for a reader: null where neither side is known. What is left out so is a zero, so that sums stay what they are."""
        return None if self.vendor_amount is None and self.our_amount is None else self.difference

    @property
    def step(self) -> str | None:
        """The largest step, by amount."""
        return max(self.steps, key=lambda name: (abs(self.steps[name]), -list(STEPS).index(name)), default=None)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One possible explanation: how much more it makes the vendor's amount, and why."""

    step: str
    delta: Decimal
    reason: str
    stated: bool = True


def explain(group: Group, pricer: Pricer, month: tuple[int, int], vendor_month: tuple[int, int]) -> Explained:
    """Decide a group: its class and the steps of its difference. Months are half-open instants, ours and the vendor's."""
    with decimal.localcontext(EXACT):
        return _explain(group, pricer, month, vendor_month)


def _explain(group: Group, pricer: Pricer, month: tuple[int, int], vendor_month: tuple[int, int]) -> Explained:
    steps: dict[str, Decimal] = {}
    reasons: list[str] = [group.note] if group.note else []

    def add(step: str, amount: Decimal, reason: str | None = None) -> None:
        if amount:
            steps[step] = steps.get(step, ZERO) + amount
            if reason:
                reasons.append(reason)

    total, is_implied = _vendor_amount(group, pricer)
    fees = sum((line.line.amount or ZERO if line.line.kind == FEE else line.line.fee for line in group.lines), ZERO)
    currency = sum(
        (
            (one.line.amount or ZERO) - one.line.priced_amount
            for one in group.lines
            if one.line.priced_amount is not None and one.line.kind != FEE
        ),
        ZERO,
    )
    add("fees", fees, "; ".join(sorted({line.line.item or "a fee" for line in group.lines if line.line.kind == FEE or line.line.fee})))
    add("currency", currency)
    vendor = (total or ZERO) - fees - currency
    usage = [line for line in group.lines if line.line.kind not in (FEE, PAYMENT)]
    if usage and group.requests:
        foreign = sum((r.amount for r in group.requests if r.period != group.period), ZERO)
        add("boundary_shift", foreign, f"booked in {', '.join(sorted({r.period for r in group.requests if r.period != group.period}))}")
        for step, amount, reason in _compare(group, usage, vendor, pricer):
            add(step, amount, reason)
    elif usage:
        at = usage[0].line.at
        outside = at is not None and not month[0] <= at < month[1]
        step = "boundary_shift" if outside else "vendor_only"
        add(step, vendor, "it happened outside our month" if outside else None)
    else:
        for request in group.requests:
            outside = not vendor_month[0] <= request.main.started_at < vendor_month[1]
            for one in request.tries:
                step = "boundary_shift" if outside or group.note else _ALONE.get(one.status, "ours_only")
                add(step, -one.amount, "outside the vendor's month" if outside else f"try {one.ordinal} is not on the bill")
    own = group.own
    unknown = [t for request in own for t in request.tries if t.charged is None]
    known = bool(own) and not (unknown and not group.booked)
    kind = _class(group, steps, bool(unknown))
    return Explained(group, kind, total, group.booked if known else None, steps, "; ".join(dict.fromkeys(reasons)) or None, is_implied)


def _booked(one: Try) -> str:
    return "nothing that is known" if one.charged is None else plain(one.charged)


_ALONE = {ABORTED: "aborted", FAILED: "failed_attempts"}


def _class(group: Group, steps: dict[str, Decimal], unknown: bool) -> str:
    if not group.own:
        return VENDOR_ONLY
    if not group.lines:
        # nothing is due and nothing is billed: the two agree
        return MATCHED if not group.booked and not unknown else OURS_ONLY
    return MATCHED if not steps.keys() - {"unit_rounding"} and not unknown else MISMATCH


def _vendor_amount(group: Group, pricer: Pricer) -> tuple[Decimal | None, bool]:
    """What the bill says; where it names tokens and no money, ours with its tokens in the place of ours."""
    amounts = [line.line.amount for line in group.lines if line.line.amount is not None]
    bare = [line for line in group.lines if line.line.amount is None and line.line.kind != FEE]
    if not group.lines:
        return None, False
    if not bare:
        return sum(amounts, ZERO), False
    if group.by_try:
        return sum((_theirs(t, group.by_try[t.key], pricer) for t in group.tries if t.key in group.by_try), ZERO), True
    if group.tries:
        moved = sum((c.delta for c in _counts(group.tries, bare, pricer)), ZERO)
        return sum(amounts, ZERO) + sum((t.amount for t in group.tries), ZERO) + moved, True
    prices = [_line_at_our_prices(line, pricer) for line in bare]
    known = [price for price in prices if price is not None]
    return (sum(amounts, ZERO) + sum(known, ZERO)) if known or amounts else None, True


def _line_at_our_prices(line: Line, pricer: Pricer) -> Decimal | None:
    said = line.line
    cached, plain = said.cached_tokens or 0, (said.input_tokens or 0) - (said.cached_tokens or 0)
    counts = (("input", plain), ("cached_input", cached), ("output", said.output_tokens or 0))
    for channel in line.bill.channels:
        names = {
            rate.model for rate in pricer.rates if rate.channel == channel and plain_model(rate.model) == plain_model(said.model or "")
        }
        for model in sorted(names):
            total = pricer.total(alone(channel, model, said.at or Instant(0), _plain_tier(said.tier), counts))
            if total is not None:
                return total
    return None


# ---- 4 and 5: lines and requests ----

Step = tuple[str, Decimal, str | None]


def _compare(group: Group, usage: Sequence[Line], vendor: Decimal, pricer: Pricer) -> Iterator[Step]:
    if not group.by_try:
        yield from _bucket(group, usage, vendor, pricer)
        return
    for one in group.tries:
        lines = [line for line in group.by_try.get(one.key, ()) if line.line.kind not in (FEE, PAYMENT)]
        if not lines:
            if one.amount:
                yield _ALONE.get(one.status, "ours_only"), -one.amount, f"try {one.ordinal} is not on the bill"
            continue
        yield from _pair(one, lines, _theirs(one, lines, pricer, net=True), pricer)


def _theirs(one: Try, lines: Sequence[Line], pricer: Pricer, *, net: bool = False) -> Decimal:
    """What the bill wants for one try; `net` of fees and before a change of currency. Without money: ours with its tokens."""
    amounts = sum(((_net(line) if net else line.line.amount or ZERO) for line in lines), ZERO)
    bare = [line for line in lines if line.line.amount is None]
    return amounts + one.amount + sum((c.delta for c in _counts((one,), bare, pricer)), ZERO) if bare else amounts


def _net(line: Line) -> Decimal:
    """A line's amount without its fee and before a change of currency."""
    amount = line.line.amount or ZERO
    return (line.line.priced_amount if line.line.priced_amount is not None else amount) - line.line.fee


def _pair(one: Try, lines: Sequence[Line], theirs: Decimal, pricer: Pricer) -> Iterator[Step]:
    gap = theirs - one.amount
    if not gap:
        return
    if one.status == OK or abs(gap) <= _step(lines, theirs - gap):
        yield from _computed(lines, theirs, gap, list(_candidates((one,), lines, theirs, pricer)))
    else:
        yield _ALONE.get(one.status, "missing_usage"), gap, f"try {one.ordinal}: the bill has {plain(theirs)}, we booked {_booked(one)}"


def _bucket(group: Group, usage: Sequence[Line], vendor: Decimal, pricer: Pricer) -> Iterator[Step]:
    tries = group.tries
    gap = vendor - sum((t.amount for t in tries), ZERO)
    if not gap:
        return
    alone = []
    for status, step in (*_ALONE.items(), (MISSING, "missing_usage")):
        booked = sum((t.amount for t in tries if t.status == status), ZERO)
        if booked:
            alone.append(
                _Candidate(step, -booked, f"as if {counted(sum(t.status == status for t in tries), 'try was', 'tries were')} not billed")
            )
    untold = any(t.status == MISSING and t.input_tokens is None for t in tries)
    for step, amount, reason in _computed(usage, vendor, gap, [*alone, *_candidates(tries, usage, vendor, pricer)]):
        if step == "usage_count" and untold and amount > 0:
            yield "missing_usage", amount, reason  # more tokens than the replies told, and some replies told none
        elif step == "unexplained":
            yield _bucket_rest(group, usage, amount), amount, reason
        else:
            yield step, amount, reason


def _bucket_rest(group: Group, usage: Sequence[Line], rest: Decimal) -> str:
    """What a bucket's counts say of a difference that nothing computed explains."""
    if any(t.charged is None for t in group.tries) and rest > 0:
        return "missing_usage"
    missing = sum((t.amount for t in group.tries if t.status == MISSING), ZERO)
    if missing and abs(rest) <= missing:
        return "missing_usage"
    stated = [line.line.requests for line in usage]
    if all(count is not None for count in stated):
        more = sum(count or 0 for count in stated) - len([t for t in group.tries if t.status in (OK, MISSING)])
        if more > 0 and rest > 0:
            return "vendor_only"
        if more < 0 and rest < 0:
            return "ours_only"
    return "unexplained"


def _step(lines: Sequence[Line], expected: Decimal) -> Decimal:
    """How far the bill's own rounding can move the sum of these lines away from what is expected: not at all where that can
    be written as it is.
    """
    bound = sum((line.bill.quantum for line in lines), ZERO)
    is_exact = len(lines) == 1 and not lines[0].bill.counts_units and expected % lines[0].bill.quantum == 0
    return ZERO if is_exact else bound


def _computed(lines: Sequence[Line], theirs: Decimal, gap: Decimal, candidates: Sequence[_Candidate]) -> Iterator[Step]:
    """Rule 5 and 6 of the header."""
    left = gap
    chosen: Sequence[_Candidate] = ()

    def is_rounding(rest: Decimal) -> bool:
        return abs(rest) <= _step(lines, theirs - rest)

    if not is_rounding(gap):
        singles = [c for c in candidates if is_rounding(gap - c.delta) and c.delta]
        singles.sort(key=lambda c: (not c.stated, list(STEPS).index(c.step), c.reason))
        pairs = [p for p in combinations([c for c in candidates if c.stated], 2) if is_rounding(gap - p[0].delta - p[1].delta)]
        if singles:
            chosen = singles[:1]
        elif pairs:
            chosen = pairs[0]
        else:
            chosen = _closer(gap, [c for c in candidates if c.stated and c.step not in _ALONE_STEPS])
    for candidate in chosen:
        yield candidate.step, candidate.delta, candidate.reason
        left -= candidate.delta
    if left:
        yield ("unit_rounding" if is_rounding(left) else "unexplained"), left, None


_ALONE_STEPS = frozenset(_ALONE.values()) | {"missing_usage"}


def _closer(gap: Decimal, candidates: Sequence[_Candidate]) -> Sequence[_Candidate]:
    """Of what the bill states, in order, that which brings the two sides closer."""
    left, chosen = gap, []
    for candidate in candidates:
        if abs(left - candidate.delta) < abs(left):
            chosen.append(candidate)
            left -= candidate.delta
    return chosen


# ---- candidates ----


def _candidates(tries: Sequence[Try], lines: Sequence[Line], theirs: Decimal, pricer: Pricer) -> Iterator[_Candidate]:
    found = (
        _counts(tries, lines, pricer),
        _classes(tries, lines, pricer),
        _tiers(tries, lines, pricer),
        _prices(tries, lines, pricer),
        _terms(tries, pricer),
    )
    for candidate in chain(*found, _multiples(tries, lines, theirs)):
        # a price that the bill states may have more places than an amount has
        yield replace(candidate, delta=candidate.delta.quantize(_MONEY, context=_LOOSE))


def _stated(lines: Sequence[Line], name: str) -> int | None:
    """The sum of what every line states; None where one does not."""
    values = [getattr(line.line, name) for line in lines]
    return None if not values or any(value is None for value in values) else sum(values)


def _moved(tries: Sequence[Try], deltas: Sequence[tuple[str, int]], pricer: Pricer) -> Decimal | None:
    """How much more these tries cost with so many units more or less; of several tries, where all have one price."""
    if len(tries) == 1:
        before, after = pricer.total(tries[0]), pricer.total(with_counts(tries[0], deltas))
        return None if before is None or after is None else after - before
    moved = ZERO
    for meter, delta in deltas:
        charged = {line.unit_price for t in tries for line in t.lines if line.meter == meter and not line.is_free}
        prices = charged or {price for t in tries if (price := pricer.price(t, meter)) is not None}
        if delta and len(prices) != 1:
            return None
        moved += delta * next(iter(prices), ZERO)
    return moved


def _counts(tries: Sequence[Try], lines: Sequence[Line], pricer: Pricer) -> Iterator[_Candidate]:
    """Tokens that the bill states, in the place of ours, at our prices."""
    theirs_cached, ours_cached = _stated(lines, "cached_tokens"), sum(t.quantity("cached_input") for t in tries)
    if theirs_cached is not None and theirs_cached != ours_cached:
        more = theirs_cached - ours_cached
        delta = _moved(tries, (("input", -more), ("cached_input", more)), pricer)
        if delta is not None:
            yield _Candidate("cache_class", delta, f"the bill has {theirs_cached} cached tokens, the replies told {ours_cached}")
    total, parts = ZERO, []
    for meter in ("input", "output"):
        theirs, ours = _stated(lines, f"{meter}_tokens"), sum(getattr(t, f"{meter}_tokens") or 0 for t in tries)
        if theirs is not None and theirs != ours:
            delta = _moved(tries, ((meter, theirs - ours),), pricer)
            if delta is not None:
                total += delta
                parts.append(f"{counted(theirs, f'{meter} token')}, the replies told {ours}")
    if total:
        yield _Candidate("usage_count", total, "the bill has " + "; ".join(parts))


# Meters that a bill may count as another: what it is, and as what.
_CONFUSED = (
    ("cached_input", "input", "cached input billed as plain input"),
    ("cache_write", "input", "cache writes billed as plain input"),
    ("cache_write", "cached_input", "cache writes billed as cache reads"),
    ("cached_audio_input", "audio_input", "cached audio billed as plain audio"),
)


def _classes(tries: Sequence[Try], lines: Sequence[Line], pricer: Pricer) -> Iterator[_Candidate]:
    if _stated(lines, "cached_tokens") is None:
        for prefix, other, reason in _CONFUSED:
            found = [one for one in tries if any(line.meter.startswith(prefix) for line in one.lines)]

            def confused(meter: str, prefix: str = prefix, other: str = other) -> str:
                return other if meter.startswith(prefix) else meter

            delta = _again(found, lambda one, confused=confused: pricer.total(one, meter_of=confused))  # type: ignore[misc]
            if delta:
                yield _Candidate("cache_class", delta, reason, stated=False)


def _again(tries: Sequence[Try], total: Callable[[Try], Decimal | None]) -> Decimal | None:
    """How much more these tries cost in another way; None where one is not known."""
    delta = ZERO
    for one in tries:
        if one.lines:
            other = total(one)
            if other is None:
                return None
            delta += other - sum((line.quantity * line.unit_price for line in one.lines), ZERO)
    return delta


def _asked(tries: Sequence[Try], pricer: Pricer, asked: Conditions) -> Decimal | None:
    """How much more these tries cost under other conditions."""
    return _again(tries, lambda one: pricer.total(one, asked))


def _tiers(tries: Sequence[Try], lines: Sequence[Line], pricer: Pricer) -> Iterator[_Candidate]:
    ours = {one.tier for one in tries}
    stated = {_plain_tier(line.line.tier) for line in lines if line.line.tier}
    known = {tier for one in tries for tier in pricer.tiers(one)}
    for tier in sorted(stated | known, key=str):
        if {tier} == ours:
            continue
        delta = _asked(tries, pricer, Conditions(tier=tier))
        if delta:
            told = ", ".join(sorted(name or "ordinary" for name in ours))
            yield _Candidate("tier", delta, f"billed at the tier {tier or 'ordinary'}, the replies told {told}", stated=tier in stated)


def _plain_tier(tier: str | None) -> str | None:
    return None if tier in (None, "default", "standard", "on_demand", "auto") else tier


def _prices(tries: Sequence[Try], lines: Sequence[Line], pricer: Pricer) -> Iterator[_Candidate]:
    said = [line.line for line in lines]
    states = {
        "input": {s.input_price for s in said},
        "cached_input": {s.cached_price for s in said},
        "output": {s.output_price for s in said},
    }
    one_price = {meter: prices.pop() for meter, prices in states.items() if len(prices) == 1}
    if one_price.get("input") is not None:

        def stated(one: Try) -> Decimal:
            total = ZERO
            for line in one.lines:
                family = (
                    "cached_input" if line.meter.startswith("cached") else "output" if line.meter in ("output", "reasoning") else "input"
                )
                price = None if line.meter in NOT_PRICED or line.is_free else one_price.get(family)
                total += line.quantity * (line.unit_price if price is None else price)
            return total

        delta = _again(tries, stated)
        if delta:
            yield _Candidate("price_version", delta, f"the bill states {one_price['input']:f} for one input token")
    for at in sorted({at for one in tries for at in pricer.versions(one)}):
        delta = _asked(tries, pricer, Conditions(at=at))
        if delta:
            yield _Candidate("price_version", delta, f"billed at the prices in force on {to_datetime(at).date()}", stated=False)
    for region in sorted({region for one in tries for region in pricer.regions(one)}, key=str):
        delta = _asked(tries, pricer, Conditions(region=region))
        if delta:
            told = ", ".join(sorted({one.region or "none" for one in tries}))
            yield _Candidate("price_version", delta, f"billed at the price of region {region or 'none'}, ours was {told}", stated=False)


# What a bill that does not know a term of terms.csv differs by: the step, and the reason.
_WITHOUT = {
    "multiplier": ("multiplier", "billed without the contract's multiplier (terms.csv)"),
    "minimum": ("usage_count", "billed without the contract's least quantity (terms.csv)"),
    "step": ("usage_count", "billed without rounding up to the contract's step (terms.csv)"),
    "allowance": ("usage_count", "billed without the contract's free allowance (terms.csv)"),
}


def _terms(tries: Sequence[Try], pricer: Pricer) -> Iterator[_Candidate]:
    """The same quantities without a term of the contract, or at another exchange rate of fx.csv."""
    for slot in pricer.agreed(tries):
        delta = _asked(tries, pricer, Conditions(without=slot))
        if delta:
            yield _Candidate(_WITHOUT[slot][0], delta, _WITHOUT[slot][1], stated=False)
    for at in sorted({at for one in tries for at in pricer.exchanged(one)}):
        delta = _asked(tries, pricer, Conditions(fx_at=at))
        if delta:
            yield _Candidate("currency", delta, f"converted at the rate of fx.csv in force on {to_datetime(at).date()}", stated=False)


def _multiples(tries: Sequence[Try], lines: Sequence[Line], theirs: Decimal) -> Iterator[_Candidate]:
    ours = sum((one.amount for one in tries), ZERO)
    stated = {line.line.multiplier for line in lines}
    if len(stated) == 1 and (factor := next(iter(stated))) is not None and factor != 1:
        yield _Candidate("multiplier", ours * factor - ours, f"the bill states a factor of {factor:f}")
    if ours > 0 and theirs > 0:
        factor = _LOOSE.divide(theirs, ours).quantize(_HUNDREDTH, context=_LOOSE)
        if factor not in (0, 1) and ours * _HUNDREDTH > _CLEAR * _step(lines, ours * factor):
            delta = ours * factor - ours
            yield _Candidate("multiplier", delta, f"billed at {factor:f} times our price", stated=False)
