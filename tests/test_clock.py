"""The clock is stepped while calls are under way: it is told, and no call is lost or takes less than no time."""

from __future__ import annotations

import time

import orjson
import pytest

from proxy.clock import Clock
from proxy.desk import Desk
from proxy.exchange import Recording
from proxy.journal import PROXY_SLOT, Journal
from schemas.book import load_book
from schemas.frames import Frame
from schemas.home import Home
from schemas.spool import unsealed
from tests.rawdata import HOUR, NOON, SECOND, attempt, built, one, request, response, rows, usage, write_book


@pytest.mark.parametrize("step_s", [-3600, -2, 2, 3600])
async def test_a_step_of_the_clock_is_recorded(home: Home, monkeypatch: pytest.MonkeyPatch, step_s: int) -> None:
    """Until the check nothing jumps; the check takes the new time and leaves an event; what is under a second is drift."""
    write_book(home)
    journal = Journal(home, PROXY_SLOT, segment_bytes=4096)
    desk = Desk(load_book(home.book), Recording(b"k" * 32, keep_bodies=False), journal, Clock())
    real = time.time_ns
    before = desk.now()
    monkeypatch.setattr(time, "time_ns", lambda: real() + step_s * 1_000_000_000)
    assert 0 <= desk.now() - before < SECOND
    desk.check_clock()
    assert abs(desk.now() - before - step_s * SECOND) < SECOND
    desk.check_clock()
    journal.close()
    (event,) = [found.fields for _, found, _ in unsealed(home, {}) if isinstance(found, Frame)]
    assert event["event"] == "clock_step"
    assert abs(orjson.loads(event["facts"])["stepped_us"] - step_s * SECOND) < SECOND


def test_an_answer_before_its_question_is_charged_and_has_no_latency(home: Home) -> None:
    """The clock went back an hour while a call was under way: its charge stands, and a duration that cannot be is null, not negative."""
    # 1000 x 0.15 + 500 x 0.60 = 450 millionths.
    built(home, [request("r"), attempt("r"), response("r", at=NOON - HOUR + SECOND, usage=usage(1000, 500))])
    told = one(home, "SELECT final_charge, latency_ms, first_token_ms, status FROM ledger")
    assert (str(told["final_charge"]), told["status"]) == ("0.000450000000", "ok")
    assert (told["latency_ms"], told["first_token_ms"]) == (None, None)
    assert rows(home, "SELECT p50_ms FROM route_health") == [{"p50_ms": None}]
