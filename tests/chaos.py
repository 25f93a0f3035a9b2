"""A network that fails: a TCP relay before an upstream that resets, stalls, trickles or cuts, as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal, Self

Fault = Literal["none", "reset", "reset head", "reset body", "cut head", "cut body", "garbage", "half-open", "half-open body", "slow"]
SEEN_HEAD = b"\r\n\r\n"
SLOW_BYTES = 11
GARBAGE = b"\x00\x16 hush-hush\r\n\r\n"


@dataclass
class Chaos:
    """Listens on a free port and relays to `upstream`; each new connection has the fault that is set then, and carries one call."""

    upstream: tuple[str, int]
    fault: Fault = "none"
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(self.fault, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side has left, which is what these faults bring about
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if fault == "reset":
            return _reset(writer)
        up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        pumping = asyncio.create_task(_pump(reader, up_writer))
        try:
            head = await up_reader.readuntil(SEEN_HEAD)
            head = head[:-2] + b"Connection: close\r\n\r\n"  # so that the next call meets the next fault
            if fault in ("reset head", "cut head"):
                writer.write(head[: len(head) // 2])
                await writer.drain()
                return _reset(writer) if fault == "reset head" else None
            if fault == "garbage":
                writer.write(GARBAGE)
                await writer.drain()
                return None
            if fault == "half-open":  # nothing more comes, and nobody says so
                await asyncio.Event().wait()
            writer.write(head)
            sent = 0
            while chunk := await up_reader.read(64 if fault.endswith("body") else SLOW_BYTES if fault == "slow" else 1 << 16):
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
                if fault == "slow":
                    await asyncio.sleep(0.001)
                if sent > 900 and fault == "reset body":
                    return _reset(writer)
                if sent > 900 and fault == "cut body":
                    return None
                if sent > 900 and fault == "half-open body":
                    await asyncio.Event().wait()
        finally:
            pumping.cancel()
            up_writer.close()
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
