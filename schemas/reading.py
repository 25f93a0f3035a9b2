"""The one reading of a reply: what its messages tell, as they pass (proxy) and from the bytes kept (etl). No socket, no clock, no file.

It finds and does not interpret: usage by place, ids, reasons, errors, facts. Any cutting of the bytes gives the same reading.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from schemas import dialects
from schemas.records import JsonText
from schemas.scrub import identifier, scrub
from schemas.sse import LineDecoder, SseDecoder, SseEvent
from schemas.usage import most

MAX_USAGE_BYTES = 64 << 10
_LINE_TYPES = frozenset(("application/x-ndjson", "application/jsonl", "application/x-jsonlines"))
# Types under which some servers send a stream, beside every type of text (a web server's own is that of a page); and what a stream of events begins with.
_UNNAMED_TYPES = frozenset((None, "application/octet-stream", "application/json"))
_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_BOM = b"\xef\xbb\xbf"


def stream_decoder(media_type: str | None) -> SseDecoder | LineDecoder | None:
    """What takes a stream apart that says that it is one, in text."""
    if media_type == "text/event-stream":
        return SseDecoder()
    return LineDecoder() if media_type in _LINE_TYPES else None


def json_of(media_type: str | None, text: bytes) -> tuple[str, Any]:
    """How far a whole body could be read (Response.body_state), and the JSON value."""
    is_json = media_type is not None and (media_type == "application/json" or media_type.endswith("+json"))
    if not is_json and not ((media_type is None or media_type.startswith("text/")) and text.lstrip()[:1] in (b"{", b"[")):
        return "opaque", None
    value = loads(text)
    return ("unreadable" if value is None and text.strip() != b"null" else "read"), value


def _unnamed_events(media_type: str | None, text: bytes) -> list[SseEvent]:
    """The events of a decoded body that is a stream of events, or of lines of JSON, under a type that does not say so."""
    if media_type not in _UNNAMED_TYPES and not (media_type or "").startswith("text/"):
        return []
    start = text.removeprefix(_BOM).lstrip()
    reader: SseDecoder | LineDecoder
    if start.startswith(_EVENT_STARTS):
        reader = SseDecoder()
    elif isinstance(loads(start.partition(b"\n")[0]), dict):
        reader = LineDecoder()
    else:
        return []
    return [*reader.feed(text), *reader.end()]


class Reading:
    """What was found in the messages of one reply: usage by place (of each count the most), first id and model, endings."""

    def __init__(self) -> None:
        self.events = 0
        self.terminal: str | None = None
        self.output_seen = False
        self.error: Any = None
        self.response_id: str | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.finish_reasons: list[str] = []
        self.usage: dict[str, tuple[str, int]] = {}
        self.facts: dict[str, Any] = {}
        self.notes: set[str] = set()

    def read_event(self, event: SseEvent) -> None:
        """One stream event."""
        self.events += 1
        if event.unterminated:
            self.notes.add("last_event_unterminated")
        data = event.data.strip()
        if data == dialects.DONE:
            self.terminal = self.terminal or "[DONE]"
            return
        if self.terminal is not None:
            self.notes.add("events_after_terminal")
        message = loads(data)
        if isinstance(message, dict):
            self._read(message, data)
            kind = message.get("type")
            if kind in dialects.TERMINAL_TYPES:
                self.terminal = self.terminal or kind
            elif (member := dialects.TERMINAL_EVENTS.get(event.name)) is not None and member in message:
                self.terminal = self.terminal or event.name.decode()
            elif message.get("done") is True:
                self.terminal = self.terminal or "done"
            if self.error is None and (event.name == b"error" or kind == "error"):
                self.error = message
        elif event.name == b"error":
            self.error = data.decode("utf-8", "replace")
        elif message is None:
            self.notes.add("unreadable_event" if data else "empty_event")

    def read_body(self, message: dict[str, Any], data: bytes) -> None:
        """A whole JSON body."""
        self._read(message, data, is_whole=True)
        if message.get("type") == "error":
            self.error = self.error or message

    def read_text(self, media_type: str | None, text: bytes) -> tuple[str, bool]:
        """A whole decoded body; how far it could be read, and whether it was a stream."""
        state, value = json_of(media_type, text)
        if isinstance(value, dict):
            self.read_body(value, text)
        elif chunks := dialects.gemini_chunks(value):
            for part in chunks:
                self.read_body(part, orjson.dumps(part))
        elif state in ("opaque", "unreadable") and (events := _unnamed_events(media_type, text)):
            for event in events:
                self.read_event(event)
            return "read", True
        elif state == "read":
            self.output_seen = bool(value)
        return state, False

    def read_no_stream(self, media_type: str | None, text: bytes) -> str:
        """A whole decoded body that calls itself a stream and has no event: a server may say so and send a plain JSON body."""
        state, value = json_of(media_type, text)
        if isinstance(value, dict):
            self.read_body(value, text)
            return state
        is_silence = all(line.startswith(b":") for line in text.removeprefix(_BOM).splitlines() if line)
        return "read" if is_silence else "unreadable"  # heartbeats alone are read whole, and say nothing

    def error_text(self) -> str | None:
        """The vendor's own words for the error, scrubbed."""
        if self.error is None:
            return None
        words = self.error.get("message") if isinstance(self.error, dict) else self.error
        if not isinstance(words, str):
            words = orjson.dumps(self.error).decode()
        return scrub(words)

    def _read(self, message: dict[str, Any], data: bytes, *, is_whole: bool = False) -> None:
        inner = next((message[name] for name in dialects.WRAPPERS if isinstance(message.get(name), dict)), message)
        self.response_id = self.response_id or _text(message.get("id")) or _text(inner.get("id")) or _text(message.get("responseId"))
        self.model = self.model or _text(message.get("model")) or _text(inner.get("model")) or _text(message.get("modelVersion"))
        self.service_tier = _text(message.get("service_tier")) or _text(inner.get("service_tier")) or self.service_tier
        self.error = self.error or dialects.error_of(message) or dialects.error_of(inner)
        if not self.output_seen:
            self.output_seen = dialects.has_output(message) or (inner is not message and dialects.has_output(inner))
        reasons = dialects.finish_reasons(message) + (dialects.finish_reasons(inner) if inner is not message else [])
        if dialects.REFUSAL_HINT in data and (dialects.refuses(message) or dialects.refuses(inner)):
            reasons.append(dialects.REFUSAL)
        for reason in reasons:
            if reason not in self.finish_reasons:
                self.finish_reasons.append(identifier(reason))
        # of a body, which comes once, every place is looked at: a name in it may be escaped
        hinted = is_whole or any(map(data.__contains__, dialects.USAGE_HINTS))
        if hinted:
            self._read_usage(message, data)
        if any(map(data.__contains__, dialects.FACT_HINTS)):
            self.facts.update(dialects.gateway_facts(inner))
        if hinted or self.events <= 1 or message.get("type") in dialects.TERMINAL_TYPES:
            self.facts.update(dialects.response_facts(inner))

    def _read_usage(self, message: dict[str, Any], data: bytes) -> None:
        verbatim: Any = None
        for name, steps in dialects.USAGE_PLACES.items():
            if steps[0] not in message or not (found := dialects.place(message, steps)):
                continue
            text = _dumps(found)
            if text is None or _may_be_rewritten(text, data):
                verbatim = _loads_verbatim(data) if verbatim is None else verbatim
                text = _dumps(dialects.place(verbatim, steps))
            self._keep_usage(name, text)
        if dialects.BODY_COUNTS[0] in message or dialects.BODY_COUNTS[1] in message:
            verbatim = _loads_verbatim(data) if verbatim is None else verbatim
            self._keep_usage(dialects.BODY_PLACE, _dumps({name: verbatim[name] for name in dialects.BODY_COUNTS if name in verbatim}))

    def _keep_usage(self, name: str, text: str | None) -> None:
        if text is None or len(text) > MAX_USAGE_BYTES:
            self.notes.add("unreadable_usage")
        else:
            before, count = self.usage.get(name, (text, 0))
            self.usage[name] = (text if before == text else most(before, text), count + 1)


def loads(text: bytes) -> Any:
    """The JSON value, or None if it is none; what the strict parser refuses (a lone surrogate, NaN) is tried again leniently."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _loads_verbatim(text: bytes) -> Any:
    """The JSON value with every number kept as it was written: 1e3, 1.50 and 2^60 come out as they went in."""
    return _VERBATIM.decode(text.decode(json.detect_encoding(text), "surrogatepass"))


def _number(lexeme: str) -> orjson.Fragment:
    return orjson.Fragment(lexeme.encode())


_VERBATIM = json.JSONDecoder(parse_int=_number, parse_float=_number, parse_constant=str)
# Written so that the search is for the letters, and looks back only where they stand.
_EXPONENT = re.compile(r"e(?<=[0-9]e)")
_MINUS_ZERO = re.compile(rb"-0(?<=[\s:,\[]-0)")


def _may_be_rewritten(text: str, data: bytes) -> bool:
    """Whether a value read from `data` and written as `text` may hold a number in other digits; whole numbers have but one way, less -0."""
    return "." in text or _MINUS_ZERO.search(data) is not None or _EXPONENT.search(text) is not None


def _dumps(value: Any) -> str | None:
    """JSON text, or None where the value cannot be written as valid Unicode JSON."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return None


def json_text(value: Any) -> JsonText | None:
    """The same, as a record keeps it."""
    text = _dumps(value)
    return JsonText(text) if text is not None else None


def _text(value: Any) -> str | None:
    return identifier(value) if isinstance(value, str) and value else None
