"""Under load: bodies of any size cost no memory, an idle stream costs little, and what is beyond the limits is told to come again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from schemas.home import Home
from tests.bulk import Bulk, digest, download, forget_peak, idle_stream, leave, memory, upload
from tests.sidecar import Way, recorded, sidecar, write_book
from tests.test_admission import HASTE
from tests.test_relay import DOORS

Tell = Callable[[str, object], None]
MIB = 1 << 20
FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'


async def bodies(home: Home, size: int, tell: Tell) -> None:
    """A body of this size up and down at both doors, and a form whose model the gateway changes: whole, recorded, and cheap."""
    async with Bulk() as upstream:
        write_book(home, [Way("official", upstream.base_url)], models={"whisper-1": [("official", "whisper-large")]})
        with sidecar(home) as running:
            pid = running.process.pid
            costs = {}
            for door in DOORS:
                url, base = (running.gateway, "") if door == "gateway" else (running.forward, f"http://127.0.0.1:{upstream.port}")
                await download(url, f"{base}/v1/files/{MIB}")  # what is loaded at first use is not the body's
                for way in ("up", "down", "form")[: 3 if door == "gateway" else 2]:
                    before = memory(pid)
                    forget_peak(pid)
                    if way == "up":
                        assert await upload(url, f"{base}/v1/files", size) == digest(size)
                    elif way == "down":
                        assert await download(url, f"{base}/v1/files/{size}") == digest(size)
                    else:
                        start = FORM % b"whisper-1"
                        told = await upload(url, "/v1/audio/transcriptions", size, start, "multipart/form-data; boundary=b")
                        assert told == digest(size, FORM % b"whisper-large")
                    costs[door, way] = memory(pid, peak=True) - before
        seen = [(row["body_bytes"], row["body_sha256"]) for row in recorded(home, "request") if row["body_bytes"]]
        assert seen == [(size, digest(size)), (size + len(FORM % b"whisper-1"), digest(size, FORM % b"whisper-1")), (size, digest(size))]
    assert {key: cost for key, cost in costs.items() if cost >= 150 * 10**6} == {}
    tell("trust: bytes compared", size * len(costs))


async def idle(home: Home, door: str, count: int, tell: Tell) -> None:
    """So many streams that say nothing: each costs less than 40 KB."""
    async with Bulk() as upstream:
        write_book(home, [Way("official", upstream.base_url)], settings=HASTE)
        with sidecar(home) as running:
            pid = running.process.pid
            url, base = (running.gateway, "") if door == "gateway" else (running.forward, f"http://127.0.0.1:{upstream.port}")
            opened = [await idle_stream(url, f"{base}/v1/idle") for _ in range(32)]  # what is loaded at first use
            before = memory(pid)
            for _ in range(0, count, 50):
                opened += await asyncio.gather(*[idle_stream(url, f"{base}/v1/idle") for _ in range(50)])
            each = (memory(pid) - before) // count
            assert [status for status, _, _ in opened] == [200] * (count + 32)
            await leave(opened)
    assert each < 40_000
    tell("trust: streams held", len(opened))
    tell(f"trust: bytes of memory for an idle stream at the {door} door", each)


async def test_large_bodies_cost_no_memory(home: Home, record_property: Tell) -> None:
    """200 MB each way; `make soak` sends 1 GiB."""
    await bodies(home, 200 * MIB, record_property)


@pytest.mark.parametrize("door", DOORS)
async def test_an_idle_stream_costs_little(home: Home, door: str, record_property: Tell) -> None:
    """300 at each door; `make soak` holds 3,000."""
    await idle(home, door, 300, record_property)


@pytest.mark.soak
@pytest.mark.timeout(0)
async def test_a_gibibyte_costs_no_memory(home: Home, record_property: Tell) -> None:
    """1 GiB each way at both doors."""
    await bodies(home, 1 << 30, record_property)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("door", DOORS)
async def test_thousands_of_idle_streams(home: Home, door: str, record_property: Tell) -> None:
    """As the test above, at the size that a team may reach."""
    await idle(home, door, 3000, record_property)
