"""A WebSocket to a channel: attempt after attempt until one takes the upgrade, or the answer that the client is owed."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote, unquote

import aiohttp
from aiohttp.client_reqrep import ClientResponse
from yarl import URL

from proxy import answers
from proxy.desk import Desk
from proxy.exchange import AttemptCapture, Exchange
from proxy.headers import HOP_HEADERS, pairs, sent_headers, with_credential
from proxy.permissions import Refusal
from proxy.redact import SECRET_SUBPROTOCOLS
from proxy.routing import Next, Route, Target
from proxy.targets import Targets
from proxy.upstream import BROKEN, CONNECT_TIMEOUT_S, NotConnectedError, session, what_failed
from schemas.records import Record

# One message, inflated; past it the connection is closed with 1009. Vendors' own limits are far below.
MAX_MESSAGE_BYTES = 128 << 20
_REFUSAL_BYTES = 1 << 20
_WINDOW_BITS = 15  # permessage-deflate, offered upstream where the client offered it


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client is answered where no connection is made for it: an HTTP answer, or an error frame on an open socket."""

    status: int
    body: bytes
    words: str  # for the record
    ending: str = "refused"
    reason: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: answers.HEADERS)


def own_answer(refusal: Refusal, kind: str = "invalid_request_error", ending: str = "refused") -> Answer:
    """Our own answer, in the vendor's shape."""
    return Answer(refusal.status, answers.body(refusal.words, kind, refusal.code), refusal.words, ending)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The channel's side of an open connection."""

    socket: aiohttp.ClientWebSocketResponse[bool]
    answer: ClientResponse
    target: Target
    attempt: AttemptCapture

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Its answer's headers, as they came."""
        return pairs(self.answer.raw_headers)


class _RefusedUpgradeError(Exception):
    """Upstream answered the upgrade with something else than 101; its answer, whole."""

    def __init__(self, answer: ClientResponse, body: bytes) -> None:
        super().__init__(f"the upgrade to a WebSocket was answered with status {answer.status}")
        self.answer = answer
        self.body = body


class _UpgradeAnswer(ClientResponse):
    """An upgrade's answer. A refusal is read here, because the client above closes it unread."""

    async def start(self, connection: Any) -> Self:
        await super().start(connection)
        if self.status != 101:
            chunks, size = [], 0
            while size < _REFUSAL_BYTES and (chunk := await self.content.readany()):
                chunks.append(chunk)
                size += len(chunk)
            raise _RefusedUpgradeError(self, b"".join(chunks))
        return self


class Upgrades:
    """The gateway's client for WebSockets."""

    def __init__(self, desk: Desk, base_path: str, tls: ssl.SSLContext, targets: Targets) -> None:
        self._desk = desk
        self._base_path = base_path
        self._session = session(tls, targets, response_class=_UpgradeAnswer, timeout=aiohttp.ClientTimeout(total=None))

    async def close(self) -> None:
        """Close what is left."""
        await self._session.close()

    async def connect(self, exchange: Exchange, ways: Sequence[Target], opened: Sequence[Record]) -> Upstream | Answer:
        """Try the ways in order; `opened` becomes durable with the first attempt. Raises desk.Refused."""
        desk, route = self._desk, Route(ways)
        records = list(opened)
        step: Next | None = route.first()
        while step is not None:
            await asyncio.sleep(step.delay_s)
            attempt = self._attempt(exchange, step)
            await desk.open([*records, attempt.opened], refuse=desk.book.settings.gateway.unrecorded == "refuse")
            records = []
            desk.watch(attempt)
            try:
                return await self._upgrade(exchange, attempt, step.target)
            except _RefusedUpgradeError as refusal:
                answer, now = refusal.answer, desk.now()
                attempt.head(answer.status, pairs(answer.raw_headers), now)
                attempt.chunk(refusal.body, now)
                step = route.after(answer.status, {name.lower(): value for name, value in answer.headers.items()}, time.time())
                desk.close(attempt, "complete", relayed=step is None)
                if step is None:
                    kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_HEADERS | {"content-length"}}
                    return Answer(answer.status, refusal.body, str(refusal), "exhausted", answer.reason, kept)
            except BROKEN as error:
                failure, ending = what_failed(error)
                words = str(error) or type(error).__name__
                desk.close(attempt, ending, relayed=False, error=words)
                step = route.after(failure, {}, time.time())
                if step is None:
                    return self._exhausted(exchange, attempt, 504 if failure == "timeout" else 502, words)
            finally:
                if attempt.status != 101:
                    desk.close(attempt, "proxy_stopped", relayed=False)  # where nothing above has closed it
        raise AssertionError("a route without a first step")

    def _exhausted(self, exchange: Exchange, attempt: AttemptCapture, status: int, words: str) -> Answer:
        words = f"no channel answered; the last, {attempt.opened.channel}, failed: {words}"
        record = exchange.own_answer(status, "exhausted", words, self._desk.now())
        self._desk.record([record])
        code = "upstream_timeout" if status == 504 else "upstream_unreachable"
        return own_answer(Refusal(status, code, record.error or words), "upstream_error", "exhausted")

    def _attempt(self, exchange: Exchange, step: Next) -> AttemptCapture:
        target, model = step.target, exchange.model
        modified = ["model"] if model is not None and target.sent_model != model else []
        if target.channel.api_key_env is not None:
            modified.append("credential")
        return exchange.attempt(
            channel=target.channel.name,
            role=target.role,
            reason=step.reason,
            url=str(self._url(exchange, target).with_query(None)),
            sent_model=target.sent_model if model is not None else None,
            modified=tuple(modified),
            at=self._desk.now(),
        )

    def _url(self, exchange: Exchange, target: Target) -> URL:
        """Where an upgrade goes; a model in its query is given the channel's own name."""
        head, query = exchange.head, exchange.head.query
        if exchange.model is not None and target.sent_model not in (None, exchange.model):
            query = _with_model(query, str(target.sent_model))
        return URL(target.channel.base_url + head.path.removeprefix(self._base_path) + (f"?{query}" if query else ""), encoded=True)

    async def _upgrade(self, exchange: Exchange, attempt: AttemptCapture, target: Target) -> Upstream:
        """One try at one channel. Raises _RefusedUpgradeError or one of BROKEN."""
        headers = sent_headers(exchange.head)
        protocols = offered(exchange.head.headers)
        deflate = "permessage-deflate" in headers.get("sec-websocket-extensions", "")
        for name in {name for name in headers if name.lower().startswith("sec-websocket-")}:
            headers.popall(name, None)  # of this hop, and made anew for the next
        if target.channel.api_key_env is not None:
            protocols = [protocol for protocol in protocols if not protocol.startswith(SECRET_SUBPROTOCOLS)]
            if with_credential(headers, os.environ.get(target.channel.api_key_env)) is None:
                raise NotConnectedError(f"{target.channel.api_key_env}, which holds this channel's credential, is not set or is no key")
        async with asyncio.timeout(min(CONNECT_TIMEOUT_S, target.channel.timeout_s)):
            socket = await self._session.ws_connect(
                self._url(exchange, target),
                headers=headers,
                protocols=protocols,
                autoclose=False,
                autoping=False,
                compress=_WINDOW_BITS if deflate else 0,
                max_msg_size=MAX_MESSAGE_BYTES,
                decode_text=False,
                ssl=not target.channel.tls_unverified,
            )
        answer = socket._response  # noqa: SLF001 - the only way to the answer's own headers
        attempt.head(answer.status, pairs(answer.raw_headers), self._desk.now())
        return Upstream(socket, answer, target, attempt)


def offered(headers: Sequence[tuple[str, str]]) -> list[str]:
    """The subprotocols that a client offers, in order; a key may be among them."""
    values = [value for name, value in headers if name.lower() == "sec-websocket-protocol"]
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _with_model(query: str, model: str) -> str:
    """The query with another model and every other byte as it was."""
    pieces = [pair.partition("=") for pair in query.split("&")]
    return "&".join(name + equals + (quote(model, safe="") if unquote(name) == "model" else value) for name, equals, value in pieces)
