"""The gateway door: a base URL in front of ordered channels, with retry on one and fallback to the next.

Plain requests pass through this door's own server and client (http_server, http_client); a connection that asks for a
WebSocket is handed over to aiohttp's.
"""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import web

from proxy.desk import Desk
from proxy.gateway_ws import Sockets
from proxy.http_client import Pool
from proxy.http_server import Connection, Head, Server
from proxy.passage import BASE_PATH, Passage, Ways
from proxy.permissions import Permissions
from proxy.ports import reserve
from proxy.routing import Plans
from proxy.upstream import HEADER_LIMIT

BACKLOG = 1024


class GatewayDoor:
    """A server, a pool of connections to upstreams, and what stands between them."""

    def __init__(self, host: str, port: int, desk: Desk, plans: Plans, tls: ssl.SSLContext, *, shared: bool) -> None:
        self._host = host
        self._port = port
        self._desk = desk
        self._plans = plans
        self._tls = tls
        self._shared = shared
        self.permissions = Permissions(desk.book)
        self._pool = Pool(tls)
        self._server: Server | None = None
        self._listening: asyncio.Server | None = None
        self._sockets: Sockets | None = None
        self._upgraded: web.Server | None = None

    async def start(self) -> int:
        """Listen; the port in use. Raises PortInUseError."""
        held = reserve("gateway", self._host, self._port, shared=self._shared)
        loop = asyncio.get_running_loop()
        ways = Ways(self._desk, self._plans, self.permissions, self._pool)
        self._sockets = Sockets(self._desk, self._plans, self.permissions, self._tls, BASE_PATH)
        self._upgraded = web.Server(self._sockets.serve, max_line_size=HEADER_LIMIT, max_field_size=HEADER_LIMIT, access_log=None)

        def begin(connection: Connection, head: Head) -> Passage:
            return Passage(ways, connection, head)

        server = self._server = Server(begin, self._upgraded)
        self._listening = await loop.create_server(lambda: Connection(server), sock=held, backlog=BACKLOG)
        return int(self._listening.sockets[0].getsockname()[1])

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
