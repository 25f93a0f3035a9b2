"""The client's side of the gateway: HTTP/1.1 connections as an asyncio protocol over httptools' parser.

A connection hears requests in order and answers them in order, one at a time; what a client pipelines waits. It knows no
channel and no record: of each request it tells a Call, which is given the body as it comes and then answers through it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import httptools

from proxy import answers, progress
from proxy.admission import Admission
from proxy.guard import headers_of
from proxy.http_rules import MAX_HEAD_BYTES, RawHeaders, has_body, head_of, is_websocket, refused, values
from proxy.permissions import Refusal

IDLE_S = 75.0  # for the next head of a connection to be whole
LINGER_S = 2.0  # for a client that is refused to hear so
MAX_WAITING = 8  # requests that a client may have sent ahead before the connection is not read on


@dataclass(slots=True)
class Head:
    """A request's head: the bytes of its parts as they were sent."""

    method: bytes
    target: bytes
    version: str
    headers: RawHeaders
    keep_alive: bool


class Call(Protocol):
    """What a request becomes."""

    def body(self, data: bytes) -> None:
        """The next bytes of its body."""

    def run(self) -> Coroutine[Any, Any, None]:
        """The body is whole: answer."""

    def cut(self, status: int, words: str) -> None:
        """The rest of its body cannot be heard, instead of `run`: the connection itself answers with this."""

    def left(self) -> None:
        """The client's connection is lost; before `run` or while it runs."""


@dataclass(slots=True)
class _Heard:
    """A request that waits for its turn, or is heard now."""

    head: Head
    body: list[bytes] = field(default_factory=list)
    whole: bool = False
    call: Call | None = None


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, door: Server) -> None:
        self.door = door
        self.peer: tuple[str, int] | None = None
        self.lost = False
        self.placed = False  # among as many as are taken in
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._heard: deque[_Heard] = deque()  # the first is being answered, or its body is still coming
        self._task: asyncio.Task[None] | None = None
        self._head_bytes = 0  # of a head that is not whole
        self._target = b""
        self._headers: RawHeaders = []
        self._coming: _Heard | None = None  # the request whose body the parser reads
        self._refusal: Refusal | None = None
        self._upgrade = False  # the last head asks for a WebSocket
        self._last = False  # nothing is heard after the request that is heard now
        self._reading = True
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._due = 0.0
        self._requests = 0
        self._progress = progress.Progress()
        self._out = b""  # the answer's head, until its first bytes go with it
        self._chunked = False
        self._bodiless = False

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class
        self.peer = transport.get_extra_info("peername")
        self.door.connections.add(self)
        self.placed = self.door.admission.enter()
        self._await_head()
        if self.door.admission.overrun:
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self.door.connections.discard(self)
        self.door.admission.leave(self.placed)
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._heard and self._heard[0].call is not None:
            self._heard[0].call.left()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        rest = b""
        self._progress.received(len(data))
        if self._coming is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._refusal is None and not self._upgrade:
                self._without_upgrade(rest)
                return
        except httptools.HttpParserError as error:
            if not self._upgrade and self._refusal is None and not self._last:
                self._refusal = _unheard(400, f"this request cannot be read: {error}")
        if self._upgrade:
            self._hand_over(rest)
        elif self._refusal is None and self._coming is None and self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = _unheard(431, "the headers are longer than 256 KiB")
        if self._refusal is not None:
            self._refuse()

    # The parser's calls.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._coming is None:  # else it is a trailer, which an intermediary may discard (RFC 9110, section 6.5.1)
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        head = Head(parser.get_method(), self._target, parser.get_http_version(), self._headers, parser.should_keep_alive())
        self._target, self._headers, self._head_bytes = b"", [], 0
        if self._refusal is not None or self._upgrade:
            return  # what follows them is not heard
        self._requests += 1
        why = refused(head.method, head.target, head.version, head.headers)
        if why is None and head.method == b"CONNECT":
            why = (405, "this door is a base URL and no tunnel")
        self._refusal = _unheard(*why) if why is not None else self.door.judge(self, head)
        if self._refusal is not None:
            return
        self._coming = _Heard(head)
        if is_websocket(head.method, head.headers):
            self._upgrade = True
        elif parser.should_upgrade():
            return  # to something else, which is not taken up: the same head is read again without that wish
        else:
            self._hear(self._coming)

    def on_body(self, data: bytes) -> None:
        heard = self._coming
        if heard is None or self._upgrade:
            return
        if heard.call is not None:
            heard.call.body(data)
        else:
            heard.body.append(data)

    def on_message_complete(self) -> None:
        heard = self._coming
        if heard is None or self._upgrade or not self._heard or self._heard[-1] is not heard:
            return
        self._coming = None
        heard.whole = True
        self._last = not heard.head.keep_alive
        if heard is self._heard[0]:
            self._run(heard)
        elif len(self._heard) > MAX_WAITING and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    # What a Call answers with.

    @property
    def transport(self) -> asyncio.Transport:
        """Where it is written to."""
        assert self._transport is not None
        return self._transport

    def start(self, status: int, reason: bytes | None, headers: RawHeaders, *, sized: bool) -> None:
        """Begin the answer; its head goes with its first bytes. `sized`: its headers say how long its body is."""
        head = self._heard[0].head
        self._bodiless = not has_body(head.method, status)
        self._chunked = not sized and not self._bodiless and head.version == "1.1"
        framing = b"\r\n"
        if self._chunked:
            framing = b"Transfer-Encoding: chunked\r\n\r\n"
        elif not sized and not self._bodiless:
            head.keep_alive = False  # its end is the connection's
        if self.door.admission.leaving:
            head.keep_alive = False
        if head.version == "1.0" and head.keep_alive:
            framing = b"Connection: keep-alive\r\n" + framing
        elif head.version == "1.1" and not head.keep_alive:
            framing = b"Connection: close\r\n" + framing
        self._out = head_of(status, reason, headers) + framing

    def flush(self) -> None:
        """Send the head, where it has not gone yet."""
        self.send(b"")

    def send(self, data: bytes) -> None:
        """The next bytes of the body; `drained` says when more may come. A client that has gone gets nothing."""
        if self.lost:
            return
        if data and self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._bodiless:
            data = b""
        out, self._out = self._out + data, b""
        if out:
            self.transport.write(out)

    async def drained(self) -> None:
        """Wait until the client has taken most of what was sent, or has gone."""
        while self._paused and not self.lost:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        self._writable = None

    @property
    def full(self) -> bool:
        """Whether the client is behind with taking what was sent."""
        return self._paused

    def finish(self) -> None:
        """The answer is whole."""
        if self._chunked:
            self._out += b"0\r\n\r\n"
            self._chunked = False
        self.flush()

    def abort(self) -> None:
        """Break off, so that the client cannot take a cut answer for a whole one."""
        if self._transport is not None:
            self._transport.abort()

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer."""
        self.start(status, None, [*headers, (b"Content-Length", b"%d" % len(body))], sized=True)
        self.send(body)
        self.finish()

    def leave(self) -> None:
        """No request after the one that is heard now; without one, close."""
        if not self._heard:
            self.transport.close()

    def look(self) -> None:
        """Once a tick: let go of a client that does not get on with its request, or begins none."""
        if self._last:
            return
        if self._progress.stalled(self._pending()):
            self._refusal = _unheard(408, "the request took too long to come")
            self._refuse()
        elif not self._heard and asyncio.get_running_loop().time() >= self._due:
            self.transport.close()

    # What goes on between the requests.

    def _hear(self, heard: _Heard) -> None:
        self._heard.append(heard)
        if heard is self._heard[0]:
            self._begin(heard)

    def _begin(self, heard: _Heard) -> None:
        """Its turn has come."""
        heard.call = self.door.begin(self, heard.head)
        if not heard.whole and heard.head.version == "1.1" and values(heard.head.headers, b"expect"):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        for data in heard.body:
            heard.call.body(data)
        heard.body.clear()
        if heard.whole:
            self._run(heard)

    def _run(self, heard: _Heard) -> None:
        assert heard.call is not None
        self._task = asyncio.get_running_loop().create_task(heard.call.run())
        self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        """The first request is answered: the next, or the end."""
        self._task = None
        heard = self._heard.popleft()
        failed = not task.cancelled() and task.exception() is not None
        if failed:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request could not be answered", "exception": task.exception(), "protocol": self}
            )
        if failed or task.cancelled():
            self.abort()
        elif self.lost:
            return
        elif not heard.head.keep_alive or self.door.admission.leaving:
            self.transport.close()
        elif self._heard:
            self._begin(self._heard[0])
        elif self._refusal is not None:
            self._refuse()
        else:
            self._await_head()
        if not self._reading and not self.lost and len(self._heard) <= MAX_WAITING:
            self._reading = True
            self.transport.resume_reading()

    def _await_head(self) -> None:
        self._due = asyncio.get_running_loop().time() + IDLE_S

    def _pending(self) -> progress.Part | None:
        """What the client owes; nothing while it waits for us."""
        if not self._heard:
            return ("head", self._requests) if self._head_bytes else None
        return ("body", self._requests) if self._coming is self._heard[0] else None

    def _refuse(self) -> None:
        """Answer what cannot be heard, after what was heard before it; nothing after it is heard."""
        self._last = True
        if self._heard and not self._heard[-1].whole:
            broken = self._heard.pop()
            if broken.call is not None and self._refusal is not None:
                broken.call.cut(self._refusal.status, self._refusal.words)
        if self._heard or self._refusal is None or self.lost:
            return
        why = self._refusal
        self.transport.write(answers.raw(why.status, why.words, headers_of(why), why.code))
        if self.transport.can_write_eof():
            self.transport.write_eof()  # closed at once, what the client still sends would take the answer from it (RFC 9112, section 9.6)
        asyncio.get_running_loop().call_later(LINGER_S, self.transport.close)

    def _without_upgrade(self, rest: bytes) -> None:
        """A client may wish for another protocol and must live without it (RFC 9110, section 7.8): its head is read again without the wish."""
        assert self._coming is not None
        head, self._coming = self._coming.head, None
        self._parser = httptools.HttpRequestParser(self)
        head.headers = [(name, value) for name, value in head.headers if name.lower() != b"upgrade"]
        self.data_received(_bytes_of(head) + rest)

    def _hand_over(self, rest: bytes) -> None:
        """From this head on, the connection is the WebSocket server's."""
        if self._heard or self._coming is None:
            self._refusal = _unheard(400, "a WebSocket needs a connection of its own")
            return
        self.door.connections.discard(self)
        successor = self.door.upgraded(lambda: self.door.admission.leave(self.placed))
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        successor.data_received(_bytes_of(self._coming.head) + rest)


def _bytes_of(head: Head) -> bytes:
    lines = [b"%b %b HTTP/%b\r\n" % (head.method, head.target, head.version.encode()), *(b"%b: %b\r\n" % field for field in head.headers)]
    return b"".join([*lines, b"\r\n"])


def _unheard(status: int, words: str) -> Refusal:
    return Refusal(status, answers.REASONS.get(status, "bad_request"), words)


class Server:
    """Every connection of a door.

    `judge` says why a head is not taken, whatever it asks for; `begin` makes a Call of one that is. `upgraded` makes the
    protocol that serves a WebSocket, which calls what it is given when its connection is lost.
    """

    def __init__(
        self,
        admission: Admission,
        judge: Callable[[Connection, Head], Refusal | None],
        begin: Callable[[Connection, Head], Call],
        upgraded: Callable[[Callable[[], None]], asyncio.Protocol],
    ) -> None:
        self.admission = admission
        self.judge = judge
        self.begin = begin
        self.upgraded = upgraded
        self.connections: set[Connection] = set()
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        """One task for all connections, where each would need a timer."""
        while True:
            await asyncio.sleep(progress.TICK_S)
            for connection in list(self.connections):
                connection.look()

    def leave(self) -> None:
        """Let every connection end with the request that is heard now; Admission knows that no other is taken."""
        for connection in list(self.connections):
            connection.leave()

    async def stop(self) -> None:
        """Break off what is left."""
        self._sweeping.cancel()
        tasks = [connection._task for connection in self.connections if connection._task is not None]  # noqa: SLF001 - of one piece
        for connection in list(self.connections):
            connection.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
