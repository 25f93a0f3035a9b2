"""The build's step that compares every stored bill with the ledger, over all months, closed ones too.

It runs once the closed months are back, because a bill comes after its month has closed. What it finds is no part of a
month's seal: a corrected bill changes the comparison and nothing that was booked.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from etl.bills.lines import PAYMENT, Bill
from etl.bills.store import BillBroken, stored
from etl.closed import bounds
from etl.kernel import hold
from etl.reconcile.matching import match
from etl.reconcile.pricing import Pricer
from etl.reconcile.records import ABORTED, FAILED, MISSING, OK, ZERO, ChargeLine, Line, Request, Try, plain_models
from etl.reconcile.waterfall import STEPS, Explained, explain
from etl.sources import table
from schemas.book import Book
from schemas.home import Home
from schemas.instants import to_datetime
from schemas.ledger import BY_NAME

MARGIN_US = 3 * 24 * 3600 * 1_000_000  # how far beyond its months a bill is looked for: zones are 14 hours apart at most

MADE = ("bills", "bill_lines", "reconciliation_requests", "reconciliation_waterfall", "reconciled_months")

# What must hold whatever the bills say; each select must be empty.
LAWS = (
    "SELECT vendor, period FROM reconciliation_waterfall GROUP BY vendor, period, gap HAVING sum(amount) IS DISTINCT FROM gap",
    """
    SELECT w.vendor, w.period FROM (SELECT DISTINCT vendor, period, gap FROM reconciliation_waterfall) w
    LEFT JOIN (SELECT vendor, period, sum(difference) AS difference FROM bill_figures GROUP BY vendor, period) r
        ON w.vendor = r.vendor AND w.period = r.period
    WHERE w.gap IS DISTINCT FROM coalesce(r.difference, 0)
    """,
    """
    SELECT w.vendor, w.period FROM (SELECT DISTINCT vendor, period, our_total FROM reconciliation_waterfall) w
    LEFT JOIN (
        SELECT c.vendor, l.period, sum(a.charged) AS charged
        FROM attempts a JOIN ledger l ON a.request_id = l.request_id JOIN billed_channel c ON a.channel = c.channel GROUP BY c.vendor, l.period
    ) o ON w.vendor = o.vendor AND w.period = o.period
    WHERE w.our_total IS DISTINCT FROM coalesce(o.charged, 0)
    """,
    "SELECT vendor, period, request_id FROM reconciliation_requests GROUP BY vendor, period, request_id HAVING count(*) > 1",
    """
    SELECT DISTINCT l.request_id FROM ledger l
    JOIN attempts a ON a.request_id = l.request_id
    JOIN billed_channel c ON a.channel = c.channel
    JOIN (SELECT DISTINCT vendor, period FROM bills) b ON b.vendor = c.vendor AND b.period = l.period
    LEFT JOIN reconciliation_requests r ON r.vendor = b.vendor AND r.period = l.period AND r.request_id = l.request_id
    WHERE r.request_id IS NULL
    """,
    "SELECT * FROM bill_lines WHERE (kind <> 'payment') IS DISTINCT FROM (class IS NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One vendor's months, compared."""

    vendor: str
    bills: tuple[Bill, ...]
    found: tuple[Explained, ...]


def reconcile_bills(connection: duckdb.DuckDBPyConnection, home: Home, book: Book) -> int:
    """Make the tables of MADE, and `bill_figures` with the bills' rows of `reconciliation`; how many lines were compared. Raises CheckFailed."""
    bills: list[Bill] = []
    for found in stored(home, book):
        if isinstance(found, BillBroken):
            _note(connection, found)
        else:
            bills.append(found)
    compared = compare_all(connection, book, bills)
    _write(connection, "bills", [_bill_row(bill) for bill in bills])
    _write(connection, "bill_lines", [row for one in compared for row in _line_rows(one)])
    _write(connection, "reconciliation_requests", [row for one in compared for row in _request_rows(one)])
    _write(connection, "reconciliation_waterfall", [row for one in compared for row in _waterfall_rows(one, book.settings.currency)])
    _write(connection, "bill_figures", [row for one in compared for row in _group_rows(one, book.settings.currency)], "reconciliation")
    channels = [{"vendor": vendor, "channel": channel} for vendor, channel in sorted({(b.vendor, c) for b in bills for c in b.channels})]
    table(connection, "billed_channel", pa.Table.from_pylist(channels, pa.schema([("vendor", pa.string()), ("channel", pa.string())])))
    owners = [{"vendor": channel.vendor, "channel": channel.name} for channel in book.channels]
    table(connection, "channel_vendor", pa.Table.from_pylist(owners, pa.schema([("vendor", pa.string()), ("channel", pa.string())])))
    connection.execute(_RECONCILED, {"currency": book.settings.currency})
    for law in LAWS:
        hold(connection, "reconciliation", law)
    return sum(len(bill.lines) for bill in bills)


def compare_all(connection: duckdb.DuckDBPyConnection, book: Book, bills: Sequence[Bill]) -> tuple[Compared, ...]:
    """Every vendor's bills beside the requests of its channels."""
    pricer = Pricer.of_book(book)
    by_vendor: dict[str, list[Bill]] = defaultdict(list)
    for bill in bills:
        by_vendor[bill.vendor].append(bill)
    compared = []
    for vendor, own in sorted(by_vendor.items()):
        periods = sorted({bill.period for bill in own})
        months = {period: bounds(book.settings.timezone, period) for period in periods}
        theirs = {bill.period: bounds(bill.zone, bill.period) for bill in own}
        requests = read_requests(connection, sorted({channel for bill in own for channel in bill.channels}), periods, months.values())
        groups = match(own, requests)
        found = tuple(explain(group, pricer, months[group.period], theirs[group.period]) for group in groups)
        compared.append(Compared(vendor, tuple(own), found))
    return tuple(compared)


_RECONCILED = """
    CREATE TABLE reconciled_months AS
    WITH billed AS (
        SELECT period, vendor, any_value(vendor_total) AS vendor_total, any_value(our_total) AS our_total, any_value(gap) AS gap,
            sum(CASE WHEN step = 'unexplained' THEN amount ELSE 0 END) AS unexplained,
            sum(CASE WHEN step = 'unexplained' THEN groups ELSE 0 END) AS unnamed, sum(groups) AS named
        FROM reconciliation_waterfall GROUP BY period, vendor
    ),
    stored AS (SELECT period, vendor, count(*) AS bills FROM bills GROUP BY period, vendor),
    used AS (
        SELECT l.period, v.vendor, sum(a.charged) AS booked
        FROM attempts a JOIN ledger l ON a.request_id = l.request_id JOIN channel_vendor v ON a.channel = v.channel
        GROUP BY l.period, v.vendor
    )
    SELECT
        coalesce(b.period, u.period) AS period, coalesce(b.vendor, u.vendor) AS vendor,
        CASE WHEN b.vendor IS NULL THEN 'no_bill' WHEN b.unnamed > 0 THEN 'unexplained' WHEN b.named > 0 THEN 'explained' ELSE 'equal' END AS state,
        CAST(coalesce(s.bills, 0) AS BIGINT) AS bills, CAST(b.vendor_total AS DECIMAL(38,12)) AS vendor_total,
        CAST(coalesce(b.our_total, u.booked, 0) AS DECIMAL(38,12)) AS our_total, CAST(b.gap AS DECIMAL(38,12)) AS gap,
        CAST(b.unexplained AS DECIMAL(38,12)) AS unexplained, $currency AS currency
    FROM billed b FULL JOIN used u ON b.period = u.period AND b.vendor = u.vendor
    LEFT JOIN stored s ON b.period = s.period AND b.vendor = s.vendor
    ORDER BY period, vendor
"""


# ---- from the ledger ----


def read_requests(
    connection: duckdb.DuckDBPyConnection, channels: Sequence[str], periods: Sequence[str], months: Iterable[tuple[int, int]]
) -> list[Request]:
    """The requests that went to these channels in these months or near them, with their tries and ids."""
    spans = list(months)
    low, high = min(begin for begin, _ in spans) - MARGIN_US, max(end for _, end in spans) + MARGIN_US
    connection.execute("DROP TABLE IF EXISTS asked_try")
    connection.execute(
        """
        CREATE TEMP TABLE asked_try AS
        SELECT a.*, l.period, l.created_at, l.api_model, l.endpoint
        FROM attempts a JOIN ledger l ON a.request_id = l.request_id
        WHERE a.channel IN (SELECT unnest($channels)) AND
            (l.period IN (SELECT unnest($periods)) OR (epoch_us(a.started_at) >= $low AND epoch_us(a.started_at) < $high))
        """,
        {"channels": list(channels), "periods": list(periods), "low": low, "high": high},
    )
    lines: dict[tuple[str, int], list[ChargeLine]] = defaultdict(list)
    for request_id, ordinal, *said in connection.execute(_LINES).fetchall():
        lines[request_id, ordinal].append(ChargeLine(*said))
    names: dict[str, set[str]] = defaultdict(set)
    for request_id, name in connection.execute(
        "SELECT request_id, id FROM request_ids WHERE request_id IN (SELECT request_id FROM asked_try)"
    ).fetchall():
        names[request_id].add(name)
    tries: dict[str, list[Try]] = defaultdict(list)
    for row in connection.execute(_TRIES).fetchall():
        one = _try(row, lines)
        tries[one.request_id].append(one)
    connection.execute("DROP TABLE asked_try")
    found = []
    for request_id, own in sorted(tries.items()):
        of_tries = {name for one in own for name in one.ids}
        found.append(Request(request_id, own[0].period, tuple(own), frozenset(names[request_id] - of_tries)))
    return found


_LINES = """
    SELECT c.request_id, c.attempt_ordinal, c.meter, c.quantity, c.unit_price, c.model,
        CASE WHEN m.term LIKE 'allowance%' THEN 'allowance' ELSE m.term END
    FROM charges c
    JOIN asked_try t ON c.request_id = t.request_id AND c.attempt_ordinal = t.ordinal
    LEFT JOIN price_terms m ON c.rate_id = m.term_id
    ORDER BY c.request_id, c.attempt_ordinal, c.meter, c.model, c.rate_id, c.list_rate_id
"""

_TRIES = """
    SELECT request_id, ordinal, channel, period, epoch_us(started_at), epoch_us(ended_at), epoch_us(created_at), status, usage_source, charged,
        sent_model, served_model, api_model, input_tokens, output_tokens, service_tier, region, endpoint, upstream_request_id, response_id
    FROM asked_try ORDER BY request_id, ordinal
"""


def _try(row: tuple[Any, ...], lines: dict[tuple[str, int], list[ChargeLine]]) -> Try:
    (
        request_id,
        ordinal,
        channel,
        period,
        started,
        ended,
        created,
        status,
        source,
        charged,
        sent,
        served,
        asked,
        tokens_in,
        tokens_out,
        tier,
        region,
        endpoint,
        *ids,
    ) = row
    return Try(
        request_id=request_id,
        ordinal=ordinal,
        channel=channel,
        period=period,
        started_at=started,
        ended_at=ended,
        created_at=created,
        status=_status(status, source, charged),
        charged=charged,
        model=sent,
        models=plain_models((sent, served, asked)),
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        tier=tier,
        region=region,
        endpoint=endpoint,
        lines=tuple(lines.get((request_id, ordinal), ())),
        ids=frozenset(name for name in ids if name),
    )


def _status(status: str, source: str, charged: Decimal | None) -> str:
    if status == "client_gone":
        return ABORTED
    if status == "failed":
        return FAILED
    if charged is None or source in ("recounted", "partial") or status == "unknown":
        return MISSING
    return OK


# ---- to the ledger ----


def _write(connection: duckdb.DuckDBPyConnection, name: str, rows: Sequence[dict[str, Any]], like: str | None = None) -> None:
    """Make a table with the columns of the declared table `like`, itself where nothing is said."""
    declared = BY_NAME[like or name]
    columns = ", ".join(f'"{column.name}" {column.type}' for column in declared.columns)
    connection.execute(f'CREATE TABLE "{name}" ({columns})')
    if rows:
        schema = pa.schema([(column.name, _ARROW[column.type]) for column in declared.columns])
        connection.register("made", pa.Table.from_pylist([{c.name: row.get(c.name) for c in declared.columns} for row in rows], schema))
        connection.execute(f'INSERT INTO "{name}" BY NAME SELECT * FROM made')
        connection.unregister("made")


_ARROW = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "DECIMAL(38,12)": pa.decimal128(38, 12),
}


def _note(connection: duckdb.DuckDBPyConnection, broken: BillBroken) -> None:
    connection.execute(
        "INSERT INTO data_quality BY NAME SELECT 'broken_bill' AS kind, NULL AS period, $subject AS subject, $detail AS detail, 1 AS rows, "
        "false AS blocks_close",
        {"subject": broken.subject, "detail": " ".join(broken.what.split())[:500]},
    )


def match_id(found: Explained) -> str:
    """Names a group by what is in it."""
    members = [str(line.key) for line in found.group.lines] + [request.request_id for request in found.group.requests]
    return "m_" + hashlib.sha256("\n".join((found.group.vendor, found.group.period, *members)).encode()).hexdigest()[:24]


def _when(instant: int | None) -> Any:
    return None if instant is None else to_datetime(instant).replace(tzinfo=None)


def _bill_row(bill: Bill) -> dict[str, Any]:
    return {
        "vendor": bill.vendor,
        "period": bill.period,
        "account": bill.account,
        "file": bill.file,
        "sha256": bill.sha256,
        "mapping": bill.mapping,
        "zone": bill.zone,
        "channels": ", ".join(bill.channels),
        "lines": len(bill.lines),
        "total": bill.total,
        "without_money": sum(line.amount is None and line.kind != PAYMENT for line in bill.lines),
    }


def _line_rows(one: Compared) -> Iterable[dict[str, Any]]:
    places: dict[tuple[Any, ...], tuple[str | None, str | None]] = {}
    for found in one.found:
        for compared in found.group.lines:
            places[compared.key] = (found.kind, match_id(found))
    for bill in one.bills:
        for line in bill.lines:
            kind, name = places.get(Line(bill, line).key, (None, None))
            yield {
                "vendor": bill.vendor,
                "period": bill.period,
                "account": bill.account,
                "number": line.number,
                "kind": line.kind,
                "class": kind,
                "match_id": name,
                "at": _when(line.at),
                "until": _when(line.until),
                "ids": ", ".join(line.ids) or None,
                "model": line.model,
                "item": line.item,
                "requests": line.requests,
                "input_tokens": line.input_tokens,
                "cached_tokens": line.cached_tokens,
                "output_tokens": line.output_tokens,
                "service_tier": line.tier,
                "amount": line.amount,
                "written_amount": line.written_amount,
                "written_currency": line.written_currency,
            }


def _request_rows(one: Compared) -> Iterable[dict[str, Any]]:
    for found in one.found:
        for request in found.group.own:
            yield {
                "vendor": one.vendor,
                "period": found.group.period,
                "request_id": request.request_id,
                "class": found.kind,
                "match_id": match_id(found),
                "our_amount": None if all(t.charged is None for t in request.tries) else request.amount,
            }


def _group_rows(one: Compared, currency: str) -> Iterable[dict[str, Any]]:
    for found in one.found:
        group = found.group
        channels = {t.channel for t in group.tries}
        name = match_id(found)
        yield {
            "period": group.period,
            "source": "bill",
            "subject": f"{_subject(found)} ({name})",
            "request_id": group.requests[0].request_id if len(group.requests) == 1 else None,
            "channel": channels.pop() if len(channels) == 1 else None,
            "our_amount": found.our_amount,
            "vendor_amount": found.vendor_amount,
            "difference": found.shown_difference,
            "class": found.kind,
            "currency": currency,
            "vendor": one.vendor,
            "match_id": name,
            "grain": group.grain,
            "bill_lines": len(group.lines),
            "requests": len(group.own),
            "step": found.step,
            "reason": found.reason,
            "money_is_ours": found.is_implied,
        }


def _subject(found: Explained) -> str:
    group = found.group
    if len(group.requests) == 1:
        return group.requests[0].request_id
    lines = [line.line for line in group.lines]
    first = lines[0]
    what = first.model or first.item or first.kind
    if first.until is not None and first.at is not None:
        return f"{what} {to_datetime(first.at):%Y-%m-%dT%H:%MZ} to {to_datetime(first.until):%Y-%m-%dT%H:%MZ}"
    return f"{what}, line {first.number}"


def _waterfall_rows(one: Compared, currency: str) -> Iterable[dict[str, Any]]:
    for period in sorted({bill.period for bill in one.bills}):
        found = [f for f in one.found if f.group.period == period]
        theirs = sum((f.vendor_amount or ZERO for f in found), ZERO)
        ours = sum((f.our_amount or ZERO for f in found), ZERO)
        for place, (step, rule) in enumerate(STEPS.items(), 1):
            yield {
                "vendor": one.vendor,
                "period": period,
                "place": place,
                "step": step,
                "amount": sum((f.steps.get(step, ZERO) for f in found), ZERO),
                "groups": sum(step in f.steps for f in found),
                "rule": rule,
                "vendor_total": theirs,
                "our_total": ours,
                "gap": theirs - ours,
                "currency": currency,
            }
