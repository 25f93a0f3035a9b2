"""The Exchange machine: bytes and times in, records out. No socket, no clock, no file.

Both doors make the same calls in the same order:

    exchange = Exchange(...)                      a client's request head has come
    exchange.request_chunk(data) ...              its body, as it comes
    request = exchange.request_end()              -> Request
    attempt = exchange.attempt(...)               -> its .opened (Attempt) is journaled before a byte goes upstream
    attempt.head(...); attempt.chunk(...) ...     what upstream sends, as it comes
    attempt.client_gone(at)                       at any moment
    attempt.close(...)                            -> Response and, if bodies are kept, Body

Two rules. The cutting of the bytes is never visible in a record. What cannot be read is recorded as unreadable and
never raises: the bytes have passed already, and evidence of a damaged message is evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from proxy import event_stream, redact
from proxy.decoding import Decoder, DecodingError, decoder
from proxy.form import Field, FormReader, boundary_of
from schemas import dialects
from schemas.fingerprint import fingerprint
from schemas.reading import Reading, json_of, json_text, stream_decoder
from schemas.records import Attempt, Body, Instant, JsonText, Request, Response, UsageSeen
from schemas.scrub import identifier, scrub, scrub_json
from schemas.sse import LineDecoder, SseDecoder, SseEvent

Headers = Sequence[tuple[str, str]]

FRAMES_TYPE = "application/x-ndjson"  # how the frames of a WebSocket are kept: one a line
KEPT_BYTES = 16 << 20  # of one message; what is longer is relayed whole, hashed whole, and kept up to here
UNKNOWN = "unknown"  # whose message it is, where nothing tells


@dataclass(frozen=True, slots=True)
class Recording:
    """What the book and the home say about recording; the same for every exchange of a proxy."""

    fingerprint_key: bytes
    keep_bodies: bool
    credentials: tuple[str, ...] = ()  # the channels' own, which no record may show
    subject_of: Callable[[Request], str] = lambda _: UNKNOWN  # whose messages the bodies of a request are


class Client(msgspec.Struct, frozen=True):
    """Who connected to which door."""

    door: str
    address: str
    connection: str


class RequestHead(msgspec.Struct, frozen=True):
    """A request's head as the client sent it."""

    method: str
    host: str
    path: str
    query: str
    headers: Headers


class Exchange:
    """One client request and every attempt made for it."""

    def __init__(
        self, request_id: str, head: RequestHead, client: Client, recording: Recording, at: Instant, *, parent: str | None = None
    ) -> None:
        self.request_id = request_id
        self.parent = parent  # the connection's request, where this is a turn of a WebSocket
        self.head = head
        self.model = dialects.path_model(head.path)  # as the body says; what is known before it stands where the body says none
        self.stream: bool | None = None
        self.message: dict[str, Any] | None = None  # the request's JSON object, for routing; `request_body` lets go of it
        self.form_model: Field | None = None  # where a form names the model
        self._client = client
        self._recording = recording
        self._at = at
        self._body = _Message(head.headers)
        self._attempts = 0
        self._credentials = recording.credentials
        self._subject = UNKNOWN

    def request_chunk(self, data: bytes) -> None:
        """The next bytes of the request's body."""
        self._body.take(data)

    def request_end(self) -> Request:
        """The request as a record; its model and stream wish are known from here on."""
        body = self._body
        state, message = body.json()
        facts: JsonText | None = None
        if isinstance(message, dict):
            self.message = message
            model = message.get("model")
            self.model = model if isinstance(model, str) else self.model
            stream = message.get("stream")
            self.stream = stream if isinstance(stream, bool) else None
            facts = json_text(dialects.request_facts(message))
        elif body.form is not None:
            fields = body.form.fields
            self.form_model = fields.get("model")
            self.model = self.form_model.text if self.form_model is not None else self.model
            form = {name: fields[name].text for name in dialects.FORM_FACTS if name in fields}
            self.stream = {"true": True, "false": False}.get(form.pop("stream", ""))
            facts = json_text(form) if form else None
        credential = redact.credential(self.head.headers, self.head.query)
        if credential is not None:
            self._credentials = (*self._credentials, credential[0])
        request = Request(
            request_id=self.request_id,
            door=self._client.door,
            parent_request_id=self.parent,
            received_at=self._at,
            client_address=self._client.address,
            client_connection=self._client.connection,
            method=self.head.method,
            host=self.head.host,
            path=identifier(self.head.path, limit=2048),
            query=redact.query(self.head.query),
            headers=redact.request_headers(self.head.headers),
            credential=fingerprint(self._recording.fingerprint_key, credential[0]) if credential else None,
            credential_in=credential[1] if credential else None,
            api_model=identifier(self.model) if self.model is not None else None,
            stream=self.stream,
            body_facts=facts,
            body_state=state,
            body_bytes=body.size,
            body_sha256=body.sha256(),
            match_sha256=body.match_sha256(),
        )
        record = redact.without(request, self._credentials)
        self._subject = self._recording.subject_of(record)
        return record

    def request_body(self, at: Instant) -> list[Body]:
        """The request's bytes as a record, if bodies are kept and there are any; the machine lets go of them."""
        self.message = None
        body, self._body = self._body, _NOTHING
        return body.record(self.request_id, 0, at, self._subject) if self._recording.keep_bodies else []

    def attempt(
        self, *, channel: str, role: str, reason: str, url: str, sent_model: str | None, modified: tuple[str, ...], at: Instant
    ) -> AttemptCapture:
        """The next try upstream."""
        self._attempts += 1
        opened = Attempt(
            request_id=self.request_id,
            ordinal=self._attempts,
            channel=channel,
            role=role,
            reason=reason,
            url=url,
            sent_model=identifier(sent_model) if sent_model is not None else None,
            modified=modified,
            opened_at=at,
        )
        subject = self._subject if self._recording.keep_bodies else None
        return AttemptCapture(redact.without(opened, self._credentials), subject, self._credentials)

    def own_answer(self, status: int | None, ending: str, error: str, at: Instant, *, client_gone_at: Instant | None = None) -> Response:
        """The proxy's own answer: a refusal before any attempt, or the 502 after the last one failed."""
        return Response(
            request_id=self.request_id,
            ordinal=0,
            http_status=status,
            ending=ending,
            error=scrub(error),
            closed_at=at,
            relayed=True,
            client_gone_at=client_gone_at,
        )


class AttemptCapture:
    """What one attempt's upstream sent, read as it passed; its body is kept where it is somebody's."""

    def __init__(self, opened: Attempt, subject: str | None, credentials: tuple[str, ...]) -> None:
        self.opened = opened
        self._credentials = credentials
        self.closed = False
        self.status: int | None = None
        self.streamed = False
        self._subject = subject
        self._headers: JsonText | None = None
        self._headers_at: Instant | None = None
        self._first_byte_at: Instant | None = None
        self._first_token_at: Instant | None = None
        self._client_gone_at: Instant | None = None
        self._body: _Message = _NOTHING
        self._stream: SseDecoder | LineDecoder | event_stream.EventStreamDecoder | None = None
        self._found = Reading()

    @property
    def finished(self) -> bool:
        """Whether nothing more is owed to the client: the terminal marker has passed, or as many bytes as were announced."""
        return self._found.terminal is not None or self._body.whole

    def head(self, status: int, headers: Headers, at: Instant) -> None:
        """Upstream's status line and headers."""
        self.status = status
        self._headers = redact.response_headers(headers)
        self._headers_at = at
        self._body = _Message(headers)
        kind = self._body.media_type
        self._stream = event_stream.EventStreamDecoder() if kind == event_stream.MEDIA_TYPE else stream_decoder(kind)
        self.streamed = self._stream is not None

    def chunk(self, data: bytes, at: Instant) -> None:
        """The next bytes of upstream's body, as they were on the wire."""
        if not data:
            return
        if self._first_byte_at is None:
            self._first_byte_at = at
        self._body.take(data)
        if self._stream is not None:
            self._events(self._stream.feed(self._body.decoded(data)), at)

    def frames(self, served_model: str | None = None) -> None:
        """After `head`: what follows comes in frames of a WebSocket, through `frame`; the session may have named its model."""
        self.streamed = True
        self._body = _Message((("content-type", FRAMES_TYPE),))
        self._found.model = served_model

    def frame(self, data: bytes, at: Instant, *, text: bool = True) -> None:
        """The next frame, whole; kept as one line. A binary one is counted and kept, and not read."""
        if self._first_byte_at is None:
            self._first_byte_at = at
        self._body.take(data + b"\n")
        if text:
            self._events([SseEvent(b"", data)], at)
        else:
            self._found.events += 1

    def end_frames(self, terminal: str | None, facts: dict[str, Any]) -> None:
        """A connection ended: by which close frame, if one came, and what else is to be known of it."""
        self._found.terminal = terminal
        self._found.facts.update(facts)

    def client_gone(self, at: Instant) -> None:
        """The client left; the first report counts."""
        if self._client_gone_at is None:
            self._client_gone_at = at

    def close(self, ending: str, at: Instant, *, relayed: bool, error: str | None = None) -> list[Response | Body]:
        """The attempt ended; its records, once. A second call gives nothing: the first ending stands."""
        if self.closed:
            return []
        self.closed = True
        body, found = self._body, self._found
        if self.streamed:
            state = self._end_of_stream(at)
        else:
            state, text = body.text()
            if state == "read":
                state, self.streamed = found.read_text(body.media_type, text)
            if state in ("read", "opaque") and not self.streamed and ending == "complete" and self.status is not None:
                found.terminal = "body"
            if state == "opaque" and body.size and self.status is not None and self.status < 300:
                found.output_seen = True
            if found.output_seen:
                self._first_token_at = self._first_byte_at
        response = Response(
            request_id=self.opened.request_id,
            ordinal=self.opened.ordinal,
            http_status=self.status,
            headers=self._headers,
            content_type=body.media_type,
            content_encoding=body.content_encoding,
            ending=ending,
            error=scrub(error) if error else found.error_text(),
            error_object=json_text(scrub_json(found.error)) if found.error is not None else None,
            error_event=found.error is not None and self.status is not None and self.status < 400,
            headers_at=self._headers_at,
            first_byte_at=self._first_byte_at,
            first_token_at=self._first_token_at,
            closed_at=at,
            client_gone_at=self._client_gone_at,
            relayed=relayed,
            streamed=self.streamed,
            terminal=found.terminal,
            events=found.events,
            output_seen=found.output_seen,
            finish_reasons=tuple(found.finish_reasons),
            response_id=found.response_id,
            served_model=found.model,
            service_tier=found.service_tier,
            usage=tuple(UsageSeen(path, text, count) for path, (text, count) in sorted(found.usage.items())),
            facts=json_text(found.facts) if found.facts else None,
            notes=tuple(self._notes(ending)),
            body_state=state,
            body_bytes=body.size,
            body_sha256=body.sha256(),
        )
        bodies = body.record(self.opened.request_id, self.opened.ordinal, at, self._subject) if self._subject is not None else []
        return [redact.without(response, self._credentials), *bodies]

    def _events(self, events: Iterable[SseEvent], at: Instant) -> None:
        for event in events:
            had_output = self._found.output_seen
            self._found.read_event(event)
            if self._found.output_seen and not had_output:
                self._first_token_at = at

    def _end_of_stream(self, at: Instant) -> str:
        """Whatever the end left undispatched; then how far the body could be read."""
        if self._stream is not None:
            self._events(self._stream.end(), at)
        if self._body.undecodable:
            return "unreadable"
        if self._found.events == 0 and self._body.size:
            state, text = self._body.text()
            return self._found.read_no_stream(self._body.media_type, text) if state == "read" else "unreadable"
        return "read" if self._body.size else "none"

    def _notes(self, ending: str) -> Iterator[str]:
        if self.streamed and self._found.events and self._found.terminal is None and ending == "complete":
            yield "no_terminal_marker"
        if self._stream is not None:
            yield from self._stream.notes()
        if self._body.undecodable:
            yield "undecodable"
        if self._body.truncated:
            yield "kept_in_part"
        yield from sorted(self._found.notes)


class _Message:
    """One message's bytes: counted and hashed whole, kept up to a limit, decoded as a copy."""

    def __init__(self, headers: Headers) -> None:
        self.content_type: str | None = None
        self.content_encoding: str | None = None
        self._length: int | None = None  # as announced
        for name, value in headers:
            match name.lower():
                case "content-type":
                    self.content_type = value
                case "content-length":
                    self._length = int(value) if value.isascii() and value.isdigit() else None
                case "content-encoding" if value:  # one list, also where it is told in several lines (RFC 9110 5.3)
                    self.content_encoding = f"{self.content_encoding}, {value}" if self.content_encoding else value
        self.media_type = self.content_type.partition(";")[0].strip().lower() if self.content_type else None
        self.size = 0
        self.truncated = False
        self.undecodable = False
        self._kept: list[bytes] = []
        self._hash: Any = None  # of what has passed, once it is too long to keep
        self._digest: str | None = None  # of what is kept, once it was asked for
        self._decoder: Decoder | None = None
        self._boundary = boundary_of(self.content_type or "") if self.media_type == "multipart/form-data" else None
        self.form = FormReader(self._boundary) if self._boundary is not None else None

    def take(self, data: bytes) -> None:
        """The next bytes as they passed."""
        self.size += len(data)
        self._digest = None
        if self.form is not None:
            self.form.feed(data)
        if self.size <= KEPT_BYTES:
            self._kept.append(data)
        else:
            self._overflow(data)

    def _overflow(self, data: bytes) -> None:
        """Past the limit the bytes are hashed as they pass; before it, once, at the end."""
        if not self.truncated:
            self.truncated = True
            self._kept = [self._content()]
            self._hash = hashlib.sha256(self._kept[0])
            room = KEPT_BYTES - len(self._kept[0])
            self._kept.append(data[:room])
        self._hash.update(data)

    def decoded(self, data: bytes) -> bytes:
        """What these bytes decode to, for a body read while it passes; empty once it has proved undecodable."""
        if not self.content_encoding:
            return data
        if self.undecodable:
            return b""
        if self._decoder is None:
            self._decoder = decoder(self.content_encoding)
        try:
            if self._decoder is not None:
                return self._decoder.feed(data)
        except DecodingError:
            pass
        self.undecodable = True
        return b""

    def text(self) -> tuple[str, bytes]:
        """The decoded body and `read`, or nothing and why it cannot be read (Response.body_state)."""
        if not self.size:
            return "none", b""
        if self.truncated:
            return "too_large", b""
        text = self._content()
        if self.content_encoding:
            inner = decoder(self.content_encoding)
            if inner is None:
                return "opaque", b""
            try:
                text = inner.feed(text)
            except DecodingError:
                return "unreadable", b""
        return "read", text

    def json(self) -> tuple[str, Any]:
        """How far the body could be read (Response.body_state), and the JSON value."""
        state, text = self.text()
        return json_of(self.media_type, text) if state == "read" else (state, None)

    @property
    def whole(self) -> bool:
        """Whether as many bytes have passed as Content-Length announced."""
        return self._length is not None and self.size >= self._length

    def sha256(self) -> str | None:
        """Of all bytes that passed; null if none did."""
        if not self.size:
            return None
        if self._digest is None:
            self._digest = self._hash.hexdigest() if self.truncated else hashlib.sha256(self._content()).hexdigest()
        return self._digest

    def match_sha256(self) -> str | None:
        """Of the bytes with a multipart boundary made constant: an SDK draws a new one for each retry."""
        if self._boundary is None or self.truncated:
            return self.sha256()
        return hashlib.sha256(self._content().replace(self._boundary, b"boundary")).hexdigest()

    def record(self, request_id: str, ordinal: int, at: Instant, subject: str) -> list[Body]:
        """The body's record, if there were bytes."""
        digest = self.sha256()
        if digest is None:
            return []
        content_type = _scrubbed(self.content_type) if self.content_type else None
        content = self._content()
        return [Body(request_id=request_id, ordinal=ordinal, at=at, content_type=content_type,
                     content_encoding=self.content_encoding, size=self.size, sha256=digest, subject=subject, content=content)]  # fmt: skip

    def _content(self) -> bytes:
        if len(self._kept) != 1:
            self._kept = [b"".join(self._kept)]
        return self._kept[0]


class _Nothing(_Message):
    """Of a message whose head has not come, or that was let go of; one for all."""

    def take(self, data: bytes) -> None:
        raise AssertionError(f"{len(data)} bytes of no message")


_NOTHING = _Nothing(())


@lru_cache(maxsize=256)  # a multipart boundary apart, there are few
def _scrubbed(content_type: str) -> str:
    return scrub(content_type)
