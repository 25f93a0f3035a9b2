"""What is compared: our tries with their charge lines, a vendor's bill lines, and the groups that matching makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

from etl.bills.lines import Bill, BillLine
from etl.lookup import lookup_tables
from schemas.records import Instant

MATCHED, MISMATCH, VENDOR_ONLY, OURS_ONLY = "matched", "mismatch", "vendor_only", "ours_only"
CLASSES = (MATCHED, MISMATCH, VENDOR_ONLY, OURS_ONLY)

OK, ABORTED, FAILED, MISSING = "ok", "aborted", "failed", "missing"
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """One line of our arithmetic."""

    meter: str
    quantity: int
    unit_price: Decimal
    model: str | None = None  # whose price counts; None: the one sent
    term: str | None = None  # allowance: it is free of it; minimum, step: that added it

    @property
    def is_free(self) -> bool:
        """An allowance of the contract covers it."""
        return self.term == "allowance"

    @property
    def is_added(self) -> bool:
        """A minimum or a step of the contract added it: nobody measured it."""
        return self.term in ("minimum", "step")


@dataclass(frozen=True, slots=True)
class Try:
    """One try of ours on the vendor's channels."""

    request_id: str
    ordinal: int
    channel: str
    period: str  # the month it is booked in
    started_at: Instant
    ended_at: Instant | None
    created_at: Instant  # of the request: prices are those of this instant
    status: str  # OK | ABORTED (the client left) | FAILED | MISSING (we counted ourselves, or do not know)
    charged: Decimal | None  # None: not known
    model: str | None  # as sent upstream
    models: frozenset[str]  # plain names of asked, sent and served
    input_tokens: int | None
    output_tokens: int | None
    tier: str | None
    region: str | None = None
    endpoint: str | None = None
    lines: tuple[ChargeLine, ...] = ()
    ids: frozenset[str] = frozenset()  # of this try alone

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.ordinal

    @property
    def amount(self) -> Decimal:
        """What we booked, nothing where it is not known."""
        return self.charged or ZERO

    def quantity(self, *prefixes: str) -> int:
        """Units of the meters that begin so."""
        return sum(line.quantity for line in self.lines if line.meter.startswith(prefixes))


@dataclass(frozen=True, slots=True)
class Request:
    """One logical request, as far as it went to the vendor's channels."""

    request_id: str
    period: str
    tries: tuple[Try, ...]
    ids: frozenset[str] = frozenset()  # ours, the client's, and those that belong to no single try

    @property
    def main(self) -> Try:
        """The try that served, else the last that cost something, else the last."""
        served = [t for t in self.tries if t.status in (OK, MISSING)]
        costly = [t for t in self.tries if t.amount]
        return (served or costly or list(self.tries))[-1]

    @property
    def amount(self) -> Decimal:
        return sum((t.amount for t in self.tries), ZERO)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a stored bill, with the bill it stands in."""

    bill: Bill
    line: BillLine

    @property
    def key(self) -> tuple[Any, ...]:
        """By content first: lines that say the same are interchangeable, wherever they stand in the file."""
        said = self.line
        content = (
            said.at,
            said.until,
            said.model,
            said.ids,
            said.item,
            said.input_tokens,
            said.output_tokens,
            said.amount,
            said.tier,
            said.kind,
        )
        return (self.bill.key, *(str(value) for value in content), said.number)


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared with each other: bill lines of one month, and requests of ours. Either may be empty."""

    vendor: str
    period: str
    grain: str  # how they were found: request_id | time_model_tokens | time_model | hour | day | month | bucket | none
    lines: tuple[Line, ...] = ()
    requests: tuple[Request, ...] = ()
    by_try: Map[tuple[str, int], tuple[Line, ...]] = field(default_factory=dict)  # where each line belongs to one try
    note: str | None = None  # what matching has to say

    @property
    def tries(self) -> tuple[Try, ...]:
        return tuple(t for request in self.requests for t in request.tries)

    @property
    def own(self) -> tuple[Request, ...]:
        """The requests that are booked in the bill's month."""
        return tuple(request for request in self.requests if request.period == self.period)

    @property
    def booked(self) -> Decimal:
        """What our books have of it in this month."""
        return sum((request.amount for request in self.own), ZERO)


# ---- names of models ----


@cache
def _rules() -> tuple[str, list[tuple[str, str]], str]:
    rows = lookup_tables()["table_model_names"].to_pylist()
    dropped = "|".join(f"(?:{row['pattern']})" for row in rows if row["kind"] == "drop")
    rewrites = [(row["pattern"], row["replacement"] or "") for row in rows if row["kind"] == "rewrite"]
    dates = "|".join(row["pattern"] for row in rows if row["kind"] == "snapshot")
    return dropped, rewrites, f"(?:{dates})$"


@cache
def plain_model(name: str) -> str:
    """A model's name without provider, region, route and date, as etl/tables/model_names.csv says."""
    dropped, rewrites, dates = _rules()
    plain = re.sub(dropped, "", name.strip().lower()).translate(str.maketrans("._@", "---"))
    for pattern, replacement in rewrites:
        plain = re.sub(pattern, replacement, plain)
    return re.sub(dates, "", plain)


def plain_models(names: Iterable[str | None]) -> frozenset[str]:
    """Plain names of those that are known."""
    return frozenset(plain_model(name) for name in names if name)
