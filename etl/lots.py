"""What is left of each top-up: charges and everything else that leaves a bucket is drawn from its lots, in an order that is data.

The order is the table ORDER below. A gain that no top-up brought (a refund, an adjustment upwards) belongs to no lot
and is spent first. A top-up that is reversed takes back its own lot, and what was spent from it is drawn from the others. Between
two of those only the net movement counts, so SQL adds up the stretches and Python walks them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from etl.closed import Closed
from etl.sources import table
from schemas.money import EXACT, share

# Which lot is drawn first: the columns to sort by. A lot that never lapses comes after all that do.
ORDER = ("expires", "posted_at", "lot_id")

ZERO = Decimal(0)
_REMAINING = pa.schema([("lot_id", pa.string()), ("remaining", pa.decimal128(38, 12)), ("paid_for_spent", pa.decimal128(38, 12))])

# Each stretch begins with a top-up, or with the reversal of one: both by the name of its lot. What came late is posted at one and the
# same instant, so that there a reversal stands behind what it names.
_STRETCHES = """
    WITH named AS (
        SELECT lot_id AS entry_id, lot_id, false AS is_reversal FROM every_lot
        UNION ALL
        SELECT r.entry_id, l.lot_id, true FROM published.journal r
        JOIN published.journal t ON r.reverses = t.transaction_id AND r.account = t.account
        JOIN every_lot l ON t.entry_id = l.lot_id
    ),
    movements AS (
        SELECT s.wallet, s.bucket, s.currency, s.posted_at, s.entry_id, s.amount, n.lot_id, coalesce(n.is_reversal, false) AS is_reversal
        FROM (SELECT * FROM wallet_statement UNION ALL BY NAME SELECT * FROM published.wallet_statement) s
        LEFT JOIN named n ON s.entry_id = n.entry_id
        WHERE (s.wallet, s.bucket, s.currency) IN (SELECT (wallet, bucket, currency) FROM every_lot)
    ),
    stretched AS (
        SELECT *, sum(CASE WHEN lot_id IS NULL THEN 0 ELSE 1 END) OVER (
            PARTITION BY wallet, bucket, currency ORDER BY posted_at, is_reversal, entry_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS stretch
        FROM movements
    )
    SELECT wallet, bucket, currency, max(lot_id), CAST(coalesce(sum(amount) FILTER (WHERE lot_id IS NULL), 0) AS DECIMAL(38,12))
    FROM stretched GROUP BY wallet, bucket, currency, stretch ORDER BY wallet, bucket, currency, stretch
"""


@dataclass(frozen=True, slots=True)
class Lot:
    """One top-up."""

    lot_id: str
    posted_at: datetime
    credit: Decimal
    expires: datetime | None
    paid: Decimal | None = None

    def paid_for(self, spent: Decimal) -> Decimal | None:
        """The money that a part of its credit cost, bonus and all; null if nobody said what was paid."""
        return None if self.paid is None else share(self.paid, spent, self.credit)

    @property
    def rank(self) -> tuple[Any, ...]:
        """Where it stands in ORDER."""
        return tuple((value is None, value) for value in (getattr(self, name) for name in ORDER))


@dataclass(slots=True)
class Bucket:
    """The state of one balance between two movements: what is left of its lots, and what no lot holds (negative: overdrawn)."""

    loose: Decimal = ZERO
    left: dict[Lot, Decimal] = field(default_factory=dict)
    taken_back: set[Lot] = field(default_factory=set)

    def add(self, lot: Lot) -> None:
        """A top-up; what is overdrawn is taken from it at once."""
        self.left[lot] = lot.credit
        self.move(ZERO)

    def take_back(self, lot: Lot) -> None:
        """The reversal of a top-up: what is left of it goes, and what was spent from it is drawn from what else there is."""
        missing = EXACT.subtract(self.left[lot], lot.credit)
        self.left[lot] = ZERO
        self.taken_back.add(lot)
        self.move(missing)

    def spent(self, lot: Lot) -> Decimal:
        """What was drawn from a lot in the end: nothing of one that was taken back."""
        return ZERO if lot in self.taken_back else EXACT.subtract(lot.credit, self.left[lot])

    def move(self, amount: Decimal) -> None:
        """The net of everything else since the last top-up or reversal of one."""
        self.loose = EXACT.add(self.loose, amount)
        for lot in sorted(self.left, key=lambda lot: lot.rank):
            if self.loose >= 0:
                return
            taken = min(self.left[lot], EXACT.minus(self.loose))
            self.left[lot] = EXACT.subtract(self.left[lot], taken)
            self.loose = EXACT.add(self.loose, taken)


def draw(steps: Iterable[tuple[Lot | None, Decimal]]) -> Bucket:
    """One bucket after its stretches: each a top-up, or its reversal where the lot comes again, or null at first, and the net movement after it."""
    bucket = Bucket()
    for lot, amount in steps:
        if lot in bucket.left:
            bucket.take_back(lot)
        elif lot is not None:
            bucket.add(lot)
        bucket.move(amount)
    return bucket


def make_lots(connection: duckdb.DuckDBPyConnection, closed: Closed) -> int:
    """Make `wallet_lots` from the lots of open and closed months; how many."""
    parts = closed.sealed("wallet_lots")
    before = f" UNION ALL BY NAME SELECT * EXCLUDE (remaining, paid_for_spent) FROM {parts}" if parts else ""
    connection.execute(f"CREATE TABLE every_lot AS SELECT * FROM topup_lots{before}")
    lots = connection.execute("SELECT lot_id, posted_at, credit, expires, paid FROM every_lot").fetchall()
    known = {row[0]: Lot(*row) for row in lots}
    buckets: dict[tuple[str, str, str], list[tuple[Lot | None, Decimal]]] = {}
    for wallet, name, currency, lot_id, amount in connection.execute(_STRETCHES).fetchall():
        buckets.setdefault((wallet, name, currency), []).append((known[lot_id] if lot_id else None, amount))
    rows = [
        {"lot_id": lot.lot_id, "remaining": left, "paid_for_spent": lot.paid_for(bucket.spent(lot))}
        for bucket in map(draw, buckets.values())
        for lot, left in bucket.left.items()
    ]
    table(connection, "lot_remaining", pa.Table.from_pylist(rows, _REMAINING))
    connection.execute(
        "CREATE TABLE wallet_lots AS SELECT l.*, r.remaining, r.paid_for_spent FROM every_lot l JOIN lot_remaining r USING (lot_id)"
    )
    return len(rows)
