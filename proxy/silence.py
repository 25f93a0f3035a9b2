"""Upstreams that say nothing any more: at the forward door an attempt waits as long as its channel's `timeout_s`, as at the gateway.

What counts as said is whatever moves on the client's connection or on those that serve it. Where the client itself takes
nothing, upstream is not to blame, and goes on.
"""

from __future__ import annotations

import asyncio
import time

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.proxy.server import ConnectionHandler, TimeoutWatchdog

from proxy import forward_http


def heard(watchdog: TimeoutWatchdog) -> None:
    """Something moved. By a clock that nobody sets, in the place of mitmproxy's: a step of the wall clock is no silence."""
    watchdog.last_activity = time.monotonic()


def quiet_s(handler: ConnectionHandler) -> float:
    """Seconds since anything moved on any of its connections."""
    return time.monotonic() - handler.timeout_watchdog.last_activity


class Silence:
    """The wait of one attempt; it ends with `stop`, or with its connection."""

    def __init__(self, handler: ConnectionHandler, flow: http.HTTPFlow, limit_s: float) -> None:
        self._handler = handler
        self._flow = flow
        self._limit_s = limit_s
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._look)

    def stop(self) -> None:
        """Wait no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self._limit_s - quiet_s(self._handler)
        if left_s <= 0 and self._client_is_behind():
            left_s = self._limit_s
        if left_s > 0:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)
            return
        request = self._flow.request
        self._flow.metadata[forward_http.OVERDUE] = f"upstream said nothing for {self._limit_s:g} s"
        for connection, io in list(self._handler.transports.items()):
            if isinstance(connection, Server) and connection.address == (request.host, request.port) and io.handler is not None:
                io.handler.cancel("upstream says nothing")

    def _client_is_behind(self) -> bool:
        io = self._handler.transports.get(self._handler.client)
        return io is not None and isinstance(io.writer, asyncio.StreamWriter) and io.writer.transport.get_write_buffer_size() > 0
