"""failed_requests.csv: what a request that did not end well costs, by channel, outcome and date."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

from schemas.bookfile import CsvRow, Problem, RefusedError, closest, read_csv, shown
from schemas.dated import (
    ANY,
    Cell,
    DatedRow,
    decimal,
    ends_after_it_begins,
    instant,
    instant_or_none,
    read_cells,
    required,
    resolve,
    row_id,
    uncovered,
)
from schemas.instants import write_instant
from schemas.money import MoneyError, amount, plain

COLUMNS = ("policy", "channel", "outcome", "charge", "effective_from", "effective_to", "note")
OUTCOMES = (
    "error_before_output",
    "error_mid_stream",
    "client_gone",
    "timeout",
    "rate_limited",
    "refused_no_output",
    "refused_with_output",
    "empty_reply",
    "rejected_by_proxy",
)
# Such a request never reached a channel, so only a row for * can apply.
WITHOUT_CHANNEL = frozenset({"rejected_by_proxy"})
CHARGES = ("none", "input", "observed", "reported")


class Policy(DatedRow):
    """What one outcome costs on one channel (or on any); a row that names the channel beats one for `*`."""

    policy_id: str
    policy: str  # the name people see
    channel: str  # a channel's name or *
    outcome: str
    charge: Literal["none", "input", "observed", "reported", "flat"]
    flat_amount: Decimal | None  # the amount for `flat`, else None
    note: str

    @property
    def key(self) -> tuple[object, ...]:
        """What is ruled."""
        return (self.channel, self.outcome)


def _outcome(text: str) -> str:
    if text not in OUTCOMES:
        raise RefusedError("no such outcome", closest(text, OUTCOMES))
    return text


def _charge(text: str) -> tuple[str, Decimal | None]:
    if text in CHARGES:
        return text, None
    try:
        return "flat", amount(decimal(text))
    except MoneyError as error:
        raise RefusedError(error.what, error.cure) from None
    except RefusedError as error:
        raise RefusedError(f"neither {', '.join(CHARGES)} nor a flat amount ({error.what})", closest(text, CHARGES)) from None


CELLS: dict[str, Cell] = {
    "policy": required,
    "channel": required,
    "outcome": _outcome,
    "charge": _charge,
    "effective_from": instant,
    "effective_to": instant_or_none,
    "note": str,
}


def policies_of(file: str, content: bytes, channels: frozenset[str], problems: list[Problem]) -> tuple[Policy, ...]:
    """The valid rows in file order, with `effective_to` resolved; everything that is wrong is added to `problems`.

    From the day its first row begins, each outcome must have a row for every channel without a break or an end.
    """
    rows, faults = read_csv(file, content, COLUMNS)
    before = len(problems)
    problems.extend(faults)
    policies = [policy for row in rows if (policy := _policy(file, row, channels, problems)) is not None]
    resolved = resolve(file, policies, rows, problems)
    # A row that was refused would be told a second time as one that is missing.
    if len(problems) == before:
        problems.extend(_holes(file, resolved, channels))
    return resolved


def _policy(file: str, row: CsvRow, channels: frozenset[str], problems: list[Problem]) -> Policy | None:
    before = len(problems)
    values: dict[str, Any] | None = read_cells(file, row, CELLS, problems)
    name = row.cells["channel"]
    if name and name != ANY and name not in channels:
        problems.append(
            Problem(file, row.line, "channel", shown("channel", name), "no such channel in channels.toml", closest(name, {*channels, ANY}))
        )
    if (
        values is None
        or not ends_after_it_begins(file, row, values["effective_from"], values["effective_to"], problems)
        or len(problems) > before
    ):
        return None
    charge, flat = values.pop("charge")
    said = (values["policy"], values["channel"], values["outcome"], charge, None if flat is None else plain(flat))
    identity = row_id("policy", *said, values["effective_from"], values["effective_to"])
    return Policy(policy_id=identity, line=row.line, charge=charge, flat_amount=flat, **values)


def _holes(file: str, policies: Iterable[Policy], channels: frozenset[str]) -> Iterable[Problem]:
    for outcome in OUTCOMES:
        ruling = [policy for policy in policies if policy.outcome == outcome]
        for channel in sorted(channels) if outcome not in WITHOUT_CHANNEL else [ANY]:
            rows = [policy for policy in ruling if policy.channel in (ANY, channel)]
            cure = f"add a row for outcome {outcome} and channel * (charge: {', '.join(CHARGES)} or a flat amount)"
            if not rows:
                yield Problem(file, 1, "outcome", outcome, f"no row for channel {channel}", cure)
                continue
            hole = uncovered(rows, min(row.effective_from for row in rows), None)
            if hole is not None:
                until = "" if hole[1] is None else f" to {write_instant(hole[1])}"
                last = max(row.line for row in rows if row.effective_to is not None)
                yield Problem(file, last, "outcome", outcome, f"no row for channel {channel} from {write_instant(hole[0])}{until}", cure)


def ruling(policies: Iterable[Policy], channel: str | None, outcome: str, at: int) -> Policy | None:
    """The row that rules an outcome at an instant; `channel` is None where no channel was tried."""
    found = [policy for policy in policies if policy.outcome == outcome and policy.channel in (ANY, channel) and policy.in_force(at)]
    return max(found, key=lambda policy: policy.channel != ANY, default=None)
