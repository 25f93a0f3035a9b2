"""The gateway door: a base URL in front of ordered channels, with retry on one and fallback to the next.

The door holds sockets and times; what is recorded is the Exchange machine's affair, and which channel is next is
routing's. After the first byte has gone to the client there is no way back: what upstream says is the answer.
"""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from proxy import answers, progress, usage_option
from proxy.admission import Admission
from proxy.decoding import DecodingError, decoded
from proxy.desk import Desk, Refused
from proxy.exchange import AttemptCapture, Client, Exchange, RequestHead
from proxy.gateway_ws import Sockets
from proxy.guard import Guard, headers_of
from proxy.headers import HOP_HEADERS, ID_HEADER, pairs, sent_headers, with_credential
from proxy.held import Spliced
from proxy.permissions import Permissions, Refusal
from proxy.ports import PortInUseError
from proxy.routing import Failure, Next, NoRouteError, Plans, Route, Target
from proxy.splice import FORM_HEAD_BYTES, set_form_field, set_member
from proxy.upgrade import Upgrades
from proxy.upstream import BROKEN, CONNECT_TIMEOUT_S, HEADER_LIMIT, session, what_failed
from schemas.records import Instant, Record

BASE_PATH = "/v1"
READ_ASIDE_S = 10.0
IDLE_S = 60.0  # of a connection between two requests, a head that is half there included: no byte of it prolongs that
HEAD_WAIT_S = 1.0  # how long an answer's head waits for its first bytes before the client gets it without them
READ_ASIDE_BYTES = 1 << 20
# aiohttp copies a body in one go below this size, and reads a larger one piece by piece.
COPIED_BYTES = 1 << 20


def is_below_base(path: str) -> bool:
    """Whether a path lies below the base path, and no dot segment leads out of it again."""
    segments = unquote(path).split("/")
    return path == BASE_PATH or (path.startswith(BASE_PATH + "/") and not {".", ".."} & set(segments))


def _is_form(headers: CIMultiDict[str]) -> bool:
    return headers.get("content-type", "").lower().startswith("multipart/form-data")


class _CannotChangeError(Exception):
    """A channel has another id for the model, and the request's body cannot be given it."""


class _Protocol(web.RequestHandler):
    """The connection of a client, which also remembers when its client left, and tells."""

    __slots__ = ("admission", "desk", "lost_at", "on_lost", "placed")

    def __init__(self, desk: Desk, admission: Admission, manager: web.Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.desk = desk
        self.admission = admission
        self.placed: bool | None = None
        self.lost_at: Instant | None = None
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.placed = self.admission.enter()
        super().connection_made(transport)
        if self.admission.overrun and self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.placed is not None:
            self.admission.leave(self.placed)
            self.placed = None
        self.lost_at = self.desk.now()
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)


class _Server(web.Server):
    """A server of such connections."""

    def __init__(self, handler: Any, desk: Desk, admission: Admission, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self._desk = desk
        self._admission = admission

    def __call__(self) -> _Protocol:
        return _Protocol(self._desk, self._admission, self, loop=self._loop, **self._kwargs)


class _RelayedResponse(web.StreamResponse):
    """A response whose headers are upstream's and ours, and none that the server would add."""

    async def _prepare_headers(self) -> None:
        named = [name for name in ("Content-Type", "Date", "Server") if name not in self.headers]
        await super()._prepare_headers()
        for name in named:
            self.headers.popall(name, None)


class GatewayDoor:
    """An aiohttp server and client around the machine."""

    def __init__(self, host: str, port: int, desk: Desk, plans: Plans, tls: ssl.SSLContext, guard: Guard) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._guard = guard
        self.desk = desk
        self.plans = plans
        self.permissions = Permissions(desk.book)
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._session: aiohttp.ClientSession | None = None
        self._sockets: Sockets | None = None

    async def start(self) -> int:
        """Listen; the port in use. Raises PortInUseError."""
        self._session = session(self._tls, self._guard.targets)
        upgrades = Upgrades(self.desk, BASE_PATH, self._tls, self._guard.targets)
        self._sockets = Sockets(self.desk, self.plans, self.permissions, upgrades, BASE_PATH)
        server = _Server(
            self._handle,
            self.desk,
            self._guard.admission,
            auto_decompress=False,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            access_log=None,
            keepalive_timeout=IDLE_S,
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, self._host, self._port, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            await self.stop()
            words = f"the gateway door cannot listen on {self._host}:{self._port}: {error.strerror}"
            raise PortInUseError(words, "choose another --gateway-port") from None
        return int(self._runner.addresses[0][1])

    async def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        server = self._site._server if self._site is not None else None  # noqa: SLF001 - its stop() would cut live requests too
        if server is not None:
            server.close()
        if self._sockets is not None:
            self._sockets.leave()

    async def stop(self) -> None:
        """Close what is left."""
        if self._sockets is not None:
            await self._sockets.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._session is not None
        assert self._sockets is not None
        protocol: _Protocol = request.protocol  # type: ignore[assignment]
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        refusal = self._guard.refusal(peer[0] if peer else "", request.headers.items(), placed=bool(protocol.placed))
        if refusal is not None:
            self.desk.counters.refused += 1
            body = answers.body(refusal.words, "server_error" if refusal.status == 503 else "invalid_request_error", refusal.code)
            answer = web.Response(status=refusal.status, body=body, headers={**answers.HEADERS, **headers_of(refusal)})
            answer.force_close()
            return answer
        if self._sockets.asked(request):
            return await self._sockets.serve(request)
        return await _Passage(self, request, self._session).run()


class _Passage:
    """One request of a client, from its head to the last byte of its answer."""

    def __init__(self, door: GatewayDoor, request: web.BaseRequest, session: aiohttp.ClientSession) -> None:
        self._desk = door.desk
        self._door = door
        self._session = session
        self._request = request
        self._body = door.desk.held_body()
        self._message: dict[str, Any] | None = None
        self._usage_wanted = False
        self._started = False
        self._attempt: AttemptCapture | None = None
        self._patience: asyncio.Timeout | None = None
        self._protocol: _Protocol = request.protocol  # type: ignore[assignment]
        self._protocol.on_lost = self._client_left
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        path, _, query = request.raw_path.partition("?")
        headers = pairs(request.raw_headers)
        self._head = RequestHead(request.method, request.host, path, query, headers)
        client = Client("gateway", peer[0] if peer else "", f"{peer[0]}:{peer[1]}" if peer else "")
        self._exchange: Exchange = self._desk.exchange(self._head, client)

    async def run(self) -> web.StreamResponse:
        """Read the request, try its channels in order, relay the answer."""
        exchange, desk = self._exchange, self._desk
        try:
            await self._read_request()
        except TimeoutError:
            desk.record([exchange.request_end(), *exchange.request_body(desk.now())])
            return await self._refuse([], 408, "the request took too long to come", "request_timeout")
        except Refused as refused:
            return await self._answer(503, str(refused), "server_error", "not_recorded")
        except BROKEN:
            now = desk.now()
            gone = exchange.own_answer(None, "refused", "the client left before its request was complete", now, client_gone_at=now)
            desk.record([exchange.request_end(), *exchange.request_body(now), gone])
            return web.Response(status=400)
        record = exchange.request_end()
        self._message = exchange.message
        self._usage_wanted = usage_option.wanted(self._head.path, self._message)
        opened: list[Record] = [record, *exchange.request_body(desk.now())]
        if not is_below_base(self._head.path):
            words = f"there is nothing at {self._head.path}: the base URL of this gateway ends in {BASE_PATH}"
            return await self._refuse(opened, 404, words, "not_found")
        try:
            ways = self._door.permissions.ways(record.credential, exchange.model, self._door.plans.of(exchange.model), record.received_at)
        except NoRouteError:
            words = f"the model {exchange.model!r} has no channel here, and no channel is the default"
            return await self._refuse(opened, 404, words, "model_not_found")
        if isinstance(ways, Refusal):
            return await self._refuse(opened, ways.status, ways.words, ways.code)
        try:
            return await self._try_channels(Route(ways), opened)
        except Refused as refused:
            return await self._answer(503, str(refused), "server_error", "not_recorded")

    async def _read_request(self) -> None:
        """Take the body in. Raises TimeoutError where it does not get on, Refused where it cannot be held."""
        got, clock = 0, asyncio.get_running_loop()
        async with asyncio.timeout(progress.TICK_S) as patience:
            async for chunk in self._request.content.iter_any():
                self._exchange.request_chunk(chunk)
                try:
                    self._body.take(chunk)
                except OSError as error:
                    raise Refused(f"this request cannot be held ({error.strerror}), so it was not sent") from None
                got += len(chunk)
                if got >= progress.BODY_BYTES:
                    patience.reschedule(clock.time() + progress.TICK_S)
                    got = 0

    async def _try_channels(self, route: Route, opened: list[Record]) -> web.StreamResponse:
        """Attempt after attempt until one has an answer to relay, or none is left."""
        desk = self._desk
        step: Next | None = route.first()
        while step is not None:
            await asyncio.sleep(step.delay_s)
            try:
                attempt, body, headers = self._open(step)
            except _CannotChangeError as error:
                return await self._refuse(opened, 400, str(error), "unreadable_body")
            await desk.open([*opened, attempt.opened], refuse=desk.book.settings.gateway.unrecorded == "refuse")
            opened = []
            self._attempt = attempt
            desk.watch(attempt)
            response: aiohttp.ClientResponse | None = None
            try:
                try:
                    async with self._with_patience():
                        response = await self._send(step.target, body, headers)
                        attempt.head(response.status, pairs(response.raw_headers), desk.now())
                        first = await self._first_bytes(response)
                except BROKEN as error:
                    failure, ending = what_failed(error)
                    words = str(error) or type(error).__name__
                    if self._gone_at() and ending == "timeout":
                        ending, words = "client_gone", "the client left, and no answer came in time"
                    desk.close(attempt, ending, relayed=False, error=words)
                    step = None if self._gone_at() else route.after(failure, {}, time.time())
                    if step is None:
                        return await self._exhausted(attempt, failure, words)
                    continue
                attempt.chunk(first or b"", desk.now())
                target, step = step.target, None
                if response.status >= 400 and not self._gone_at():
                    step = route.after(response.status, {name.lower(): value for name, value in response.headers.items()}, time.time())
                    if "stream_options" in attempt.opened.modified:
                        first = (first or b"") + await self._read_error(attempt, response)
                        if usage_option.rejected(response.status, first):
                            self._usage_wanted = False
                            step = Next(target, "without_usage_option", 0.0)
                if step is None:
                    return await self._relay(attempt, response, first)
                await self._read_aside(attempt, response)
            finally:
                if response is not None:
                    response.close()
                desk.close(attempt, "proxy_stopped", relayed=self._started)  # where nothing above has closed it
        raise AssertionError("a route without a first step")

    def _open(self, step: Next) -> tuple[AttemptCapture, bytes | Spliced, CIMultiDict[str] | None]:
        """The attempt's record, and the body and headers it sends (None: the channel's credential is not set)."""
        target = step.target
        kept = sent_headers(self._head)
        body, modified = self._changed_body(target, kept)
        headers: CIMultiDict[str] | None = kept
        if target.channel.api_key_env is not None:
            modified.append("credential")
            headers = with_credential(kept, os.environ.get(target.channel.api_key_env))
        attempt = self._exchange.attempt(
            channel=target.channel.name,
            role=target.role,
            reason=step.reason,
            url=str(self._url(target).with_query(None)),
            sent_model=target.sent_model,
            modified=tuple(modified),
            at=self._desk.now(),
        )
        return attempt, body, headers

    def _changed_body(self, target: Target, headers: CIMultiDict[str]) -> tuple[bytes | Spliced, list[str]]:
        """The body as this channel is to get it, and what was changed. Raises _CannotChangeError for a model that cannot be."""
        renamed = target.sent_model if target.sent_model != self._exchange.model else None
        asks = self._usage_wanted and target.channel.inject_usage
        body, modified = self._body.whole(), list[str]()
        if body is None:
            return self._spliced(renamed, headers)
        if renamed is None and not asks:
            return body, []
        try:
            if "content-encoding" in headers:
                body = decoded(headers["content-encoding"], body)
            if asks and self._message is not None:
                body = usage_option.asked(body, self._message)
                modified += ["stream_options", "accept_encoding"]
            if renamed is not None:
                body = (set_form_field if _is_form(headers) else set_member)(body, "model", renamed)
                modified.append("model")
        except (ValueError, DecodingError) as error:
            if renamed is None:
                return self._body.whole() or b"", []
            raise _CannotChangeError(f"the model in this body cannot be changed to {renamed!r}: {error}") from None
        if "content-encoding" in headers:
            del headers["content-encoding"]
            modified.append("content_encoding")
        if asks:
            headers["Accept-Encoding"] = "identity"  # a frame cannot be taken out of a compressed stream
        return body, modified

    def _spliced(self, renamed: str | None, headers: CIMultiDict[str]) -> tuple[Spliced, list[str]]:
        """The same for a body too large to be read whole: a form names its model ahead of its file."""
        if renamed is None:
            return Spliced(self._body), []
        if not _is_form(headers) or "content-encoding" in headers:
            raise _CannotChangeError(f"the model in this body cannot be changed to {renamed!r}: it is too large, and no plain form")
        start = self._body.start(FORM_HEAD_BYTES)
        try:
            return Spliced(self._body, set_form_field(start, "model", renamed), len(start)), ["model"]
        except ValueError as error:
            raise _CannotChangeError(f"the model in this body cannot be changed to {renamed!r}: {error}") from None

    def _url(self, target: Target) -> URL:
        query = f"?{self._head.query}" if self._head.query else ""
        return URL(target.channel.base_url + self._head.path.removeprefix(BASE_PATH) + query, encoded=True)

    async def _send(self, target: Target, body: bytes | Spliced, headers: CIMultiDict[str] | None) -> aiohttp.ClientResponse:
        """Send one try and wait for its head. Raises one of BROKEN."""
        if headers is None:
            raise aiohttp.ClientConnectionError(f"{target.channel.api_key_env}, which holds this channel's credential, is not set")
        limit_s = target.channel.timeout_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_TIMEOUT_S, limit_s), sock_read=limit_s)
        data: Any
        if isinstance(body, Spliced):
            data, headers["Content-Length"] = body.pieces(), str(body.size)
        else:
            data = io.BytesIO(body) if len(body) > COPIED_BYTES else body or None
        return await self._session.request(
            self._head.method,
            self._url(target),
            headers=headers,
            data=data,
            allow_redirects=False,
            timeout=timeout,
            ssl=not target.channel.tls_unverified,
        )

    async def _first_bytes(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The first bytes of the body (empty: it has none), so that one that breaks at once can still fall back; None if they take their time."""
        try:
            return await asyncio.wait_for(response.content.readany(), HEAD_WAIT_S)
        except aiohttp.SocketTimeoutError:
            raise
        except TimeoutError:
            return None

    async def _read_error(self, attempt: AttemptCapture, response: aiohttp.ClientResponse) -> bytes:
        """The rest of an error's body, as far as it takes to see what it complains of."""
        rest = b""
        try:
            async with asyncio.timeout(READ_ASIDE_S):
                while len(rest) < READ_ASIDE_BYTES and (chunk := await response.content.readany()):
                    attempt.chunk(chunk, self._desk.now())
                    rest += chunk
        except BROKEN:
            return rest  # relaying or reading aside meets the same fault again, and records it
        return rest

    async def _read_aside(self, attempt: AttemptCapture, response: aiohttp.ClientResponse) -> None:
        """Read a failure that another try answers for: its body is evidence, and may carry usage."""
        ending, words = "complete", None
        try:
            async with asyncio.timeout(READ_ASIDE_S):
                while chunk := await response.content.readany():
                    attempt.chunk(chunk, self._desk.now())
        except BROKEN as error:
            ending, words = "upstream_truncated", str(error) or type(error).__name__
        self._desk.close(attempt, ending, relayed=False, error=words)

    async def _relay(self, attempt: AttemptCapture, response: aiohttp.ClientResponse, first: bytes | None) -> web.StreamResponse:
        """Pass the answer on as it comes; once the client has gone, read on for the usage, within the book's limit."""
        desk = self._desk
        relayed = _RelayedResponse(status=response.status, reason=response.reason)
        for name, value in response.headers.items():
            if name.lower() not in HOP_HEADERS:
                relayed.headers.add(name, value)
        relayed.headers[ID_HEADER] = self._exchange.request_id
        self._started = True
        self._body.close()
        hide = "stream_options" in attempt.opened.modified and attempt.streamed and "content-encoding" not in response.headers
        hidden = usage_option.UsageFrameFilter() if hide else None
        ending, words = "complete", None
        try:
            async with self._with_patience():
                await self._write(relayed, None)
                chunk = first
                if chunk is None:
                    chunk = await response.content.readany()
                    attempt.chunk(chunk, desk.now())
                while chunk:
                    await self._write(relayed, hidden.feed(chunk) if hidden is not None else chunk)
                    chunk = await response.content.readany()
                    attempt.chunk(chunk, desk.now())
        except BROKEN as error:
            ending = "timeout" if isinstance(error, TimeoutError) else "upstream_truncated"
            words = str(error) or type(error).__name__
        if hidden is not None:
            await self._write(relayed, hidden.end())
        if self._gone_at() and ending == "timeout":
            ending, words = "client_gone", "the client left; reading on for the usage took too long"
        if ending == "complete":
            await self._finish(relayed)
        desk.close(attempt, ending, relayed=True, error=words)
        if ending != "complete" and self._request.transport is not None:
            self._request.transport.abort()  # the client must not take a cut answer for a whole one
        return relayed

    async def _write(self, relayed: web.StreamResponse, chunk: bytes | None) -> None:
        """Send the head (None) or a chunk; a client that has gone is a fact, not an error."""
        if self._gone_at() or chunk == b"":
            return
        try:
            if chunk is None:
                await relayed.prepare(self._request)
            else:
                await relayed.write(chunk)
        except ConnectionError:
            self._lost()

    async def _finish(self, relayed: web.StreamResponse) -> None:
        """Send the end."""
        if not self._gone_at():
            try:
                await relayed.write_eof()
            except ConnectionError:
                self._lost()

    def _lost(self) -> None:
        if self._protocol.lost_at is None:
            self._protocol.lost_at = self._desk.now()
            self._client_left()

    @asynccontextmanager
    async def _with_patience(self) -> AsyncIterator[None]:
        """No time limit while the client is there; the book's limit on reading on from the moment it leaves."""
        limit_s = self._desk.book.settings.gateway.drain_after_client_gone_s
        async with asyncio.timeout(limit_s if self._gone_at() else None) as self._patience:
            try:
                yield
            finally:
                self._patience = None

    def _client_left(self) -> None:
        """The moment the client's connection is lost: a fact of the live attempt, and the start of the book's limit."""
        if self._attempt is not None and not self._attempt.finished:
            self._attempt.client_gone(self._desk.now())
        if self._patience is not None and self._patience.when() is None:
            limit_s = self._desk.book.settings.gateway.drain_after_client_gone_s
            self._patience.reschedule(asyncio.get_running_loop().time() + limit_s)

    def _gone_at(self) -> Instant | None:
        """When the client left; None while it is there."""
        return self._protocol.lost_at

    async def _refuse(self, opened: Sequence[Record], status: int, words: str, code: str) -> web.StreamResponse:
        """Our own answer instead of any attempt."""
        self._desk.counters.refused += 1
        self._desk.record([*opened, self._exchange.own_answer(status, "refused", words, self._desk.now())])
        return await self._answer(status, words, "invalid_request_error", code)

    async def _exhausted(self, attempt: AttemptCapture, failure: Failure, words: str) -> web.StreamResponse:
        """502 (504 for a timeout) when no channel gave anything to relay."""
        status, code = (504, "upstream_timeout") if failure == "timeout" else (502, "upstream_unreachable")
        answer = self._exchange.own_answer(
            status,
            "exhausted",
            f"no channel answered; the last, {attempt.opened.channel}, failed: {words}",
            self._desk.now(),
            client_gone_at=self._gone_at(),
        )
        self._desk.record([answer])
        return await self._answer(status, answer.error or words, "upstream_error", code)

    async def _answer(self, status: int, words: str, kind: str, code: str) -> web.StreamResponse:
        headers = {**answers.HEADERS, ID_HEADER: self._exchange.request_id}
        return web.Response(status=status, body=answers.body(words, kind, code), headers=headers)
