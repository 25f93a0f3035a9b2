"""Frames between a client's WebSocket and a channel's: passed on as they come, recorded as they pass, closed as they close."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from proxy.sockets import ABNORMAL, NO_STATUS, End, SocketLog
from proxy.upgrade import Upstream

CLOSE_S = 5.0  # for the other side's answer to a close frame
GOING_AWAY = 1001  # RFC 6455 7.4.1: an endpoint that goes down

ClientSocket = web.WebSocketResponse[bool]


class Frame(Protocol):
    """A frame as aiohttp hands it out."""

    @property
    def type(self) -> WSMsgType: ...
    @property
    def data(self) -> Any: ...
    @property
    def extra(self) -> Any: ...


Check = Callable[[Frame], Awaitable[bytes | None]]
DATA = (WSMsgType.TEXT, WSMsgType.BINARY)
_BEATS = (WSMsgType.PING, WSMsgType.PONG)


class Relay:
    """One open connection. `check` records a client's frame and gives what is sent in its place, or None."""

    def __init__(self, client: ClientSocket, upstream: Upstream, log: SocketLog, check: Check, hang_up: Callable[[], None]) -> None:
        self._client = client
        self._upstream = upstream
        self._log = log
        self._check = check
        self._hang_up = hang_up

    async def run(self, first: Frame | None, leaving: asyncio.Event, drain_s: float) -> None:
        """Until one side closes, or the proxy leaves and no turn is open."""
        up = asyncio.create_task(self._to_upstream(first))
        down = asyncio.create_task(self._to_client())
        tasks: set[asyncio.Task[Any]] = {up, down}
        if self._log.turns.kind is not None:
            tasks.add(asyncio.create_task(self._left(leaving)))
        end = End("proxy")
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if up.done() and not down.done() and up.result() is None:
                await asyncio.wait({down})  # upstream takes no more: how it ended is for the reading side to say
            if down.done():
                end = down.result()
                await self._pass_on(end, up)
            elif up.done():
                end = up.result() or end
                await self._client_left(end, down, drain_s)
            else:
                end = End("proxy", GOING_AWAY)
                await self._client.send_frame(payload(end), WSMsgType.CLOSE)
                await self._upstream.socket.send_frame(payload(end), WSMsgType.CLOSE)
                await asyncio.wait({up, down}, timeout=CLOSE_S)
        except ConnectionError:
            pass  # the side that was to be told has gone as well
        finally:
            self._log.end(end)
            await cancelled(*tasks)
            self._hang_up()
            self._upstream.answer.close()

    async def _to_upstream(self, first: Frame | None) -> End | None:
        """The client's frames. None where upstream takes no more."""
        message = first if first is not None else await self._client.receive()
        while True:
            data = message.data
            if message.type in DATA:
                data = await self._check(message)
            elif message.type not in _BEATS:
                return ended("client", message)
            if data is not None:
                try:
                    await self._upstream.socket.send_frame(data, message.type)
                except ConnectionError:
                    return None
            message = await self._client.receive()

    async def _to_client(self) -> End:
        """Upstream's frames; read on where the client has gone."""
        while True:
            message = await self._upstream.socket.receive()
            if message.type in DATA:
                self._log.server(message.data, text=message.type == WSMsgType.TEXT)
            elif message.type not in _BEATS:
                return ended("upstream", message)
            with contextlib.suppress(ConnectionError):
                await self._client.send_frame(message.data, message.type)

    async def _left(self, leaving: asyncio.Event) -> None:
        await leaving.wait()
        await self._log.quiet.wait()

    async def _client_left(self, end: End, down: asyncio.Task[End], drain_s: float) -> None:
        """Let upstream finish the turns that are open, within the book's limit, so that their usage is known; then tell it."""
        if not self._log.turns.live:
            await self._pass_on(end, down)
            return
        self._log.client_gone()
        if end.code != ABNORMAL:
            with contextlib.suppress(ConnectionError):
                await self._client.send_frame(payload(end), WSMsgType.CLOSE)
        self._hang_up()
        quiet = asyncio.create_task(self._log.quiet.wait())
        await asyncio.wait({quiet, down}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        await cancelled(quiet)
        if end.code != ABNORMAL:
            await self._upstream.socket.send_frame(payload(end), WSMsgType.CLOSE)
            await asyncio.wait({down}, timeout=CLOSE_S)

    async def _pass_on(self, end: End, other: asyncio.Task[Any]) -> None:
        """One side's close frame for the other, and its answer back; where there was none, the bare end of the connection."""
        if end.code == ABNORMAL:
            return
        here, there = (self._client, self._upstream.socket) if end.by == "client" else (self._upstream.socket, self._client)
        await there.send_frame(payload(end), WSMsgType.CLOSE)
        await asyncio.wait({other}, timeout=CLOSE_S)
        answer = other.result() if other.done() else None
        await here.send_frame(payload(answer if isinstance(answer, End) and answer.code != ABNORMAL else end), WSMsgType.CLOSE)


def ended(by: str, message: Frame) -> End:
    """What a side's last message says about how it ended."""
    if message.type == WSMsgType.CLOSE:
        return End(by, int(message.data) or NO_STATUS, str(message.extra or ""))
    return End(by)


def payload(end: End) -> bytes:
    """A close frame's payload; a frame without a code has none."""
    return b"" if end.code == NO_STATUS else struct.pack(">H", end.code) + end.reason.encode()


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their end, whatever it is."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
