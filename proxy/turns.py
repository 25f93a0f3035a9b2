"""The turns of a WebSocket: frames and times in, turns to open and to close out. No socket, no clock, no file.

The connection is a request like any other: its upgrade, one attempt, one response that ends with the socket. Each turn
on it that a vendor bills (a response, a transcription of input audio) is a request of its own with that one as its
parent. Every frame of upstream's belongs to exactly one of them; a frame that belongs to no turn is the connection's.

Turns are told apart by the response's id. Frames of the Responses API that carry none belong to the turn that is at
the head of their lane (`stream_id`): a lane is first in, first out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from proxy.exchange import AttemptCapture, Exchange, Headers
from schemas import dialects
from schemas.reading import loads
from schemas.records import Instant, Record

# Which paths carry turns, and by whose rules.
_KINDS = {"/responses": "responses", "/realtime": "realtime"}
TURN_METHOD = "WS"
# What names the upgrade and not a turn: two turns must not look like one request sent twice.
UPGRADE_ONLY_HEADERS = frozenset(("idempotency-key", "x-client-request-id", "x-request-id"))

_ENDS = frozenset("response.completed response.incomplete response.failed response.cancelled response.done".split())
_TRANSCRIPTION = "conversation.item.input_audio_transcription."
_TRANSCRIPTION_ENDS = frozenset((_TRANSCRIPTION + "completed", _TRANSCRIPTION + "failed"))
_TRANSCRIPTION_MODELS = (("audio", "input", "transcription", "model"), ("input_audio_transcription", "model"))
# The one realtime error that is about a response although it may name no event of the client's.
_ONE_AT_A_TIME = "conversation_already_has_active_response"


def kind_of(path: str) -> str | None:
    """`responses` or `realtime`; None for a path whose frames mean nothing to us."""
    return next((kind for suffix, kind in _KINDS.items() if path.rstrip("/").endswith(suffix)), None)


def creation(kind: str | None, data: bytes) -> dict[str, Any] | None:
    """A client's frame that asks for a response, read; None for every other frame."""
    if kind is None or b"response.create" not in data:
        return None
    message = loads(data)
    return message if isinstance(message, dict) and message.get("type") == "response.create" else None


def asked_model(query: str) -> str | None:
    """The model that an address asks for."""
    pieces = [pair.partition("=") for pair in query.split("&")]
    return next((unquote(value.replace("+", " ")) for name, _, value in pieces if unquote(name) == "model" and value), None)


@dataclass(frozen=True, slots=True)
class Way:
    """Where a connection leads, and what upstream answered to its upgrade."""

    channel: str
    role: str
    url: str
    status: int
    headers: Headers
    model: str | None = None  # the model that the upgrade's own query asks for
    sent_model: str | None = None
    modified: tuple[str, ...] = ()  # what the door changed in the upgrade


@dataclass(frozen=True, slots=True)
class Opened:
    """A turn began: its records, and the capture of its one attempt."""

    capture: AttemptCapture
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """A turn ended."""

    capture: AttemptCapture
    ending: str
    error: str | None = None


@dataclass(slots=True, eq=False)
class _Turn:
    capture: AttemptCapture
    lane: str | None = None
    event_id: str | None = None  # the client's own id of the frame that opened it
    item: tuple[object, object] | None = None  # the item that is transcribed
    response_id: str | None = None


class Turns:
    """One connection's turns. `begin` gives the exchange of a new one, `rest` is the connection's own attempt."""

    def __init__(self, kind: str | None, way: Way, begin: Callable[[], Exchange], rest: AttemptCapture) -> None:
        self.kind = kind
        self.rest = rest
        self._way = way
        self._begin = begin
        self._open: list[_Turn] = []
        self._past: set[str] = set()  # the response ids of turns that have ended
        self._model = way.model
        self._sent_model = way.sent_model
        self._served_model: str | None = None
        self._transcription_model: str | None = None
        self._passed = {"client_frames": 0, "client_bytes": 0, "server_frames": 0, "server_bytes": 0, "turns": 0}
        rest.frames()

    @property
    def live(self) -> int:
        """How many turns are open."""
        return len(self._open)

    def client(
        self, data: bytes, at: Instant, *, text: bool, sent_model: str | None = None, modified: tuple[str, ...] = ()
    ) -> Opened | None:
        """A client's frame as it sent it; the turn it opens, which is to be durable before the frame goes on."""
        self._count("client", data)
        message = creation(self.kind, data) if text else None
        if message is None:
            return None
        if self.kind == "responses":
            model = message.get("model")
            self._model = model if isinstance(model, str) else None
            self._sent_model = sent_model if sent_model is not None else self._model
        turn, opened = self._begin_turn(self._model, self._sent_model, at, data, modified)
        turn.lane, turn.event_id = _text(message, "stream_id"), _text(message, "event_id")
        return opened

    def server(self, data: bytes, at: Instant, *, text: bool) -> list[Opened | Closed]:
        """A frame of upstream's: the turn it opens and the turn it ends."""
        self._count("server", data)
        message = loads(data) if text and self.kind is not None else None
        if not isinstance(message, dict):
            self.rest.frame(data, at, text=text)
            return []
        self._learn(message)
        turn, opened = self._turn_of(message, at)
        steps: list[Opened | Closed] = [opened] if opened is not None else []
        if turn is None:
            self.rest.frame(data, at)
            return steps
        if turn.capture.status is None:
            turn.capture.head(_status(message) or self._way.status, self._way.headers, at)
            turn.capture.frames(None if turn.item is not None else self._served_model)
        turn.capture.frame(data, at)
        if message.get("type") in _ENDS | _TRANSCRIPTION_ENDS | {"error"}:
            if message.get("type") == "error":
                turn.capture.end_frames("error", {})  # it ends a turn as surely as the others do
            self._remove(turn)
            steps.append(Closed(turn.capture, "complete"))
        return steps

    def forget(self, opened: Opened) -> None:
        """A turn whose frame was not sent after all."""
        self._open = [turn for turn in self._open if turn.capture is not opened.capture]

    def client_gone(self, at: Instant) -> None:
        """The client left while turns were open."""
        for turn in self._open:
            turn.capture.client_gone(at)

    def end(self, ending: str, error: str | None) -> list[Closed]:
        """The socket ended: so did every turn still open."""
        turns, self._open = self._open, []
        return [Closed(turn.capture, ending, error) for turn in turns]

    def facts(self) -> dict[str, int]:
        """What passed on the connection, for its record: frames and bytes each way, and turns."""
        return dict(self._passed)

    def _count(self, side: str, data: bytes) -> None:
        self._passed[f"{side}_frames"] += 1
        self._passed[f"{side}_bytes"] += len(data)

    def _begin_turn(
        self, model: str | None, sent_model: str | None, at: Instant, data: bytes = b"", modified: tuple[str, ...] = ()
    ) -> tuple[_Turn, Opened]:
        exchange = self._begin()
        exchange.model = model
        exchange.request_chunk(data)
        request = exchange.request_end()
        capture = exchange.attempt(
            channel=self._way.channel,
            role=self._way.role,
            reason="first",
            url=self._way.url,
            sent_model=sent_model,
            modified=(*self._way.modified, *modified),
            at=at,
        )
        turn = _Turn(capture)
        self._open.append(turn)
        self._passed["turns"] += 1
        return turn, Opened(capture, (request, *exchange.request_body(at), capture.opened))

    def _remove(self, turn: _Turn) -> None:
        self._open.remove(turn)
        if turn.response_id is not None:
            self._past.add(turn.response_id)

    def _learn(self, message: Mapping[str, Any]) -> None:
        """Which models the session has, as upstream's session events say it."""
        session = message.get("session")
        if not isinstance(session, dict):
            return
        self._served_model = _text(session, "model") or self._served_model
        self._model = self._model or self._served_model
        self._sent_model = self._sent_model or self._served_model
        named = [dialects.place(session, path) for path in _TRANSCRIPTION_MODELS]
        self._transcription_model = next((name for name in named if isinstance(name, str)), self._transcription_model)

    def _turn_of(self, message: Mapping[str, Any], at: Instant) -> tuple[_Turn | None, Opened | None]:
        kind = _text(message, "type") or ""
        if kind.startswith(_TRANSCRIPTION):
            return self._transcribed(message, at)
        if kind == "error":
            return self._failed(message), None
        if not kind.startswith("response."):
            return None, None
        response = message.get("response")
        response_id = _text(response, "id") if isinstance(response, dict) else _text(message, "response_id")
        lane = _text(message, "stream_id")
        if response_id is None:
            return self._head(lane), None
        known = next((turn for turn in self._open if turn.response_id == response_id), None)
        if known is not None or response_id in self._past:
            return known, None
        waiting = [turn for turn in self._open if turn.response_id is None and turn.item is None]
        turn = next((turn for turn in waiting if turn.lane == lane), waiting[0] if waiting else None)
        opened = None
        if turn is None and not isinstance(response, dict):
            return None, None  # a piece of what nobody asked for here and nothing began
        if turn is None:  # upstream began by itself: voice was detected, or a steered response has its successor
            turn, opened = self._begin_turn(self._model, self._sent_model, at)
            turn.lane = lane
        turn.response_id = response_id
        return turn, opened

    def _transcribed(self, message: Mapping[str, Any], at: Instant) -> tuple[_Turn, Opened | None]:
        item = (message.get("item_id"), message.get("content_index"))
        known = next((turn for turn in self._open if turn.item == item), None)
        if known is not None:
            return known, None
        turn, opened = self._begin_turn(self._transcription_model, self._transcription_model, at)
        turn.item = item
        return turn, opened

    def _failed(self, message: Mapping[str, Any]) -> _Turn | None:
        """Whose error this is: the frame it names, the response it names, else the head of its lane; it may be nobody's."""
        error = message.get("error")
        inner = error if isinstance(error, dict) else message
        names = {_text(inner, "event_id"), _text(message, "response_id")} - {None}
        named = next((turn for turn in self._open if names & {turn.event_id, turn.response_id}), None)
        if named is not None:
            return named
        if self.kind == "responses":
            return self._head(_text(message, "stream_id"))
        waiting = [turn for turn in self._open if turn.response_id is None and turn.item is None]
        return waiting[-1] if waiting and inner.get("code") == _ONE_AT_A_TIME else None

    def _head(self, lane: str | None) -> _Turn | None:
        """The turn a lane is busy with; upstream may leave the lane out where only one turn is open."""
        turns = [turn for turn in self._open if turn.item is None]
        return next((turn for turn in turns if turn.lane == lane), turns[0] if len(turns) == 1 and lane is None else None)


def _text(message: Mapping[str, Any], name: str) -> str | None:
    value = message.get(name)
    return value if isinstance(value, str) else None


def _status(message: Mapping[str, Any]) -> int | None:
    """The HTTP status that an error frame stands for, where it says one."""
    status = message.get("status") if message.get("type") == "error" else None
    return status if isinstance(status, int) and 100 <= status <= 599 else None
