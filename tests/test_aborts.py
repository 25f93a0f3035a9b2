"""A client that leaves, at five moments, behind both doors, streaming or not: each leaves a closed record with the right story."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest

from etl.build import build
from tests.conftest import Place
from tests.sidecar import seal_all
from tests.test_relay import JSON, client, closed, said, streaming

DOORS = ["gateway", "forward"]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def story(place: Place) -> dict[str, Any]:
    """The one ledger row of a place whose proxy has stopped."""
    place.sidecar.stop()
    seal_all(place.home)
    build(place.home)
    with duckdb.connect(str(place.home.ledger_file), read_only=True) as con:
        cursor = con.execute("select status, outcome, usage_source, failed_request_policy, final_charge from ledger")
        ((row),) = cursor.fetchall()
        return dict(zip([column[0] for column in cursor.description or ()], row, strict=True))


async def test_a_client_that_leaves_before_its_request_is_whole(place: Place) -> None:
    """Half a request at the gateway: recorded, nothing sent upstream, nothing charged."""
    address = urlsplit(place.sidecar.gateway)
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as half:
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(0.2)  # the head and one byte are there before the client goes
    await closed(place, 1)
    assert place.official.seen == []
    assert story(place)["final_charge"] == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "body"])
@pytest.mark.parametrize("door", DOORS)
async def test_before_the_answers_head(place: Place, door: str, stream: bool) -> None:
    """The gateway reads on and learns the usage; the forward door cannot, and the policy charges what was observed: the prompt."""
    more = USAGE if stream else {}
    async with client(place.door(door)) as http:
        asking = asyncio.create_task(http.post("/chat/completions", content=said("hold=request", **more), headers=JSON))
        await place.official.until_held("request")
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    await asyncio.sleep(0.1)  # the answer comes after the client has left: that is the case
    place.official.release("request")
    await closed(place, 1)
    row = await asyncio.to_thread(story, place)
    assert (row["status"], row["outcome"]) == ("client_gone", "client_gone")
    assert row["usage_source"] == ("reported" if door == "gateway" else "recounted")
    assert row["failed_request_policy"] == "client left - as observed"
    assert row["final_charge"] is not None


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("moment", ["headers", "3", "usage"])
async def test_during_the_stream(place: Place, door: str, moment: str) -> None:
    """After the head, mid-stream, after the usage frame: behind the forward door only the last has reported usage."""
    async with streaming(place.door(door), said(f"hold={moment}", **USAGE)) as answer:
        if moment != "headers":
            await asyncio.wait_for(anext(answer.aiter_raw()), 10)
        await place.official.until_held(moment)
    await asyncio.sleep(0.1)  # the rest comes after the client has left: that is the case
    place.official.release(moment)
    await closed(place, 1)
    row = await asyncio.to_thread(story, place)
    assert (row["status"], row["outcome"]) == ("client_gone", "client_gone")
    expected = {"headers": "recounted", "3": "recounted", "usage": "partial"}[moment] if door == "forward" else "reported"
    assert row["usage_source"] == expected
    assert row["final_charge"] > 0


@pytest.mark.parametrize("door", DOORS)
async def test_after_the_end(place: Place, door: str) -> None:
    """A client that leaves when it has everything has left nothing."""
    async with streaming(place.door(door), said("hold=done", **USAGE)) as answer:
        got = b""
        pieces = answer.aiter_raw()
        while b"[DONE]" not in got:
            got += await asyncio.wait_for(anext(pieces), 10)
        await place.official.until_held("done")
    place.official.release("done")
    (response,) = await closed(place, 1)
    assert json.loads(response["usage"][0]["object"])["completion_tokens"] == 8
    row = await asyncio.to_thread(story, place)
    assert (row["status"], row["outcome"], row["usage_source"], row["failed_request_policy"]) == ("ok", "ok", "reported", None)


async def test_right_after_asking(place: Place) -> None:
    """Gone while the try's record is made durable, or as it is sent: the reply is read for its usage, and the story is the client's leaving."""
    address = urlsplit(place.sidecar.gateway)
    body = said("usage=always")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for count in range(1, 6):
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as leaving:
            leaving.sendall(head.encode() + body)
        assert [one["client_gone_at"] is not None for one in await closed(place, count)] == [True] * count


async def test_before_the_next_try(place: Place) -> None:
    """While the gateway waits to try again: nothing more is sent, and nothing is charged."""
    async with client(place.gateway) as http:
        asking = asyncio.create_task(http.post("/chat/completions", content=said("status=503 retry-after-ms=700 times=1"), headers=JSON))
        await place.official.until_ended()
        await asyncio.sleep(0.1)  # the failure is read, and the wait for the next try has begun
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    responses = await closed(place, 2)
    assert sorted((one["ordinal"], one["http_status"], one["client_gone_at"] is not None) for one in responses) == [
        (0, None, True),
        (1, 503, False),
    ]
    assert len(place.official.seen) == 1
    row = await asyncio.to_thread(story, place)
    assert (row["status"], row["outcome"], row["final_charge"]) == ("failed", "error_before_output", 0)
