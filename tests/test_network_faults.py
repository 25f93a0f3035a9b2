"""The network fails between proxy and upstream, in every way and behind both doors: each call leaves a closed record with the right outcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import duckdb
import httpx2
import pytest
import pytest_asyncio

from etl.build import build
from proxy.routing import retry_after_s
from schemas.home import Home
from tests.chaos import Chaos, Fault
from tests.clients import Door
from tests.conftest import PRICES
from tests.sidecar import Sidecar, Way, recorded, seal_all, sidecar, write_book
from tests.test_relay import DOORS, JSON, client, said
from tests.upstream import Upstream

WHOLE, CUT = 200, 0  # the client has the whole answer, or is told that it ends too soon
# What each fault is: the record's ending, the ledger's outcome, and what the client sees. A cut after the head is mid-stream only if output was seen.
FAULTS: dict[Fault, tuple[set[str], str, int]] = {
    "none": ({"complete"}, "ok", WHOLE),
    "slow": ({"complete"}, "ok", WHOLE),
    "reset": ({"connect_error", "upstream_truncated"}, "error_before_output", 502),
    "reset head": ({"upstream_truncated"}, "error_before_output", 502),
    "cut head": ({"upstream_truncated"}, "error_before_output", 502),
    "garbage": ({"upstream_truncated"}, "error_before_output", 502),
    "half-open": ({"timeout"}, "timeout", 504),
    "reset body": ({"upstream_truncated"}, "error_mid_stream", CUT),
    "cut body": ({"upstream_truncated"}, "error_mid_stream", CUT),
    "half-open body": ({"timeout"}, "timeout", CUT),
}
FAILED = {502: "upstream_unreachable", 504: "upstream_timeout"}


@dataclass(frozen=True)
class Line:
    """A proxy with one channel whose network is ours to break."""

    home: Home
    upstream: Upstream
    chaos: Chaos
    sidecar: Sidecar
    urls: dict[str, str]

    def door(self, name: str, channel: str = "official") -> Door:
        """The way to a channel; the gateway has them all behind it. To trust one authority alone is quick."""
        ca = self.home.ca / "mitmproxy-ca-cert.pem"
        return Door(self.sidecar.base_url, ca=ca) if name == "gateway" else Door(self.urls[channel], proxy=self.sidecar.forward, ca=ca)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Line]:
    home = Home(tmp_path_factory.mktemp("network") / "home")
    async with Upstream(name="official") as upstream, Chaos(("127.0.0.1", upstream.port)) as chaos:
        rules = "max_retries = 0\ntimeout_s = 1"
        ways = [
            Way("official", f"http://127.0.0.1:{chaos.port}/v1", rules=rules),
            Way("nowhere", "https://does-not-exist.invalid/v1", rules=rules),
            Way("untrusted", f"https://127.0.0.1:{upstream.port}/v1", rules=rules),
            Way("stormy", f"http://localhost:{upstream.port}/v1", rules="max_retries = 2\nretry_on = [429, 500, 503, 529]"),
        ]
        models = {name: [(name, "gpt-4o-mini")] for name in ("nowhere", "untrusted", "stormy")}
        write_book(home, ways, models=models, prices=PRICES[:3])
        with sidecar(home) as running:
            yield Line(home, upstream, chaos, running, {way.name: way.base_url for way in ways})


async def told(line: Line, request_id: str, count: int = 1) -> list[dict[str, Any]]:
    """The ends of a request's tries, once there are so many."""
    for _ in range(300):
        found = [row for row in recorded(line.home, "response") if row["request_id"] == request_id and row["ordinal"] > 0]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"{request_id} was not closed")


async def asked(line: Line, door: Door, body: bytes) -> tuple[str, httpx2.Response | None]:
    """Send one call, however it ends: the request id of its record, and the answer if it came whole."""
    before = {row["request_id"] for row in recorded(line.home, "request")}
    answer = None
    async with client(door) as http:
        with contextlib.suppress(httpx2.HTTPError):  # the client is told as well, which is what these faults are
            answer = await http.post("/chat/completions", content=body, headers=JSON)
    (new,) = [row["request_id"] for row in recorded(line.home, "request") if row["request_id"] not in before]
    return str(new), answer


def seen(answer: httpx2.Response | None) -> int:
    """What the client saw; an error of ours in OpenAI's shape, with the code that belongs to it."""
    status = answer.status_code if answer is not None else CUT
    if answer is not None and status in FAILED:
        assert answer.headers["content-type"] == "application/json"
        assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == ("upstream_error", FAILED[status])
    return status


@pytest.mark.asyncio(loop_scope="module")
async def test_every_fault_leaves_a_closed_record(line: Line, record_property: Any) -> None:
    """Reset, cut, garbled and silent before, in and after the head, and merely slow: one try, one end, one outcome, and an answer that says so."""
    ids: dict[tuple[Fault, str], str] = {}
    answers: dict[tuple[Fault, str], int] = {}
    for fault in FAULTS:
        for door in DOORS:
            line.chaos.fault = fault
            ids[fault, door], answer = await asked(line, line.door(door), said("usage=always", stream=True))
            answers[fault, door] = seen(answer)
    assert {key: status for key, status in answers.items() if status != FAULTS[key[0]][2]} == {}
    ends = {key: (await told(line, request_id))[0] for key, request_id in ids.items()}
    assert {key: end["ending"] for key, end in ends.items() if end["ending"] not in FAULTS[key[0]][0]} == {}
    words = {key: end["error"] or "" for key, end in ends.items()}
    assert {key: said for key, said in words.items() if "200 OK" in said or "hush" in said} == {}  # what upstream sent may hold anything
    await asyncio.to_thread(seal_all, line.home)
    await asyncio.to_thread(build, line.home)
    with duckdb.connect(str(line.home.ledger_file), read_only=True) as con:
        made = dict(con.execute("select request_id, outcome from ledger").fetchall())
        open_holds = con.execute("select count(*) from data_quality where kind = 'open_hold'").fetchone()
    assert {key: made[request_id] for key, request_id in ids.items() if made[request_id] != FAULTS[key[0]][1]} == {}
    assert open_holds == (0,)
    record_property("trust: network faults recorded", len(ids))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("model", ["nowhere", "untrusted"])
async def test_a_name_or_a_certificate_that_fails_is_a_connect_error(line: Line, model: str, door: str) -> None:
    """DNS knows no such host; TLS meets something that is none. Nothing was sent, and the client hears 502."""
    request_id, answer = await asked(line, line.door(door, model), said("usage=always", model=model))
    (end,) = await told(line, request_id)
    assert (end["ending"], end["http_status"], seen(answer)) == ("connect_error", None, 502)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("status", "wait"),
    [(429, "99999999999999999999"), (503, "-1"), (503, "soon"), (500, "0")],
)
async def test_a_storm_ends_and_an_absurd_retry_after_holds_nobody(line: Line, status: int, wait: str, door: str) -> None:
    """The gateway tries again as often as the book says and no longer than a person waits; the last answer is the client's, each try is recorded."""
    asking = asked(line, line.door(door, "stormy"), said(f"status={status} retry-after={wait}", model="stormy"))
    request_id, answer = await asyncio.wait_for(asking, 20)
    ends = await told(line, request_id)
    assert {end["http_status"] for end in ends} == {status}
    assert 1 <= len(ends) <= (3 if door == "gateway" else 1)
    assert answer is not None
    assert (answer.status_code, answer.headers["retry-after"]) == (status, wait)


@pytest.mark.parametrize(
    "said_to_wait", ["Thu, 01 Jan 99999 00:00:00 GMT", "nan", "inf", "-1", "soon", "", "0x10", "Thu, 99 Foo 0000 99:99:99"]
)
def test_an_absurd_retry_after_says_nothing(said_to_wait: str) -> None:
    """No number of seconds, and no date of any calendar: as if it were not there."""
    assert retry_after_s({"retry-after": said_to_wait}, 0.0) is None
