"""What an export reads: one period of the published ledger, piece by piece in one fixed order, within a bound of memory.

A sort of a whole month of wide rows fits no bound, so a month is cut by its instants into pieces of some thousand rows, and
only the rows of a piece are ever sorted. Where to cut follows from the rows alone: a repeat cuts at the same places.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from etl.published import require_period
from schemas.errors import LedgerError
from schemas.money import plain

# Types whose values would be bent on their way out: DuckDB writes HUGEINT to Parquet as a double.
INEXACT_TYPES = frozenset({"DOUBLE", "FLOAT", "HUGEINT", "UHUGEINT"})

AMOUNTS = ("list_charge", "final_charge", "vendor_charge", "adjustment_amount", "savings", "leakage", "vendor_difference")
COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")

BATCH_ROWS = 8192
PIECE_ROWS = 32_768
MEMORY_LIMIT = "192MB"  # of DuckDB; beyond it what can spill does, beside the file that is written

Sums = dict[str, str | int | None]
Report = Callable[[str], None]


class InexactColumnError(LedgerError):
    """A column of a type that cannot be exported exactly."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a format says it wrote, to be held against what it was given."""

    table: str
    rows: int
    control: dict[str, Sums]  # by currency
    columns: tuple[str, ...]


def silent(line: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Source:
    """One period of the published ledger; rows of the table `ledger` come ordered by creation and id."""

    connection: duckdb.DuckDBPyConnection
    period: str
    columns: tuple[tuple[str, str], ...]  # of the table ledger: name, DuckDB type
    starts_at: datetime | None = None  # UTC, without offset, as the ledger keeps instants
    ends_at: datetime | None = None
    report: Report = silent

    def pieces(self, table: str = "ledger", instant: str = "created_at", rows: int = PIECE_ROWS) -> Iterator[str]:
        """Conditions on `instant` that cut the period's rows of `table` into pieces of so many, in order; each report tells how far it is."""
        numbered = f"SELECT {instant} AS cut, row_number() OVER (ORDER BY {instant}) - 1 AS place FROM {table} WHERE period = $period"
        found = self.rows(f"SELECT DISTINCT cut FROM ({numbered}) WHERE place > 0 AND place % {rows} = 0 AND cut IS NOT NULL ORDER BY cut")
        cuts = [f"TIMESTAMP '{row['cut']}'" for row in found]
        for number, (begin, end) in enumerate(zip(["", *cuts], [*cuts, ""], strict=True), 1):
            terms = ([f"{instant} >= {begin}"] if begin else []) + ([f"({instant} < {end} OR {instant} IS NULL)"] if end else [])
            yield " AND ".join(terms) or "true"
            if cuts:
                self.report(f"{number} of {len(cuts) + 1} parts")

    def select(self, *expressions: str, piece: str = "true") -> str:
        """One select of `expressions` (every column where none is given) over the rows of a piece of `ledger` in order."""
        chosen = ", ".join(expressions or [quoted(name) for name, _ in self.columns])
        return f"SELECT {chosen} FROM ledger WHERE period = $period AND {piece} ORDER BY created_at, request_id"

    def ledger_rows(self, *expressions: str) -> Iterator[dict[str, Any]]:
        """`expressions` over all rows of `ledger` in order, one row after the other."""
        for piece in self.pieces():
            yield from self.rows(self.select(*expressions, piece=piece))

    def write_csv(self, selects: Iterable[str], path: Path) -> int:
        """What the selects give, one after the other, as one CSV file with one head line; the rows of it."""
        part = path.with_suffix(".rows")
        count = 0
        try:
            with path.open("wb") as whole:
                for select in selects:
                    options = f"FORMAT csv, HEADER {str(whole.tell() == 0).lower()}, DELIMITER ',', NULLSTR ''"
                    statement = f"COPY ({select}) TO {literal(str(part))} ({options})"
                    ((rows,),) = self.connection.execute(statement.replace("$period", literal(self.period))).fetchall()
                    count += rows
                    with part.open("rb") as rows_of_one:
                        shutil.copyfileobj(rows_of_one, whole)
        finally:
            part.unlink(missing_ok=True)
        return count

    def table(self, select: str) -> pa.Table:
        """What `select` gives as Arrow; $period stands for the period."""
        return self.connection.sql(select, params={"period": self.period}).to_arrow_table()

    def rows(self, select: str) -> Iterator[dict[str, Any]]:
        """The rows of `select` one by one, read in batches; $period stands for the period. Nothing else may be asked meanwhile."""
        parameters = {"period": self.period} if "$period" in select else None
        for batch in self.connection.sql(select, params=parameters).to_arrow_reader(BATCH_ROWS):
            yield from batch.to_pylist()

    def one(self, select: str) -> tuple[Any, ...]:
        """The one row of `select`."""
        (row,) = self.connection.execute(select, {"period": self.period}).fetchall()
        return tuple(row)

    def control(self) -> tuple[int, dict[str, Sums]]:
        """Rows, and by currency the sum of each amount and token count: null where no row knows it, never zero."""
        sums = [f"sum({name})::DECIMAL(38,12)" for name in AMOUNTS]
        sums += [f"sum({name})" for name in COUNTS]  # a HUGEINT: what fits each row may not fit their sum
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
                **{name: _total(value) for name, value in named.items()},
            }
        return sum(row[1] for row in found), totals

    def written(self, rows: int) -> Written:
        """What a format that carries every column of `ledger` wrote."""
        return Written("ledger", rows, self.control()[1], tuple(name for name, _ in self.columns))

    def receipts_sha256(self) -> str:
        """SHA-256 over the period's receipt digests in the order of its rows, each and a newline: what the rows say, in one line."""
        digest = hashlib.sha256()
        for row in replace(self, report=silent).ledger_rows("receipt_digest"):
            digest.update(f"{row['receipt_digest'] or ''}\n".encode())
        return digest.hexdigest()


def _total(value: Decimal | int | None) -> str | int | None:
    """A sum as JSON may have it: amounts as text, and whole numbers too where 64 bits do not hold them."""
    if isinstance(value, Decimal):
        return plain(value)
    return str(value) if value is not None and value >= 2**63 else value


def quoted(name: str) -> str:
    """A column's name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def source(connection: duckdb.DuckDBPyConnection, period: str, report: Report = silent) -> Source:
    """The rows of `period`, which must be one that the ledger knows. Raises PeriodError or InexactColumnError."""
    require_period(connection, period)
    columns = tuple((row[0], row[1]) for row in connection.execute("DESCRIBE ledger").fetchall())
    for name, kind in columns:
        if kind in INEXACT_TYPES:
            raise InexactColumnError(f"column ledger.{name} has type {kind}, which no export carries exactly", "cast it in its model")
    ((starts_at, ends_at),) = connection.execute("SELECT starts_at, ends_at FROM periods WHERE period = ?", [period]).fetchall()
    return Source(connection, period, columns, starts_at, ends_at, report)
