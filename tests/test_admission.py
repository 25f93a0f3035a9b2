"""More clients than there is room for: those beyond it are told when to come again, and those inside notice nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable

import httpx2
import pytest

from proxy.access import TOKEN_VARIABLE
from schemas.home import Home
from tests.bulk import Bulk, idle_stream, leave
from tests.sidecar import ROOT, Way, command, recorded, sidecar, write_book
from tests.strict import answered, statuses
from tests.test_relay import DOORS
from tests.upstream import Upstream

FILES = 320
PLACES = (FILES - 256) // 2
FEW_FILES = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (280, {FILES}))"
NO_MEMORY = "import proxy.admission as a; a.MEMORY_SHARE = 1e-6"
HASTE = "[gateway]\ndrain_after_client_gone_s = 0"  # the streams of these tests have no end to wait for
TOKEN = "a-token-of-many-letters"


@pytest.mark.parametrize("door", DOORS)
async def test_beyond_the_open_files_clients_are_told_to_come_again(
    home: Home, door: str, record_property: Callable[[str, object], None]
) -> None:
    """The soft limit is raised to the hard one; (limit - 256) / 2 streams are held, the rest hear 503 with Retry-After, and a place that is left is taken."""
    async with Bulk() as upstream:
        write_book(home, [Way("official", upstream.base_url)], settings=HASTE)
        with sidecar(home, before=FEW_FILES) as running:
            url, base = (running.gateway, "") if door == "gateway" else (running.forward, f"http://127.0.0.1:{upstream.port}")
            held = await asyncio.gather(*[idle_stream(url, f"{base}/v1/idle") for _ in range(PLACES)])
            assert [status for status, _, _ in held] == [200] * PLACES
            ask = f"GET {base}/v1/models HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            refused = await asyncio.gather(*[answered(url, ask) for _ in range(20)])
            assert [statuses(answer) for answer in refused] == [[503]] * 20
            assert all(b"retry-after: 2" in answer.lower() and b"overloaded" in answer for answer in refused)
            tunnel = b"CONNECT elsewhere.example:443 HTTP/1.1\r\n\r\n"
            assert statuses(await answered(running.forward, tunnel)) == [503]
            flood = [
                socket.create_connection((running.gateway.split("/")[2].split(":")[0], int(url.rpartition(":")[2]))) for _ in range(200)
            ]
            for _, reader, _ in held:  # nobody inside was cut off
                assert not reader.at_eof()
            for one in flood:
                one.close()
            held[0][2].close()
            async with asyncio.timeout(10):
                while statuses(await answered(url, ask.replace(b"models", b"files/5"))) != [200]:
                    pass
            assert upstream.idle == PLACES
            await leave(held[1:])
    record_property("trust: streams held while others were refused", PLACES)


@pytest.mark.parametrize("door", DOORS)
async def test_where_memory_is_short_nothing_new_is_taken(home: Home, door: str) -> None:
    """503 with Retry-After at both doors, and nothing upstream."""
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, before=NO_MEMORY) as running:
            url, base = (running.gateway, "") if door == "gateway" else (running.forward, upstream.url)
            async with asyncio.timeout(10):
                while statuses(answer := await answered(url, f"GET {base}/v1/models HTTP/1.1\r\nHost: x\r\n\r\n".encode())) != [503]:
                    pass
            assert b"memory is short" in answer
            before = len(upstream.seen)
            assert statuses(await answered(url, f"GET {base}/v1/models HTTP/1.1\r\nHost: x\r\n\r\n".encode())) == [503]
            assert len(upstream.seen) == before


def test_beyond_loopback_the_doors_want_a_token_and_a_list(home: Home) -> None:
    """Neither alone is enough, and each refusal says what to write where."""
    for book, environment, word in (
        ('allowed_clients = ["10.0.0.0/8"]', {}, TOKEN_VARIABLE),
        ('allowed_clients = ["10.0.0.0/8"]', {TOKEN_VARIABLE: "short"}, TOKEN_VARIABLE),
        ("", {TOKEN_VARIABLE: TOKEN}, "allowed_clients"),
    ):
        write_book(home, [Way("official", "https://api.example.com/v1")], settings=book)
        words = command(home, "proxy", "--host", "0.0.0.0", "--gateway-port", "0", "--forward-port", "0", "--admin-port", "0")
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=60, check=False)
        assert (done.returncode, word in done.stderr, "ready" in done.stdout) == (2, True, False), done.stderr


async def test_beyond_loopback_a_request_shows_the_token(home: Home) -> None:
    """At both doors: without it 407 and nothing upstream; with it the request passes, and the token goes nowhere."""
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url)], settings='allowed_clients = ["192.0.2.0/24"]')
        with sidecar(home, "--host", "0.0.0.0", environment={TOKEN_VARIABLE: TOKEN}) as running:
            gateway, forward = (f"http://127.0.0.1:{door.rpartition(':')[2]}" for door in (running.gateway, running.forward))
            tunnel = f"CONNECT {upstream.url.removeprefix('http://')} HTTP/1.1\r\n\r\n".encode()
            for url, ask in ((gateway, "GET /v1/models"), (forward, f"GET {upstream.url}/v1/models")):
                for wrong in ("", "x-ledger-token: wrong\r\n", "Proxy-Authorization: Basic !!\r\n"):
                    assert statuses(await answered(url, f"{ask} HTTP/1.1\r\nHost: x\r\n{wrong}\r\n".encode())) == [407]
            assert statuses(await answered(forward, tunnel)) == [407]
            assert upstream.seen == []
            async with httpx2.AsyncClient(trust_env=False) as http:
                headers = {"x-ledger-token": TOKEN}
                assert (await http.get(f"{gateway}/v1/models", headers=headers)).status_code == 200
            async with httpx2.AsyncClient(proxy=forward.replace("//", f"//me:{TOKEN}@")) as http:
                assert (await http.get(f"{upstream.url}/v1/models")).status_code == 200
            inner = tunnel.replace(b"\r\n\r\n", f"\r\nProxy-Authorization: Bearer {TOKEN}\r\n\r\n".encode())
            assert statuses(await answered(forward, inner, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"))[-1] == 200
        assert len(upstream.seen) == 3
        assert not any(TOKEN in str(seen.headers) for seen in upstream.seen)
    assert len(recorded(home, "request")) == 3
    assert not any(TOKEN.encode() in path.read_bytes() for path in home.root.rglob("*") if path.is_file())
