"""The gateway door: a base URL in front of ordered channels, with retry on one and fallback to the next.

Plain requests pass through this door's own server and client (http_server, http_client); a connection that asks for a
WebSocket is handed over to aiohttp's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web

from proxy.desk import Desk
from proxy.gateway_ws import Sockets
from proxy.guard import Guard
from proxy.headers import text
from proxy.http_client import Pool
from proxy.http_server import Connection, Head, Server
from proxy.passage import BASE_PATH, Passage, Ways
from proxy.permissions import Permissions, Refusal
from proxy.ports import reserve
from proxy.routing import Plans
from proxy.upgrade import Upgrades
from proxy.upstream import HEADER_LIMIT

BACKLOG = 1024


class _Upgraded(web.RequestHandler):
    """The server of one WebSocket, which tells when its client's connection is lost."""

    __slots__ = ("_left",)

    def __init__(self, server: web.Server, left: Callable[[], None]) -> None:
        limits = {"max_line_size": HEADER_LIMIT, "max_field_size": HEADER_LIMIT}
        super().__init__(server, loop=asyncio.get_running_loop(), access_log=None, **limits)  # type: ignore[arg-type]  # None: no log
        self._left = left

    def connection_lost(self, exc: BaseException | None) -> None:
        self._left()
        super().connection_lost(exc)


class GatewayDoor:
    """A server, a pool of connections to upstreams, and what stands between them."""

    def __init__(
        self, host: str, port: int, desk: Desk, plans: Plans, permissions: Permissions, tls: ssl.SSLContext, guard: Guard, *, shared: bool
    ) -> None:
        self._host = host
        self._port = port
        self._desk = desk
        self._plans = plans
        self._tls = tls
        self._guard = guard
        self._shared = shared
        self._permissions = permissions
        self._pool = Pool(tls, guard.targets)
        self._server: Server | None = None
        self._listening: asyncio.Server | None = None
        self._sockets: Sockets | None = None
        self._upgraded: web.Server | None = None

    async def start(self) -> int:
        """Listen; the port in use. Raises PortInUseError."""
        held = reserve("gateway", self._host, self._port, shared=self._shared)
        loop = asyncio.get_running_loop()
        ways = Ways(self._desk, self._plans, self._permissions, self._pool)
        upgrades = Upgrades(self._desk, BASE_PATH, self._tls, self._guard.targets)
        self._sockets = Sockets(self._desk, self._plans, self._permissions, upgrades, BASE_PATH)
        upgraded = self._upgraded = web.Server(self._sockets.serve)

        def begin(connection: Connection, head: Head) -> Passage:
            return Passage(ways, connection, head)

        server = self._server = Server(self._guard.admission, self._judge, begin, lambda left: _Upgraded(upgraded, left))
        self._listening = await loop.create_server(lambda: Connection(server), sock=held, backlog=BACKLOG)
        return int(self._listening.sockets[0].getsockname()[1])

    def _judge(self, connection: Connection, head: Head) -> Refusal | None:
        """Why this client's request is not taken, whatever it asks for."""
        address = connection.peer[0] if connection.peer else ""
        headers = ((text(name), text(value)) for name, value in head.headers)
        refusal = self._guard.refusal(address, headers, placed=connection.placed)
        if refusal is not None:
            self._desk.counters.refused += 1
        return refusal

    async def stop_accepting(self) -> None:
        """Take no new connections; those that are open end with what is live on them."""
        if self._listening is not None:
            self._listening.close()
        if self._server is not None:
            self._server.leave()
        if self._sockets is not None:
            self._sockets.leave()

    async def stop(self) -> None:
        """Close what is left."""
        if self._listening is not None:
            self._listening.close()
        if self._sockets is not None:
            await self._sockets.stop()
        if self._server is not None:
            await self._server.stop()
        if self._upgraded is not None:
            await self._upgraded.shutdown(0.5)
        self._pool.close()
