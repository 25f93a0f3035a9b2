"""What an export writes: one period of one published table, every column, in one fixed order."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb

from etl.published import require_period
from schemas.errors import LedgerError
from schemas.money import plain

# Types whose values would be bent on their way out: DuckDB writes HUGEINT to Parquet as a double.
INEXACT_TYPES = frozenset({"DOUBLE", "FLOAT", "HUGEINT", "UHUGEINT"})

AMOUNTS = ("list_charge", "final_charge", "vendor_charge", "adjustment_amount", "savings", "leakage", "vendor_difference")
COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


class InexactColumnError(LedgerError):
    """A column of a type that cannot be exported exactly."""


Sums = dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of the table `ledger` in one period, ordered by creation and id."""

    connection: duckdb.DuckDBPyConnection
    period: str
    columns: tuple[tuple[str, str], ...]  # name, DuckDB type

    def select(self, *expressions: str) -> str:
        """One select of `expressions` (every column where none is given) over the rows in order."""
        chosen = ", ".join(expressions or [quoted(name) for name, _ in self.columns])
        return f"SELECT {chosen} FROM ledger WHERE period = '{self.period}' ORDER BY created_at, request_id"

    def copy(self, select: str, path: Path, options: str) -> None:
        """DuckDB's COPY of `select` to `path`."""
        target = str(path).replace("'", "''")
        self.connection.execute(f"COPY ({select}) TO '{target}' ({options})")

    def control(self) -> tuple[int, dict[str, Sums]]:
        """Rows, and by currency the sum of each amount and token count: null where no row knows it, never zero."""
        sums = [f"sum({name})::DECIMAL(38,12)" for name in AMOUNTS]
        sums += [f"sum({name})::BIGINT" for name in COUNTS]
        found = self.connection.execute(
            f"SELECT coalesce(currency, 'unknown'), count(*), count(*) FILTER (WHERE final_charge IS NULL), {', '.join(sums)} "
            "FROM ledger WHERE period = ? GROUP BY 1 ORDER BY 1",
            [self.period],
        ).fetchall()
        totals: dict[str, Sums] = {}
        for currency, rows, uncharged, *values in found:
            named = dict(zip((*AMOUNTS, *COUNTS), values, strict=True))
            totals[currency] = {
                "rows": rows,
                "rows_without_charge": uncharged,
                **{name: plain(value) if isinstance(value, Decimal) else value for name, value in named.items()},
            }
        return sum(row[1] for row in found), totals


def quoted(name: str) -> str:
    """A column's name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def source(connection: duckdb.DuckDBPyConnection, period: str) -> Source:
    """The rows of `period`, which must be one that the ledger knows. Raises PeriodError or InexactColumnError."""
    require_period(connection, period)
    columns = tuple((row[0], row[1]) for row in connection.execute("DESCRIBE ledger").fetchall())
    for name, kind in columns:
        if kind in INEXACT_TYPES:
            raise InexactColumnError(f"column ledger.{name} has type {kind}, which no export carries exactly", "cast it in its model")
    return Source(connection, period, columns)
