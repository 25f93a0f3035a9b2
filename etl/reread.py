"""The second reading: replies in brotli, which the proxy recorded unread, read from the bytes kept.

It finds what the proxy finds in a reply it can read and what a charge depends on: usage by place, id, model, tier, errors,
reasons to stop, and whether there was output. What was not kept cannot be read, and stays as it was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from etl.erasure import remembered
from etl.recount import Wanted, bodies_of, close_decoders
from etl.sources import Sources, table
from etl.texts import messages_of
from schemas.usage import most

_WRAPPERS = ("response", "message", "result")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_READ = pa.schema(
    [
        ("raw_id", pa.string()),
        ("raw_ordinal", pa.int64()),
        ("usage", pa.list_(pa.struct([("path", pa.string()), ("object", pa.string()), ("count", pa.int64())]))),
        ("response_id", pa.string()),
        ("served_model", pa.string()),
        ("service_tier", pa.string()),
        ("error_object", pa.string()),
        ("finish_reasons", pa.string()),
        ("output_seen", pa.bool_()),
    ]
)


def steps_of(path: str) -> tuple[str | int, ...]:
    """`choices[0].usage` as the steps that lead there."""
    return tuple(name or int(index) for name, index in _STEP.findall(path))


def place(message: Any, steps: Iterable[str | int]) -> Any:
    """The value that the steps lead to, or None."""
    for step in steps:
        if isinstance(step, int):
            message = message[step] if isinstance(message, list) and len(message) > step else None
        else:
            message = message.get(step) if isinstance(message, dict) else None
    return message


def read(messages: Iterable[Mapping[str, Any]], paths: Mapping[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """What a reply's messages tell: the most of each count in a usage object's place, the first id and model, the last tier, the first error."""
    usage: dict[str, tuple[str, int]] = {}
    told: dict[str, Any] = dict.fromkeys(("response_id", "served_model", "service_tier", "error_object"))
    reasons: dict[str, None] = {}
    has_output = False
    for message in messages:
        inner = next((message[name] for name in _WRAPPERS if isinstance(message.get(name), dict)), message)
        for name, steps in paths.items():
            if value := place(message, steps):
                text = orjson.dumps(value).decode()
                before, count = usage.get(name, (text, 0))
                usage[name] = (text if before == text else most(before, text), count + 1)
        for fact, member in (("response_id", "id"), ("served_model", "model")):
            told[fact] = told[fact] or message.get(member) or inner.get(member)
        told["service_tier"] = message.get("service_tier") or inner.get("service_tier") or told["service_tier"]
        error = message.get("error") or inner.get("error")
        if error and told["error_object"] is None:
            told["error_object"] = orjson.dumps(error).decode()
        choices = message.get("choices")
        choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        said = [choice.get("finish_reason") for choice in choices]
        said += [inner.get("stop_reason"), place(message, ("delta", "stop_reason")), place(inner, ("incomplete_details", "reason"))]
        reasons |= dict.fromkeys(reason for reason in said if isinstance(reason, str))
        has_output = has_output or bool(inner.get("output") or inner.get("content") or message.get("data"))
        has_output = has_output or str(message.get("type")).endswith("delta")
        has_output = has_output or any(choice.get("text") or _is_filled(choice) for choice in choices)
    found = [{"path": name, "object": text, "count": count} for name, (text, count) in sorted(usage.items())]
    texts = {fact: value if isinstance(value, str) else None for fact, value in told.items()}
    return {"usage": found, **texts, "finish_reasons": " ".join(reasons), "output_seen": has_output}


def _is_filled(choice: Mapping[str, Any]) -> bool:
    part = choice.get("delta") or choice.get("message")
    return isinstance(part, dict) and any(value for name, value in part.items() if name != "role")


def reread(connection: duckdb.DuckDBPyConnection, sources: Sources) -> int:
    """Make `reread`: what the replies in brotli tell, each try's that has its bytes."""
    rows = connection.execute(
        """
        SELECT DISTINCT request_id, ordinal, strftime(closed_at, '%Y-%m-%d') FROM raw_response
        WHERE ordinal > 0 AND body_bytes > 0 AND lower(content_encoding) LIKE '%br%' ORDER BY ALL
        """
    ).fetchall()
    wanted = [Wanted(raw_id, ordinal, frozenset((date,))) for raw_id, ordinal, date in rows]
    places = connection.execute("SELECT DISTINCT path FROM table_usage_places WHERE path NOT LIKE '(%'").fetchall()
    paths = {path: steps_of(path) for (path,) in places}
    try:
        found = bodies_of(connection, sources, wanted)
    finally:
        close_decoders()
    before = remembered(connection, "reread")
    told = [row for item in wanted for row in before.get((item.raw_id, item.raw_ordinal), ())]
    told += [
        {"raw_id": item.raw_id, "raw_ordinal": item.raw_ordinal, **read(messages_of(content), paths)}
        for item in wanted
        if (item.raw_id, item.raw_ordinal) not in before
        and item.raw_id in found
        and (content := found[item.raw_id].by_ordinal.get(item.raw_ordinal))
    ]
    table(connection, "reread", pa.Table.from_pylist(told, _READ))
    return len(told)
