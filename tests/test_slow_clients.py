"""Clients that hold a connection without getting on lose it; an upstream that thinks for long loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from schemas.home import Home
from tests.clients import Door
from tests.sidecar import Sidecar, Way, recorded, sidecar, write_book
from tests.test_relay import DOORS, said, streaming
from tests.upstream import Upstream

# A tick of 0.4 s stands for 20, and a second for the minute of a connection between two requests.
HURRIED = "import proxy.progress as p, proxy.http_server as g; p.TICK_S = 0.4; g.IDLE_S = 1.0"
HEAD = "POST {t} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLOW: dict[str, tuple[str, str]] = {  # what is sent at once, and what is sent again and again
    "nothing at all": ("", ""),
    "half a request line": ("POST ", ""),
    "half a head": (HEAD, ""),
    "a head that trickles": (HEAD, "X: y\r\n"),
    "half a body": (HEAD + "Content-Length: 100\r\n\r\n{", ""),
    "a body that trickles": (HEAD + "Content-Length: 100000\r\n\r\n", " "),
    "chunks that trickle": (HEAD + "Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"),
}


@dataclass(frozen=True)
class Line:
    home: Home
    upstream: Upstream
    sidecar: Sidecar


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Line]:
    home = Home(tmp_path_factory.mktemp("slow") / "home")
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, before=HURRIED) as running:
            yield Line(home, upstream, running)


async def held_for(url: str, first: str, again: str) -> bytes:
    """Send slowly until the door closes; what it said. TimeoutError if it never does."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(first.encode())
    reading = asyncio.ensure_future(reader.read())
    try:
        async with asyncio.timeout(20):
            while not reading.done():
                await asyncio.wait({reading}, timeout=0.1)
                if again and not writer.is_closing():
                    writer.write(again.encode())
        return b"" if reading.exception() else reading.result()
    finally:
        writer.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("door", DOORS)
async def test_a_client_that_does_not_get_on_is_let_go(line: Line, door: str) -> None:
    """Half-sent and trickling heads and bodies, and silence: each connection ends, and nothing goes upstream."""
    url, base = (line.sidecar.gateway, "") if door == "gateway" else (line.sidecar.forward, line.upstream.url)
    before = len(line.upstream.seen)
    said_to = await asyncio.gather(*[held_for(url, first.replace("{t}", f"{base}/v1/files"), again) for first, again in SLOW.values()])
    told = dict(zip(SLOW, said_to, strict=True))
    assert b" 408 " in told["a body that trickles"]
    assert not any(b" 200 " in words for words in told.values())
    assert len(line.upstream.seen) == before
    assert {row["http_status"] for row in recorded(line.home, "response") if row["ordinal"] == 0} <= {408}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("door", "gate"), [("gateway", "1"), ("forward", "2")])
async def test_an_upstream_may_think(line: Line, door: str, gate: str) -> None:
    """A stream that is silent for many ticks goes on to its end."""
    way = Door(line.sidecar.base_url) if door == "gateway" else Door(line.upstream.base_url, proxy=line.sidecar.forward)
    async with streaming(way, said(f"hold={gate}", stream=True)) as answer:
        await line.upstream.until_held(gate)
        await asyncio.sleep(2)  # five ticks: that is the case
        line.upstream.release(gate)
        assert b"".join([piece async for piece in answer.aiter_raw()]).endswith(b"data: [DONE]\n\n")
