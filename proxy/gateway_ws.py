"""WebSockets at the gateway door: which channel a client's socket is joined to, and what the client is told where it is not.

Where the model is in the address (realtime), the channel is opened first and its answer to the upgrade is the client's.
For Responses the model is in the client's first frame, so the client is answered at once and the channel is opened when
that frame has come. Each side agrees on compression for itself; text, binary, ping, pong and close frames pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from proxy import answers
from proxy.desk import Desk, Refused
from proxy.exchange import Client, Exchange, RequestHead
from proxy.headers import HOP_HEADERS, ID_HEADER, pairs
from proxy.permissions import Permissions, Refusal
from proxy.redact import SECRET_SUBPROTOCOLS
from proxy.relay import CLOSE_S, DATA, GOING_AWAY, ClientSocket, Frame, Relay, cancelled, ended, payload
from proxy.routing import NoRouteError, Plans, Target
from proxy.sockets import ABNORMAL, End, SocketLog, turn_exchange
from proxy.splice import set_member
from proxy.turns import Way, asked_model, creation, kind_of
from proxy.upgrade import MAX_MESSAGE_BYTES, Answer, Upgrades, Upstream, offered, own_answer

_INTERNAL_ERROR = 1011
_WHATEVER_MODEL = (401, 402)  # refusals that hold before a frame has named the model: who asks, and what was spent


class _ClientSocket(web.WebSocketResponse[bool]):
    """The client's side; its answer has upstream's headers and ours, and none that the server would add."""

    async def _prepare_headers(self) -> None:
        named = [name for name in ("Content-Type", "Date", "Server") if name not in self.headers]
        await super()._prepare_headers()
        for name in named:
            self.headers.popall(name, None)


class Sockets:
    """Every WebSocket of the gateway door."""

    def __init__(self, desk: Desk, plans: Plans, permissions: Permissions, upgrades: Upgrades, base_path: str) -> None:
        self.desk = desk
        self.plans = plans
        self.permissions = permissions
        self.base_path = base_path
        self.leaving = asyncio.Event()
        self.upgrades = upgrades
        self._tasks: set[asyncio.Task[Any]] = set()

    @staticmethod
    def asked(request: web.BaseRequest) -> bool:
        """Whether a request is an upgrade to a WebSocket."""
        return request.method == "GET" and request.headers.get("upgrade", "").strip().lower() == "websocket"

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one upgrade, and relay until its socket ends."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await _Socket(self, request).run()
        finally:
            self._tasks.discard(task)

    def leave(self) -> None:
        """Close every connection as soon as none of its turns is open."""
        self.leaving.set()

    async def stop(self) -> None:
        """Close what is left."""
        await cancelled(*self._tasks)
        await self.upgrades.close()


class _Socket:
    """One client's connection."""

    def __init__(self, door: Sockets, request: web.BaseRequest) -> None:
        self._door = door
        self._desk = door.desk
        self._request = request
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        path, _, query = request.raw_path.partition("?")
        self._head = RequestHead(request.method, request.host, path, query, pairs(request.raw_headers))
        self._client = Client("gateway", peer[0] if peer else "", f"{peer[0]}:{peer[1]}" if peer else "")
        self._exchange: Exchange = self._desk.exchange(self._head, self._client)
        self._exchange.model = asked_model(query)
        self._record = self._exchange.request_end()
        self._kind = kind_of(path)

    async def run(self) -> web.StreamResponse:
        """Answer the upgrade and relay until the socket ends."""
        base = self._door.base_path
        if not (self._head.path == base or self._head.path.startswith(base + "/")):
            words = f"there is nothing at {self._head.path}: the base URL of this gateway ends in {base}"
            return self._refuse(Refusal(404, "not_found", words))
        if not _ClientSocket().can_prepare(self._request).ok:
            return self._refuse(Refusal(400, "bad_upgrade", "this is no valid upgrade to a WebSocket"))
        ways = self._ways(self._exchange.model)
        try:
            if self._kind == "responses" and not (isinstance(ways, Refusal) and ways.status in _WHATEVER_MODEL):
                return await self._run_from_first_frame()
            if isinstance(ways, Refusal):
                return self._refuse(ways)
            return await self._run_at_once(ways)
        except Refused as refused:
            return self._answer(own_answer(Refusal(503, "not_recorded", str(refused)), "server_error"))

    async def _run_at_once(self, ways: Sequence[Target]) -> web.StreamResponse:
        upstream = await self._door.upgrades.connect(self._exchange, ways, [self._record])
        if isinstance(upstream, Answer):
            return self._answer(upstream)
        client = self._client_socket([upstream.socket.protocol] if upstream.socket.protocol else [], upstream.headers)
        try:
            await client.prepare(self._request)
        except ConnectionError as error:
            self._desk.close(upstream.attempt, "client_gone", relayed=False, error=str(error))
            upstream.answer.close()
            return client
        await self._relay(client, upstream, None)
        return client

    async def _run_from_first_frame(self) -> web.StreamResponse:
        """Hold the connection to the channel back until a frame says which channel it is."""
        plain = [protocol for protocol in offered(self._head.headers) if not protocol.startswith(SECRET_SUBPROTOCOLS)]
        client = self._client_socket(plain[:1], [])
        await client.prepare(self._request)
        self._desk.record([self._record])
        first = await self._first_frame(client)
        if isinstance(first, End):
            ending = "client_gone" if first.by == "client" else "proxy_stopped"
            self._own_record(ending, f"{first.words}, before any frame asked for anything")
            await self._close(client, first)
            return client
        message = creation(self._kind, first.data) if first.type == WSMsgType.TEXT else None
        ways = self._ways(_model(message))
        upstream: Upstream | Answer
        if isinstance(ways, Refusal):
            upstream = own_answer(ways)
            self._own_record("refused", f"its first frame was refused: {ways.words}")
        else:
            try:
                upstream = await self._door.upgrades.connect(self._exchange, ways, [])
            except Refused as refused:
                upstream = own_answer(Refusal(503, "not_recorded", str(refused)), "server_error")
        if isinstance(upstream, Upstream):
            await self._relay(client, upstream, first)
        else:
            await self._refuse_frame(client, message, first.data, upstream)
            await self._close(client, End("proxy", _INTERNAL_ERROR, "no channel took the connection"))
        return client

    async def _first_frame(self, client: ClientSocket) -> Frame | End:
        """The first text or binary frame; the End if the client or the proxy leaves before it."""
        leaving = asyncio.ensure_future(self._door.leaving.wait())
        try:
            while True:
                frame = asyncio.ensure_future(client.receive())
                await asyncio.wait({frame, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not frame.done():
                    await cancelled(frame)
                    return End("proxy", GOING_AWAY)
                message = frame.result()
                if message.type in DATA:
                    return message
                if message.type == WSMsgType.PING:
                    await client.pong(message.data)
                elif message.type != WSMsgType.PONG:
                    return ended("client", message)
        finally:
            leaving.cancel()

    def _client_socket(self, protocols: list[str], headers: list[tuple[str, str]]) -> ClientSocket:
        client = _ClientSocket(protocols=protocols, autoping=False, autoclose=False, max_msg_size=MAX_MESSAGE_BYTES, decode_text=False)
        for name, value in headers:
            lower = name.lower()
            if lower not in HOP_HEADERS and lower != "content-length" and not lower.startswith("sec-websocket-"):
                client.headers.add(name, value)
        client.headers[ID_HEADER] = self._exchange.request_id
        return client

    async def _relay(self, client: ClientSocket, upstream: Upstream, first: Frame | None) -> None:
        opened = upstream.attempt.opened
        way = Way(
            channel=opened.channel,
            role=opened.role,
            url=opened.url,
            status=upstream.answer.status,
            headers=upstream.headers,
            model=self._exchange.model,
            sent_model=opened.sent_model,
            modified=opened.modified,
        )
        log = SocketLog(self._desk, self._exchange, self._client, upstream.attempt, way)

        async def check(frame: Frame) -> bytes | None:
            return await self._record_frame(client, upstream.target, log, frame)

        drain_s = self._desk.book.settings.gateway.drain_after_client_gone_s
        await Relay(client, upstream, log, check, self._hang_up).run(first, self._door.leaving, drain_s)

    async def _record_frame(self, client: ClientSocket, target: Target, log: SocketLog, frame: Frame) -> bytes | None:
        """Record a client's frame; what is to be sent in its place, or None if the proxy has answered it itself."""
        data, text = bytes(frame.data), frame.type == WSMsgType.TEXT
        message = creation(self._kind, data) if text and self._kind == "responses" else None
        sent, sent_model, modified = data, None, False
        if message is not None:
            way = self._way_on(target, _model(message))
            if isinstance(way, Refusal):
                await self._refuse_frame(client, message, data, own_answer(way))
                return None
            sent_model = way.sent_model
            modified = sent_model not in (None, _model(message))
            if modified:
                sent = set_member(data, "model", sent_model)
        refuse = self._desk.book.settings.gateway.unrecorded == "refuse"
        try:
            await log.client(data, text=text, refuse=refuse, sent_model=sent_model, modified=("model",) if modified else ())
        except Refused as refused:
            await _say_error(client, message, own_answer(Refusal(503, "not_recorded", str(refused)), "server_error"))
            return None
        return sent

    def _ways(self, model: str | None) -> tuple[Target, ...] | Refusal:
        """The ways to a model that this client's key may take."""
        try:
            ways = self._door.plans.of(model)
        except NoRouteError:
            return Refusal(404, "model_not_found", f"the model {model!r} has no channel here, and no channel is the default")
        return self._door.permissions.ways(self._record.credential, model, ways, self._desk.now())

    def _way_on(self, target: Target, model: str | None) -> Target | Refusal:
        """The way to a model over the channel that this connection leads to: its memory is there, and nowhere else."""
        ways = self._ways(model)
        if isinstance(ways, Refusal):
            return ways
        words = f"the model {model!r} is not served by the channel that this connection leads to; open another connection for it"
        elsewhere = Refusal(400, "model_on_another_channel", words)
        return next((way for way in ways if way.channel.name == target.channel.name), elsewhere)

    async def _close(self, client: ClientSocket, end: End) -> None:
        """Close the client's side ourselves, or answer its close."""
        if end.code != ABNORMAL:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await client.send_frame(payload(end), WSMsgType.CLOSE)
                async with asyncio.timeout(CLOSE_S):
                    while end.by != "client" and (await client.receive()).type in (*DATA, WSMsgType.PING, WSMsgType.PONG):
                        pass
        self._hang_up()

    def _hang_up(self) -> None:
        """End the client's connection; the server would send a close frame of its own otherwise."""
        if self._request.transport is not None:
            self._request.transport.close()

    def _refuse(self, refusal: Refusal) -> web.Response:
        """Our own answer to the upgrade, before any attempt."""
        self._desk.counters.refused += 1
        self._desk.record([self._record, self._exchange.own_answer(refusal.status, "refused", refusal.words, self._desk.now())])
        return self._answer(own_answer(refusal))

    def _answer(self, answer: Answer) -> web.Response:
        response = web.Response(status=answer.status, reason=answer.reason, body=answer.body, headers=answer.headers)
        response.headers[ID_HEADER] = self._exchange.request_id
        return response

    def _own_record(self, ending: str, words: str) -> None:
        """The connection was answered with 101 by ourselves and came to nothing."""
        now = self._desk.now()
        gone_at = now if ending == "client_gone" else None
        self._desk.record([self._exchange.own_answer(101, ending, words, now, client_gone_at=gone_at)])

    async def _refuse_frame(self, client: ClientSocket, message: dict[str, Any] | None, data: bytes, answer: Answer) -> None:
        """Our own answer to a frame: the turn that it asked for is on record, and an error frame says why it is not."""
        self._desk.counters.refused += 1
        if message is not None:
            turn, now = turn_exchange(self._desk, self._exchange, self._client), self._desk.now()
            turn.request_chunk(data)
            self._desk.record(
                [turn.request_end(), *turn.request_body(now), turn.own_answer(answer.status, answer.ending, answer.words, now)]
            )
        await _say_error(client, message, answer)


async def _say_error(client: ClientSocket, message: dict[str, Any] | None, answer: Answer) -> None:
    """An error frame in the vendor's shape, on the lane of the frame that it answers."""
    try:
        error = orjson.loads(answer.body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        error = orjson.loads(answers.body(answer.words, "upstream_error", "upgrade_refused"))["error"]
    lane = {"stream_id": message["stream_id"]} if message is not None and "stream_id" in message else {}
    frame = orjson.dumps({"type": "error", "status": answer.status, **lane, "error": error})
    with contextlib.suppress(ConnectionError):
        await client.send_frame(frame, WSMsgType.TEXT)


def _model(message: dict[str, Any] | None) -> str | None:
    model = message.get("model") if message is not None else None
    return model if isinstance(model, str) else None


# It would write the subprotocols that a client offers, and with them its key, to the log.
logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
