"""A vendor's bill as it was read: its lines, each with its place in the file, and everything that it says and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from schemas.bookfile import Problem
from schemas.errors import UsageError
from schemas.records import Instant

USAGE = "usage"  # what traffic cost: matched against our requests
FEE = "fee"  # fees, taxes, credits, refunds and corrections: part of the total, no request of ours
PAYMENT = "payment"  # top-ups and notes: kept, and no part of the total
KINDS = (USAGE, FEE, PAYMENT)

CALL = "request"
GRAINS = (CALL, "hour", "day", "month", "bucket")


class BillError(UsageError):
    """A bill or a mapping that cannot be read. `problems` holds everything that is wrong; nothing was stored."""

    def __init__(self, problems: Iterable[Problem], shown: int = 20) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.field)))
        more = len(self.problems) - shown
        texts = [str(problem) for problem in self.problems[:shown]] + ([f"and {more} more"] if more > 0 else [])
        super().__init__("\n".join(texts), "nothing was stored; mend what is named, and run the command again")


@dataclass(frozen=True, slots=True)
class BillLine:
    """One line. Amounts are in the ledger's currency, with 12 places; unknown is None."""

    number: int  # CSV: the line of the file; JSON: the record, counted from 1
    kind: str  # one of KINDS
    grain: str  # one of GRAINS
    at: Instant | None  # when the call was, or the first instant of the bucket
    until: Instant | None  # the first instant after the bucket; None for a call
    ids: tuple[str, ...]  # every id of the call that the vendor tells
    model: str | None
    item: str | None  # what the vendor calls this line, where that is no model
    requests: int | None  # calls in the bucket
    input_tokens: int | None  # the whole input, cached included
    cached_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None  # the whole output, reasoning included
    reasoning_tokens: int | None
    tier: str | None
    multiplier: Decimal | None  # a group's or a plan's factor on the price
    input_price: Decimal | None  # of one token, as this line states it, before the multiplier
    cached_price: Decimal | None
    output_price: Decimal | None
    amount: Decimal | None  # None: the bill counts tokens and names no money
    priced_amount: Decimal | None  # the same charge before the vendor changed currencies, where it tells
    fee: Decimal  # the part of the amount that is a fee
    written_amount: str | None  # as it stood there
    written_currency: str | None
    account: str | None


@dataclass(frozen=True, slots=True)
class Bill:
    """One stored bill: the vendor's file for one month and account, and what was read in it."""

    vendor: str
    period: str
    account: str
    file: str  # the name it came under
    sha256: str
    mapping: str  # the name of the mapping that reads it
    zone: str  # the vendor's, in which its months and days begin
    channels: tuple[str, ...]
    quantum: Decimal  # the smallest step in which it writes amounts, in the ledger's currency
    counts_units: bool  # it writes whole units of its own, and may round to the next of them
    lines: tuple[BillLine, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """What a corrected bill replaces."""
        return self.vendor, self.period, self.account

    @property
    def total(self) -> Decimal:
        """What the vendor wants for the month, as far as it names money."""
        return sum((line.amount for line in self.lines if line.amount is not None and line.kind != PAYMENT), Decimal(0))
