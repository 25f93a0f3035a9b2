"""The recount: tokens counted by ourselves, from the bodies kept, where a reply that is paid for came without its usage.

etl/texts.py says which texts those are. What cannot be counted from text is not guessed: the request stays unpriced. Where
a vendor reported the prompt alone (Anthropic's message_start, of a stream that broke) the reply alone is counted.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import tiktoken
import zstandard

from etl.bodies import read_bodies
from etl.encodings import encoding
from etl.erasure import remembered
from etl.sources import Finding, Sources, add_findings, table
from etl.texts import SURFACES, Said, Uncountable, messages_of
from etl.unbrotli import BrotliError, Unbrotli

MAX_DECODED_BYTES = 64 << 20
BATCH_ROWS = 256

_COUNTED = pa.schema([("raw_id", pa.string()), ("raw_ordinal", pa.int64()), ("meter", pa.string()), ("quantity", pa.int64())])
_NOTED = pa.schema([("raw_id", pa.string()), ("raw_ordinal", pa.int64()), ("reason", pa.string()), ("is_counted", pa.bool_())])


@dataclass(frozen=True, slots=True)
class Wanted:
    """One try whose bodies are to be read, and for a recount: what of it is to be counted."""

    raw_id: str
    raw_ordinal: int
    dates: frozenset[str]  # UTC dates under which its bodies may lie
    endpoint: str = ""
    encoding: str = ""
    prompt: bool = True  # false: the vendor reported it
    whole: bool = True  # the reply came to its end, so all of it must be counted
    answered: bool = True  # bytes of a reply came


@dataclass(slots=True)
class Bodies:
    """What was kept of one request: its own body and those of the replies, decoded, by ordinal."""

    by_ordinal: dict[int, bytes] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)

    def of(self, ordinal: int, missing: str | None) -> bytes:
        """One body; where there is none, nothing, or Uncountable if that is missing. Raises Uncountable for what is unreadable too."""
        if ordinal in self.faults:
            raise Uncountable(self.faults[ordinal])
        if ordinal not in self.by_ordinal and missing is not None:
            raise Uncountable(missing)
        return self.by_ordinal.get(ordinal, b"")


# ---- bytes to values ----


def decoded(content: bytes, content_encoding: str | None, limit: int = MAX_DECODED_BYTES) -> bytes:
    """The content without its codings, as far as it goes (a stream that broke gives what came); raises Uncountable."""
    for coding in reversed([name.strip().lower() for name in (content_encoding or "").split(",")]):
        if coding in ("", "identity"):
            continue
        if coding not in _DECODERS:
            raise Uncountable(f"the body is coded as {coding}, which is not decoded here")
        try:
            content = _DECODERS[coding](content, limit)
        except (zlib.error, zstandard.ZstdError, BrotliError) as error:
            raise Uncountable(f"the body cannot be decoded as {coding}: {error}") from None
        if len(content) >= limit:
            raise Uncountable(f"the decoded body exceeds {limit} bytes")
    return content


def _inflate(content: bytes, limit: int) -> bytes:
    # zlib-wrapped as the standard says, or raw as some servers send it
    wrapped = len(content) > 1 and content[0] & 0x0F == 8 and (content[0] << 8 | content[1]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS).decompress(content, limit)


def _gunzip(content: bytes, limit: int) -> bytes:
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, limit)


def _unzstd(content: bytes, limit: int) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True)
    pieces: list[bytes] = []
    size = 0
    while size < limit and (piece := reader.read(min(limit - size, 1 << 20))):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


@cache
def _unbrotli(limit: int) -> Unbrotli:
    return Unbrotli(limit)


def _unbr(content: bytes, limit: int) -> bytes:
    return _unbrotli(limit).decode(content)


def close_decoders() -> None:
    """End the process that decodes brotli, if there is one."""
    _unbrotli(MAX_DECODED_BYTES).close()


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "zstd": _unzstd,
    "br": _unbr,
}


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Uncountable("the request's body is no whole JSON") from None
    if not isinstance(value, dict):
        raise Uncountable("the request's body is no JSON object")
    return value


# ---- bodies to counts ----


def tokens(said: Said, coder: tiktoken.Encoding) -> int:
    """The tokens of what was said, with those that frame it."""
    return said.framing + sum(len(coder.encode_ordinary(text)) for text in said.texts)


@dataclass(frozen=True, slots=True)
class Counted:
    """Units by meter of one try, and what its reply held that is not among them."""

    meters: dict[str, int]
    hidden: frozenset[str] = frozenset()


def count(wanted: Wanted, bodies: Bodies) -> Counted:
    """What one try comes to. Raises Uncountable; also where a whole reply holds what is billed and not seen."""
    surface = SURFACES.get(wanted.endpoint)
    if surface is None:
        raise Uncountable(f"no rule counts the tokens of {wanted.endpoint}")
    coder = encoding(wanted.encoding)
    meters: dict[str, int] = {}
    if wanted.prompt:
        meters["input"] = tokens(surface.prompt(_object(bodies.of(0, "the request's body was not kept"))), coder)
    if surface.reply is None:
        return Counted(meters)
    # an attempt that received nothing kept no body, and nothing is what it said
    content = bodies.of(wanted.raw_ordinal, "the reply's body was not kept" if wanted.answered else None)
    messages = list(messages_of(content))
    if not messages and (wanted.whole or content.lstrip()[:1] in (b"{", b"[")):
        raise Uncountable("the reply is no whole JSON")  # of a broken one, that nothing came
    said = surface.reply(messages)
    if wanted.whole and not said.texts and not said.hidden:
        raise Uncountable("the reply holds nothing that can be counted")  # and yet it was no empty one
    if said.hidden and wanted.whole:
        raise Uncountable(f"the reply holds {', '.join(sorted(said.hidden))}, whose tokens nobody sees")
    return Counted(meters | {"output": tokens(said, coder)}, frozenset(said.hidden))


# ---- the step ----


def recount(connection: duckdb.DuckDBPyConnection, sources: Sources) -> int:
    """Make `recount` and `recount_note` from `usage_verdicts`: units by meter of each try that wants them, or why there are none."""
    wanted = _wanted(connection)
    try:
        found = bodies_of(connection, sources, wanted)
    finally:
        close_decoders()
    counted: list[dict[str, Any]] = []
    noted: list[dict[str, Any]] = []
    before, noted_before = remembered(connection, "recount"), remembered(connection, "recount_note")
    for item in wanted:
        place = (item.raw_id, item.raw_ordinal)
        if place in before or place in noted_before:
            counted += before.get(place, ())
            noted += noted_before.get(place, ())
            continue
        key = {"raw_id": item.raw_id, "raw_ordinal": item.raw_ordinal}
        try:
            found_here = count(item, found.get(item.raw_id, Bodies()))
        except Uncountable as error:
            noted.append({**key, "reason": error.what, "is_counted": False})
            continue
        counted.extend({**key, "meter": meter, "quantity": quantity} for meter, quantity in found_here.meters.items())
        if found_here.hidden:
            noted.append({**key, "reason": f"without {', '.join(sorted(found_here.hidden))}", "is_counted": True})
    table(connection, "recount", pa.Table.from_pylist(counted, _COUNTED))
    table(connection, "recount_note", pa.Table.from_pylist(noted, _NOTED))
    return len(counted)


def _wanted(connection: duckdb.DuckDBPyConnection) -> list[Wanted]:
    rows = connection.execute(
        """
        SELECT raw_id, raw_ordinal, endpoint, encoding, wants_recount, is_whole, is_answered, strftime(received_at, '%Y-%m-%d'),
            strftime(opened_at, '%Y-%m-%d'), strftime(coalesce(closed_at, opened_at), '%Y-%m-%d')
        FROM usage_verdicts WHERE wants_recount OR wants_output ORDER BY raw_id, raw_ordinal
        """
    ).fetchall()
    return [
        Wanted(raw_id, ordinal, frozenset(dates), endpoint, coder, prompt, whole, answered)
        for raw_id, ordinal, endpoint, coder, prompt, whole, answered, *dates in rows
    ]


def bodies_of(connection: duckdb.DuckDBPyConnection, sources: Sources, wanted: list[Wanted]) -> dict[str, Bodies]:
    """What was kept of these requests, decoded; a file that is not what was sealed is a finding."""
    if not wanted:
        return {}
    dates = frozenset().union(*(item.dates for item in wanted))
    found: dict[str, Bodies] = {}
    findings: list[Finding] = []
    for body in read_bodies(sources, {item.raw_id for item in wanted}, dates, findings, BATCH_ROWS):
        bodies = found.setdefault(body.raw_id, Bodies())
        if body.fault is not None:
            bodies.faults[body.raw_ordinal] = body.fault
            continue
        try:
            bodies.by_ordinal[body.raw_ordinal] = decoded(body.content, body.content_encoding)
        except Uncountable as error:
            bodies.faults[body.raw_ordinal] = error.what
    add_findings(connection, findings)
    return found
