"""Upstreams that say nothing any more: at the forward door a connection is given up after its channel's `timeout_s`, as at the gateway.

Many requests may share one connection, so it is silent when none of them was begun or answered on it for so long. Where a
client takes nothing of what it has been sent, upstream is not to blame, and goes on.
"""

from __future__ import annotations

import asyncio
import time
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Server
from mitmproxy.proxy.server import TimeoutWatchdog

from proxy import forward_h2, forward_http


def moved(watchdog: TimeoutWatchdog) -> None:
    """Something moved on a client's connection. By a clock that nobody sets, in the place of mitmproxy's: a step of the wall clock is no silence."""
    watchdog.last_activity = time.monotonic()


class Silence:
    """The waits of all requests; each begins when its request goes out and ends with its record."""

    def __init__(self, servers: Proxyserver) -> None:
        self._servers = servers
        self._heard: WeakKeyDictionary[Server, float] = WeakKeyDictionary()
        self._waits: dict[str, tuple[http.HTTPFlow, asyncio.TimerHandle]] = {}

    def begin(self, flow: http.HTTPFlow, limit_s: float) -> None:
        """A request goes out, and so many seconds of silence are too many."""
        self._wait(flow, time.monotonic(), limit_s, limit_s)

    def heard(self, flow: http.HTTPFlow) -> None:
        """Its upstream has sent something, or taken something."""
        self._heard[flow.server_conn] = time.monotonic()

    def end(self, flow: http.HTTPFlow) -> None:
        """Nobody waits for it any more."""
        waiting = self._waits.pop(flow.id, None)
        if waiting is not None:
            waiting[1].cancel()

    def _wait(self, flow: http.HTTPFlow, began: float, limit_s: float, left_s: float) -> None:
        timer = asyncio.get_running_loop().call_later(left_s, self._look, flow, began, limit_s)
        self._waits[flow.id] = (flow, timer)

    def _look(self, flow: http.HTTPFlow, began: float, limit_s: float) -> None:
        handler = self._servers.connections.get(flow.client_conn.id)
        if handler is None:
            return
        left_s = max(began, self._heard.get(flow.server_conn, began)) + limit_s - time.monotonic()
        if left_s <= 0 and forward_h2.is_behind(handler):
            left_s = limit_s
        if left_s > 0:
            self._wait(flow, began, limit_s, left_s)
            return
        for other, _ in self._waits.values():
            if other.server_conn is flow.server_conn:
                other.metadata[forward_http.OVERDUE] = f"upstream said nothing for {limit_s:g} s"
        for connection, io in list(handler.transports.items()):
            if _serves(connection, flow) and io.handler is not None:
                io.handler.cancel("upstream says nothing")


def _serves(connection: object, flow: http.HTTPFlow) -> bool:
    """Whether it is a flow's connection, or the one that is being made for it."""
    if connection is flow.server_conn:
        return True
    target = (flow.request.host, flow.request.port)
    return isinstance(connection, Server) and connection.address == target and connection.timestamp_end is None and not _is_made(connection)


def _is_made(connection: Server) -> bool:
    return connection.timestamp_tcp_setup is not None and (not connection.tls or connection.tls_established)
