"""A stand-in vendor for WebSockets, over HTTP or HTTPS: the Responses API's turns, realtime sessions, and an echo on any other path.

A client's `response.create` says in its member `stub` how the turn is to go (`Plan`); without one it goes well. Numbers are made to be
worked by hand: 7 input tokens (2 of them cached) and 3 output tokens a turn. Everything that was received and sent is kept as it was.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import WSMsgType, web

from tests.certs import Leaf

RESPONSES_USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 10,
}
REALTIME_USAGE = {
    "total_tokens": 10,
    "input_tokens": 7,
    "output_tokens": 3,
    "input_token_details": {"text_tokens": 3, "audio_tokens": 4, "cached_tokens": 2, "cached_tokens_details": {"text_tokens": 2}},
    "output_token_details": {"text_tokens": 1, "audio_tokens": 2},
}
TRANSCRIPTION_USAGE = {
    "type": "tokens",
    "total_tokens": 6,
    "input_tokens": 5,
    "input_token_details": {"audio_tokens": 5},
    "output_tokens": 1,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a turn is to go; as a client writes it: `{"stub": {"hold": "gate"}}`."""

    hold: str | None = None  # wait at this gate after the first delta
    end: str = "completed"  # or incomplete, failed, error
    status: int = 400  # of an error frame
    code: str = "previous_response_not_found"
    close: int | None = None  # close with this code after the first delta; 0: without a code
    drop: bool = False  # cut the connection after the first delta
    big: int = 0  # so many characters in the first delta
    steer: bool = False  # end as steered, and let a successor follow by itself


@dataclass(eq=False)
class Connection:
    """One connection as the vendor saw it."""

    path: str
    query: dict[str, str]
    headers: list[tuple[str, str]]
    protocols: list[str]
    received: list[str | bytes] = field(default_factory=list)
    sent: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    close_code: int | None = None
    ended: bool = False

    def header(self, name: str) -> str | None:
        """The first header of this name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class WebSocketVendor:
    """The vendor. `refuse` answers every upgrade with this status instead."""

    def __init__(self, name: str = "ws", tls: Leaf | None = None, refuse: int | None = None) -> None:
        self.name = name
        self.seen: list[Connection] = []
        self.refuse = refuse
        self.port = 0
        self._tls = tls
        self._turns = 0
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        context: ssl.SSLContext | None = self._tls.server_context() if self._tls else None
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for gate in self._gates.values():
            gate.set()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        """What an SDK takes as its base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    def release(self, gate: str) -> None:
        """Open a gate."""
        self._gates[gate].set()

    async def until(self, what: Callable[[Self], bool], seconds: float = 10.0) -> None:
        """Wait until `what(self)` holds; TimeoutError when it does not in time."""
        deadline = time.monotonic() + seconds
        while not what(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the vendor did not come to that in {seconds} s; it saw {self.seen}")
            await asyncio.sleep(0.005)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        offered = [part.strip() for part in request.headers.get("sec-websocket-protocol", "").split(",") if part.strip()]
        connection = Connection(request.path, dict(request.query), headers, offered)
        self.seen.append(connection)
        if self.refuse is not None:
            body = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "refused_by_vendor"}}
            return web.json_response(body, status=self.refuse, headers={"x-request-id": "req_refused"})
        socket = web.WebSocketResponse(protocols=offered[:1], max_msg_size=0, autoping=False)
        socket.headers["x-request-id"] = f"req_{self.name}_{len(self.seen)}"
        await socket.prepare(request)
        try:
            await _Session(self, connection, socket, request).run()
        finally:
            connection.close_code = socket.close_code
            connection.ended = True
        return socket

    def next_id(self) -> str:
        """A response's id."""
        self._turns += 1
        return f"resp_{self.name}_{self._turns}"

    async def hold(self, gate: str) -> None:
        """Wait at a gate."""
        await self._gates[gate].wait()


class _Session:
    def __init__(self, vendor: WebSocketVendor, connection: Connection, socket: web.WebSocketResponse, request: web.BaseRequest) -> None:
        self._vendor = vendor
        self._connection = connection
        self._socket = socket
        self._request = request
        self._lanes: dict[str | None, asyncio.Task[None]] = {}

    async def run(self) -> None:
        path = self._connection.path
        serve = self._responses if path.endswith("/responses") else self._realtime if path.endswith("/realtime") else self._echo
        if serve == self._realtime:
            model = self._connection.query.get("model", "gpt-realtime")
            audio = {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}
            await self.say({"type": "session.created", "event_id": "ev_0", "session": {"model": f"{model}-2026-01-01", "audio": audio}})
        async for message in self._socket:
            if message.type in (WSMsgType.PING, WSMsgType.PONG):
                self._connection.pings.append(bytes(message.data))
                if message.type == WSMsgType.PING:
                    await self._socket.pong(message.data)
                continue
            self._connection.received.append(message.data)
            await serve(message.data)
        for task in self._lanes.values():
            task.cancel()
        await asyncio.gather(*self._lanes.values(), return_exceptions=True)

    async def say(self, event: dict[str, Any]) -> None:
        """An event, written with odd spaces and non-ASCII text, which must arrive as it was written."""
        text = json.dumps({**event, "note": "naïve 1.50 ☃"}, ensure_ascii=False, separators=(" , ", " :  "))
        self._connection.sent.append(text)
        await self._socket.send_str(text)

    async def _echo(self, data: str | bytes) -> None:
        self._connection.sent.append(data)
        if isinstance(data, bytes):
            await self._socket.send_bytes(data)
            return
        await self._socket.send_str(data)
        if data.startswith("close "):
            await self._socket.close(code=int(data.split()[1]), message=b"as asked")

    async def _responses(self, data: str | bytes) -> None:
        asked = json.loads(data)
        if asked["type"] != "response.create":
            await self.say({"type": "response.steer.accepted", "event_id": "ev_1"})
            return
        lane = asked.get("stream_id")
        before = self._lanes.get(lane)

        async def turn() -> None:
            if before is not None:
                await asyncio.gather(before, return_exceptions=True)
            await self._turn(asked, lane)

        self._lanes[lane] = asyncio.create_task(turn())

    async def _turn(self, asked: dict[str, Any], lane: str | None) -> None:
        plan = Plan(**asked.get("stub", {}))
        echoed = {"stream_id": lane} if lane is not None else {}
        if plan.end == "error":
            error = {"type": "invalid_request_error", "code": plan.code, "message": "as asked", "param": None}
            await self.say({"type": "error", "status": plan.status, "error": error, **echoed})
            return
        response: dict[str, Any] = {"id": self._vendor.next_id(), "object": "response", "model": f"{asked.get('model')}-2026-01-01"}
        response |= {"status": "in_progress", "output": [], "usage": None, "service_tier": "default"}
        await self.say({"type": "response.created", "response": response, "sequence_number": 0, **echoed})
        delta = "x" * plan.big or "Hi"
        await self.say({"type": "response.output_text.delta", "item_id": "msg_1", "delta": delta, "sequence_number": 1, **echoed})
        if plan.hold is not None:
            await self._vendor.hold(plan.hold)
        if plan.drop:
            assert self._request.transport is not None
            self._request.transport.abort()
            return
        if plan.close is not None:
            await self._close(plan.close)
            return
        end = "incomplete" if plan.steer else plan.end
        output = [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]
        done = {**response, "status": end, "output": output, "usage": RESPONSES_USAGE}
        if end == "incomplete":
            done["incomplete_details"] = {"reason": "steered" if plan.steer else "max_output_tokens"}
        if end == "failed":
            done |= {"error": {"code": "server_error", "message": "as asked"}, "output": []}
        await self.say({"type": f"response.{end}", "response": done, "sequence_number": 2, **echoed})
        if plan.steer:
            await self._turn({**asked, "stub": {}}, lane)

    async def _close(self, code: int) -> None:
        if code:
            await self._socket.close(code=code, message=b"as asked")
        else:
            await self._socket.send_frame(b"", WSMsgType.CLOSE)

    async def _realtime(self, data: str | bytes) -> None:
        asked = json.loads(data)
        match asked["type"]:
            case "response.create":
                await self._respond(Plan(**asked.get("stub", {})), asked.get("event_id"))
            case "input_audio_buffer.commit":
                item = {"item_id": "item_1", "content_index": 0}
                kind = "conversation.item.input_audio_transcription"
                await self.say({"type": f"{kind}.delta", "event_id": "ev_2", **item, "delta": "hel"})
                await self._respond(Plan(), None)
                await self.say(
                    {"type": f"{kind}.completed", "event_id": "ev_3", **item, "transcript": "hello", "usage": TRANSCRIPTION_USAGE}
                )
            case _:
                await self.say({"type": "input_audio_buffer.committed", "event_id": "ev_4"})

    async def _respond(self, plan: Plan, event_id: str | None) -> None:
        if plan.end == "error":
            error = {"type": "invalid_request_error", "code": plan.code, "message": "as asked", "param": None, "event_id": event_id}
            await self.say({"type": "error", "event_id": "ev_5", "error": error})
            return
        response: dict[str, Any] = {"id": self._vendor.next_id(), "object": "realtime.response", "status": "in_progress", "output": []}
        await self.say({"type": "response.created", "event_id": "ev_6", "response": response})
        named = {"response_id": response["id"], "item_id": "item_9"}
        await self.say({"type": "response.output_audio.delta", "event_id": "ev_7", **named, "delta": "UklG" * 100})
        if plan.hold is not None:
            await self._vendor.hold(plan.hold)
        done = {**response, "status": plan.end, "output": [{"type": "message", "id": "item_9"}], "usage": REALTIME_USAGE}
        if plan.end == "cancelled":
            done["status_details"] = {"type": "cancelled", "reason": "client_cancelled"}
        await self.say({"type": "response.done", "event_id": "ev_8", "response": done})
