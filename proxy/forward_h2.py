"""Back-pressure between HTTP/2 and whatever is on the other side: what one side takes no more of is not read from the other.

A stream of HTTP/2 has a window of its own, and mitmproxy holds what does not fit into it in memory, without an end. Here the
reader of an upstream waits while too much of what it brought is held, and so does whoever sends a large body. Streams that share
an upstream's connection wait together: none goes on alone while megabytes of another's answer lie here unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream
from mitmproxy.proxy.layers.http._http2 import Http2Client, Http2Connection, Http2Server
from mitmproxy.proxy.server import ConnectionHandler

HELD_BYTES = 4 << 20
Commands = Generator[commands.Command, Any, None]


class _Bounded(Http2Connection):
    """One end of a connection, which can be found by it, and tells when something moved on it."""

    of: ClassVar[WeakValueDictionary[Connection, _Bounded]] = WeakValueDictionary()

    def __init__(self, context: Context) -> None:
        super().__init__(context)  # type: ignore[call-arg]  # the two ends know which connection is theirs
        self.moved = asyncio.Event()
        self.of[self.conn] = self
        self._http = next(layer for layer in reversed(context.layers) if isinstance(layer, HttpLayer))

    def _handle_event(self, event: events.Event) -> Commands:
        yield from super()._handle_event(event)
        if isinstance(event, events.ConnectionEvent):
            self.moved.set()

    @property
    def is_full(self) -> bool:
        """Whether anything waits for a window."""
        return self.conn.connected and any(self.h2_conn.stream_buffers.values())

    async def room(self, serves: Callable[[HttpStream], bool]) -> None:
        """Wait until of none of these streams too much waits."""
        while self.is_full and any(self._held(number) > HELD_BYTES for number, stream in self._http.streams.items() if serves(stream)):
            self.moved.clear()
            await self.moved.wait()

    def _held(self, number: int) -> int:
        return sum(len(piece.data) for piece in self.h2_conn.stream_buffers.get(self._number(number), ()))

    def _number(self, number: int) -> int:
        """This connection's number of a client's stream."""
        return number


class BoundedServer(_Bounded, Http2Server):
    """The client's side."""


class BoundedClient(_Bounded, Http2Client):
    """Upstream's side, which numbers its streams anew."""

    def _number(self, number: int) -> int:
        return self.our_stream_id.get(number, 0)


def is_behind(handler: ConnectionHandler) -> bool:
    """Whether the client has not taken all that was sent to it."""
    io, side = handler.transports.get(handler.client), _Bounded.of.get(handler.client)
    written = io is not None and isinstance(io.writer, asyncio.StreamWriter) and io.writer.transport.get_write_buffer_size() > 0
    return written or (side is not None and side.is_full)


_drain_writers = ConnectionHandler.drain_writers


async def drained(handler: ConnectionHandler) -> None:
    """Wait for room before more is read, in the place of mitmproxy's own. What a client sends is always read, for it makes the room."""
    await _drain_writers(handler)  # type: ignore[no-untyped-call]
    side = _Bounded.of.get(handler.client)
    if side is not None and side.is_full:
        reader = asyncio.current_task()
        read = next((connection for connection, io in handler.transports.items() if io.handler is reader), None)
        await side.room(lambda stream: stream.context.server is read)


async def sent(handler: ConnectionHandler, flow: http.HTTPFlow) -> None:
    """Wait until upstream has taken what was sent of a large body."""
    await _drain_writers(handler)  # type: ignore[no-untyped-call]
    side = _Bounded.of.get(flow.server_conn)
    if side is not None:
        await side.room(lambda stream: getattr(stream, "flow", None) is flow)
