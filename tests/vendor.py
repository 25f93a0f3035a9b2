"""What the stand-in vendor answers: request bytes in, the planned response out, without sockets or clocks.

A test steers one answer by a marker in the text it sends, which passes every proxy because it is part of the body:

    [[stub: status=429 times=2 retry-after-ms=20]]

The words are listed in `DIRECTIVES`; the last marker in the body counts; an unknown word is answered 418, so that a typing error is seen.
In a GET the query says it (`?stub=status=500`). The marker itself is not counted as prompt text.

Numbers are made to be worked by hand:
- chat: prompt_tokens = whitespace words over all message texts + 3; completions: words of the prompt; embeddings: words of the input;
- completion_tokens = the smaller of `max_completion_tokens`/`max_tokens` and COMPLETION_TOKENS (8), times `n`; `tokens=N` overrides it;
- cached_tokens = prompt_tokens // 4; reasoning_tokens = completion_tokens // 4 for reasoning models (o*, gpt-5*), else 0; both are subsets;
- the visible text has completion_tokens - reasoning_tokens words, each one token in o200k_base and cl100k_base, so a recount of it is exact.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import brotli  # type: ignore[import-untyped]
import zstandard

COMPLETION_TOKENS = 8
CREATED = 1_790_000_000
WORDS = (" the", " answer", " is", " here", " and", " it", " works", " well")

SNAPSHOTS = {
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-5-nano": "gpt-5-nano-2025-08-07",
    "o3": "o3-2025-04-16",
    "o4-mini": "o4-mini-2025-04-16",
}
REASONING = re.compile(r"^(o\d|gpt-5)")

DIRECTIVES = {
    "id": "name of the counter that `times` uses; without it the marker text and the path are the name",
    "only": "the marker is meant for the upstream of this name; others answer as if it were not there",
    "times": "misbehave so many times, then answer well",
    "status": "answer this status with an OpenAI-shaped error body",
    "code": "the error's code in place of the usual one, such as insufficient_quota",
    "retry-after": "this header, in seconds",
    "retry-after-ms": "this header, in milliseconds",
    "should-retry": "the x-should-retry header: true or false",
    "delay": "milliseconds before the response head",
    "delay-first": "milliseconds between the head and the first body byte",
    "delay-each": "milliseconds before each token but the first",
    "hold": "POINT: wait there until the test releases `hold-name` (default: the point)",
    "hold-name": "the name of the gate that `hold` waits at",
    "drop": "POINT: close the connection there",
    "usage": "no | always | null | finish (on the finish chunk) | every (cumulative, every chunk) | after-done",
    "no-done": "end the stream without [DONE]",
    "no-last-blank": "end the stream without the blank line after the last event",
    "error": "after so many tokens, an error object inside the stream, then [DONE]",
    "error-event": "after so many tokens, `event: error` with a message and no `error` key, then the end",
    "json-error": "status 200 and a JSON error body, streaming asked or not",
    "body": "malformed | utf8 | empty | html: a 200 whose body (or first event) cannot be read",
    "finish": "the finish_reason, such as length or content_filter",
    "refusal": "the text comes as a refusal",
    "tokens": "completion tokens",
    "reasoning": "reasoning tokens",
    "cached": "cached tokens",
    "prompt": "prompt tokens",
    "model": "the model in the response, in place of the dated snapshot",
    "tier": "the service_tier in the response",
    "cut": "send the body in pieces of so many bytes",
    "eol": "lf | crlf | cr",
    "no-space": "`data:{…}` without the space",
    "bom": "a byte order mark first",
    "comments": "comment lines before and between events",
    "encoding": "gzip | deflate | zstd | br: the body so encoded, flushed at each event",
    "answer": "the answer that the test has stored under this name",
}
"""Every word of a marker. POINT is `request` (before the response head), `headers` (head sent, no body yet), a count of tokens sent
(of bytes, for a body that is no stream), `usage` (after the usage event) or `done` (after [DONE], before the end of the HTTP body)."""

_MARKER = re.compile(r"\s*\[\[stub:([^\]]*)\]\]")

_ERRORS = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    402: ("insufficient_quota", "insufficient_quota", "The balance is used up."),
    403: ("permission_error", None, "Not allowed."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    408: ("timeout", None, "The request took too long."),
    409: ("conflict", None, "Conflict."),
    422: ("invalid_request_error", None, "Unprocessable."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached."),
    500: ("server_error", None, "The server had an error."),
    502: ("server_error", None, "Bad gateway."),
    503: ("server_error", "overloaded", "The engine is overloaded."),
    504: ("server_error", None, "Gateway timeout."),
}


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait until the test releases the gate of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection here; the HTTP body stays unfinished."""


Step = bytes | Pause | Hold | Drop


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: the steps before its head, the head, and the body as it goes out; each `bytes` step is one write.

    A test may hand one in ready-made (`Upstream.queue`, `Upstream.stored`) to have exact bytes sent. With a content-length
    among the headers the body is sent plain, else chunked.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    steps: tuple[Step, ...] = ()
    before: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the vendor sees it; `ordinal` counts from 1 over the upstream's life, `tries` counts the same marker's requests."""

    upstream: str
    ordinal: int
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_encoding: str = ""


class UnknownDirectiveError(ValueError):
    """A marker with a word that is not in DIRECTIVES, or a value that cannot be read."""


# --- reading the request -------------------------------------------------------------------------------------------------------------


def plain_body(call: Call) -> bytes:
    """The request body without its content encoding."""
    return _DECODERS[call.content_encoding.lower() or "identity"](call.body)


def marker(call: Call) -> str:
    """The text of the last marker that the request carries, or ''."""
    if "stub" in call.query:
        return call.query["stub"].strip()
    found = _MARKER.findall(plain_body(call).decode("utf-8", "replace"))
    return str(found[-1]).strip() if found else ""


def directives(text: str) -> dict[str, str]:
    """Words of a marker as a dictionary; a word without `=` means 'true'."""
    words = {word.partition("=")[0]: word.partition("=")[2] or "true" for word in text.split()}
    unknown = sorted(set(words) - set(DIRECTIVES))
    if unknown:
        raise UnknownDirectiveError(f"unknown in a stub marker: {', '.join(unknown)}")
    return words


def counted_name(call: Call, text: str) -> str:
    """The name under which repeats of this marker are counted."""
    return directives(text).get("id", f"{call.path} {text}")


def effective(call: Call, text: str, tries: int) -> dict[str, str]:
    """The directives that hold for the `tries`-th request (from 1) with this marker."""
    words = directives(text)
    spent = "times" in words and tries > int(words["times"])
    elsewhere = words.get("only", call.upstream) != call.upstream
    return {} if spent or elsewhere else words


# --- the numbers ---------------------------------------------------------------------------------------------------------------------


def words_in(value: Any) -> int:
    """Whitespace words in a text, a list of texts, or a list of content parts; markers left out. Token ids count one each."""
    if isinstance(value, str):
        return len(_MARKER.sub("", value).split())
    if isinstance(value, list):
        return sum(words_in(part) for part in value)
    if isinstance(value, dict):
        return words_in(value.get("text", ""))
    return 1 if isinstance(value, int) else 0


def usage(endpoint: str, request: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """The usage object of a request to `chat`, `completions` or `embeddings` by the rules at the head of this module."""
    if endpoint == "embeddings":
        prompt = int(words.get("prompt", words_in(request.get("input", ""))))
        return {"prompt_tokens": prompt, "total_tokens": prompt}
    if endpoint == "chat":
        messages = [message.get("content") for message in request.get("messages", []) if isinstance(message, dict)]
        counted = words_in(messages) + 3
    else:
        counted = words_in(request.get("prompt", ""))
    prompt = int(words.get("prompt", counted))
    limit = request.get("max_completion_tokens") or request.get("max_tokens") or COMPLETION_TOKENS
    completion = int(words.get("tokens", min(int(limit), COMPLETION_TOKENS) * int(request.get("n") or 1)))
    thinking = completion // 4 if REASONING.match(str(request.get("model", ""))) else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": int(words.get("cached", prompt // 4)), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": int(words.get("reasoning", thinking)),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def visible_words(numbers: Mapping[str, Any], choices: int = 1) -> list[str]:
    """The words of one choice's text."""
    count = (numbers["completion_tokens"] - numbers["completion_tokens_details"]["reasoning_tokens"]) // choices
    said = [WORDS[i % len(WORDS)] for i in range(count)]
    return [word.strip().title() if i == 0 else word for i, word in enumerate(said)]


# --- planning the response -----------------------------------------------------------------------------------------------------------


def plan(call: Call, words: Mapping[str, str]) -> Answer:
    """The answer to a call under these directives."""
    if "body" in words and not _wants_stream(call):
        return _shape(call, words, _UNREADABLE[words["body"]], "text/html" if words["body"] == "html" else "application/json")
    if "status" in words:
        return _error(call, words, int(words["status"]))
    if "json-error" in words:
        return _shape(call, words, _json({"error": {"message": "Provider failed.", "type": "server_error", "code": None}}))
    answer = ENDPOINTS.get((call.method, call.path.removeprefix("/v1")), _anything)
    return answer(call, words)


def _chat(call: Call, words: Mapping[str, str]) -> Answer:
    request = _request(call)
    numbers = usage("chat", request, words)
    choices = int(request.get("n") or 1)
    said = visible_words(numbers, choices)
    part = "refusal" if "refusal" in words else "content"
    finish = words.get("finish", "length" if _limited(request) else "stop")
    head = {**_head(call, request, words, "chatcmpl"), "object": "chat.completion"}
    if not request.get("stream"):
        message = {"role": "assistant", "content": None, "refusal": None, part: "".join(said)}
        full = [{"index": i, "message": message, "logprobs": None, "finish_reason": finish} for i in range(choices)]
        return _shape(call, words, _json({**head, "choices": full, **_usage_field(numbers, words)}))
    head["object"] = "chat.completion.chunk"

    def deltas(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": i, "delta": delta, "logprobs": None, "finish_reason": reason} for i in range(choices)]

    opening = deltas({"role": "assistant", "content": "", "refusal": None})
    tokens = [deltas({part: word}) for word in said]
    return _stream(call, words, request, head, numbers, _Events(opening, tokens, deltas({}, finish)))


def _completions(call: Call, words: Mapping[str, str]) -> Answer:
    request = _request(call)
    numbers = usage("completions", request, words)
    choices = int(request.get("n") or 1)
    said = visible_words(numbers, choices)
    finish = words.get("finish", "length" if _limited(request) else "stop")
    head = {**_head(call, request, words, "cmpl"), "object": "text_completion"}

    def texts(text: str, reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": i, "text": text, "logprobs": None, "finish_reason": reason} for i in range(choices)]

    if not request.get("stream"):
        return _shape(call, words, _json({**head, "choices": texts("".join(said), finish), **_usage_field(numbers, words)}))
    return _stream(call, words, request, head, numbers, _Events(None, [texts(word) for word in said], texts("", finish)))


def _embeddings(call: Call, words: Mapping[str, str]) -> Answer:
    request = _request(call)
    given = request.get("input", "")
    inputs = given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
    size = int(request.get("dimensions") or 4)
    data = []
    for index in range(len(inputs)):
        vector = [(index + 1) / (place + 2) for place in range(size)]
        packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        value: Any = packed if request.get("encoding_format") == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": value})
    reply = {"object": "list", "data": data, "model": words.get("model", request.get("model"))}
    return _shape(call, words, _json({**reply, **_usage_field(usage("embeddings", request, words), words)}))


def _models(call: Call, words: Mapping[str, str]) -> Answer:
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "stand-in"} for name in sorted(SNAPSHOTS)]
    return _shape(call, words, _json({"object": "list", "data": data}))


def _anything(call: Call, words: Mapping[str, str]) -> Answer:
    """Any other path: a JSON object that says what was asked, without usage."""
    return _shape(call, words, _json({"object": "stand-in", "method": call.method, "path": call.path, "received_bytes": len(call.body)}))


ENDPOINTS: dict[tuple[str, str], Callable[[Call, Mapping[str, str]], Answer]] = {
    ("POST", "/chat/completions"): _chat,
    ("POST", "/completions"): _completions,
    ("POST", "/embeddings"): _embeddings,
    ("GET", "/models"): _models,
}


@dataclass(frozen=True, slots=True)
class _Events:
    """The choices of a stream's chunks: an opening one, one for each token, and the one with the finish reason."""

    opening: list[dict[str, Any]] | None
    tokens: list[list[dict[str, Any]]]
    finish: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """One SSE event, with the name of the point that is reached when it has been sent."""

    point: str
    data: bytes
    event: str = ""


def _stream(
    call: Call, words: Mapping[str, str], request: Mapping[str, Any], head: dict[str, Any], numbers: dict[str, Any], events: _Events
) -> Answer:
    frames = list(_frames(words, request, head, numbers, events))
    pieces = [(frame.point, _render(frame, words)) for frame in frames]
    if "comments" in words:
        eol = _EOL[words.get("eol", "lf")]
        pieces = [("", b": PROCESSING" + eol + eol), *pieces[:2], ("", b": keep-alive" + eol + eol), *pieces[2:]]
    if "bom" in words:
        pieces.insert(0, ("", b"\xef\xbb\xbf"))
    if "no-last-blank" in words and pieces:
        pieces[-1] = (pieces[-1][0], pieces[-1][1].rstrip(b"\r\n") + _EOL[words.get("eol", "lf")])
    return _played(call, words, pieces, _headers(call, words, "text/event-stream; charset=utf-8"))


def _frames(
    words: Mapping[str, str], request: Mapping[str, Any], head: dict[str, Any], numbers: dict[str, Any], events: _Events
) -> Iterator[_Frame]:
    """The events of a stream in order; where usage lies and what goes wrong is decided here."""
    asked = bool((request.get("stream_options") or {}).get("include_usage"))
    where = words.get("usage", "last" if asked else "no").replace("always", "last")
    idle: dict[str, Any] = {"usage": None} if asked and where != "no" else {}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return _json({**head, "choices": choices, **idle, **more})

    def running(tokens: int) -> dict[str, Any]:
        return (
            {"usage": {**numbers, "completion_tokens": tokens, "total_tokens": numbers["prompt_tokens"] + tokens}}
            if where == "every"
            else {}
        )

    if "body" in words:
        if words["body"] == "empty":
            return
        yield _Frame("", _UNREADABLE[words["body"]])
    if events.opening is not None:
        yield _Frame("0", chunk(events.opening))
    stop, fault = _fault(words)
    for count, choices in enumerate(events.tokens[:stop], 1):
        yield _Frame(str(count), chunk(choices, **running(count)))
    if fault:
        yield from fault
        return
    yield _Frame("usage" if where == "finish" else "", chunk(events.finish, **({"usage": numbers} if where in {"finish", "every"} else {})))
    if where in {"last", "null"}:
        yield _Frame("usage", chunk([], usage=numbers if where == "last" else None))
    if "no-done" not in words:
        yield _Frame("done", b"[DONE]")
    if where == "after-done":
        yield _Frame("usage", chunk([], usage=numbers))


def _fault(words: Mapping[str, str]) -> tuple[int | None, list[_Frame]]:
    """After how many tokens a stream fails, and the frames that then end it."""
    if "error" in words:
        fault = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
        return int(words["error"]), [_Frame("", _json({"error": fault})), _Frame("done", b"[DONE]")]
    if "error-event" in words:
        return int(words["error-event"]), [
            _Frame("", _json({"message": "The server had an error.", "code": "server_error"}), event="error")
        ]
    return None, []


def _render(frame: _Frame, words: Mapping[str, str]) -> bytes:
    eol = _EOL[words.get("eol", "lf")]
    name = b"event: " + frame.event.encode() + eol if frame.event else b""
    return name + (b"data:" if "no-space" in words else b"data: ") + frame.data + eol + eol


def _shape(call: Call, words: Mapping[str, str], body: bytes, content_type: str = "application/json", status: int = 200) -> Answer:
    """A body that is no stream, with its directives applied; POINT counts its bytes."""
    cuts = sorted({min(int(words[key]), len(body)) for key in ("hold", "drop") if words.get(key, "").isdigit()})
    edges = [0, *cuts, len(body)]
    pieces = [(str(end), body[start:end]) for start, end in pairwise(edges)]
    if len(pieces) > 1:
        pieces[-1] = ("done", pieces[-1][1])
    elif pieces:
        pieces = [("done", body)]
    headers = _headers(call, words, content_type)
    if "encoding" not in words:
        headers.append(("content-length", str(len(body))))
    return _played(call, words, pieces, headers, status)


def _error(call: Call, words: Mapping[str, str], status: int) -> Answer:
    kind, code, message = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None, f"Status {status}."))
    fault = {"message": message, "type": kind, "param": None, "code": words.get("code", code)}
    return _shape(call, words, _json({"error": fault}), status=status)


def _played(
    call: Call, words: Mapping[str, str], pieces: list[tuple[str, bytes]], headers: list[tuple[str, str]], status: int = 200
) -> Answer:
    """Turn named pieces into steps: encoding, cuts, delays, holds and drops."""
    before = [*_wait(words, "delay"), *_at("request", words)]
    steps: list[Step] = [*_wait(words, "delay-first"), *_at("headers", words)]
    encode = _ENCODERS[words.get("encoding", "identity")]()
    for point, piece in pieces:
        if point.isdigit() and int(point) > 1:
            steps += _wait(words, "delay-each")
        steps += _cut(encode(piece), words)
        steps += _at(point, words)
    steps += _cut(encode(None), words)
    if "encoding" in words:
        headers = [*headers, ("content-encoding", words["encoding"])]
    return Answer(status, tuple(headers), tuple(step for step in steps if step != b""), tuple(before))


def _wait(words: Mapping[str, str], key: str) -> list[Step]:
    return [Pause(int(words[key]) / 1000)] if key in words else []


def _at(point: str, words: Mapping[str, str]) -> list[Step]:
    """What the marker wants at this point: hold first, then drop."""
    steps: list[Step] = []
    if point and words.get("hold") == point:
        steps.append(Hold(words.get("hold-name", point)))
    if point and words.get("drop") == point:
        steps.append(Drop())
    return steps


def _cut(data: bytes, words: Mapping[str, str]) -> list[Step]:
    size = int(words.get("cut", len(data) or 1))
    return [data[i : i + size] for i in range(0, len(data), size)]


def _headers(call: Call, words: Mapping[str, str], content_type: str) -> list[tuple[str, str]]:
    headers = [
        ("content-type", content_type),
        ("x-request-id", f"req_{call.upstream}_{call.ordinal:06d}"),
        ("openai-processing-ms", "12"),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("set-cookie", f"__cf_bm=cookie-of-{call.ordinal:06d}; path=/; HttpOnly"),
    ]
    for key, name in (("retry-after", "retry-after"), ("retry-after-ms", "retry-after-ms"), ("should-retry", "x-should-retry")):
        if key in words:
            headers.append((name, words[key]))
    return headers


def _head(call: Call, request: Mapping[str, Any], words: Mapping[str, str], kind: str) -> dict[str, Any]:
    """The fields that every chunk of a response shares."""
    asked = str(request.get("model", ""))
    tier = {"auto": "default", "fast": "priority"}.get(str(request.get("service_tier")), request.get("service_tier"))
    return {
        "id": f"{kind}-{call.upstream}-{call.ordinal:06d}",
        "object": "",
        "created": CREATED,
        "model": words.get("model", SNAPSHOTS.get(asked, asked)),
        "service_tier": words.get("tier", tier or "default"),
        "system_fingerprint": "fp_44709d6fcb",
    }


def _usage_field(numbers: dict[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    return {"no": {}, "null": {"usage": None}}.get(words.get("usage", ""), {"usage": numbers})


def _limited(request: Mapping[str, Any]) -> bool:
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    return limit is not None and int(limit) < COMPLETION_TOKENS


def _wants_stream(call: Call) -> bool:
    return bool(_request(call).get("stream"))


def _request(call: Call) -> dict[str, Any]:
    """The request body as an object; {} when it is none."""
    try:
        value = json.loads(plain_body(call) or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --- encodings -----------------------------------------------------------------------------------------------------------------------


class _Gzip:
    def __init__(self, wbits: int = 31) -> None:
        self._inner = zlib.compressobj(wbits=wbits)

    def __call__(self, piece: bytes | None) -> bytes:
        if piece is None:
            return self._inner.flush()
        return self._inner.compress(piece) + self._inner.flush(zlib.Z_SYNC_FLUSH)


class _Deflate(_Gzip):
    def __init__(self) -> None:
        super().__init__(wbits=15)


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstandard.ZstdCompressor().compressobj()

    def __call__(self, piece: bytes | None) -> bytes:
        if piece is None:
            return self._inner.flush()
        return self._inner.compress(piece) + self._inner.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Compressor()

    def __call__(self, piece: bytes | None) -> bytes:
        if piece is None:
            return bytes(self._inner.finish())
        return bytes(self._inner.process(piece) + self._inner.flush())


def _identity() -> Callable[[bytes | None], bytes]:
    return lambda piece: piece or b""


_ENCODERS: dict[str, Callable[[], Callable[[bytes | None], bytes]]] = {
    "identity": _identity,
    "gzip": _Gzip,
    "deflate": _Deflate,
    "zstd": _Zstd,
    "br": _Brotli,
}

_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda body: body,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
    "br": brotli.decompress,
}

_EOL = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}

_UNREADABLE = {
    "malformed": b'{"id":"chatcmpl-broken","choices":[{"index":0,',
    "utf8": b'{"id":"chatcmpl-broken\xff\xfe","choices":[]}',
    "empty": b"",
    "html": b"<html><body>502 Bad Gateway</body></html>",
}
