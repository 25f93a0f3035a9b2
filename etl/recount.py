"""The recount: tokens counted by ourselves, from the bodies kept, where a reply that is paid for came without its usage.

Prompts are counted by the rule that OpenAI's cookbook publishes for chat ("How to count tokens with tiktoken"): 3 tokens
a message and 1 a name beside their text, and 3 that prime the reply. Tool definitions and calls are counted as their
JSON text. What cannot be counted from text (images, audio, files) is not guessed: the request stays unpriced.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tiktoken
import zstandard

from etl.encodings import encoding
from etl.sources import Finding, Sources, add_findings, date_of, is_whole, quarantine, table
from etl.unbrotli import BrotliError, Unbrotli
from schemas.errors import LedgerError

MAX_DECODED_BYTES = 64 << 20
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PRIMING = 3
BATCH_ROWS = 256

_COUNTED = pa.schema([("raw_id", pa.string()), ("raw_ordinal", pa.int64()), ("meter", pa.string()), ("quantity", pa.int64())])
_NOTED = pa.schema([("raw_id", pa.string()), ("raw_ordinal", pa.int64()), ("reason", pa.string())])
_LINE = re.compile(rb"\r\n|\r|\n")


class Uncountable(LedgerError):
    """Why a message cannot be counted; becomes a row, never a failure of the build."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One try that needs a recount."""

    raw_id: str
    raw_ordinal: int
    endpoint: str
    encoding: str
    dates: frozenset[str]  # UTC dates under which its bodies may lie


@dataclass(slots=True)
class Bodies:
    """What was kept of one request: its own body and those of the replies, decoded, by ordinal."""

    by_ordinal: dict[int, bytes] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)


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


def _json(content: bytes, what: str) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Uncountable(f"the {what} is no whole JSON") from None
    if not isinstance(value, dict):
        raise Uncountable(f"the {what} is no JSON object")
    return value


def messages_of(content: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of a reply: its one body, or the data of each event of its stream; what is unreadable is passed over."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict):
        yield value
        return
    data: list[bytes] = []
    for line in (*_LINE.split(content.removeprefix(b"\xef\xbb\xbf")), b""):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            try:
                event = orjson.loads(b"\n".join(data))
            except orjson.JSONDecodeError:
                event = None
            data = []
            if isinstance(event, dict):
                yield event


# ---- values to tokens ----


def _tokens(coder: tiktoken.Encoding, text: str) -> int:
    return len(coder.encode_ordinary(text))


def _text_of(content: Any) -> str:
    """The text of a message's content; raises Uncountable where there is more than text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Uncountable("a message's content is neither text nor a list of parts")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise Uncountable("the prompt holds parts that are not text")
        texts.append(text)
    return "".join(texts)


def chat_prompt_tokens(body: Mapping[str, Any], coder: tiktoken.Encoding) -> int:
    """Tokens of a chat request's messages and tools."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise Uncountable("the request has no list of messages")
    count = TOKENS_PRIMING
    for message in messages:
        if not isinstance(message, dict):
            raise Uncountable("a message is no JSON object")
        count += TOKENS_PER_MESSAGE + _tokens(coder, str(message.get("role", ""))) + _tokens(coder, _text_of(message.get("content")))
        if isinstance(name := message.get("name"), str):
            count += TOKENS_PER_NAME + _tokens(coder, name)
        if calls := message.get("tool_calls"):
            count += _tokens(coder, orjson.dumps(calls).decode())
    if tools := body.get("tools"):
        count += _tokens(coder, orjson.dumps(tools).decode())
    return count


def plain_prompt_tokens(value: Any, coder: tiktoken.Encoding) -> int:
    """Tokens of a text, of tokens that the client made itself, or of a list of either."""
    if isinstance(value, str):
        return _tokens(coder, value)
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return len(value)
    if isinstance(value, list):
        return sum(plain_prompt_tokens(item, coder) for item in value)
    raise Uncountable("the prompt is neither text nor tokens")


def reply_tokens(content: bytes, coder: tiktoken.Encoding) -> int:
    """Tokens of everything a reply said, each choice as one text, deltas joined before they are counted."""
    texts: dict[tuple[int, str], list[str]] = {}
    for message in messages_of(content):
        choices = message.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                _gather(choice, texts)
    return sum(_tokens(coder, "".join(parts)) for parts in texts.values())


def _gather(choice: Mapping[str, Any], texts: dict[tuple[int, str], list[str]]) -> None:
    index = choice["index"] if isinstance(choice.get("index"), int) else 0
    part = choice.get("delta") or choice.get("message") or {}
    said = {"text": choice.get("text")}
    if isinstance(part, dict):
        said |= {name: part.get(name) for name in ("content", "refusal", "reasoning_content", "reasoning")}
        calls = part.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                place = f"call {call.get('index', call.get('id'))}"
                texts.setdefault((index, place), []).extend(str(function.get(name) or "") for name in ("name", "arguments"))
    for name, text in said.items():
        if isinstance(text, str) and text:
            texts.setdefault((index, name), []).append(text)


# Per endpoint: how its prompt is counted, and whether its reply is text.
_PROMPTS: dict[str, Callable[[Mapping[str, Any], tiktoken.Encoding], int]] = {
    "chat.completions": chat_prompt_tokens,
    "completions": lambda body, coder: plain_prompt_tokens(body.get("prompt", ""), coder),
    "embeddings": lambda body, coder: plain_prompt_tokens(body.get("input"), coder),
}
_WITHOUT_TEXT = frozenset(("embeddings",))


def count(wanted: Wanted, bodies: Bodies) -> dict[str, int]:
    """Units by meter for one try; raises Uncountable."""
    if wanted.endpoint not in _PROMPTS:
        raise Uncountable(f"no rule counts the tokens of {wanted.endpoint}")
    for ordinal in (0, wanted.raw_ordinal):
        if ordinal in bodies.faults:
            raise Uncountable(bodies.faults[ordinal])
    if 0 not in bodies.by_ordinal:
        raise Uncountable("the request's body was not kept")
    coder = encoding(wanted.encoding)
    counted = {"input": _PROMPTS[wanted.endpoint](_json(bodies.by_ordinal[0], "request's body"), coder)}
    if wanted.endpoint not in _WITHOUT_TEXT:
        # an attempt that received nothing kept no body, and nothing is what it said
        counted["output"] = reply_tokens(bodies.by_ordinal.get(wanted.raw_ordinal, b""), coder)
    return counted


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
    for item in wanted:
        key = {"raw_id": item.raw_id, "raw_ordinal": item.raw_ordinal}
        try:
            meters = count(item, found.get(item.raw_id, Bodies()))
        except Uncountable as error:
            noted.append({**key, "reason": error.what})
            continue
        counted.extend({**key, "meter": meter, "quantity": quantity} for meter, quantity in meters.items())
    table(connection, "recount", pa.Table.from_pylist(counted, _COUNTED))
    table(connection, "recount_note", pa.Table.from_pylist(noted, _NOTED))
    return len(counted)


def _wanted(connection: duckdb.DuckDBPyConnection) -> list[Wanted]:
    rows = connection.execute(
        """
        SELECT raw_id, raw_ordinal, endpoint, encoding, strftime(received_at, '%Y-%m-%d'), strftime(opened_at, '%Y-%m-%d'),
            strftime(coalesce(closed_at, opened_at), '%Y-%m-%d')
        FROM usage_verdicts WHERE wants_recount ORDER BY raw_id, raw_ordinal
        """
    ).fetchall()
    return [Wanted(raw_id, ordinal, endpoint, coder, frozenset(dates)) for raw_id, ordinal, endpoint, coder, *dates in rows]


def bodies_of(connection: duckdb.DuckDBPyConnection, sources: Sources, wanted: list[Wanted]) -> dict[str, Bodies]:
    """What was kept of these requests, decoded; a file that is not what was sealed is a finding."""
    if not wanted:
        return {}
    needed = pa.array({item.raw_id for item in wanted}, pa.string())
    dates = frozenset().union(*(item.dates for item in wanted))
    found: dict[str, Bodies] = {}
    findings: list[Finding] = []
    for file in sources.body_files:
        path = sources.raw / file.path
        if date_of(file) not in dates or not path.exists():  # past its retention
            continue
        if not is_whole(path, file):
            findings.append(quarantine(file))
            continue
        _take(_batches(path), needed, found)
    _take(sources.rows["body"].to_batches(), needed, found)
    add_findings(connection, findings)
    return found


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=["request_id", "ordinal", "content_encoding", "content", "size"])


def _take(batches: Iterable[pa.RecordBatch], needed: pa.Array, found: dict[str, Bodies]) -> None:
    for batch in batches:
        for row in batch.filter(pc.is_in(batch["request_id"], needed)).to_pylist():
            bodies = found.setdefault(row["request_id"], Bodies())
            if len(row["content"]) < row["size"]:
                bodies.faults[row["ordinal"]] = "only a part of the body was kept"
                continue
            try:
                bodies.by_ordinal[row["ordinal"]] = decoded(row["content"], row["content_encoding"])
            except Uncountable as error:
                bodies.faults[row["ordinal"]] = error.what
