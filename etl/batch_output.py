"""The lines of batches' output files: which of a batch's requests succeeded, with which model and usage, read from the bodies kept.

A file is read as it unpacks, line by line, so that one line at a time is held as values, however long the file is. What a
line says is kept as it was said; etl/models/29_batch_lines.sql decides where it counts. Shapes: OpenAI's Batch API has
`{custom_id, response: {status_code, body}, error}`, Anthropic's Message Batches `{custom_id, result: {type, message}}`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import zstandard

from etl.bodies import KeptBody, read_bodies
from etl.erasure import remembered
from etl.recount import close_decoders, decoded
from etl.sources import Finding, Sources, add_findings, table
from etl.texts import Uncountable

PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
ROWS_AT_ONCE = 4  # bodies of up to 16 MiB each
LINES_AT_ONCE = 10_000
USAGE_MEMBERS = ("usage", "usage_info")

_LINES = pa.schema(
    [
        ("raw_id", pa.string()),
        ("raw_ordinal", pa.int64()),
        ("line", pa.int64()),
        ("custom_id", pa.string()),
        ("response_id", pa.string()),
        ("model", pa.string()),
        ("path", pa.string()),
        ("usage", pa.string()),
        ("succeeded", pa.bool_()),
    ]
)
_NOTES = pa.schema([("raw_id", pa.string()), ("raw_ordinal", pa.int64()), ("reason", pa.string()), ("is_other", pa.bool_())])


class OtherFileError(Exception):
    """The file is something else than a batch's output."""


# ---- bytes to lines ----


def _inflated(content: bytes, wbits: int) -> Iterator[bytes]:
    decoder = zlib.decompressobj(wbits)
    left = content
    while left and not decoder.eof:
        yield decoder.decompress(left, PIECE_BYTES)
        left = decoder.unconsumed_tail
    yield decoder.flush()


def _unzstd(content: bytes) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True)
    while piece := reader.read(PIECE_BYTES):
        yield piece


_UNPACKED: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "": lambda content: (content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)),
    "gzip": lambda content: _inflated(content, zlib.MAX_WBITS | 16),
    "zstd": _unzstd,
}


def lines_of(content: bytes, content_encoding: str | None) -> Iterator[bytes]:
    """The lines of a body, unpacked as they are asked for; raises Uncountable where it cannot be unpacked."""
    coding = (content_encoding or "").strip().lower().replace("x-gzip", "gzip").replace("identity", "")
    pieces = _UNPACKED[coding](content) if coding in _UNPACKED else iter((decoded(content, coding),))
    rest = b""
    try:
        for piece in pieces:
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
            if len(rest) > MAX_LINE_BYTES:
                raise Uncountable(f"a line of it exceeds {MAX_LINE_BYTES} bytes")
    except (zlib.error, zstandard.ZstdError) as error:
        raise Uncountable(f"the body cannot be decoded as {coding}: {error}") from None
    if rest:
        yield rest


# ---- lines to rows ----


def read_line(text: bytes) -> dict[str, Any]:
    """What one line of a batch's output tells; raises OtherFileError where it is no such line."""
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise OtherFileError from None
    if not isinstance(line, dict) or "custom_id" not in line:
        raise OtherFileError
    if isinstance(result := line.get("result"), dict) and "type" in result:
        message, succeeded = result.get("message"), result["type"] == "succeeded"
    elif "response" in line or "error" in line:
        response = line.get("response")
        response = response if isinstance(response, dict) else {}
        status = response.get("status_code")
        message, succeeded = response.get("body"), isinstance(status, int) and 200 <= status < 300 and not line.get("error")
    else:
        raise OtherFileError
    message = message if isinstance(message, dict) else {}
    path = next((name for name in USAGE_MEMBERS if isinstance(message.get(name), dict)), None)
    return {
        "custom_id": _text(line["custom_id"]),
        "response_id": _text(message.get("id")),
        "model": _text(message.get("model")),
        "path": path,
        "usage": orjson.dumps(message[path]).decode() if path else None,
        "succeeded": succeeded,
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


# ---- the step ----


def batch_output(connection: duckdb.DuckDBPyConnection, sources: Sources) -> int:
    """Make `output_line` and `output_note`: the lines of each download that holds a batch's output, or why it has none."""
    table(connection, "output_line", _LINES.empty_table())
    rows = connection.execute(
        "SELECT raw_id, raw_ordinal, strftime(closed_at, '%Y-%m-%d') FROM steps "
        "WHERE job = 'output' AND outcome = 'ok' AND http_status = 200 ORDER BY ALL"
    ).fetchall()
    wanted = {(raw_id, ordinal): date for raw_id, ordinal, date in rows}
    notes: dict[tuple[str, int], tuple[str, bool]] = {}
    findings: list[Finding] = []
    count = 0
    lines_before, noted_before = remembered(connection, "output_line"), remembered(connection, "output_note")
    unread = wanted.keys() - lines_before.keys() - noted_before.keys()
    for key in wanted.keys() - unread:
        kept = list(lines_before.get(key, ()))
        count += len(kept)
        _keep(connection, "output_line", kept)
        notes[key] = next(((note["reason"], note["is_other"]) for note in noted_before.get(key, ())), ("", False))
    if unread:
        dates = {wanted[key] for key in unread}
        try:
            for body in read_bodies(sources, {raw_id for raw_id, _ in unread}, dates, findings, ROWS_AT_ONCE):
                key = (body.raw_id, body.raw_ordinal)
                if key in unread and key not in notes:
                    made, notes[key] = _read(connection, body)
                    count += made
        finally:
            close_decoders()
        add_findings(connection, findings)
    told = [
        {"raw_id": key[0], "raw_ordinal": key[1], "reason": reason, "is_other": is_other}
        for key in wanted
        for reason, is_other in [notes.get(key, ("its body is not kept", False))]
        if reason
    ]
    table(connection, "output_note", pa.Table.from_pylist(told, _NOTES))
    return count


def _read(connection: duckdb.DuckDBPyConnection, body: KeptBody) -> tuple[int, tuple[str, bool]]:
    """Keep the lines of one body; how many, and why there are none with whether it is another kind of file."""
    if body.fault is not None:
        return 0, (body.fault, False)
    key = {"raw_id": body.raw_id, "raw_ordinal": body.raw_ordinal}
    kept: list[dict[str, Any]] = []
    count = 0
    connection.execute("CREATE OR REPLACE TEMP TABLE lines_read AS FROM output_line LIMIT 0")
    try:
        for number, text in enumerate(lines_of(body.content, body.content_encoding), 1):
            if text.strip():
                kept.append({**key, "line": number, **read_line(text)})
                count += 1
            if len(kept) >= LINES_AT_ONCE:
                _keep(connection, "lines_read", kept)
    except OtherFileError:
        where = f"line {number} of it is no line of a batch's output"
        return 0, (where, True)
    except Uncountable as error:
        return 0, (error.what, False)
    _keep(connection, "lines_read", kept)
    connection.execute("INSERT INTO output_line FROM lines_read")
    return count, ("", False)


def _keep(connection: duckdb.DuckDBPyConnection, name: str, kept: list[dict[str, Any]]) -> None:
    connection.register("lines_now", pa.Table.from_pylist(kept, _LINES))
    connection.execute(f"INSERT INTO {name} FROM lines_now")
    connection.unregister("lines_now")
    kept.clear()
