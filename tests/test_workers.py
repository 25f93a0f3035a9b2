"""`proxy --workers 2`: two processes behind the same ports, one ready line, one count, and no record lost or doubled."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import urllib.request
from pathlib import Path

import httpx2

from proxy.admission import places_of
from schemas.home import Home
from tests.bulk import memory
from tests.certs import Authority
from tests.clients import Door
from tests.conftest import PRICES
from tests.sidecar import Sidecar, Way, free_port, recorded, sidecar, write_book
from tests.test_relay import JSON, client, said
from tests.upstream import Upstream

CALLS = 24


def workers(running: Sidecar, of: str = "proxy.workers") -> list[int]:
    """The worker processes, or others that the proxy has started, by their command."""
    tasks = Path(f"/proc/{running.process.pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [child for child in children if of.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]


def counted(port: int) -> dict[str, float]:
    """What /metrics says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return {name: float(value) for name, value in re.findall(r"(?m)^tokenledger_(\w+) ([\d.e+-]+)$", answer.read().decode())}


async def ask(door: Door, count: int) -> list[str]:
    """So many calls, each on a connection of its own; the gateway's ids."""

    async def one() -> str:
        async with client(door) as http:
            answer = await http.post("/chat/completions", content=said("usage=always"), headers=JSON)
        assert answer.status_code == 200
        return str(answer.headers.get("x-ledger-request-id", ""))

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def test_two_workers_are_one_proxy(home: Home, authority: Authority) -> None:
    """Both take part; one that is killed is replaced, and keeps what it had recorded; all of them drain, and end with 0."""
    admin = free_port()
    async with Upstream(name="official") as upstream:
        write_book(home, [Way("official", upstream.base_url)], prices=PRICES[:3])
        with sidecar(home, "--workers", "2", "--admin-port", str(admin)) as running:
            first = workers(running)
            assert len(first) == 2
            gateway = Door(running.base_url)
            ids = await ask(gateway, CALLS)
            await ask(Door(upstream.base_url, proxy=running.forward), CALLS)
            by_writer = {row["request_id"] for row in recorded(home, "request")}
            assert len(by_writer) == 2 * CALLS
            assert set(ids) <= by_writer
            told = await asyncio.to_thread(counted, admin)
            assert (told["requests_total"], told["closed_total"], told["live_attempts"]) == (2 * CALLS, 2 * CALLS, 0)
            assert told["places"] == 2 * places_of(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            assert told["resident_bytes"] > 1.5 * max(memory(pid) for pid in first)
            assert told["loop_lag_seconds_count"] > told["loop_lag_seconds_sum"] > 0

            os.kill(first[0], signal.SIGKILL)
            async with asyncio.timeout(60):
                while True:  # until the successor accepts
                    if [row["event"] for row in recorded(home, "event")].count("proxy_started") == 3:
                        break
                    await asyncio.sleep(0.1)
            assert first[0] not in workers(running)
            await ask(gateway, CALLS)
            told = await asyncio.to_thread(counted, admin)
            assert (told["requests_total"], told["lost_records_total"]) == (3 * CALLS, 0)

            async with client(gateway) as http:
                live = asyncio.create_task(http.post("/chat/completions", content=said("hold=1", stream=True), headers=JSON))
                await upstream.until_held("1")
                running.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)  # the signal has been taken by all
                upstream.release("1")
                assert (await live).content.endswith(b"data: [DONE]\n\n")
            assert await asyncio.to_thread(running.process.wait, 60) == 0
    for kind in ("request", "attempt", "response"):
        rows = recorded(home, kind)
        assert len(rows) == len({row["request_id"] for row in rows}) == 3 * CALLS + 1
    assert {row["ending"] for row in recorded(home, "response")} == {"complete"}
    assert len(list(home.spool.glob("proxy-*"))) == 2
    assert [row["event"] for row in recorded(home, "event")].count("proxy_stopped") == 2


async def test_a_worker_that_cannot_start_is_told_by_its_reason(home: Home) -> None:
    """A second proxy on the same home: exit 2, one reason and its cure, no traceback."""
    async with Upstream(name="official") as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, "--workers", "2") as running:
            again = await asyncio.create_subprocess_exec(
                *running.process.args[:5],  # type: ignore[index]
                *("proxy", "--workers", "2", "--gateway-port", "0", "--forward-port", "0", "--admin-port", "0"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await asyncio.wait_for(again.communicate(), 60)
            assert (again.returncode, out) == (2, b"")
            assert b"another process is writing the journal" in err
            assert b"Traceback" not in err
            async with httpx2.AsyncClient(trust_env=False, timeout=20) as http:
                assert (await http.get(running.gateway)).status_code == 404  # the first one serves on
