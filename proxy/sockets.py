"""A WebSocket on its way to the journal: what the Turns machine says, done at the desk. The same for both doors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from proxy.desk import Desk
from proxy.exchange import AttemptCapture, Client, Exchange, RequestHead
from proxy.turns import TURN_METHOD, UPGRADE_ONLY_HEADERS, Closed, Opened, Turns, Way, kind_of
from schemas.scrub import scrub

NO_STATUS = 1005  # RFC 6455 7.4.1: a close frame that carried no code
ABNORMAL = 1006  # and a connection that ended without one


@dataclass(frozen=True, slots=True)
class End:
    """How a socket ended."""

    by: str  # client | upstream | proxy
    code: int = ABNORMAL
    reason: str = ""

    @property
    def ending(self) -> str:
        """The connection's ending, as its Response names it."""
        if self.code != ABNORMAL:
            return "complete"
        return {"client": "client_gone", "upstream": "upstream_truncated"}.get(self.by, "proxy_stopped")

    @property
    def turns_ending(self) -> str:
        """The ending of the turns it cut off."""
        return {"client": "client_gone", "upstream": "upstream_truncated"}.get(self.by, "proxy_stopped")

    @property
    def words(self) -> str:
        """One line for the record of what was cut off."""
        how = "without a close frame" if self.code == ABNORMAL else f"with code {self.code}"
        return f"the WebSocket was closed by the {self.by} {how}" + (f": {self.reason}" if self.reason else "")


def turn_exchange(desk: Desk, connection: Exchange, client: Client) -> Exchange:
    """The exchange of a new turn: the upgrade's head, less what names the upgrade alone."""
    head = connection.head
    headers = [(name, value) for name, value in head.headers if name.lower() not in UPGRADE_ONLY_HEADERS]
    return desk.exchange(RequestHead(TURN_METHOD, head.host, head.path, head.query, headers), client, parent=connection.request_id)


class SocketLog:
    """One upgraded connection and its turns, as they are recorded."""

    def __init__(self, desk: Desk, connection: Exchange, client: Client, attempt: AttemptCapture, way: Way) -> None:
        kind = kind_of(connection.head.path)
        self.turns = Turns(kind, way, lambda: turn_exchange(desk, connection, client), attempt)
        self.quiet = asyncio.Event()  # no turn is open
        self.quiet.set()
        self._desk = desk
        if kind is not None:
            desk.unwatch(attempt)  # it may be open for an hour without anything under way; its turns are what is waited for

    async def client(self, data: bytes, *, text: bool, refuse: bool, sent_model: str | None = None, modified: tuple[str, ...] = ()) -> None:
        """A client's frame, before it goes upstream: a turn that it opens is durable on return. Raises desk.Refused."""
        opened = self.turns.client(data, self._desk.now(), text=text, sent_model=sent_model, modified=modified)
        if opened is None:
            return
        self._watch(opened)
        durable = False
        try:
            await self._desk.open(opened.records, refuse=refuse)
            durable = True
        finally:
            if not durable:
                self.turns.forget(opened)
                self._desk.unwatch(opened.capture)
                self._settle()

    def server(self, data: bytes, *, text: bool) -> None:
        """A frame of upstream's, before it goes to the client."""
        for step in self.turns.server(data, self._desk.now(), text=text):
            if isinstance(step, Opened):
                self._watch(step)
                self._desk.counters.attempts += 1
                self._desk.record(step.records)
            else:
                self._close(step)

    def client_gone(self) -> None:
        """The client left while turns were open: reading on for their usage begins."""
        self.turns.client_gone(self._desk.now())

    def end(self, end: End, *, unreadable: bool = False) -> None:
        """The socket ended; the first ending stands. `unreadable`: frames passed that could not be read."""
        if self.turns.rest.closed:
            return
        if end.by == "client":
            self.client_gone()
        for step in self.turns.end(end.turns_ending, end.words):
            self._close(step)
        rest = self.turns.rest
        if end.by == "client" and end.code == ABNORMAL:
            rest.client_gone(self._desk.now())
        marker = None if end.code == ABNORMAL else f"close {end.code}"
        facts = {"closed_by": end.by, "close_code": end.code, "close_reason": scrub(end.reason), "unreadable": unreadable}
        rest.end_frames(marker, {**facts, **self.turns.facts()})
        self._desk.close(rest, end.ending, relayed=True, error=end.words if end.ending != "complete" else None)

    def _watch(self, opened: Opened) -> None:
        self._desk.watch(opened.capture)
        self.quiet.clear()

    def _close(self, closed: Closed) -> None:
        self._desk.close(closed.capture, closed.ending, relayed=True, error=closed.error)
        self._settle()

    def _settle(self) -> None:
        if not self.turns.live:
            self.quiet.set()
