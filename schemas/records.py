"""The raw records: what the proxies write and the ETL reads. Frozen, flat, and nothing in them is interpreted.

Every instant is an int of microseconds since 1970 in UTC. JSON columns hold JSON text. A record's place in its
journal (`writer`, `seq`) is its identity: no two raw rows share it, and a gap in `seq` is a loss that can be seen.
"""

from __future__ import annotations

import typing
from typing import Annotated, Any, ClassVar, NewType

import msgspec
import pyarrow as pa

Instant = NewType("Instant", int)
JsonText = NewType("JsonText", str)


class UsageSeen(msgspec.Struct, frozen=True, gc=False):
    """One place where the vendor reported usage, with the last non-null object seen there; of each count in it the most that was (schemas/usage.py)."""

    path: str  # where in the message it stood: `usage`, `choices[0].usage`, `x_groq.usage`, `response.usage`, ...
    object: str  # the object verbatim: JSON text whose numbers keep the digits they were written with
    count: int  # how many times an object stood at this path


def _doc(text: str) -> msgspec.Meta:
    """A field's meaning, which becomes the Parquet column's description."""
    return msgspec.Meta(description=text)


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request as a client sent it to a door. An SDK's retry is a request of its own; the ETL links them."""

    kind: ClassVar[str] = "request"
    instant: ClassVar[str] = "received_at"

    request_id: Annotated[str, _doc("uuid7, given at the door; the gateway returns it as x-ledger-request-id")]
    door: Annotated[str, _doc("forward | gateway")]
    parent_request_id: Annotated[str | None, _doc("the connection this turn belongs to (WebSocket), else null")] = None
    received_at: Annotated[Instant, _doc("when the request's headers were complete")]
    client_address: Annotated[str, _doc("the client's IP address")]
    client_connection: Annotated[str, _doc("names the client's connection within this proxy's life")]
    method: Annotated[str, _doc("HTTP method; WS for a turn on a WebSocket, whose path, query and headers are those of the upgrade")]
    host: Annotated[str, _doc("forward: the connection's target host:port; gateway: the Host header as sent")]
    path: Annotated[str, _doc("the path as sent, without the query")]
    query: Annotated[str | None, _doc("the query as sent, credentials scrubbed")] = None
    headers: Annotated[JsonText, _doc("allow-listed headers, lower-case name -> value")]
    credential: Annotated[str | None, _doc("keyed fingerprint of the credential, null if none was sent")] = None
    credential_in: Annotated[
        str | None, _doc("where it stood: authorization | x-api-key | api-key | x-goog-api-key | sec-websocket-protocol | query")
    ] = None
    api_model: Annotated[str | None, _doc("the model id in the body (or form, or path), null if none")] = None
    stream: Annotated[bool | None, _doc("the body's `stream`, null if absent")] = None
    body_facts: Annotated[JsonText | None, _doc("allow-listed members of the body, verbatim")] = None
    body_state: Annotated[str, _doc("none | read | unreadable | opaque (a content type we do not parse) | too_large")] = "none"
    body_bytes: Annotated[int, _doc("bytes of body as sent")] = 0
    body_sha256: Annotated[str | None, _doc("of the bytes as sent, null if there was no body")] = None
    match_sha256: Annotated[str | None, _doc("of the body with a multipart boundary made constant: equal for an SDK's retries")] = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """OPEN: one try upstream, durable before its first byte left."""

    kind: ClassVar[str] = "attempt"
    instant: ClassVar[str] = "opened_at"

    request_id: Annotated[str, _doc("the request this try serves")]
    ordinal: Annotated[int, _doc("1, 2, ... within the request")]
    channel: Annotated[str, _doc("the channel's name in channels.toml")]
    role: Annotated[str, _doc("primary | backup; direct at the forward door, where the client chose the channel")]
    reason: Annotated[str, _doc("first | retry | fallback | without_usage_option")]
    url: Annotated[str, _doc("scheme, host, port and path it was sent to, without query")]
    sent_model: Annotated[str | None, _doc("the model id sent upstream")] = None
    modified: Annotated[tuple[str, ...], _doc("what the door changed: model, credential, stream_options, ...")] = ()
    opened_at: Annotated[Instant, _doc("just before the first byte left")]


class Response(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """CLOSE: how one attempt ended. Ordinal 0 is the proxy's own answer (a refusal, or 502 when all channels failed)."""

    kind: ClassVar[str] = "response"
    instant: ClassVar[str] = "closed_at"

    request_id: Annotated[str, _doc("the request")]
    ordinal: Annotated[int, _doc("the attempt, or 0 for the proxy's own answer")]
    http_status: Annotated[
        int | None,
        _doc("upstream's status, null if it never answered; a turn on a WebSocket has the upgrade's 101, or the one its error frame names"),
    ] = None
    headers: Annotated[JsonText | None, _doc("allow-listed response headers, lower-case name -> value")] = None
    content_type: Annotated[str | None, _doc("media type without parameters")] = None
    content_encoding: Annotated[str | None, _doc("as sent by upstream")] = None
    ending: Annotated[
        str,
        _doc(
            "complete | upstream_truncated | connect_error | timeout | client_gone (cut because the client left) | "
            "proxy_stopped | refused (ordinal 0: refused before any attempt) | exhausted (ordinal 0: no channel answered)"
        ),
    ]
    error: Annotated[str | None, _doc("what went wrong, one scrubbed line: the transport's words or the vendor's message")] = None
    error_object: Annotated[JsonText | None, _doc("the vendor's error object verbatim, scrubbed")] = None
    error_event: Annotated[bool, _doc("an error stood inside a body or stream that began as a success")] = False
    headers_at: Annotated[Instant | None, _doc("upstream's headers were complete")] = None
    first_byte_at: Annotated[Instant | None, _doc("first body byte")] = None
    first_token_at: Annotated[Instant | None, _doc("first event or body that carried output, null if none did")] = None
    closed_at: Annotated[Instant, _doc("the attempt ended, however it ended")]
    client_gone_at: Annotated[Instant | None, _doc("the client left before the end was delivered")] = None
    relayed: Annotated[bool, _doc("its bytes went to the client (false: answered by a retry, a fallback or us)")] = False
    streamed: Annotated[bool, _doc("the body was a stream of events")] = False
    terminal: Annotated[str | None, _doc("the marker that ended it: [DONE], response.completed, message_stop, body, ...")] = None
    events: Annotated[int, _doc("stream events decoded, comments not counted")] = 0
    output_seen: Annotated[bool, _doc("output (text, a tool call, audio, a vector, ...) was seen")] = False
    finish_reasons: Annotated[tuple[str, ...], _doc("distinct finish or stop reasons in order")] = ()
    response_id: Annotated[str | None, _doc("the vendor's id in the body")] = None
    served_model: Annotated[str | None, _doc("the model in the body")] = None
    service_tier: Annotated[str | None, _doc("the service tier in the body")] = None
    usage: Annotated[
        tuple[UsageSeen, ...], _doc("every place usage was reported, an object each: the last, with the most of each count")
    ] = ()
    facts: Annotated[
        JsonText | None, _doc("other allow-listed members of the body, verbatim (provider, speed, sizes, tool items, ...)")
    ] = None
    notes: Annotated[tuple[str, ...], _doc("no_terminal_marker, last_event_unterminated, bom, unreadable_event, late_usage, ...")] = ()
    body_state: Annotated[str, _doc("none | read | unreadable | opaque | too_large")] = "none"
    body_bytes: Annotated[int, _doc("bytes of body received from upstream")] = 0
    body_sha256: Annotated[str | None, _doc("of those bytes, null if there were none")] = None


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Anything else worth evidence: a proxy's start or stop, a loss, a tunnel, a clock step, a wallet entry."""

    kind: ClassVar[str] = "event"
    instant: ClassVar[str] = "at"

    event_id: Annotated[str, _doc("uuid7")]
    at: Annotated[Instant, _doc("when")]
    event: Annotated[
        str,
        _doc(
            "proxy_started | proxy_stopped | recovered | loss | loss_acknowledged | tunnel | clock_step | "
            "wallet_topup | wallet_adjust | wallet_refund | wallet_expire | wallet_snapshot | ..."
        ),
    ]
    request_id: Annotated[str | None, _doc("the request it concerns, if one")] = None
    actor: Annotated[str | None, _doc("who, for what a person did")] = None
    reason: Annotated[str | None, _doc("why, in their words")] = None
    reference: Annotated[str | None, _doc("their reference: invoice, ticket, statement line")] = None
    facts: Annotated[JsonText, _doc("the event's own facts; amounts are decimal texts")] = JsonText("{}")


class Body(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The bytes of one message as they passed, or encrypted as the book says. Absent when it says bodies = "digest"."""

    kind: ClassVar[str] = "body"
    instant: ClassVar[str] = "at"

    request_id: Annotated[str, _doc("the request")]
    ordinal: Annotated[int, _doc("0: what the client sent; n: what attempt n received")]
    at: Annotated[Instant, _doc("when the message ended")]
    content_type: Annotated[str | None, _doc("media type with parameters, as sent")] = None
    content_encoding: Annotated[str | None, _doc("as sent")] = None
    size: Annotated[int, _doc("bytes that passed")]
    sha256: Annotated[str, _doc("of all bytes that passed")]
    subject: Annotated[str | None, _doc("whose message it is: user:NAME | key:FINGERPRINT | unknown; null where nobody asked")] = None
    key: Annotated[str | None, _doc("the id of the subject's key under which `content` is encrypted (schemas/bodykeys.py), else null")] = (
        None
    )
    content: Annotated[
        bytes, _doc("the bytes kept; fewer than `size` where the message exceeded the keeping limit, none where it was erased")
    ] = b""


Record = Request | Attempt | Response | Event | Body
KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in (Request, Attempt, Response, Event, Body)}

_USAGE = pa.list_(pa.struct([("path", pa.string()), ("object", pa.string()), ("count", pa.int64())]))
_ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    JsonText: pa.string(),
    int: pa.int64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    Instant: pa.timestamp("us"),
    tuple[str, ...]: pa.list_(pa.string()),
    tuple[UsageSeen, ...]: _USAGE,
}


def arrow_schema(cls: type[Record]) -> pa.Schema:
    """The Parquet schema of one kind: its fields in order, then `writer` and `seq`; descriptions in the metadata."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = []
    for name in cls.__struct_fields__:
        hint, meaning = typing.get_args(hints[name])
        members = [a for a in typing.get_args(hint) if a is not type(None)] if type(None) in typing.get_args(hint) else [hint]
        nullable = members != [hint]
        fields.append(pa.field(name, _ARROW[members[0]], nullable, {"description": meaning.description}))
    fields.append(pa.field("writer", pa.string(), False, {"description": "the journal that recorded this row"}))
    fields.append(pa.field("seq", pa.int64(), False, {"description": "its place in that journal"}))
    return pa.schema(fields, {"description": (cls.__doc__ or "").strip()})


ARROW: dict[str, pa.Schema] = {kind: arrow_schema(cls) for kind, cls in KINDS.items()}
