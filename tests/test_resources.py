"""A proxy and a build that run out of something: disk, open files, memory. What passes unrecorded is counted, and no ledger is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from schemas.home import Home
from tests.campaign import Books
from tests.clients import Door
from tests.rawdata import rows
from tests.sidecar import ROOT, Sidecar, Way, command, free_port, recorded, sidecar, write_book
from tests.test_relay import JSON, client, said
from tests.test_workers import counted, workers
from tests.upstream import Upstream

SOME_BYTES = 64  # below where the journal writes, above the note of what was lost
LEDGER = ("ledger", "--as-of", "2026-11-03T00:00:00Z")
LITTLE_MEMORY = """
import resource, etl.close, tokenledger
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, ((pages << 12) + ({room} << 20),) * 2)
"""
FEW_FILES = """
import os, resource, etl.close, tokenledger
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2,) * 2)
"""
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@contextmanager
def full_disk(running: Sidecar) -> Iterator[None]:
    """No file of the proxy grows or is written any more, by the kernel's own limit; it can be lifted again, which a full disk's cannot."""
    before = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (SOME_BYTES, resource.RLIM_INFINITY))
    yield
    if running.process.poll() is None:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, before)


async def ask(door: Door) -> httpx2.Response:
    async with client(door) as http:
        return await http.post("/chat/completions", content=said("usage=always"), headers=JSON)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def address_space(pid: int) -> int:
    """Bytes of a process's address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def losses(home: Home) -> list[int]:
    return [json.loads(row["facts"])["records"] for row in recorded(home, "event") if row["event"] == "loss"]


@pytest.mark.parametrize("stops", [False, True], ids=["heals", "stops"])
async def test_what_a_full_disk_lets_pass_is_counted_and_blocks_the_close(home: Home, stops: bool) -> None:
    """The forward door passes the call, the gateway does not; the loss is told when the disk heals, also to the next process, and no month closes over it."""
    admin = free_port()
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, "--admin-port", str(admin)) as running:
            gateway, forward = Door(running.base_url), Door(upstream.base_url, proxy=running.forward)
            assert (await ask(forward)).status_code == 200
            with full_disk(running):
                assert (await ask(forward)).status_code == 200
                refused = await ask(gateway)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_recorded")
                assert len(upstream.seen) == 2
                figures = await asyncio.to_thread(counted, admin)
                assert figures["lost_records_total"] > 0
                if stops:
                    assert await asyncio.to_thread(running.stop) == 0
            if not stops:
                assert (await ask(gateway)).status_code == 200
        if stops:
            assert losses(home) == []
            with sidecar(home):
                pass
    assert losses(home) == [figures["lost_records_total"]]
    assert len(recorded(home, "request")) == (1 if stops else 2)
    words = command(home, "ledger", "--as-of", "2040-01-05T00:00:00Z")
    closing = await asyncio.to_thread(subprocess.run, words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert closing.returncode == 1
    assert f"cure: tokenledger --home {home.root} acknowledge" in closing.stderr
    kinds = rows(home, "SELECT kind FROM data_quality WHERE blocks_close")
    assert "loss" in [row["kind"] for row in kinds]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Home]:
    """A home on a file system of its own, with room for a journal's segment and little more."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", str(folder)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets this user mount nothing")
    yield Home(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


async def test_a_file_system_without_room_stops_calls_and_not_the_proxy(small: Home) -> None:
    """What has room in its segment is still recorded; then no call goes upstream, until there is room again. Nothing that went is missing."""
    async with Upstream() as upstream:
        write_book(small, [Way("official", upstream.base_url)])
        with sidecar(small, before="import proxy.service as s; s.SEAL_EVERY_S = 0.2") as running:
            async with client(Door(running.base_url)) as http:
                large = json.loads(said("usage=always")) | {"note": "x" * (15 << 20)}
                fill(small.root / "filler")
                answers = [await http.post("/chat/completions", json=large) for _ in range(6)]
                assert {answer.status_code for answer in answers} == {200, 503}
                assert answers[-1].json()["error"]["code"] == "not_recorded"
                (small.root / "filler").unlink()
                assert (await http.post("/chat/completions", content=said("usage=always"), headers=JSON)).status_code == 200
    assert len(upstream.seen) == sum(answer.status_code == 200 for answer in answers) + 1
    asked, ended = ([row["request_id"] for row in recorded(small, kind)] for kind in ("attempt", "response"))
    assert len(asked) == len(upstream.seen)
    assert len(set(asked) - set(ended)) <= len(losses(small))


async def test_too_many_open_files_end_with_those_that_hold_them(home: Home) -> None:
    """While no file can be opened, calls fail and what was promised is kept; afterwards all is as before."""
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url, rules="max_retries = 0")])
        with sidecar(home) as running:
            ways = (Door(running.base_url), Door(upstream.base_url, proxy=running.forward))
            pid = running.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid) + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            for way in ways:
                with contextlib.suppress(httpx2.TransportError):  # its connection could not even be taken
                    assert (await ask(way)).status_code in (502, 503)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            for way in ways:
                async with asyncio.timeout(20):
                    assert (await ask(way)).status_code == 200
    assert {row["request_id"] for row in recorded(home, "attempt")} == {
        row["request_id"] for row in recorded(home, "response") if row["ordinal"]
    }
    assert len(upstream.seen) == 2


async def test_what_went_upstream_is_recorded_though_memory_ran_out(home: Home) -> None:
    """The kernel gives the proxy no more: what it cannot hold is refused or broken off. Where a library cannot go on without, it ends the process, as a kernel would."""
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, cold=True) as running:
            pid = running.process.pid
            async with client(Door(running.base_url)) as http:
                assert (await http.post("/chat/completions", content=said("usage=always"), headers=JSON)).status_code == 200
                taken = address_space(pid)
                before = resource.prlimit(pid, resource.RLIMIT_AS, (taken + (24 << 20), resource.RLIM_INFINITY))
                large = json.loads(said("usage=always")) | {"note": "x" * (15 << 20)}
                calls = [http.post("/chat/completions", json=large) for _ in range(8)]
                ended = await asyncio.gather(*calls, return_exceptions=True)
                assert not all(isinstance(each, httpx2.Response) and each.status_code == 200 for each in ended)
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_AS, before)
                if running.process.poll() is None:
                    async with asyncio.timeout(20), client(Door(running.base_url)) as again:
                        assert (await again.post("/chat/completions", content=said("usage=always"), headers=JSON)).status_code == 200
    assert len(recorded(home, "attempt")) == len(upstream.seen)


async def sealer(running: Sidecar, other_than: int = 0) -> int:
    """The sealing process, once there is one."""
    for _ in range(400):
        found = [pid for pid in workers(running, "proxy.seal") if pid != other_than]
        if found:
            return found[0]
        await asyncio.sleep(0.05)
    raise AssertionError("nobody seals")


async def test_a_sealer_that_is_killed_is_started_again(home: Home) -> None:
    """As a kernel does that is short of memory: another one seals on."""
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, before="import proxy.service as s; s.SEAL_EVERY_S = 0.2") as running:
            first = await sealer(running)
            os.kill(first, signal.SIGKILL)
            assert await sealer(running, other_than=first) != first


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Books:
    """One request published, a second one sealed."""
    made = Books(Home(tmp_path_factory.mktemp("books") / "home"))
    made.home.root.mkdir()
    made.prepare()
    return made


def limited(home: Home, before: str) -> subprocess.CompletedProcess[str]:
    """A build in a process that limits itself."""
    starting = [sys.executable, "-c", f"{before}\nimport tokenledger\ntokenledger.main()", *command(home, *LEDGER)[3:]]
    done = subprocess.run(starting, cwd=ROOT, capture_output=True, text=True, check=False)
    assert [row["request_id"] for row in rows(home, "SELECT request_id FROM ledger")] == ["n1"], done.stderr
    return done


def test_a_build_without_files_says_so_and_changes_nothing(books: Books) -> None:
    """Exit 1, what ran out and its cure, no traceback; the ledger is the one published before."""
    done = limited(books.home, FEW_FILES)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "Too many open files" in done.stderr
    assert "cure:" in done.stderr


def test_a_build_without_memory_says_so_and_changes_nothing(books: Books) -> None:
    """The same; where not even a library's own thread finds room, that ends the process, and the ledger is still the one before.

    What is held once all is loaded differs from machine to machine: a little more is given until there is room enough to say so.
    """
    for room in range(48, 208, 16):
        done = limited(books.home, LITTLE_MEMORY.format(room=room))
        if done.returncode == 1:
            break
        assert done.returncode in (127, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS), done.stderr
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "memory ran out" in done.stderr
    assert "cure:" in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(LEDGER, 2), (("proxy",), 2), (("receipt", "n1"), 0), (("verify",), 0)])
def test_a_read_only_home_is_read_and_not_written(books: Books, arguments: tuple[str, ...], code: int) -> None:
    """What reads works; what writes says which path and how to mend it."""
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, str(books.home.root)]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount anything")
    done = subprocess.run([*apart, *command(books.home, *arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    if code:
        assert "Read-only file system" in done.stderr
        assert "cure:" in done.stderr
