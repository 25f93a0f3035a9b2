"""A stand-in OpenAI-compatible vendor on a loopback port, over HTTP or HTTPS: plays the answers planned in `vendor.py` and logs what it saw.

Inside a test's loop:      async with Upstream() as upstream: ... upstream.base_url ... upstream.seen
Beside blocking code:      with serving() as upstream: ...
As a process of its own:   python -m tests.upstream --name official --port 0 [--cert PEM --key PEM], which prints `ready http://…`

`queue` and `stored` hold ready-made answers (exact bytes) of a test; a request takes the head of the queue before anything else.
Under `/__seen`, `/__release?name=X` and `/__reset` the log and the gates can be reached from another process.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from multidict import CIMultiDict

from tests.certs import Leaf
from tests.vendor import Answer, Call, Drop, Hold, Pause, Step, UnknownDirectiveError, counted_name, effective, marker, plan


@dataclass(slots=True)
class Seen:
    """One request as it reached the upstream; the fields after `body` fill as the answer goes out. Times are seconds since the epoch."""

    ordinal: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    started: float
    body: bytes = b""
    status: int | None = None
    sent_bytes: int = 0
    ended: float | None = None
    outcome: str = "open"
    """`open`, then `complete` (all of the answer written), `client_gone` (the peer left first) or `dropped` (as the marker asked)."""
    held: str | None = None
    """The gate it waits at now."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def client_gone(self) -> bool:
        return self.outcome == "client_gone"

    def header(self, name: str) -> str | None:
        """The first header of this name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


@dataclass
class Upstream:
    """The vendor. `name` is part of its response ids and what a marker's `only=` refers to; port 0 takes a free one."""

    name: str = "stub"
    host: str = "127.0.0.1"
    port: int = 0
    tls: Leaf | None = None
    queue: deque[Answer] = field(default_factory=deque)
    stored: dict[str, Answer] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    _tries: Counter[str] = field(default_factory=Counter)
    _gates: dict[str, asyncio.Event] = field(default_factory=dict)
    _runner: web.ServerRunner | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        # auto_decompress off: `seen` keeps the bytes that came. handler_cancellation: a peer that leaves ends the answer at once.
        server = web.Server(self._serve, auto_decompress=False, handler_cancellation=True, max_line_size=65536, max_field_size=65536)
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        context = self.tls.server_context() if self.tls else None
        await web.TCPSite(self._runner, self.host, self.port, ssl_context=context, backlog=1024).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Go down: nobody listens on the port any more. Nothing happens the second time."""
        for gate in self._gates.values():
            gate.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            if runner.server is not None:
                await runner.server.shutdown(0.02)
            await runner.cleanup()

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What an SDK takes as its base URL."""
        return f"{self.url}/v1"

    def release(self, name: str) -> None:
        """Open a gate, for those that wait there and those that come later; from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._gate(name).set)

    def reset(self) -> None:
        """Forget the log, the counters, the gates and the answers handed in."""
        self.seen.clear()
        self.queue.clear()
        self.stored.clear()
        self._tries.clear()
        self._gates.clear()

    async def until(self, what: Callable[[Self], bool], seconds: float = 5.0) -> None:
        """Wait until `what(self)` holds; TimeoutError when it does not in time. Works from any loop."""
        deadline = time.monotonic() + seconds
        while not what(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the upstream did not come to that in {seconds} s; it saw {self.seen}")
            await asyncio.sleep(0.002)

    async def until_held(self, name: str, count: int = 1, seconds: float = 5.0) -> None:
        """Wait until `count` requests stand at this gate."""
        await self.until(lambda up: sum(seen.held == name for seen in up.seen) >= count, seconds)

    async def until_ended(self, count: int = 1, seconds: float = 5.0) -> None:
        """Wait until `count` requests have ended, one way or another."""
        await self.until(lambda up: sum(seen.ended is not None for seen in up.seen) >= count, seconds)

    # --- playing an answer -----------------------------------------------------------------------------------------------------------

    def _gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/__"):
            return self._control(request)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        seen = Seen(len(self.seen) + 1, request.method, request.raw_path, headers, time.time())
        self.seen.append(seen)
        try:
            seen.body = await request.content.read()
            return await self._play(request, seen, self._answer(request, seen))
        except (asyncio.CancelledError, ConnectionError):
            if seen.outcome == "open":
                seen.outcome = "client_gone"
            raise
        finally:
            seen.ended = time.time()
            seen.held = None

    def _answer(self, request: web.BaseRequest, seen: Seen) -> Answer:
        if self.queue:
            return self.queue.popleft()
        encoding = request.headers.get("content-encoding", "")
        call = Call(self.name, seen.ordinal, request.method, request.path, dict(request.query), seen.body, encoding)
        try:
            text = marker(call)
            name = counted_name(call, text)
            self._tries[name] += 1
            words = effective(call, text, self._tries[name])
            return self.stored[words["answer"]] if "answer" in words else plan(call, words)
        except (UnknownDirectiveError, KeyError, ValueError) as fault:
            # 418 is retried by no SDK, so a typing error in a test's marker ends that test at once.
            body = json.dumps({"error": {"message": f"{type(fault).__name__}: {fault}", "type": "stub", "param": None, "code": None}})
            return Answer(418, (("content-type", "application/json"),), (body.encode(),))

    async def _play(self, request: web.BaseRequest, seen: Seen, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=CIMultiDict(answer.headers))
        for step in answer.before:
            if await self._step(request, seen, step, None):
                return response
        seen.status = answer.status
        await response.prepare(request)
        for step in answer.steps:
            if await self._step(request, seen, step, response):
                return response
        await response.write_eof()
        seen.outcome = "complete"
        return response

    async def _step(self, request: web.BaseRequest, seen: Seen, step: Step, response: web.StreamResponse | None) -> bool:
        """Take one step; true when it closed the connection."""
        match step:
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Hold(name):
                seen.held = name
                await self._gate(name).wait()
                seen.held = None
            case Drop():
                seen.outcome = "dropped"
                assert request.transport is not None
                request.transport.close()
                return True
            case bytes() if response is not None:
                await response.write(step)
                seen.sent_bytes += len(step)
                await asyncio.sleep(0)
        return False

    def _control(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/__release":
            self.release(request.query["name"])
        if request.path == "/__reset":
            self.reset()
        if request.path == "/__seen":
            return web.json_response([_as_json(seen) for seen in self.seen])
        return web.json_response({"ok": True})


def _as_json(seen: Seen) -> dict[str, Any]:
    fields = {name: getattr(seen, name) for name in Seen.__dataclass_fields__}
    return {**fields, "body": base64.b64encode(seen.body).decode()}


@contextmanager
def serving(upstream: Upstream | None = None) -> Iterator[Upstream]:
    """Run an upstream on a loop in a thread of its own, for tests that block."""
    vendor = upstream or Upstream()
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def live() -> None:
        async with vendor:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),), daemon=True)
    thread.start()
    try:
        if not ready.wait(5):
            raise RuntimeError("the upstream did not start; is its port free?")
        yield vendor
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


@dataclass(frozen=True, slots=True)
class Process:
    """An upstream in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


@contextmanager
def process(name: str = "stub", host: str = "127.0.0.1", tls: Leaf | None = None) -> Iterator[Process]:
    """Start `python -m tests.upstream`, wait until it is ready, and stop it afterwards."""
    command = [sys.executable, "-m", "tests.upstream", "--name", name, "--host", host, "--while-stdin-is-open"]
    if tls:
        command += ["--cert", str(tls.cert), "--key", str(tls.key)]
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as child:
        assert child.stdout is not None
        try:
            word, _, url = child.stdout.readline().strip().partition(" ")
            if word != "ready":
                raise RuntimeError(f"the upstream did not start; run it by hand to see why: {' '.join(command)}")
            yield Process(url, child)
        finally:
            child.terminate()
            child.wait(5)


def seen_by(url: str) -> list[dict[str, Any]]:
    """The log of an upstream in another process (plain HTTP)."""
    with urllib.request.urlopen(f"{url}/__seen", timeout=5) as reply:
        return list(json.load(reply))


async def _main(upstream: Upstream, while_stdin_is_open: bool) -> None:
    stop = asyncio.Event()
    if while_stdin_is_open:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with upstream:
        sys.stdout.write(f"ready {upstream.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Read the options and serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="stub")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--while-stdin-is-open", action="store_true", help="end with the process that started it, however that ends")
    options = parser.parse_args()
    tls = Leaf(options.cert, options.key) if options.cert else None
    asyncio.run(_main(Upstream(options.name, options.host, options.port, tls), options.while_stdin_is_open))


if __name__ == "__main__":
    main()
