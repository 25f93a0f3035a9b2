"""One task answers all requests of a connection: when it begins, and that it ends with every way a connection can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.admission import Admission
from proxy.http_server import Call, Connection, Head, Server

HEAD = b"GET /%b HTTP/1.1\r\nHost: here\r\n\r\n"
UPGRADE = HEAD[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Answer(Call):
    """Answers with the path; `/fails` raises, `/waits` tells that it waits, for ever."""

    def __init__(self, connection: Connection, head: Head, waits: asyncio.Event) -> None:
        self._connection = connection
        self._path = head.target
        self._waits = waits

    def body(self, data: bytes) -> None:
        raise AssertionError(data)

    def cut(self, status: int, words: str) -> None:
        raise AssertionError(words)

    def left(self) -> None:
        pass

    async def run(self) -> None:
        if self._path == b"/fails":
            raise ValueError("as it was asked to")
        if self._path == b"/waits":
            self._waits.set()
            await asyncio.Event().wait()
        self._connection.answer(200, [], self._path)


class Successor(asyncio.Protocol):
    """What a connection is handed over to."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"handed over")

    def connection_made(self, transport: Any) -> None:
        self.transport = transport


@dataclass
class Listening:
    """A server on a port, and what was complained of to its loop."""

    server: Server
    port: int
    waits: asyncio.Event
    complaints: list[dict[str, Any]] = field(default_factory=list)

    def serving(self) -> list[asyncio.Task[Any]]:
        """The tasks that answer connections."""
        return [task for task in asyncio.all_tasks() if "Connection._serve" in repr(task)]

    async def until_none_serves(self) -> None:
        """Wait for all of them to end."""
        await asyncio.wait_for(asyncio.gather(*self.serving(), return_exceptions=True), 10)


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    loop = asyncio.get_running_loop()
    waits = asyncio.Event()
    server = Server(
        Admission(100, 1 << 40), lambda *_: None, lambda connection, head: Answer(connection, head, waits), lambda _: Successor()
    )
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0)
    found = Listening(server, listener.sockets[0].getsockname()[1], waits)
    loop.set_exception_handler(lambda _, context: found.complaints.append(context))
    try:
        async with asyncio.timeout(30):  # what does not end is a failure
            yield found
    finally:
        listener.close()
        await server.stop()


async def read(reader: asyncio.StreamReader, body: bytes) -> None:
    """Read one answer, which has this body."""
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(body)) == body


@pytest.mark.asyncio
async def test_one_task_answers_all_that_a_connection_asks_and_ends_with_it() -> None:
    async with listening() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        assert there.serving() == []
        for number in range(3):
            writer.write(HEAD % b"a" + HEAD % b"b" if number else HEAD % b"first")
            for body in (b"/a", b"/b") if number else (b"/first",):
                await read(reader, body)
            assert len(there.serving()) == 1
        writer.close()
        await there.until_none_serves()
        assert there.complaints == []


@pytest.mark.asyncio
async def test_a_connection_that_is_handed_over_leaves_no_task_behind() -> None:
    async with listening() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(HEAD % b"first")
        await read(reader, b"/first")
        writer.write(UPGRADE % b"socket")
        assert await reader.readexactly(11) == b"handed over"
        await there.until_none_serves()
        writer.close()


@pytest.mark.asyncio
async def test_a_call_that_fails_breaks_off_its_own_connection_and_no_other() -> None:
    async with listening() as there:
        (reader, writer), (other_reader, other) = [await asyncio.open_connection("127.0.0.1", there.port) for _ in range(2)]
        writer.write(HEAD % b"fails" + HEAD % b"after")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await read(reader, b"/after")
        other.write(HEAD % b"other")
        await read(other_reader, b"/other")
        assert [type(complaint["exception"]) for complaint in there.complaints] == [ValueError]
        writer.close()
        other.close()


@pytest.mark.asyncio
async def test_a_client_that_leaves_with_requests_sent_ahead_is_answered_no_more() -> None:
    async with listening() as there:
        _, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(HEAD % b"waits" + HEAD % b"after")
        await there.waits.wait()
        writer.transport.abort()
        (task,) = there.serving()
        task.cancel()  # as a stop does
        await there.until_none_serves()
        assert there.complaints == []
