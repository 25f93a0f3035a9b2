"""One request at the gateway door, from its head to the last byte of its answer: channel after channel until one answers.

What is recorded is the Exchange machine's affair, and which channel is next is routing's. After the first byte has gone
to the client there is no way back: what upstream says is the answer.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from multidict import CIMultiDict

from proxy import answers, usage_option
from proxy.decoding import DecodingError, decoded
from proxy.desk import Desk, Refused
from proxy.exchange import AttemptCapture, Client, Exchange, RequestHead
from proxy.headers import ID_HEADER, pairs, passed_on, sent_headers, text, with_credential
from proxy.held import Spliced
from proxy.http_client import Answer, Origin, Pool, origin_of
from proxy.http_rules import RawHeaders, values
from proxy.http_server import Connection, Head
from proxy.patience import Patience
from proxy.permissions import Permissions, Refusal
from proxy.routing import Failure, Next, NoRouteError, Plans, Route, Target
from proxy.splice import set_member
from proxy.upstream import BROKEN, NotConnectedError, what_failed
from schemas.records import Instant, Record, Request

BASE_PATH = "/v1"
_BELOW = BASE_PATH + "/"
READ_ASIDE_S = 10.0
HEAD_WAIT_S = 1.0  # how long an answer's head waits for its first bytes before the client gets it without them
READ_ASIDE_BYTES = 1 << 20
_ID_HEADER = ID_HEADER.encode()
_WITH_LENGTH = frozenset((b"POST", b"PUT", b"PATCH"))  # methods whose body is empty and not absent (RFC 9110, section 8.6)


def is_below_base(path: str) -> bool:
    """Whether a path lies below the base path, and no dot segment leads out of it again."""
    return path == BASE_PATH or (path.startswith(_BELOW) and not {".", ".."} & set(unquote(path).split("/")))


class _CannotChangeError(Exception):
    """A channel has another id for the model, and the request's body cannot be given it."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What every request of a door passes through."""

    desk: Desk
    plans: Plans
    permissions: Permissions
    pool: Pool
    origins: dict[str, Origin] = field(default_factory=dict)

    def origin(self, target: Target) -> Origin:
        """Where a channel is."""
        channel = target.channel
        found = self.origins.get(channel.name)
        if found is None:
            found = self.origins[channel.name] = origin_of(channel.base_url, verified=not channel.tls_unverified)
        return found


class Passage:
    """One request of a client, from its head to the last byte of its answer."""

    def __init__(self, ways: Ways, connection: Connection, head: Head) -> None:
        self._ways = ways
        self._desk = ways.desk
        self._connection = connection
        self._method = head.method
        self._body = ways.desk.held_body()
        self._not_held: str | None = None  # why the body could not be
        self._message: dict[str, Any] | None = None
        self._usage_wanted = False
        self._started = False
        self._running = False
        self._gone_at: Instant | None = None  # when the client left; None while it is there
        self._attempt: AttemptCapture | None = None
        self._patience = Patience(ways.desk.book.settings.gateway.drain_after_client_gone_s)
        path, _, query = text(head.target).partition("#")[0].partition("?")
        host = b"".join(values(head.headers, b"host"))
        self._head = RequestHead(text(head.method), text(host), path, query, pairs(head.headers))
        peer = connection.peer
        client = Client("gateway", peer[0] if peer else "", f"{peer[0]}:{peer[1]}" if peer else "")
        self._exchange: Exchange = self._desk.exchange(self._head, client)
        self._record: Request | None = None

    def body(self, data: bytes) -> None:
        """The next bytes of the request's body."""
        self._exchange.request_chunk(data)
        try:
            if self._not_held is None:
                self._body.take(data)
        except OSError as error:
            self._not_held = error.strerror

    def cut(self, status: int, words: str) -> None:
        """The rest of its body cannot be heard, and the connection says so."""
        self._record_unheard(status, words, None)

    def left(self) -> None:
        """The client's connection is lost: a fact of the live attempt, and the start of the book's limit on reading on."""
        if self._gone_at is not None:
            return
        self._gone_at = now = self._desk.now()
        if not self._running:
            self._record_unheard(None, "the client left before its request was complete", now)
            return
        if self._attempt is not None and not self._attempt.finished:
            self._attempt.client_gone(now)
        self._patience.wear_out()

    def _record_unheard(self, status: int | None, words: str, gone_at: Instant | None) -> None:
        exchange, now = self._exchange, self._desk.now()
        answer = exchange.own_answer(status, "refused", words, now, client_gone_at=gone_at)
        self._desk.record([exchange.request_end(), *exchange.request_body(now), answer])
        self._body.close()

    async def run(self) -> None:
        """The request is whole: answer it, then let go of its body."""
        self._running = True
        try:
            await self._run()
        except Refused as refused:
            self._answer(503, str(refused), "server_error", "not_recorded")
        finally:
            self._body.close()

    async def _run(self) -> None:
        """Try the channels in order, relay the answer. Raises Refused where nothing may be sent."""
        exchange, desk = self._exchange, self._desk
        if self._not_held is not None:
            raise Refused(f"this request cannot be held ({self._not_held}), so it was not sent")
        record = self._record = exchange.request_end()
        self._message = exchange.message
        self._usage_wanted = usage_option.wanted(self._head.path, self._message)
        opened: list[Record] = [record, *exchange.request_body(desk.now())]
        if not is_below_base(self._head.path):
            words = f"there is nothing at {self._head.path}: the base URL of this gateway ends in {BASE_PATH}"
            self._refuse(opened, 404, words, "not_found")
            return
        ways = self._ways
        try:
            open_ways = ways.plans.of(exchange.model)
            targets = ways.permissions.ways(record.credential, exchange.model, open_ways, record.received_at, bare=not record.body_bytes)
        except NoRouteError:
            words = f"the model {exchange.model!r} has no channel here, and no channel is the default"
            self._refuse(opened, 404, words, "model_not_found")
            return
        if isinstance(targets, Refusal):
            self._refuse(opened, targets.status, targets.words, targets.code)
            return
        await self._try_channels(Route(targets), opened)

    async def _try_channels(self, route: Route, opened: list[Record]) -> None:
        """Attempt after attempt until one has an answer to relay, or none is left."""
        desk = self._desk
        step: Next | None = route.first()
        while step is not None:
            if step.delay_s:
                await asyncio.sleep(step.delay_s)
            if self._gone_at is not None:
                self._leave_unsent(opened)
                return
            try:
                attempt, body, headers = self._open(step)
            except _CannotChangeError as error:
                self._refuse(opened, 400, str(error), "unreadable_body")
                return
            self._attempt = attempt  # from here on it is told of the client's leaving
            await desk.open([*opened, attempt.opened], refuse=desk.book.settings.gateway.unrecorded == "refuse")
            opened = []
            desk.watch(attempt)
            answer: Answer | None = None
            try:
                try:
                    with self._patience:
                        answer = await self._send(step.target, body, headers)
                        attempt.head(answer.status, pairs(answer.headers), desk.now())
                        first = await answer.read() if await answer.come(HEAD_WAIT_S) else None
                except BROKEN as error:
                    step = self._broke(attempt, route, error)
                    continue
                attempt.chunk(first or b"", desk.now())
                target, step = step.target, None
                if answer.status >= 400 and self._gone_at is None:
                    step = route.after(answer.status, {name.lower(): value for name, value in pairs(answer.headers)}, time.time())
                    if "stream_options" in attempt.opened.modified:
                        first = (first or b"") + await self._read_error(attempt, answer)
                        if usage_option.rejected(answer.status, first):
                            self._usage_wanted = False
                            step = Next(target, "without_usage_option", 0.0)
                if step is None:
                    await self._relay(attempt, answer, first)
                else:
                    await self._read_aside(attempt, answer)
            finally:
                if answer is not None:
                    answer.close()
                desk.close(attempt, "proxy_stopped", relayed=self._started)  # where nothing above has closed it

    def _leave_unsent(self, opened: Sequence[Record]) -> None:
        """The client left before the next try was sent, and so it is not: nobody waits for an answer. `opened`: where it was the first."""
        words = "the client left before the next try was sent"
        ending = "refused" if opened else "exhausted"
        self._desk.record([*opened, self._exchange.own_answer(None, ending, words, self._desk.now(), client_gone_at=self._gone_at)])

    def _broke(self, attempt: AttemptCapture, route: Route, error: BaseException) -> Next | None:
        """A try that gave nothing to relay; the next, or None after telling the client that there is none."""
        failure, ending = what_failed(error)
        words = str(error) or type(error).__name__
        if self._gone_at is not None and ending == "timeout":
            ending, words = "client_gone", "the client left, and no answer came in time"
        self._desk.close(attempt, ending, relayed=False, error=words)
        step = None if self._gone_at is not None else route.after(failure, {}, time.time())
        if step is None:
            self._exhausted(attempt, failure, words)
        return step

    def _open(self, step: Next) -> tuple[AttemptCapture, bytes | Spliced, CIMultiDict[str] | None]:
        """The attempt's record, and the body and headers it sends (None: the channel's credential is not set)."""
        target, record = step.target, self._record
        assert record is not None
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
            url=target.channel.base_url + record.path.removeprefix(BASE_PATH),
            sent_model=target.sent_model,
            modified=tuple(modified),
            at=self._desk.now(),
        )
        return attempt, body, headers

    def _changed_body(self, target: Target, headers: CIMultiDict[str]) -> tuple[bytes | Spliced, list[str]]:
        """The body as this channel is to get it, and what was changed. Raises _CannotChangeError for a model that cannot be."""
        renamed = target.sent_model if target.sent_model != self._exchange.model else None
        asks = self._usage_wanted and target.channel.inject_usage
        place = self._exchange.form_model
        if renamed is not None and place is not None:
            return Spliced(self._body, place.start, place.end, renamed.encode()), ["model"]
        body, modified = self._body.whole(), list[str]()
        if body is None:
            if renamed is not None:
                raise _CannotChangeError(f"the model in this body cannot be changed to {renamed!r}: it is too large, and no form")
            return Spliced(self._body), []
        if renamed is None and not asks:
            return body, []
        try:
            if "content-encoding" in headers:
                body = decoded(", ".join(headers.getall("content-encoding")), body)
            if asks and self._message is not None:
                body = usage_option.asked(body, self._message)
                modified += ["stream_options", "accept_encoding"]
            if renamed is not None:
                body = set_member(body, "model", renamed)
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

    async def _send(self, target: Target, body: bytes | Spliced, headers: CIMultiDict[str] | None) -> Answer:
        """Send one try and wait for its head. Raises one of BROKEN."""
        if headers is None:
            raise NotConnectedError(f"{target.channel.api_key_env}, which holds this channel's credential, is not set or is no key")
        origin = self._ways.origin(target)
        path = origin.path + self._head.path.removeprefix(BASE_PATH)
        query = f"?{self._head.query}" if self._head.query else ""
        lines = [f"{self._head.method} {path or '/'}{query} HTTP/1.1\r\nHost: {origin.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        size = body.size if isinstance(body, Spliced) else len(body)
        if size or self._method in _WITH_LENGTH:
            lines.append(f"Content-Length: {size}")
        lines.append("\r\n")
        message = "\r\n".join(lines).encode("utf-8", "surrogateescape")
        return await self._ways.pool.request(origin, self._method, message, body, target.channel.timeout_s)

    async def _read_error(self, attempt: AttemptCapture, answer: Answer) -> bytes:
        """The rest of an error's body, as far as it takes to see what it complains of."""
        rest = b""
        try:
            async with asyncio.timeout(READ_ASIDE_S):
                while len(rest) < READ_ASIDE_BYTES and (chunk := await answer.read()):
                    attempt.chunk(chunk, self._desk.now())
                    rest += chunk
        except BROKEN:
            return rest  # relaying or reading aside meets the same fault again, and records it
        return rest

    async def _read_aside(self, attempt: AttemptCapture, answer: Answer) -> None:
        """Read a failure that another try answers for: its body is evidence, and may carry usage."""
        ending, words = "complete", None
        try:
            async with asyncio.timeout(READ_ASIDE_S):
                while chunk := await answer.read():
                    attempt.chunk(chunk, self._desk.now())
        except BROKEN as error:
            ending, words = "upstream_truncated", str(error) or type(error).__name__
        self._desk.close(attempt, ending, relayed=False, error=words)

    async def _relay(self, attempt: AttemptCapture, answer: Answer, first: bytes | None) -> None:
        """Pass the answer on as it comes; once the client has gone, read on for the usage, within the book's limit."""
        desk, connection = self._desk, self._connection
        self._started = True
        if self._body.whole() is not None:
            self._body.close()  # a long answer need not hold it in memory; of a larger one, some may still be on its way
        hide = "stream_options" in attempt.opened.modified and attempt.streamed and _is_plain(answer.headers)
        hidden = usage_option.UsageFrameFilter() if hide else None
        headers, sized = passed_on(answer.headers, hide_length=hide)
        connection.start(answer.status, answer.reason, [*headers, (_ID_HEADER, self._exchange.request_id.encode())], sized=sized)
        ending, words = "complete", None
        try:
            with self._patience:
                if first is None:
                    connection.flush()
                    first = await answer.read()
                    attempt.chunk(first, desk.now())
                chunk = first
                while chunk:
                    connection.send(hidden.feed(chunk) if hidden is not None else chunk)
                    if connection.full:
                        await connection.drained()
                    if chunk := await answer.read():
                        attempt.chunk(chunk, desk.now())
        except BROKEN as error:
            ending = "timeout" if isinstance(error, TimeoutError) else "upstream_truncated"
            words = str(error) or type(error).__name__
        if hidden is not None:
            connection.send(hidden.end())
        if self._gone_at is not None and ending == "timeout":
            ending, words = "client_gone", "the client left; reading on for the usage took too long"
        if ending == "complete":
            connection.finish()
        desk.close(attempt, ending, relayed=True, error=words)
        if ending != "complete":
            connection.abort()  # the client must not take a cut answer for a whole one

    def _refuse(self, opened: Sequence[Record], status: int, words: str, code: str) -> None:
        """Our own answer instead of any attempt."""
        self._desk.counters.refused += 1
        self._desk.record([*opened, self._exchange.own_answer(status, "refused", words, self._desk.now())])
        self._answer(status, words, "invalid_request_error", code)

    def _exhausted(self, attempt: AttemptCapture, failure: Failure, words: str) -> None:
        """502 (504 for a timeout) when no channel gave anything to relay."""
        status, code = (504, "upstream_timeout") if failure == "timeout" else (502, "upstream_unreachable")
        answer = self._exchange.own_answer(
            status,
            "exhausted",
            f"no channel answered; the last, {attempt.opened.channel}, failed: {words}",
            self._desk.now(),
            client_gone_at=self._gone_at,
        )
        self._desk.record([answer])
        self._answer(status, answer.error or words, "upstream_error", code)

    def _answer(self, status: int, words: str, kind: str, code: str) -> None:
        self._connection.answer(status, _own_headers(self._exchange.request_id), answers.body(words, kind, code))


def _is_plain(headers: RawHeaders) -> bool:
    return all(value.strip().lower() == b"identity" for value in values(headers, b"content-encoding"))


def _own_headers(request_id: str) -> RawHeaders:
    return [*((name.encode(), value.encode()) for name, value in answers.HEADERS.items()), (_ID_HEADER, request_id.encode())]
