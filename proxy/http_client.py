"""The gateway's side towards upstreams: a pool of HTTP/1.1 connections as asyncio protocols over httptools' parser.

An answer is handed out as it comes, in the bytes of its body, and nothing of it is decoded. A connection whose answer is
whole waits for the next request; one that upstream closes meanwhile is dropped as soon as that is seen. Where it closes
just as a request goes out on it, the request is sent again only if its method may be repeated (RFC 9110, section 9.2.2).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from proxy.held import Spliced
from proxy.http_rules import MAX_HEAD_BYTES, RawHeaders, has_body, values
from proxy.targets import Targets
from proxy.upstream import CONNECT_TIMEOUT_S, NotConnectedError

IDLE_S = 15.0  # how long an unused connection is kept; servers that close after a minute are common, some after 20 s
READ_AHEAD_BYTES = 256 << 10  # of an answer that its reader has not taken
_LONG_HEAD = "the answer's headers are longer than 256 KiB"
_REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a channel is: what its connections have in common."""

    secure: bool
    verified: bool  # whether its certificate is checked
    host: str
    port: int
    authority: str  # the Host header's value
    path: str  # what stands before every request's path


def origin_of(base_url: str, *, verified: bool = True) -> Origin:
    """The origin of a channel's base URL."""
    parts = urlsplit(base_url)
    secure, host = parts.scheme == "https", parts.hostname or ""
    usual = 443 if secure else 80
    port = parts.port or usual
    shown = f"[{host}]" if ":" in host else host
    return Origin(secure, verified, host, port, (shown if port == usual else f"{shown}:{port}"), parts.path)


class TruncatedError(ConnectionError):
    """The connection ended, or what came on it was no HTTP, before the answer was whole."""


class Answer:
    """One answer, from its head on; its body's bytes as they come."""

    __slots__ = ("_chunks", "_connection", "_error", "_held", "_waiter", "ended", "headers", "reason", "seen", "status")

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.reason = b""
        self.headers: RawHeaders = []
        self.ended = False
        self.seen = False  # a byte of it has come
        self._connection: _Connection | None = connection
        self._chunks: list[bytes] = []
        self._held = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def taken(self) -> bytes:
        """What has come of the body and was not taken yet; empty if nothing has."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._held = 0
        if self._connection is not None:
            self._connection.read_on()
        return data

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TruncatedError, or TimeoutError where none came in time."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            await self._wait()
        return self.taken()

    async def come(self, within_s: float) -> bool:
        """Whether bytes, the end or a fault have come, at the latest after so many seconds."""
        if not (self._chunks or self.ended or self._error is not None):
            timer = asyncio.get_running_loop().call_later(within_s, self._wake)
            try:
                await self._wait()
            finally:
                timer.cancel()
        return bool(self._chunks or self.ended or self._error is not None)

    async def begun(self) -> None:
        """Wait for the head. Raises what `read` raises."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()

    def close(self) -> None:
        """Nothing more is read; a connection with an unread rest is of no use to anybody."""
        if self._connection is not None:
            self._connection.drop()

    # The connection's calls.

    def put(self, data: bytes) -> int:
        """More of the body; how many bytes wait for the reader."""
        self._chunks.append(data)
        self._held += len(data)
        self._wake()
        return self._held

    def begin(self, status: int, reason: bytes, headers: RawHeaders) -> None:
        self.status, self.reason, self.headers = status, reason, headers
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._connection = None
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._connection = None
        self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Connection(asyncio.Protocol):
    """One connection to an origin: one request at a time."""

    def __init__(self, idle: Callable[[_Connection], None], gone: Callable[[_Connection], None]) -> None:
        self.usable = True
        self._idle = idle
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._method = b""
        self._reason = b""
        self._headers: RawHeaders = []
        self._head_bytes = 0
        self._until_close = False  # the body ends with the connection
        self._paused = False
        self._sending: asyncio.Task[None] | None = None  # of a body that is sent as it is read
        self._writable: asyncio.Future[None] | None = None
        self._limit_s = IDLE_S
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, method: bytes, message: bytes, body: bytes | Spliced, limit_s: float) -> Answer:
        """Send a request; no pause of the answer, or in taking the body, may be longer than `limit_s`."""
        assert self._transport is not None
        self._method, self._limit_s, self._head_bytes = method, limit_s, 0
        answer = self._answer = Answer(self)
        self._wind(limit_s)
        if isinstance(body, Spliced):
            self._transport.write(message)
            self._sending = self._loop.create_task(self._send(body))
        elif len(body) < READ_AHEAD_BYTES:
            self._transport.write(message + body)
        else:
            self._transport.write(message)
            self._transport.write(body)
        return answer

    def read_on(self) -> None:
        """The reader has taken what there was."""
        if self._paused and self._transport is not None and self.usable:
            self._paused = False
            self._due = self._loop.time() + self._limit_s
            self._transport.resume_reading()

    def drop(self) -> None:
        """Close at once."""
        self.usable = False
        if self._sending is not None:
            self._sending.cancel()
        if self._transport is not None:
            self._transport.abort()

    def rest(self) -> None:
        """Wait unused, for a while."""
        self._wind(IDLE_S)

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class

    def connection_lost(self, exc: BaseException | None) -> None:
        self.usable = False
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()
        self._gone(self)
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self._until_close and exc is None:
            answer.end()
        else:
            answer.fail(TruncatedError(str(exc) if exc is not None else "the connection was closed before the answer was whole"))

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.drop()  # nobody asked
            return
        answer.seen = True
        self._due = self._loop.time() + self._limit_s
        if not answer.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"the answer is no HTTP/1.1: {error}")
        if not answer.status and self._head_bytes > MAX_HEAD_BYTES:
            self._break(_LONG_HEAD)

    # The parser's calls.

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        headers, self._headers = self._headers, []
        reason, self._reason = self._reason, b""
        if answer is None or answer.status or status < 200:
            return  # what is only said on the way (RFC 9110, section 15.2) is said to this hop
        codings = [value.strip().lower() for value in values(headers, b"transfer-encoding")]
        if codings not in ([], [b"chunked"]):
            self._break("the answer has a transfer coding other than chunked")
            return
        if self._head_bytes > MAX_HEAD_BYTES and sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
            self._break(_LONG_HEAD)
            return
        self._until_close = not codings and not values(headers, b"content-length") and has_body(self._method, status)
        answer.begin(status, reason, headers)
        if self._method == b"HEAD":  # the parser would wait for the body that its headers speak of
            self._whole(keep=False)

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        if answer.put(data) > READ_AHEAD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._headers = []  # trailers, which an intermediary may discard (RFC 9110, section 6.5.1)
        if self._answer is not None and self._answer.status:
            self._whole(keep=self._parser.should_keep_alive())

    # What they have in common.

    async def _send(self, body: Spliced) -> None:
        """A large body, read as upstream takes it; an answer may come meanwhile."""
        assert self._transport is not None
        try:
            for piece in body.pieces():
                self._transport.write(piece)
                self._due = self._loop.time() + self._limit_s
                await (self._writable or asyncio.sleep(0))  # a fast disk and a fast upstream leave the others their turn
        except OSError as error:
            self._break(f"the request's body cannot be read again: {error.strerror}")
        self._sending = None

    def _whole(self, *, keep: bool) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        if keep and self.usable and self._sending is None:
            self._idle(self)
        else:
            self.drop()

    def _break(self, words: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(TruncatedError(words))
        self.drop()

    def _wind(self, limit_s: float) -> None:
        """The clock by which the next byte, or the next request, is due. One timer serves many of both."""
        self._due = self._loop.time() + limit_s
        if self._timer is None or self._timer.when() > self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._due, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        now = self._loop.time()
        if now < self._due or self._paused:
            self._timer = self._loop.call_at(max(self._due, now + (1.0 if self._paused else 0.0)), self._look_at_the_clock)
            return
        self._timer = None
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(TimeoutError(f"nothing came for {self._limit_s:g} s"))
        self.drop()


class Pool:
    """Connections to every origin, kept while they are of use."""

    def __init__(self, tls: ssl.SSLContext, targets: Targets) -> None:
        self._tls = tls
        self._unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._unverified.check_hostname = False
        self._unverified.verify_mode = ssl.CERT_NONE  # for the channels of which the book says so
        self._targets = targets
        self._waiting: dict[Origin, list[_Connection]] = {}
        self._all: set[_Connection] = set()

    async def request(self, origin: Origin, method: bytes, message: bytes, body: bytes | Spliced, limit_s: float) -> Answer:
        """Send a request and wait for its answer's head.

        Raises NotConnectedError where nothing was sent, TruncatedError where the connection broke, TimeoutError where
        nothing came for `limit_s` seconds.
        """
        while True:
            connection = self._unused(origin)
            reused = connection is not None
            if connection is None:
                connection = await self._connect(origin, min(CONNECT_TIMEOUT_S, limit_s))
            answer = connection.ask(method, message, body, limit_s)
            try:
                await answer.begun()
            except TruncatedError:
                if reused and not answer.seen and method in _REPEATABLE:
                    continue
                raise
            except BaseException:
                answer.close()
                raise
            return answer

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._all):
            connection.drop()

    def _unused(self, origin: Origin) -> _Connection | None:
        waiting = self._waiting.get(origin, [])
        while waiting:
            connection = waiting.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, origin: Origin, within_s: float) -> _Connection:
        loop = asyncio.get_running_loop()

        def idle(connection: _Connection) -> None:
            self._waiting.setdefault(origin, []).append(connection)
            connection.rest()

        def gone(connection: _Connection) -> None:
            self._all.discard(connection)
            waiting = self._waiting.get(origin, [])
            if connection in waiting:
                waiting.remove(connection)

        tls = (self._tls if origin.verified else self._unverified) if origin.secure else None

        async def connect(address: str) -> _Connection:
            name = origin.host if tls is not None else None
            return (await loop.create_connection(lambda: _Connection(idle, gone), address, origin.port, ssl=tls, server_hostname=name))[1]

        try:
            async with asyncio.timeout(within_s):
                connection = await self._targets.connected(origin.host, origin.port, connect)
        except TimeoutError:
            raise NotConnectedError(f"no connection to {origin.authority} within {within_s:g} s") from None
        except (OSError, UnicodeError) as error:
            raise NotConnectedError(f"no connection to {origin.authority}: {error}") from None
        self._all.add(connection)
        return connection
