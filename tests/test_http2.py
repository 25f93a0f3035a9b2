"""HTTP/2 through the forward door: whoever takes nothing holds up the other side instead of filling the proxy's memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from proxy.forward_h2 import HELD_BYTES
from schemas.home import Home
from tests.bulk import memory
from tests.certs import Authority, Leaf
from tests.http2 import Http2Vendor, Peer, ask, http2_client
from tests.sidecar import Sidecar, Way, recorded, sidecar, write_book

SIZE = 32 << 20
UNDERWAY = 16 << 20  # what lies in the kernel's buffers and those of both ends


@dataclass(frozen=True)
class Line:
    """A client and a vendor that speak HTTP/2, and the proxy between them."""

    vendor: Http2Vendor
    client: Peer
    running: Sidecar


@pytest.fixture
async def line(home: Home, authority: Authority, leaf: Leaf) -> AsyncIterator[Line]:
    """One connection, warm."""
    async with Http2Vendor(leaf) as vendor:
        write_book(home, [Way("official", vendor.base_url, rules="timeout_s = 2")])
        with sidecar(home, "--upstream-ca", str(authority.cert)) as running:
            client = await http2_client(running.forward, vendor.port, home.ca / "mitmproxy-ca-cert.pem")
            await client.answer(ask(client, "GET", "/v1/files/1", vendor.port))
            yield Line(vendor, client, running)
            client.transport.abort()
            await asyncio.sleep(0)  # it is closed before the proxy's end is waited for


async def endings(line: Line, count: int) -> list[str]:
    """How so many requests ended, once they have."""
    for _ in range(200):
        if len(found := recorded(line.running.home, "response")) >= count:
            return [row["ending"] for row in found]
        await asyncio.sleep(0.05)
    raise AssertionError(f"{len(found)} of {count} were recorded")


async def still(line: Line, *sides: Peer) -> None:
    """Until nothing moves any more."""
    before = [-1]
    while (now := [side.given + side.got for side in sides]) != before:
        before = now
        await asyncio.sleep(0.5)


async def test_a_client_that_takes_nothing_holds_up_its_upstream(line: Line) -> None:
    """Of a large answer no more leaves upstream than a few megabytes; taken up again, all of it comes. The channel's time limit does not count."""
    client, (peer,) = line.client, line.vendor.peers
    client.gate.clear()
    slow = ask(client, "GET", f"/v1/files/{SIZE}", line.vendor.port)
    await still(line, client, peer)
    assert peer.given < HELD_BYTES + UNDERWAY
    await asyncio.sleep(2.5)  # longer than the channel's limit: it is the client who is slow
    client.gate.set()
    assert await client.answer(slow) == (200, SIZE)


async def test_a_client_that_takes_nothing_and_leaves_is_gone(line: Line) -> None:
    """What was held for it holds up nobody: the record is closed, and the proxy ends without a wait."""
    client, (peer,) = line.client, line.vendor.peers
    client.gate.clear()
    ask(client, "GET", f"/v1/files/{SIZE}", line.vendor.port)
    await still(line, client, peer)
    client.transport.abort()
    assert (await endings(line, 2))[-1] == "client_gone"


async def test_an_upstream_that_takes_nothing_holds_up_the_body(line: Line) -> None:
    """A large body waits in its file, and memory does not grow with it; silent for too long, upstream is given up with 504."""
    client, (peer,) = line.client, line.vendor.peers
    before = memory(line.running.process.pid)
    line.vendor.gate.clear()
    stuck = ask(client, "POST", "/v1/files", line.vendor.port, end=False)
    await client.send(stuck, 2 * SIZE)
    status, _ = await client.answer(stuck)
    assert memory(line.running.process.pid) - before < 2 * SIZE
    assert status == 504
    assert peer.got < UNDERWAY
    assert (await endings(line, 2))[-1] == "timeout"


async def test_a_silent_stream_does_not_end_those_beside_it(line: Line) -> None:
    """One request without an answer, and others that are answered on the same connection: it waits on with them, and all end as they should."""
    client = line.client
    silent = ask(client, "GET", "/v1/silent", line.vendor.port)
    for _ in range(5):
        await asyncio.sleep(0.5)
        assert await client.answer(ask(client, "GET", "/v1/files/1000", line.vendor.port)) == (200, 1000)
    status, _ = await client.answer(silent)
    assert status == 504
    assert await endings(line, 7) == ["complete"] * 6 + ["timeout"]
