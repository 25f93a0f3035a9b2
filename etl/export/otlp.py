"""OTLP: the month as OpenTelemetry spans and metrics, one OTLP/JSON message a line, by the GenAI semantic conventions 1.41.0.

https://opentelemetry.io/docs/specs/semconv/gen-ai/: a span a request, with the tokens it used; below it a span a try. Ids are
hashes of ours, so that a repeat gives the same. Money is a text, for OTLP has only doubles. The metrics are the conventions'
histograms over the month, as deltas.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from etl.export.source import Source, Written, quoted
from schemas.instants import from_datetime
from schemas.money import plain

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
SPANS_A_LINE = 512
CLIENT, ERROR, DELTA = 3, 2, 1  # SpanKind, StatusCode and AggregationTemporality of the protocol

# gen_ai.operation.name by endpoint; an endpoint that the conventions have no word for goes by its own name.
OPERATIONS: Mapping[str, str] = {
    "chat.completions": "chat",
    "responses": "chat",
    "messages": "chat",
    "cohere.chat": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "gemini.generate": "generate_content",
}
# span attribute: column of the ledger
ATTRIBUTES: Mapping[str, str] = {
    "gen_ai.provider.name": "provider",
    "gen_ai.request.model": "api_model",
    "gen_ai.response.model": "served_model",
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cached_input_tokens",
    "gen_ai.usage.cache_creation.input_tokens": "cache_write_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
    "http.response.status_code": "http_status",
    "user.id": "user_id",
}
OWN = (
    *("request_id", "period", "project", "api_key_label", "run_id", "public_model", "upstream_model", "route", "primary_channel"),
    *("backup_channel", "retry_count", "fallback_count", "status", "outcome", "usage_source", "list_charge", "final_charge", "currency"),
    *("balance_bucket", "wallet", "failed_request_policy", "first_token_ms", "client_request_id", "upstream_request_id", "receipt_digest"),
    *("input_price_per_mtok", "output_price_per_mtok", "wallet_entry_id", "adjustment_amount", "adjustment_reason"),
)
TRY = ("ordinal", "role", "reason", "status", "outcome", "charged", "bucket", "upstream_request_id")

# The bucket boundaries that the conventions advise.
TOKEN_BOUNDS = tuple(4**power for power in range(14))
SECOND_BOUNDS = tuple(0.01 * 2**power for power in range(14))

_SPANS = """
    WITH tries AS (
        SELECT a.request_id, list({{'ordinal': a.ordinal, 'role': a.role, 'reason': a.reason, 'status': a.status, 'outcome': a.outcome,
            'charged': a.charged, 'bucket': a.bucket, 'upstream_request_id': a.upstream_request_id, 'channel': a.channel,
            'sent_model': a.sent_model, 'served_model': a.served_model, 'http_status': a.http_status,
            'started_at': a.started_at, 'ended_at': a.ended_at}} ORDER BY a.ordinal) AS tries
        FROM attempts a SEMI JOIN (SELECT request_id FROM ledger WHERE period = $period AND {piece}) l ON a.request_id = l.request_id
        GROUP BY a.request_id
    )
    SELECT {columns}, coalesce(l.served_channel, l.backup_channel, l.primary_channel) AS provider, t.tries
    FROM (SELECT * FROM ledger WHERE period = $period AND {piece}) l LEFT JOIN tries t ON l.request_id = t.request_id
    ORDER BY l.created_at, l.request_id
"""


def write(source: Source, path: Path) -> Written:
    """Write the requests of the period as spans, then its metrics, to `path`."""
    meters: dict[tuple[str, tuple[tuple[str, str], ...]], _Histogram] = {}
    columns = ", ".join(f"l.{quoted(name)}" for name, _ in source.columns)
    rows = (row for piece in source.pieces() for row in source.rows(_SPANS.format(columns=columns, piece=piece)))
    count = 0
    with path.open("wb") as file:
        spans = _spans(rows, meters)
        while batch := list(islice(spans, SPANS_A_LINE)):
            count += sum("parentSpanId" not in span for span in batch)
            _line(file, "resourceSpans", "scopeSpans", {"spans": batch})
        if meters and source.starts_at and source.ends_at:
            metrics = _metrics(meters, _nanos(source.starts_at), _nanos(source.ends_at))
            _line(file, "resourceMetrics", "scopeMetrics", {"metrics": metrics})
    return Written("ledger", count, source.control()[1], ("spans", "metrics"))


def _line(file: BinaryIO, outer: str, inner: str, content: Mapping[str, Any]) -> None:
    scope = {"scope": {"name": "tokenledger"}, **content, "schemaUrl": SCHEMA_URL}
    resource = {"resource": {"attributes": _attributes([("service.name", "tokenledger")])}, inner: [scope], "schemaUrl": SCHEMA_URL}
    file.write(orjson.dumps({outer: [resource]}, option=orjson.OPT_APPEND_NEWLINE))


# ---- spans ----


def _spans(rows: Iterable[dict[str, Any]], meters: dict[Any, _Histogram]) -> Iterator[dict[str, Any]]:
    for row in rows:
        operation = OPERATIONS.get(row["endpoint"] or "", row["endpoint"] or "unknown")
        error = None if row["status"] == "ok" else row["outcome"] or row["status"]
        trace = _id("trace", row["run_id"] or row["request_id"], length=32)
        span = _id("request", row["request_id"], length=16)
        begin = row["created_at"]
        end = begin + timedelta(milliseconds=row["latency_ms"] or 0)
        known = [("gen_ai.operation.name", operation), ("error.type", error)]
        known += [(name, row[column]) for name, column in ATTRIBUTES.items()]
        if row["run_id"] is not None:
            known.append(("gen_ai.conversation.id", row["run_id"]))
        known += [(f"tokenledger.{name}", row[name]) for name in OWN]
        yield _span(trace, span, "", f"{operation} {row['api_model'] or ''}".strip(), begin, end, known, error)
        for attempt in row["tries"] or ():
            yield _try(trace, span, row["request_id"], attempt)
        _observe(meters, row, operation, error)


def _try(trace: str, parent: str, request_id: str, attempt: dict[str, Any]) -> dict[str, Any]:
    error = None if attempt["status"] == "ok" else attempt["outcome"] or attempt["status"]
    known = [
        ("error.type", error),
        ("http.response.status_code", attempt["http_status"]),
        ("tokenledger.channel", attempt["channel"]),
        ("tokenledger.sent_model", attempt["sent_model"]),
        ("tokenledger.served_model", attempt["served_model"]),
        *((f"tokenledger.{name}", attempt[name]) for name in TRY),
    ]
    span = _id("attempt", f"{request_id}/{attempt['ordinal']}", length=16)
    begin = attempt["started_at"]
    return _span(
        trace, span, parent, f"attempt {attempt['ordinal']} {attempt['channel']}", begin, attempt["ended_at"] or begin, known, error
    )


def _span(
    trace: str, span: str, parent: str, name: str, begin: datetime, end: datetime, known: Iterable[tuple[str, Any]], error: str | None
) -> dict[str, Any]:
    return {
        "traceId": trace,
        "spanId": span,
        **({"parentSpanId": parent} if parent else {}),
        "name": name,
        "kind": CLIENT,
        "startTimeUnixNano": _nanos(begin),
        "endTimeUnixNano": _nanos(end),
        "attributes": _attributes(known),
        "status": {"code": ERROR, "message": error} if error else {},
    }


def _id(kind: str, text: str, *, length: int) -> str:
    return hashlib.sha256(f"tokenledger\x1f{kind}\x1f{text}".encode()).hexdigest()[:length]


def _nanos(moment: datetime) -> str:
    return str(from_datetime(moment.replace(tzinfo=UTC)) * 1000)


def _attributes(known: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in known if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # a 64-bit integer is a text in the protocol's JSON
    return {"stringValue": plain(value) if isinstance(value, Decimal) else str(value)}


# ---- metrics ----


@dataclass(slots=True)
class _Histogram:
    bounds: tuple[float, ...]
    count: int = 0
    sum: Decimal = Decimal(0)
    buckets: list[int] = field(default_factory=list)

    def add(self, value: Decimal) -> None:
        if not self.buckets:
            self.buckets = [0] * (len(self.bounds) + 1)
        self.count += 1
        self.sum += value
        self.buckets[bisect_left(self.bounds, float(value))] += 1  # a bound belongs to the bucket below it


def _observe(meters: dict[Any, _Histogram], row: dict[str, Any], operation: str, error: str | None) -> None:
    named = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": row["provider"],
        "gen_ai.request.model": row["api_model"],
        "gen_ai.response.model": row["served_model"],
    }
    for token_type in ("input", "output"):
        tokens = row[f"{token_type}_tokens"]
        if tokens is not None:
            key = ("gen_ai.client.token.usage", _key({**named, "gen_ai.token.type": token_type}))
            meters.setdefault(key, _Histogram(TOKEN_BOUNDS)).add(Decimal(tokens))
    if row["latency_ms"] is not None:
        key = ("gen_ai.client.operation.duration", _key({**named, "error.type": error}))
        meters.setdefault(key, _Histogram(SECOND_BOUNDS)).add(Decimal(row["latency_ms"]) / 1000)


def _key(named: Mapping[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in named.items() if value is not None)


def _metrics(meters: dict[Any, _Histogram], begin: str, end: str) -> list[dict[str, Any]]:
    found = []
    for name, unit in (("gen_ai.client.token.usage", "{token}"), ("gen_ai.client.operation.duration", "s")):
        points = [
            {
                "attributes": _attributes(key),
                "startTimeUnixNano": begin,
                "timeUnixNano": end,
                "count": str(meter.count),
                "sum": float(meter.sum),
                "bucketCounts": [str(count) for count in meter.buckets],
                "explicitBounds": list(meter.bounds),
            }
            for (meter_name, key), meter in sorted(meters.items())
            if meter_name == name
        ]
        if points:
            found.append({"name": name, "unit": unit, "histogram": {"dataPoints": points, "aggregationTemporality": DELTA}})
    return found
