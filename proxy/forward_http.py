"""mitmproxy's HTTP layers, held to the rules of both doors: heads that say one thing, clients that get on, bodies that fit.

They take the place of mitmproxy's own where its HTTP layer makes them, and differ in nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from mitmproxy import http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.commands import StartHook
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server

from proxy import answers, heads
from proxy.held import HeldBody
from proxy.progress import Progress

BODY = "tokenledger_body"  # where a flow carries what holds its body
TAKE = "tokenledger_take"  # and what each piece of it is shown to
TUNNEL = "tokenledger_tunnel"  # and that it asks for a tunnel to what no channel has
OVERDUE = "tokenledger_overdue"  # and why nobody waits for its upstream any more
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9]\b")  # RFC 9110, section 15.2; after 101 the connection is another protocol's
_QUOTED = re.compile(r":? b['\"].*", re.DOTALL)
Commands = Generator[commands.Command, Any, None]


@dataclass
class BodyPieceHook(StartHook):
    """A piece of a large body has been handed on: the next one waits until there is room for it."""

    flow: http.HTTPFlow


class StrictServer(Http1Server):
    """The client's side of an HTTP/1 connection; the innermost one, where a tunnel holds another."""

    of_client: ClassVar[WeakValueDictionary[str, StrictServer]] = WeakValueDictionary()

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.progress = Progress()
        self.of_client[context.client.id] = self

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.DataReceived):
            self.progress.received(len(event.data))
            if self.state == self.read_headers and (why := self._fault(bytes(self.buf) + event.data)) is not None:
                yield commands.SendData(self.conn, answers.raw(*why))
                yield commands.CloseConnection(self.conn)
                self.state = self.done
                return
        yield from super()._handle_event(event)

    def stalled(self) -> bool:
        """Whether the client does not get on with what it has begun; asked once a tick."""
        if self.state == self.read_headers and (self.buf or self.stream_id == 1):
            return self.progress.stalled(("head", self.stream_id))
        return self.progress.stalled(("body", self.stream_id) if self.state == self.read_body else None)

    @staticmethod
    def _fault(data: bytes) -> tuple[int, str] | None:
        end = heads.end_of_head(data)
        if (end or len(data)) > heads.HEAD_BYTES:
            return 431, "the head is too long"
        why = heads.raw_fault(data[:end]) if end is not None else None
        return None if why is None else (400, why)


class FinalClient(Http1Client):
    """Upstream's side of an HTTP/1 connection, which waits for the final answer; mitmproxy's takes the first head for it.

    What is said meanwhile (100 Continue, 103 Early Hints) stays here, as with mitmproxy's HTTP/2 and at the other door: a
    client that waits for 100 has it from us.
    """

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        """A head has come, or a part of one."""
        while self.request and _INTERIM.match(data := bytes(self.buf)) and heads.end_of_head(data):
            self.buf.maybe_extract_lines()
        if self.buf or not isinstance(event, events.DataReceived):
            yield from super().read_headers(event)


class HeldStream(HttpStream):
    """One request and its answer; a large body waits in a file until its record is durable, and then goes out piece by piece."""

    def state_consume_request_body(self, event: events.Event) -> Commands:
        """The body of a request that is recorded, or answered by us."""
        held: HeldBody | None = (
            self.flow.metadata.pop(BODY, None) if isinstance(event, RequestEndOfMessage) else self.flow.metadata.get(BODY)
        )
        if isinstance(event, RequestData) and self.flow.response is not None:
            return  # it is answered already: nobody wants its body
        if isinstance(event, RequestData) and held is not None:
            self.flow.metadata[TAKE](event.data)
            try:
                held.take(event.data)
            except OSError as error:
                words = f"this request cannot be held ({error.strerror}), so it was not sent"
                self.flow.response = http.Response.make(503, answers.body(words, "server_error", "not_recorded"), answers.HEADERS)
        elif isinstance(event, RequestEndOfMessage) and held is not None and (content := held.whole()) is None:
            yield from self._send(held, event)
        else:
            if isinstance(event, RequestEndOfMessage) and held is not None:
                self.request_body_buf += content or b""
            yield from super().state_consume_request_body(event)

    def handle_connect_regular(self) -> Commands:
        """A tunnel is asked for: one that nobody opens stands before the client is told so, for the other side may be first to speak."""
        if TUNNEL in self.flow.metadata and self.flow.response is None:
            failed = yield commands.OpenConnection(self.context.server)
            if failed:
                words = f"{self.flow.request.host}:{self.flow.request.port} cannot be reached: {failed}"
                self.flow.response = http.Response.make(502, answers.upstream_failed(502, words), answers.HEADERS)
        yield from super().handle_connect_regular()  # type: ignore[no-untyped-call]

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> Commands:
        """One side broke. What it sent is not quoted, as mitmproxy does: it may hold anything."""
        if isinstance(event, ResponseProtocolError) and OVERDUE in self.flow.metadata:
            event = ResponseProtocolError(event.stream_id, self.flow.metadata[OVERDUE], 504)
        event.message = _QUOTED.sub("", event.message)
        yield from super().handle_protocol_error(event)

    def _send(self, held: HeldBody, end: HttpEvent) -> Commands:
        self.client_state = self.state_done
        yield HttpRequestHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        if self.flow.response is not None:
            yield from self.send_response()
            return
        if not (yield from self.make_server_connection()):
            return
        yield SendHttp(RequestHeaders(self.stream_id, self.flow.request, end_stream=False), self.context.server)
        for piece in held.pieces():
            yield SendHttp(RequestData(self.stream_id, piece), self.context.server)
            yield BodyPieceHook(self.flow)
        held.close()
        yield SendHttp(end, self.context.server)
