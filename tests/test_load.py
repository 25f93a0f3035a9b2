"""Under load: bodies of any size cost no memory, an idle stream costs little, and what is beyond the limits is told to come again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.sealing import looks
from proxy.journal import ADMIN_SLOT, Journal
from schemas import manifest
from schemas.home import Home
from tests.bulk import Bulk, digest, download, forget_peak, idle_stream, leave, memory, upload
from tests.rawdata import call
from tests.sidecar import Way, free_port, recorded, sidecar, write_book
from tests.test_admission import HASTE
from tests.test_relay import DOORS
from tests.test_resources import sealer

Tell = Callable[[str, object], None]
MIB = 1 << 20
FIRST = 100
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
        with sidecar(home, cold=True) as running:
            pid = running.process.pid
            url, base = (running.gateway, "") if door == "gateway" else (running.forward, f"http://127.0.0.1:{upstream.port}")
            opened = [await idle_stream(url, f"{base}/v1/idle") for _ in range(FIRST)]  # what is loaded at first use
            before = memory(pid)
            for _ in range(0, count, 50):
                opened += await asyncio.gather(*[idle_stream(url, f"{base}/v1/idle") for _ in range(50)])
            each = (memory(pid) - before) // count
            assert [status for status, _, _ in opened] == [200] * (count + FIRST)
            await leave(opened)
    assert each < 40_000
    tell("trust: streams held", len(opened))
    tell(f"trust, most: bytes of memory for an idle stream at the {door} door", each)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sealed_rows(home: Home) -> int:
    return sum(file.rows for line in manifest.read(home.manifest) for file in line.files)


async def sealing(home: Home, calls: int, tell: Tell) -> tuple[float, float]:
    """Seal so many calls beside the doors: processor seconds of the proxy and of the sealing."""
    write_book(home, [Way("official", "http://127.0.0.1:9/v1")])
    journal = Journal(home, ADMIN_SLOT)
    for number in range(0, calls, 500):
        journal.append_wait([record for at in range(number, number + 500) for record in call(f"n{at}")])
    journal.close()
    port = free_port()
    with sidecar(home, "--admin-port", str(port), before="import proxy.service as s; s.SEAL_EVERY_S = 0.1") as running:
        before, seals = cpu_s(running.process.pid), await sealer(running)
        for _ in range(6000):
            if sealed_rows(home) >= 3 * calls:
                break
            await asyncio.sleep(0.05)
        assert sealed_rows(home) >= 3 * calls
        spent, sealing = cpu_s(running.process.pid) - before, cpu_s(seals)
        every, soon = await asyncio.to_thread(looks, port)
    tell("trust: looks at the event loop while sealing", every)
    tell("trust: of them within 20 ms", soon)
    return spent, sealing


async def test_sealing_takes_nothing_from_the_doors_process(home: Home, record_property: Tell) -> None:
    """While thousands of records are sealed, their work is another process's: the doors' own has a small part of its processor time."""
    spent, sealing_s = await sealing(home, 10_000, record_property)
    assert spent < sealing_s / 3


@pytest.mark.soak
@pytest.mark.timeout(0)
async def test_the_event_loop_is_told_while_a_long_spool_is_sealed(home: Home, record_property: Tell) -> None:
    """The table tells how often it was within 20 ms, which says something on a quiet machine alone; what sealing costs goes to another process on any."""
    spent, sealing_s = await sealing(home, 300_000, record_property)
    assert spent < sealing_s / 3


async def test_large_bodies_cost_no_memory(home: Home, record_property: Tell) -> None:
    """200 MB each way; `make soak` sends 1 GiB."""
    await bodies(home, 200 * MIB, record_property)


async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A vendor that refuses a body by its head, reads no more of it, and leaves."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    await writer.drain()
    await asyncio.sleep(0.5)  # a vendor's balancer lingers, so that the answer is not torn down with the connection
    writer.close()


@pytest.mark.parametrize("door", DOORS)
async def test_an_answer_before_the_body_is_taken_is_the_answer(home: Home, door: str) -> None:
    """Upstream refuses a large body at its head: the client hears that, and so does the record."""
    server = await asyncio.start_server(hasty, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        write_book(home, [Way("official", f"http://127.0.0.1:{port}/v1", rules="max_retries = 0")])
        with sidecar(home) as running:
            url, base = (running.gateway, "") if door == "gateway" else (running.forward, f"http://127.0.0.1:{port}")
            assert await upload(url, f"{base}/v1/files", 40 * MIB) == "{}"
    (end,) = recorded(home, "response")
    assert (end["http_status"], end["ending"]) == (413, "complete")


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
