"""Which bill lines and which of our requests belong together: pure, and the same in whatever order they come.

The finest grain that both share decides, one after the other; what one has taken the next does not see:
  1. an id of the call (the vendor's request or response id, ours, the client's), where it names one request only;
  2. time, model and tokens: the line's instant lies between 60 s before the try began and 60 s after it ended;
  3. time and model, the instant within 2 s of the try's beginning or end: the tokens differ, and the gap will say so;
  4. buckets (an hour, a day, a month, or what the bill says): all requests of the bucket's time, and of its model where it
     names one of ours.
Among several candidates the nearest in time wins, then the order of content. Each line is in one group and so is each
request of a month that has a bill. A request of another month that is on this month's bill is in this month's group as
evidence, and in its own month it is one of ours only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass, field

from etl.bills.lines import CALL, FEE, PAYMENT, Bill
from etl.reconcile.records import Group, Line, Request, Try, plain_model

SECOND = 1_000_000
WINDOW = 60 * SECOND
NEAR = 2 * SECOND
PATIENCE = 600 * SECOND  # how long a try may have run whose end we do not know

TryKey = tuple[str, int]


@dataclass(slots=True)
class _State:
    """What is left to match, and what was found."""

    lines: list[Line]
    requests: dict[str, Request]
    by_request: dict[str, dict[TryKey, list[Line]]] = field(default_factory=dict)
    grains: dict[str, str] = field(default_factory=dict)

    def link(self, line: Line, found: Try, grain: str) -> None:
        self.by_request.setdefault(found.request_id, defaultdict(list))[found.key].append(line)
        self.grains.setdefault(found.request_id, grain)

    @property
    def free(self) -> list[Request]:
        return [request for name, request in self.requests.items() if name not in self.by_request]


def match(bills: Sequence[Bill], requests: Iterable[Request]) -> tuple[Group, ...]:
    """The groups of all bills of one vendor, months in order."""
    every = sorted((Line(bill, line) for bill in bills for line in bill.lines if line.kind != PAYMENT), key=lambda line: line.key)
    fees = [line for line in every if line.line.kind == FEE]
    state = _State(
        [line for line in every if line.line.kind != FEE], {r.request_id: r for r in sorted(requests, key=lambda r: r.request_id)}
    )
    again = _by_id(state)
    for exact in (True, False):
        _by_time(state, exact)
    groups = [*_calls(state), *_buckets(state)]
    groups += [
        Group(line.bill.vendor, line.bill.period, "none", (line,), note="billed twice: the same call is on another line") for line in again
    ]
    groups += [Group(line.bill.vendor, line.bill.period, "none", (line,)) for line in (*state.lines, *fees)]
    return tuple(sorted([*groups, *_ours(bills, state, groups)], key=_order))


def _order(group: Group) -> tuple[str, ...]:
    return (
        group.period,
        group.grain,
        *(request.request_id for request in group.requests[:1]),
        *(str(line.key) for line in group.lines[:1]),
    )


# ---- 1: ids ----


def _by_id(state: _State) -> list[Line]:
    """Link by id; the lines that bill a call a second time."""
    names: dict[str, set[TryKey]] = defaultdict(set)
    for request in state.requests.values():
        for name in request.ids:
            names[name].add(request.main.key)
        for one in request.tries:
            for name in one.ids:
                names[name].add(one.key)
    tries = {one.key: one for request in state.requests.values() for one in request.tries}
    left: list[Line] = []
    again: list[Line] = []
    seen: set[tuple[object, ...]] = set()
    for line in state.lines:
        found = next((found for name in line.line.ids if len(found := names.get(name, set())) == 1), None)
        if found is None:
            left.append(line)
            continue
        (key,) = found
        said = line.line
        same = (key, said.model, said.item, said.input_tokens, said.output_tokens, said.amount)
        if said.grain == CALL and said.input_tokens is not None and same in seen:
            again.append(line)
            continue
        seen.add(same)
        state.link(line, tries[key], "request_id")
    state.lines = left
    return again


# ---- 2 and 3: time ----


def _by_time(state: _State, exact: bool) -> None:
    tries = sorted((one for request in state.free for one in request.tries), key=lambda one: (one.started_at, one.key))
    longest = max((_end(one) - one.started_at for one in tries), default=0)
    starts = [one.started_at for one in tries]
    pairs = []
    for place, line in enumerate(state.lines):
        at = line.line.at
        if line.line.grain != CALL or at is None or (not exact and line.line.model is None):
            continue
        for n in range(bisect_left(starts, at - longest - WINDOW), bisect_right(starts, at + WINDOW)):
            one = tries[n]
            distance = min(abs(at - one.started_at), abs(at - _end(one)))
            near = one.started_at - WINDOW <= at <= _end(one) + WINDOW if exact else distance <= NEAR
            if near and _same_model(line, one) and (not exact or _same_tokens(line, one)):
                pairs.append((distance, place, n))
    taken: set[int] = set()
    taken_requests: set[str] = set()
    for _, place, n in sorted(pairs):
        if place not in taken and tries[n].request_id not in taken_requests:
            taken.add(place)
            taken_requests.add(tries[n].request_id)
            state.link(state.lines[place], tries[n], "time_model_tokens" if exact else "time_model")
    state.lines = [line for place, line in enumerate(state.lines) if place not in taken]


def _end(one: Try) -> int:
    return one.ended_at if one.ended_at is not None else one.started_at + PATIENCE


def _same_model(line: Line, one: Try) -> bool:
    return line.line.model is None or plain_model(line.line.model) in one.models


def _same_tokens(line: Line, one: Try) -> bool:
    pairs = ((line.line.input_tokens, one.input_tokens), (line.line.output_tokens, one.output_tokens))
    stated = [(theirs, ours) for theirs, ours in pairs if theirs is not None]
    if not stated:
        return line.line.amount is not None and line.line.amount == one.charged
    return all(theirs == (ours or 0) for theirs, ours in stated)


def _calls(state: _State) -> list[Group]:
    groups = []
    for name, linked in state.by_request.items():
        by_month: dict[str, dict[TryKey, tuple[Line, ...]]] = defaultdict(dict)
        for key, lines in linked.items():
            for line in lines:
                month = by_month[line.bill.period]
                month[key] = (*month.get(key, ()), line)
        for period, by_try in by_month.items():
            own = tuple(sorted((line for found in by_try.values() for line in found), key=lambda line: line.key))
            # where two months bill one request, its own month has it, and the other is told as evidence
            groups.append(Group(own[0].bill.vendor, period, state.grains[name], own, (state.requests[name],), by_try))
    return groups


# ---- 4: buckets ----


def _buckets(state: _State) -> list[Group]:
    """Group the lines that cover a stretch of time; a request belongs to the shortest stretch that names its model, else to
    the shortest that names none.
    """
    wanted = [line for line in state.lines if line.line.grain != CALL and line.line.at is not None and line.line.until is not None]
    state.lines = [line for line in state.lines if line.line.grain == CALL or line.line.at is None or line.line.until is None]
    stretches: dict[tuple[str, int, int, str], list[Line]] = defaultdict(list)
    for line in wanted:
        model = plain_model(line.line.model) if line.line.model else ""
        stretches[line.bill.period, line.line.at or 0, line.line.until or 0, model].append(line)
    by_model: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for period, at, until, model in sorted(stretches):
        by_model[model].append((at, until, period))
    found: dict[tuple[str, int, int, str], list[Request]] = defaultdict(list)
    for request in state.free:
        key = _stretch_of(request.main, by_model)
        if key is not None:
            found[key].append(request)
    groups = []
    for key, lines in stretches.items():
        members = tuple(found.get(key, ()))
        for request in members:
            state.by_request[request.request_id] = {}
        groups.append(Group(lines[0].bill.vendor, key[0], lines[0].line.grain, tuple(lines), members))
    return groups


def _stretch_of(one: Try, by_model: Map[str, Sequence[tuple[int, int, str]]]) -> tuple[str, int, int, str] | None:
    for model in (*sorted(one.models), ""):
        around = [(until - at, at, until, period) for at, until, period in by_model.get(model, ()) if at <= one.started_at < until]
        if around:
            _, at, until, period = min(around)
            return period, at, until, model
    return None


# ---- what is left of ours ----


def _ours(bills: Sequence[Bill], state: _State, groups: Sequence[Group]) -> list[Group]:
    """Requests of a billed month that no line of that month's bill covers."""
    billed = {bill.period: bill for bill in bills}
    covered = {(group.period, request.request_id) for group in groups for request in group.requests}
    elsewhere: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        for request in group.requests:
            if request.period != group.period:
                elsewhere[request.request_id].append(group.period)
    left = []
    for request in state.requests.values():
        if request.period in billed and (request.period, request.request_id) not in covered:
            months = ", ".join(sorted(elsewhere.get(request.request_id, ())))
            note = f"it is on the bill of {months}" if months else None
            left.append(Group(billed[request.period].vendor, request.period, "none", (), (request,), note=note))
    return left
