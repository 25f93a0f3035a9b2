"""WebSockets at the forward door: every byte passes as it came, and a copy of it is read.

mitmproxy's own layer takes messages apart and makes new ones: it turns a connection that was lost into one that was
closed in order, after which an SDK that would have come back does not. This one hands on bytes, and holds them back only
while a turn that they complete is being made durable.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from mitmproxy import http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import websocket
from mitmproxy.websocket import WebSocketMessage

from proxy.desk import Desk, Refused
from proxy.exchange import AttemptCapture, Client, Exchange
from proxy.sockets import ABNORMAL, NO_STATUS, End, SocketLog
from proxy.turns import Way
from proxy.websocket import CLOSE, FrameReader, Message, agreed

_BLIND = "tokenledger_blind"  # where a flow says that its frames could not be read to the end
Commands = Generator[commands.Command, Any, None]


class ByteRelay(layer.Layer):
    """Takes the place of mitmproxy's WebsocketLayer, and calls the same hooks."""

    def __init__(self, context: Context, flow: http.HTTPFlow) -> None:
        super().__init__(context)
        self.flow = flow
        assert flow.response is not None
        extensions = flow.response.headers.get("Sec-WebSocket-Extensions", "")
        self._readers = {side: FrameReader(agreed(extensions, side)) for side in ("client", "server")}

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            yield websocket.WebsocketStartHook(self.flow)
        elif not self.flow.live:
            return
        elif isinstance(event, events.DataReceived):
            yield from self._pass(event)
        elif isinstance(event, events.ConnectionClosed):
            yield from self._end("client" if event.connection == self.context.client else "server")

    def _pass(self, event: events.DataReceived) -> Commands:
        socket = self.flow.websocket
        assert socket is not None
        side, to = ("client", self.context.server) if event.connection == self.context.client else ("server", self.context.client)
        for message in self._readers[side].feed(event.data):
            if message.opcode == CLOSE:
                if socket.closed_by_client is None:
                    socket.closed_by_client = side == "client"
                    socket.close_code, socket.close_reason = _code_and_reason(message)
                continue
            seen = WebSocketMessage(message.opcode, side == "client", message.data)
            socket.messages[:] = [seen]  # all of them would be kept for as long as the connection lasts
            yield websocket.WebsocketMessageHook(self.flow)
            if seen.dropped:
                yield from self._end("server")
                return
        yield commands.SendData(to, event.data)

    def _end(self, by: str) -> Commands:
        socket = self.flow.websocket
        assert socket is not None
        socket.timestamp_end = time.time()
        if socket.closed_by_client is None:
            socket.closed_by_client = by == "client"
        self.flow.live = False
        self.flow.metadata[_BLIND] = any(reader.blind for reader in self._readers.values())
        yield commands.CloseConnection(self.context.client)
        yield commands.CloseConnection(self.context.server)
        yield websocket.WebsocketEndHook(self.flow)


def log_of(desk: Desk, flow: http.HTTPFlow, exchange: Exchange, client: Client, attempt: AttemptCapture) -> SocketLog:
    """The log of a connection whose upgrade was answered with 101."""
    assert flow.response is not None
    opened = attempt.opened
    headers = [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in flow.response.headers.fields]
    way = Way(opened.channel, opened.role, opened.url, flow.response.status_code, headers, exchange.model, opened.sent_model)
    return SocketLog(desk, exchange, client, attempt, way)


async def take(log: SocketLog, message: WebSocketMessage, *, refuse: bool) -> None:
    """Record one message on its way; one that must be recorded and cannot be is dropped, and the connection with it."""
    if not message.from_client:
        log.server(message.content, text=message.is_text)
        return
    try:
        await log.client(message.content, text=message.is_text, refuse=refuse)
    except Refused:
        message.drop()


def close(log: SocketLog, flow: http.HTTPFlow) -> None:
    """The connection has ended."""
    log.end(end_of(flow), unreadable=bool(flow.metadata.get(_BLIND)))


def end_of(flow: http.HTTPFlow) -> End:
    """How a connection ended, as its flow tells."""
    assert flow.websocket is not None
    by = "client" if flow.websocket.closed_by_client else "upstream"
    code = flow.websocket.close_code
    return End(by, code if code is not None else ABNORMAL, flow.websocket.close_reason or "")


def _code_and_reason(message: Message) -> tuple[int, str]:
    if len(message.data) < 2:
        return NO_STATUS, ""
    return int.from_bytes(message.data[:2]), message.data[2:].decode("utf-8", "replace")
