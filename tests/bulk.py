"""Bodies of any size without any memory: an upstream that hashes what it gets and sends what it is asked for, and clients like it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

PIECE = bytes(range(256)) * 1024


def pieces(size: int) -> Iterator[bytes]:
    """So many bytes, the same each time."""
    for at in range(0, size, len(PIECE)):
        yield PIECE[: size - at]


def digest(size: int, start: bytes = b"") -> str:
    """The SHA-256 of so many bytes behind a start."""
    found = hashlib.sha256(start)
    for piece in pieces(size):
        found.update(piece)
    return found.hexdigest()


@dataclass
class Bulk:
    """Answers POST with the digest of its body, and GET /…/SIZE with so many bytes; GET /…/idle sends a head and one event, and waits."""

    port: int = 0
    idle: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            found, left = hashlib.sha256(), int(length[1]) if length else 0
            while left and (chunk := await reader.read(min(left, 1 << 20))):
                found.update(chunk)
                left -= len(chunk)
            path = head.split(b" ", 2)[1]
            if path.endswith(b"/idle"):
                event = b'data: {"choices":[{"delta":{"content":"."}}]}\n\n'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.idle += 1
                await reader.read(1)
                return
            if head.startswith(b"GET"):
                size = int(path.rpartition(b"/")[2])
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % size)
                for piece in pieces(size):
                    writer.write(piece)
                    await writer.drain()
            else:
                body = found.hexdigest().encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has left, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()


async def upload(url: str, target: str, size: int, start: bytes = b"", kind: str = "application/octet-stream") -> str:
    """POST so many bytes behind a start; what the answer's body says."""
    reader, writer = await _opened(url, f"POST {target} HTTP/1.1", f"Content-Type: {kind}\r\nContent-Length: {len(start) + size}\r\n")
    writer.write(start)
    for piece in pieces(size):
        writer.write(piece)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2].decode()


async def download(url: str, target: str) -> str:
    """GET it; the digest of the answer's body."""
    reader, writer = await _opened(url, f"GET {target} HTTP/1.1", "")
    await reader.readuntil(b"\r\n\r\n")
    found = hashlib.sha256()
    while chunk := await reader.read(1 << 20):
        found.update(chunk)
    writer.close()
    return found.hexdigest()


async def idle_stream(url: str, target: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin a stream; its status once the head is there, and the open connection."""
    reader, writer = await _opened(url, f"GET {target} HTTP/1.1", "")
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), reader, writer


async def leave(streams: Iterable[tuple[int, asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    """Close the connections of these streams; they are closed when it returns, so that a proxy which then stops has nothing to wait for."""
    for _, _, writer in streams:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _opened(url: str, line: str, fields: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 16)
    writer.write(f"{line}\r\nHost: x\r\nConnection: close\r\n{fields}\r\n".encode())
    return reader, writer


def memory(pid: int, *, peak: bool = False) -> int:
    """The bytes that a process holds now, or the most that it held since `forget_peak`."""
    name = "VmHWM" if peak else "VmRSS"
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def forget_peak(pid: int) -> None:
    """Begin to measure the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
