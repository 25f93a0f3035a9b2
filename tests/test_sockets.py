"""A WebSocket on its way to the journal, and what happens where there is no way."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.clock import Clock
from proxy.desk import Desk, Refused
from proxy.exchange import Client, Recording, RequestHead
from proxy.journal import PROXY_SLOT, Journal, JournalError
from proxy.sockets import End, SocketLog
from proxy.turns import Way
from schemas.book import load_book
from schemas.home import Home
from tests.sidecar import Way as Channel
from tests.sidecar import recorded, write_book

FRAME = b'{"type":"response.create","model":"m"}'


@pytest.fixture
def desk(home: Home) -> Desk:
    """A desk with a journal of its own."""
    write_book(home, [Channel("official", "https://api.test/v1")])
    return Desk(load_book(home.book), Recording(b"k" * 32, keep_bodies=True), Journal(home, PROXY_SLOT), Clock())


def opened(desk: Desk) -> SocketLog:
    """A Responses connection that has just been upgraded."""
    client = Client("forward", "127.0.0.1", "c1")
    exchange = desk.exchange(RequestHead("GET", "api.test", "/v1/responses", "", ()), client)
    attempt = exchange.attempt(channel="official", role="direct", reason="first", url="u", sent_model=None, modified=(), at=desk.now())
    desk.watch(attempt)
    return SocketLog(desk, exchange, client, attempt, Way("official", "direct", "u", 101, ()))


def failing(*_: Any) -> Any:
    raise JournalError("no space")


async def test_a_turn_that_cannot_be_recorded_is_refused_and_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for it, and it is not closed later as if it had been sent."""
    log = opened(desk)
    monkeypatch.setattr(desk._journal, "append", failing)
    with pytest.raises(Refused):
        await log.client(FRAME, text=True, refuse=True)
    assert (log.turns.live, log.quiet.is_set(), desk.live) == (0, True, set())


async def test_a_turn_passes_unrecorded_where_the_book_allows_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is counted, and the turn goes on."""
    log = opened(desk)
    monkeypatch.setattr(desk._journal, "append", failing)
    await log.client(FRAME, text=True, refuse=False)
    assert (log.turns.live, desk.counters.lost_records) == (1, 3)


async def test_an_idle_connection_keeps_nobody_waiting_and_a_turn_does(desk: Desk) -> None:
    """What a proxy that stops waits for is the open turn."""
    log = opened(desk)
    assert desk.live == set()
    await log.client(FRAME, text=True, refuse=True)
    assert (len(desk.live), log.quiet.is_set()) == (1, False)
    log.server(b'{"type":"response.completed","response":{"id":"r","usage":{"n":1}}}', text=True)
    assert (desk.live, log.quiet.is_set()) == (set(), True)


async def test_the_first_ending_stands(desk: Desk, home: Home) -> None:
    """The upstream closed; that the proxy stopped a moment later changes nothing."""
    log = opened(desk)
    await log.client(FRAME, text=True, refuse=True)
    log.end(End("upstream", 1012, "restart"))
    log.end(End("proxy"))
    await desk._journal.append([desk.event("proxy_stopped")])
    turn, connection = recorded(home, "response")
    assert (turn["ending"], turn["error"]) == ("upstream_truncated", "the WebSocket was closed by the upstream with code 1012: restart")
    assert (connection["ending"], connection["terminal"]) == ("complete", "close 1012")
