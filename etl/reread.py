"""The second reading: replies in brotli, which the proxy recorded unread, read from the bytes kept.

It is the proxy's own reading (schemas/reading.py). What was not kept cannot be read, and stays as it was recorded.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from etl.erasure import remembered
from etl.recount import Wanted, bodies_of, close_decoders
from etl.sources import Sources, table
from schemas.reading import Reading, json_text, stream_decoder
from schemas.scrub import scrub_json

_READ = pa.schema(
    [
        ("raw_id", pa.string()),
        ("raw_ordinal", pa.int64()),
        ("usage", pa.list_(pa.struct([("path", pa.string()), ("object", pa.string()), ("count", pa.int64())]))),
        ("response_id", pa.string()),
        ("served_model", pa.string()),
        ("service_tier", pa.string()),
        ("error", pa.string()),
        ("error_object", pa.string()),
        ("finish_reasons", pa.string()),
        ("output_seen", pa.bool_()),
        ("body_state", pa.string()),
        ("streamed", pa.bool_()),
        ("terminal", pa.string()),
        ("facts", pa.string()),
    ]
)


def read(media_type: str | None, content: bytes) -> dict[str, Any]:
    """What a decoded reply tells, as the proxy would have recorded it."""
    found = Reading()
    decoder = stream_decoder(media_type)
    if decoder is None:
        state, streamed = found.read_text(media_type, content)
    else:
        for event in (*decoder.feed(content), *decoder.end()):
            found.read_event(event)
        state, streamed = "read" if found.events else found.read_no_stream(media_type, content), True
    return {
        "usage": [{"path": path, "object": text, "count": count} for path, (text, count) in sorted(found.usage.items())],
        "response_id": found.response_id,
        "served_model": found.model,
        "service_tier": found.service_tier,
        "error": found.error_text(),
        "error_object": json_text(scrub_json(found.error)) if found.error is not None else None,
        "finish_reasons": " ".join(found.finish_reasons),
        "output_seen": found.output_seen,
        "body_state": state,
        "streamed": streamed,
        "terminal": found.terminal,
        "facts": json_text(found.facts) if found.facts else None,
    }


def reread(connection: duckdb.DuckDBPyConnection, sources: Sources) -> int:
    """Make `reread`: what the replies in brotli tell, each try's that has its bytes."""
    rows = connection.execute(
        """
        SELECT DISTINCT request_id, ordinal, strftime(closed_at, '%Y-%m-%d'), content_type FROM raw_response
        WHERE ordinal > 0 AND body_bytes > 0 AND lower(content_encoding) LIKE '%br%' ORDER BY ALL
        """
    ).fetchall()
    wanted = [Wanted(raw_id, ordinal, frozenset((date,))) for raw_id, ordinal, date, _ in rows]
    media_types = {(raw_id, ordinal): media_type for raw_id, ordinal, _, media_type in rows}
    try:
        found = bodies_of(connection, sources, wanted)
    finally:
        close_decoders()
    before = remembered(connection, "reread")
    told = [row for place in media_types for row in before.get(place, ())]
    told += [
        {"raw_id": raw_id, "raw_ordinal": ordinal, **read(media_type, content)}
        for (raw_id, ordinal), media_type in media_types.items()
        if (raw_id, ordinal) not in before and raw_id in found and (content := found[raw_id].by_ordinal.get(ordinal))
    ]
    table(connection, "reread", pa.Table.from_pylist(told, _READ))
    return len(told)
