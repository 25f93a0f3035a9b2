"""SIGTERM while streams are live: nothing new is taken, what is live may end, and what does not is closed as what it is."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import httpx2
import pytest

from tests.certs import Authority
from tests.conftest import Place
from tests.sidecar import Sidecar, command, recorded
from tests.test_relay import DOORS, JSON, client, said, streaming

HURRIED = "import proxy.service as s, tokenledger as t; s.DRAIN_S = 0.5; t.main()"


@pytest.mark.parametrize("door", DOORS)
async def test_a_stream_that_outlasts_the_drain_is_closed_as_stopped(place: Place, door: str, tmp_path: Path, authority: Authority) -> None:
    """After the drain the stream is cut, its record says by whom, and the proxy ends with 0. (Half a second here stands for 30.)"""
    place.sidecar.stop()
    arguments = command(place.home, "proxy", "--gateway-port", "0", "--forward-port", "0", "--admin-port", "0")[3:]
    hurried = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HURRIED, *arguments, "--upstream-ca", str(authority.cert), stdout=asyncio.subprocess.PIPE
    )
    assert hurried.stdout is not None
    words = (await hurried.stdout.readline()).decode().split()
    doors = dict(word.split("=", 1) for word in words[1:])
    running = Place(place.home, place.official, place.routed, Sidecar(place.home, None, doors["gateway"], doors["forward"], doors))  # type: ignore[arg-type]
    async with streaming(running.door(door), said("hold=1", stream=True)) as answer:
        await place.official.until_held("1")
        hurried.send_signal(signal.SIGTERM)
        with contextlib.suppress(httpx2.HTTPError):
            _ = [piece async for piece in answer.aiter_raw()]
    assert await asyncio.wait_for(hurried.wait(), 20) == 0
    (response,) = recorded(place.home, "response")
    assert (response["ending"], response["terminal"], response["client_gone_at"]) == ("proxy_stopped", None, None)
    assert [row["event"] for row in recorded(place.home, "event")][-1] == "proxy_stopped"


@pytest.mark.parametrize("door", DOORS)
async def test_a_draining_proxy_takes_nothing_new(place: Place, door: str) -> None:
    """While one stream ends in peace, a new connection finds nobody, and nothing of it goes upstream."""
    async with streaming(place.door(door), said("hold=1", stream=True)) as answer:
        await place.official.until_held("1")
        stopping = asyncio.create_task(asyncio.to_thread(place.sidecar.stop))
        await asyncio.sleep(0.3)  # the signal has been taken
        async with client(place.door(door)) as late:
            with pytest.raises(httpx2.ConnectError):
                await late.post("/chat/completions", content=said("late"), headers=JSON)
        place.official.release("1")
        assert b"".join([piece async for piece in answer.aiter_raw()]).endswith(b"data: [DONE]\n\n")
    assert await stopping == 0
    assert len(place.official.seen) == 1
