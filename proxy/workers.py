"""Several processes behind the same two ports: a parent that starts workers, watches them, and sums what they count.

The kernel deals connections out to whoever listens on a shared port. Each worker has a journal slot of its own; one that
dies is started again on the same slot, whose journal it recovers. Parent and worker talk in lines of JSON over the
worker's standard streams: what it began with, then its figures whenever it is asked. A worker whose standard input ends
has lost its parent, and drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import uvloop

from proxy import log
from proxy.admin import GAUGES, AdminPort, Figures
from proxy.journal import slot_of
from proxy.ports import reserve
from proxy.relay import cancelled
from proxy.service import Sealer, Settings, opened, shown, stop_signal
from schemas.errors import LedgerError
from schemas.home import Home

_log = logging.getLogger(__name__)
RESTART_S = 1.0  # between a death and the next start, so that a worker that cannot live does not fill the journal's folder
ANSWER_S = 5.0


class WorkerError(LedgerError):
    """A worker that did not come up, with its own words."""


class Worker:
    """One worker process and its successors on the same slot."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._settings = dataclasses.replace(settings, slot=slot_of(number))
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()
        self._last: Figures = {}
        self._before: Counter[str] = Counter()  # what its predecessors counted

    async def start(self) -> None:
        """Start, and wait until its doors accept. Raises WorkerError."""
        text = orjson.dumps(dataclasses.asdict(self._settings), default=str).decode()
        pipe = asyncio.subprocess.PIPE
        async with self._asking:
            self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy.workers", text, stdin=pipe, stdout=pipe)
            told = await self._line()
        if "failed" in told or not told:
            await self._process.wait()
            what, cure, code = told.get("failed", ("a worker process ended before it accepted", "its words are above", 1))
            error = WorkerError(what, cure)
            error.exit_code = code
            raise error

    async def keep(self) -> None:
        """Start a successor whenever the process ends; for ever."""
        while True:
            assert self._process is not None
            await self._process.wait()
            # What it counted of the past is still true; what was live in it is not.
            self._before.update({name: value for name, value in self._last.items() if name not in GAUGES})
            self._last = {}
            await asyncio.sleep(RESTART_S)
            try:
                await self.start()
            except LedgerError as error:
                _log.error("a worker could not be started again, and is tried in %g s: %s", RESTART_S, error.what)

    async def figures(self) -> Figures:
        """What it and its predecessors counted; what it last told where it does not answer."""
        async with self._asking:
            process = self._process
            if process is not None and process.stdin is not None and process.returncode is None:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    process.stdin.write(b"\n")
                    async with asyncio.timeout(ANSWER_S):
                        self._last = await self._line() or self._last
        return dict(self._before + Counter(self._last))

    async def stop(self) -> int:
        """Let it drain, where it was started; its exit code."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()

    async def _line(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        found: dict[str, Any] = orjson.loads(line) if line else {}
        return found


def supervise(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve with several workers until SIGTERM or SIGINT, then drain them; 0. Raises LedgerError subclasses."""
    return uvloop.run(_supervise(settings, say))


async def _supervise(settings: Settings, say: Callable[[str], None]) -> int:
    stopped, sealer = stop_signal(), Sealer(settings.home)
    with contextlib.ExitStack() as ports:
        addresses = {}
        for door, port in (("gateway", settings.gateway_port), ("forward", settings.forward_port)):
            if port is not None:
                reserve(door, settings.host, port, shared=False).close()  # taken by no stranger who would share it as well
                held = ports.enter_context(reserve(door, settings.host, port, shared=True))
                addresses[door] = held.getsockname()[1]
        settings = dataclasses.replace(settings, gateway_port=addresses.get("gateway"), forward_port=addresses.get("forward"))
        workers = [Worker(settings, number) for number in range(settings.workers)]
        async with AdminPort(settings.admin_port, _summed(workers)) as admin:
            try:
                await workers[0].start()  # makes what a home lacks, and meets what is wrong with it, before the others do
                await asyncio.gather(*(worker.start() for worker in workers[1:]))
                sealer.start()
                keeping = [asyncio.create_task(sealer.keep()), *(asyncio.create_task(worker.keep()) for worker in workers)]
                admin.ready = True
                say(" ".join(["ready", *(f"{name}=http://{shown(settings.host)}:{port}" for name, port in addresses.items())]))
                await stopped.wait()
                admin.ready = False
                await cancelled(*keeping)
            finally:
                codes = await asyncio.gather(*(worker.stop() for worker in workers))
                await asyncio.to_thread(sealer.stop)
    return 1 if any(codes) else 0


def _summed(workers: list[Worker]) -> Callable[[], Awaitable[Figures]]:
    async def figures() -> Figures:
        told: Counter[str] = Counter()
        for each in await asyncio.gather(*(worker.figures() for worker in workers)):
            told.update(each)
        return dict(told)

    return figures


async def _work(settings: Settings) -> None:
    """One worker's life."""
    stopped = stop_signal()
    async with opened(settings) as running:
        _tell(running.addresses)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

        async def answer() -> None:
            while await reader.readline():
                _tell(running.figures())
            stopped.set()

        answering = asyncio.create_task(answer())
        await running.until(stopped)
        answering.cancel()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(what).decode() + "\n")
    sys.stdout.flush()


def main() -> int:
    """A worker process: its settings are the one argument."""
    log.to_stderr()
    told = orjson.loads(sys.argv[1])
    root, bundle = Path(told.pop("home")["root"]), told.pop("upstream_ca")
    modes = tuple(told.pop("forward_modes"))
    try:
        uvloop.run(_work(Settings(home=Home(root), upstream_ca=Path(bundle) if bundle else None, forward_modes=modes, **told)))
    except LedgerError as error:
        _tell({"failed": [error.what, error.cure, error.exit_code]})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
