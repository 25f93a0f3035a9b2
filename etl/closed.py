"""Closed months are read from what was sealed, or from a copy of the published ledger, never out of raw/ again.

A build reads only what no seal has covered. What comes late for a closed month is booked in the first open one; a
record that belongs to a request of a closed month cannot change it any more, and becomes a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from etl.seals import TABLES_FOLDER, MonthSeal, check_outputs, folder, read_seals
from etl.sources import OPENING, instant_of, months, table
from schemas.book import Book
from schemas.errors import LedgerError, UsageError
from schemas.home import Home
from schemas.instants import from_datetime, to_datetime
from schemas.ledger import BY_NAME, TABLES, Table

# Tables whose rows span months: they are added up again where a request of them changed.
ACROSS = ("usage_daily", "runs")
# Tables that no month owns: balances go on from the opening ones, positions come from the manifest.
# Bills come after their months have closed: what they say is compared again at every build, and is no part of a seal.
BILLS = ("bills", "bill_lines", "reconciliation_requests", "reconciliation_waterfall", "reconciled_months")
UNOWNED = ("wallet_balances", "build_inputs", "key_permissions", *BILLS, *ACROSS)
# Which rows a month owns, where neither a column `period` nor a column `request_id` says so.
OWNED = {
    "reconciliation": "period = $period AND source <> 'bill'",
    "data_quality": "period = $period OR (period IS NULL AND NOT blocks_close)",
    "wallet_holds": "$period IN (period, released_period)",
    "model_prices": "rate_id IN (SELECT unnest([c.rate_id, c.list_rate_id]) FROM charges c JOIN ledger l USING (request_id) "
    "WHERE l.period = $period)",
    "price_terms": "term_id IN (SELECT unnest([c.rate_id, c.multiplier_id]) FROM charges c JOIN ledger l USING (request_id) "
    "WHERE l.period = $period)",
    "exchange_rates": "fx_id IN (SELECT c.fx_id FROM charges c JOIN ledger l USING (request_id) WHERE l.period = $period)",
}
# Rows of the book that several months own, by their names.
OF_THE_BOOK = {"model_prices": "rate_id", "price_terms": "term_id", "exchange_rates": "fx_id"}
# Tables that are read as they were sealed even where the edition has their rows, as they stand now.
READ_SEALED = ("data_quality", "wallet_holds", "wallet_lots", *OF_THE_BOOK)


_AMOUNT = pa.decimal128(38, 12)
_LEG = pa.schema(
    [("transaction_id", pa.string()), ("account", pa.string()), ("amount", _AMOUNT)]
    + [(name, pa.string()) for name in ("currency", "kind", "request_id")]
    + [("service_at", pa.timestamp("us"))]
    + [(name, pa.string()) for name in ("reverses", "wallet", "bucket")]
)
_HOLD = pa.schema(
    [(name, pa.string()) for name in ("hold_id", "wallet", "bucket", "currency")]
    + [("amount", _AMOUNT)]
    + [(name, pa.timestamp("us")) for name in ("placed_at", "held_until", "released_at", "ends_at")]
    + [(name, pa.string()) for name in ("request_id", "actor", "reason", "reference", "period", "released_period")]
)


class UnownedTableError(LedgerError):
    """A published table of which nobody said how its rows belong to months."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no rule says which month owns a row of {name}", "add it to OWNED or UNOWNED in etl/closed.py")


class SettingChangedError(UsageError):
    """The book's time zone or currency is not the one that its closed months were bounded and booked by."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The closed months of a home, oldest first; none in a young one."""

    home: Home
    seals: tuple[MonthSeal, ...] = ()
    in_edition: bool = False  # the edition holds their rows: it began as a copy of the published ledger

    @property
    def periods(self) -> str:
        """The months as a list in SQL."""
        return ", ".join(f"'{seal.period}'" for seal in self.seals) or "NULL"

    @property
    def is_open(self) -> str:
        """The condition in SQL that a row's `period` is not closed."""
        return f"(period IS NULL OR period NOT IN ({self.periods}))" if self.seals else "true"

    @property
    def less(self) -> str:
        """The join in SQL that leaves out of records `r` those of requests of closed months (`closed_record`)."""
        return "ANTI JOIN closed_record c ON r.request_id = c.request_id" if self.seals else ""

    @property
    def until(self) -> int | None:
        """The first instant that is not in a closed month, in microseconds; null where none is closed."""
        return self.seals[-1].end if self.seals else None

    @property
    def manifest_lines(self) -> int:
        """How many lines of the manifest the last closed month was built from."""
        return int(self.seals[-1].manifest["lines"]) if self.seals else 0

    @property
    def since(self) -> str:
        """The UTC date from which files may hold rows of an open month."""
        return "" if self.until is None else str(to_datetime(self.until).date())

    def parts(self, name: str, *, last: bool = False) -> str | None:
        """The rows of one table over all closed months, or over the last; null where there are none."""
        if not self.in_edition or not self.seals:
            return self.sealed(name, last=last)
        if last:
            return f"(SELECT * FROM published.\"{name}\" WHERE period = '{self.seals[-1].period}')"
        return f'(SELECT * FROM published."{name}" WHERE {self.owns(BY_NAME[name])})'

    def owns(self, table: Table) -> str:
        """The condition that picks the closed months' rows of a table of the edition, in which each request is of one month."""
        if table.name == "wallet_holds":
            return f"period IN ({self.periods}) OR released_period IN ({self.periods})"
        if "period" in table.column_names:
            return f"period IN ({self.periods})"
        return f"request_id IN (SELECT request_id FROM published.ledger WHERE period IN ({self.periods}))"

    def sealed(self, name: str, *, last: bool = False) -> str | None:
        """`read_parquet` of one sealed table over all closed months, or over the last; null where there are none."""
        seals = self.seals[-1:] if last else self.seals
        paths = [folder(self.home, seal.period) / TABLES_FOLDER / f"{name}.parquet" for seal in seals]
        listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths if path.exists())
        return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)" if listed else None


def read_closed(home: Home, book: Book) -> Closed:
    """Every closed month. Raises SealBroken or SettingChangedError."""
    closed = Closed(home, read_seals(home))
    for seal in closed.seals:
        for name in ("timezone", "currency"):
            now, then = getattr(book.settings, name), getattr(seal, name)
            if now != then:
                raise SettingChangedError(
                    f"book.toml says {name} {now}, and {seal.period} was closed with {then}",
                    f'write {name} = "{then}" again, or reopen every closed month first',
                )
    return closed


def check_closed(closed: Closed) -> None:
    """Hash the sealed tables that this build reads. Raises SealBroken."""
    for seal in closed.seals:
        if closed.in_edition:
            for name in READ_SEALED:
                check_outputs(closed.home, seal, f"{TABLES_FOLDER}/{name}.parquet")
        else:
            check_outputs(closed.home, seal, f"{TABLES_FOLDER}/")


def owned_by_month(table: Table) -> str | None:
    """The condition that picks a month's rows of a published table, null where no month owns them. Raises UnownedTableError."""
    if table.name in UNOWNED:
        return None
    if table.name in OWNED:
        return OWNED[table.name]
    if "period" in table.column_names:
        return "period = $period"
    if "request_id" in table.column_names:
        return "request_id IN (SELECT request_id FROM ledger WHERE period = $period)"
    raise UnownedTableError(table.name)


# ---- months ----


def bounds(timezone: str, period: str) -> tuple[int, int]:
    """The first instant of a month in a zone, and the first after it, in microseconds."""
    year, month = int(period[:4]), int(period[5:])
    begin = from_datetime(datetime(year, month, 1, tzinfo=ZoneInfo(timezone)))
    (row,) = months(timezone, begin, begin)
    return begin, instant_of(row["ends_at"])


# ---- before the models ----


def register_closed(connection: duckdb.DuckDBPyConnection, closed: Closed) -> None:
    """Make visible which requests, events and findings closed months own."""
    kind = "VIEW" if closed.in_edition else "TABLE"
    for name, table_name, columns in _OWNED_IDS:
        parts = closed.sealed(table_name) if table_name == "data_quality" else closed.parts(table_name)
        named = ", ".join(f"NULL::VARCHAR AS {column.split(' AS ')[-1]}" for column in columns.split(", "))
        select = f"SELECT {columns} FROM {parts}" if parts else f"SELECT {named} WHERE false"
        connection.execute(f"CREATE {kind} {name} AS {select}")


_OWNED_IDS = (
    ("closed_request", "dispositions", "raw_request_id AS raw_id, request_id, period"),
    ("closed_event", "audit_trail", "event_id"),
    ("closed_finding", "data_quality", "kind, subject"),
)


def register_before(connection: duckdb.DuckDBPyConnection, closed: Closed) -> None:
    """Make visible what the models ask of closed months beside their own records: balances, charges, used allowances, late records."""
    attempts, ids = closed.parts("attempts"), closed.parts("request_ids")
    connection.execute(f"CREATE TABLE settled_try AS {settled_tries(attempts or NO_TRY, ids or NO_ID)}")
    proof = closed.parts("balance_proof", last=True)
    if proof:
        connection.execute(f"CREATE TABLE first_opening AS SELECT wallet, bucket, currency, closing AS balance FROM {proof}")
    else:
        table(connection, "first_opening", OPENING.empty_table())
    connection.execute("CREATE TABLE opening AS FROM first_opening")
    used = closed.parts("allowance_use")
    connection.execute(f"CREATE TABLE prior_allowance_use AS {prior_allowance_use(used, 'true') if used else _NO_USE}")
    if closed.seals:
        positions = [
            {"period": seal.period, "writer": writer, "last_seq": seq} for seal in closed.seals for writer, seq in seal.positions.items()
        ]
        schema = pa.schema([("period", pa.string()), ("writer", pa.string()), ("last_seq", pa.int64())])
        table(connection, "closed_position", pa.Table.from_pylist(positions, schema))
        for kind, (instant, match, is_copy) in _COPIES.items():
            connection.execute(_LATE.format(kind=kind, instant=instant, match=match, is_copy=is_copy, attempts=closed.parts("attempts")))


def register_settled(connection: duckdb.DuckDBPyConnection, journal: str | None, statement: str | None, holds: str | None) -> None:
    """Make `closed_leg` and `closed_hold`: what was booked before of the transactions that a reversal names, and every hold placed before.

    Of a transaction come its own legs, what reversed it, and what its request was refunded.
    """
    ((reversals,),) = connection.execute("SELECT count(*) FROM raw_event WHERE event = 'wallet_reverse'").fetchall()
    if journal is None or statement is None or not reversals:
        table(connection, "closed_leg", _LEG.empty_table())
    else:
        connection.execute(
            f"""
            CREATE TABLE closed_leg AS
            WITH named AS (
                SELECT DISTINCT json_extract_string(facts, '$.transaction') AS transaction_id FROM raw_event WHERE event = 'wallet_reverse'
            )
            SELECT j.transaction_id, j.account, j.amount, j.currency, j.kind, j.request_id, j.service_at, j.reverses, s.wallet, s.bucket
            FROM {journal} j LEFT JOIN {statement} s ON j.entry_id = s.entry_id
            WHERE j.transaction_id IN (SELECT transaction_id FROM named) OR j.reverses IN (SELECT transaction_id FROM named)
                OR (j.kind = 'refund' AND j.request_id IN (
                    SELECT o.request_id FROM {journal} o WHERE o.transaction_id IN (SELECT transaction_id FROM named)
                ))
            """
        )
    if holds is None:
        table(connection, "closed_hold", _HOLD.empty_table())
    else:
        connection.execute(
            f"CREATE TABLE closed_hold AS SELECT {', '.join(_HOLD.names)} FROM {holds} "
            "QUALIFY row_number() OVER (PARTITION BY hold_id ORDER BY released_period DESC NULLS LAST) = 1"
        )


def charged_before(statement: str, requests: str) -> str:
    """A select of what each request that an event names was charged and given back before, by wallet and bucket."""
    return f"""
        SELECT s.request_id, s.wallet, s.bucket,
            CAST(coalesce(-sum(s.amount) FILTER (WHERE s.kind = 'charge'), 0) AS DECIMAL(38,12)) AS charged,
            CAST(coalesce(sum(s.amount) FILTER (WHERE s.kind IN ('refund', 'reversal')), 0) AS DECIMAL(38,12)) AS refunded
        FROM {statement} s
        WHERE s.request_id IN (
            SELECT q.request_id FROM {requests} q
            JOIN raw_event e ON coalesce(e.request_id, json_extract_string(e.facts, '$.request_id')) = q.raw_id
        )
        GROUP BY s.request_id, s.wallet, s.bucket
    """


# What stands for a published table where there is none, and for columns that an older one does not have.
NO_TRY = (
    "(SELECT NULL::VARCHAR AS channel, NULL::VARCHAR AS response_id, NULL::VARCHAR AS job_id, NULL::VARCHAR AS result_files, "
    "NULL::VARCHAR AS request_id, NULL::VARCHAR AS raw_request_id, NULL::BIGINT AS input_tokens, NULL::BIGINT AS output_tokens, "
    "NULL::VARCHAR AS disposition WHERE false)"
)
NO_ID = "(SELECT NULL::VARCHAR AS id, NULL::VARCHAR AS kind, NULL::VARCHAR AS request_id WHERE false)"


def settled_tries(attempts: str, request_ids: str) -> str:
    """A select of tries whose charge stands, with the ids by which another poll, download or replay of the same answer is known.

    Only of tries that an answer recorded since can belong to: of jobs, and of the same id (one in brotli is not read yet).
    """
    return f"""
        WITH tries AS (
            SELECT * FROM (SELECT * FROM {NO_TRY} UNION ALL BY NAME SELECT * FROM {attempts})
            WHERE job_id IS NOT NULL OR result_files IS NOT NULL OR response_id IN (SELECT response_id FROM raw_response)
                OR EXISTS (SELECT 1 FROM raw_response WHERE lower(content_encoding) LIKE '%br%')
        ),
        keys AS (
            SELECT request_id, min(id) AS id FROM {request_ids}
            WHERE kind = 'idempotency_key' AND request_id IN (SELECT request_id FROM tries) GROUP BY request_id
        )
        SELECT a.channel, a.response_id, a.job_id, a.result_files, a.request_id, a.raw_request_id, k.id AS idempotency_key,
            a.input_tokens, a.output_tokens, a.disposition = 'charged' AS is_charged
        FROM tries a LEFT JOIN keys k ON a.request_id = k.request_id
    """


def prior_allowance_use(uses: str, is_closed: str) -> str:
    """A select of what was used of free allowances outside what is built now."""
    return f"SELECT pool, span, used_at, raw_request_id, raw_ordinal, piece, meter, quantity, {is_closed} AS is_closed FROM {uses}"


_NO_USE = prior_allowance_use(
    "(SELECT NULL::VARCHAR AS pool, NULL::VARCHAR AS span, NULL::TIMESTAMP AS used_at, NULL::VARCHAR AS raw_request_id, "
    "NULL::INTEGER AS raw_ordinal, NULL::VARCHAR AS piece, NULL::VARCHAR AS meter, NULL::BIGINT AS quantity WHERE false)",
    "true",
)


# A row that came after its request's month closed is a copy of one that was there, or says something that nobody can book any more.
_COPIES = {
    "request": ("received_at", "false", "true"),
    "attempt": ("opened_at", "r.request_id = t.raw_request_id AND r.ordinal = t.raw_ordinal", "t.raw_ordinal IS NOT NULL"),
    "response": (
        "closed_at",
        "r.request_id = t.raw_request_id AND r.ordinal = t.raw_ordinal",
        "r.ordinal = 0 OR (t.raw_ordinal IS NOT NULL AND t.outcome <> 'unknown')",
    ),
}
_LATE = """
    INSERT INTO source_finding
    SELECT DISTINCT
        CASE WHEN {is_copy} THEN 'late_duplicate' ELSE 'late_record' END,
        r.writer || ' ' || r.seq,
        CASE WHEN {is_copy} THEN 'a copy of a record of ' || r.request_id || ', which is in ' || c.period
            ELSE 'a {kind} of ' || r.request_id || ' that came after ' || c.period || ' closed: adjust the wallet by hand and acknowledge '
                || 'this, or reopen the month' END,
        1, r."{instant}", NOT ({is_copy})
    FROM all_{kind} r
    JOIN closed_request c ON r.request_id = c.raw_id
    LEFT JOIN closed_position p ON c.period = p.period AND r.writer = p.writer
    LEFT JOIN {attempts} t ON {match}
    WHERE r.seq > coalesce(p.last_seq, 0)
"""


# ---- after the models ----


def closed_rows(closed: Closed) -> Iterator[tuple[Table, str]]:
    """Each sealed table with the select of the rows that closed months give to an edition that has nothing of them yet."""
    for owned in TABLES:
        parts = closed.sealed(owned.name)
        if parts is None or owned.name in UNOWNED or owned.name in ("wallet_lots", "wallet_holds") or owned.name in OF_THE_BOOK:
            continue  # lots and holds are made over all months: with what is left of each lot, and with what ended each hold
        select = f"SELECT * FROM {parts}"
        if owned.name == "periods":
            select = f"SELECT p.* REPLACE ('closed' AS status, s.hash AS seal_hash) FROM {parts} p JOIN closed_seal s USING (period)"
        elif owned.name == "data_quality":
            select = f"SELECT * FROM {parts} WHERE period IS NOT NULL"
        yield owned, select


def rows_of_the_book(closed: Closed, name: str) -> str:
    """The rows of a table of the book: those of today, and those that closed months were priced by and that stand in it no longer."""
    parts, key = closed.sealed(name), OF_THE_BOOK[name]
    own = f'SELECT * FROM memory."{name}"'
    if parts is None:
        return own
    gone = f'SELECT DISTINCT ON ({key}) * FROM {parts} ANTI JOIN memory."{name}" USING ({key}) ORDER BY {key}, line'
    return f"{own} UNION ALL BY NAME SELECT * FROM ({gone})"


def register_seals(connection: duckdb.DuckDBPyConnection, closed: Closed) -> None:
    """Make the hashes of the seals visible as `closed_seal`."""
    seals = [{"period": seal.period, "hash": seal.hash} for seal in closed.seals]
    table(connection, "closed_seal", pa.Table.from_pylist(seals, pa.schema([("period", pa.string()), ("hash", pa.string())])))
