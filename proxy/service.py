"""The sidecar as a whole: settings once, both doors on one journal, the sealer beside them, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvloop

from proxy.access import Access
from proxy.admin import AdminPort, Figures, figures_of
from proxy.admission import Admission, memory_limit, places_of, raise_file_limit
from proxy.authority import ensure_ca, upstream_roots
from proxy.clock import Clock
from proxy.desk import Desk
from proxy.exchange import Recording
from proxy.forward import ForwardDoor, ForwardSettings, Hosts
from proxy.gateway import GatewayDoor
from proxy.guard import Guard
from proxy.journal import PROXY_SLOT, Journal, JournalError
from proxy.permissions import Permissions
from proxy.pulse import Pulse
from proxy.relay import cancelled
from proxy.renewal import Renewal
from proxy.routing import Plans
from proxy.subjects import Subjects
from proxy.targets import Targets
from schemas.bodykeys import BodyKeys
from schemas.book import load_book
from schemas.fingerprint import home_key
from schemas.home import Home
from schemas.hosts import is_loopback

_log = logging.getLogger(__name__)
DRAIN_S = 30.0
SEAL_EVERY_S = 10.0
CLOCK_CHECK_S = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process of `tokenledger proxy` serves; a port of None leaves that door shut, 0 lets the kernel choose."""

    home: Home
    host: str = "127.0.0.1"
    gateway_port: int | None = 8780
    forward_port: int | None = 8781
    admin_port: int = 8782
    upstream_ca: Path | None = None
    forward_modes: tuple[str, ...] = ("regular",)
    slot: str = PROXY_SLOT
    workers: int = 1  # that listen on the same ports


class Door(Protocol):
    """What the service asks of a door."""

    async def start(self) -> int: ...
    async def stop_accepting(self) -> None: ...
    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Running:
    """Doors that accept."""

    desk: Desk
    journal: Journal
    admission: Admission
    pulse: Pulse
    renewal: Renewal
    addresses: dict[str, str]

    def figures(self) -> Figures:
        """What is counted now."""
        return figures_of(self.desk, self.journal, self.admission, self.pulse)

    async def until(self, stopped: asyncio.Event) -> None:
        """Serve until the event, with a look at the clock and the keys now and then."""
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), CLOCK_CHECK_S)
            self.desk.check_clock()
            await self.renewal.check()


def run(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT, then drain; 0. `say` is given the one `ready` line. Raises UsageError subclasses."""
    return uvloop.run(_serve(settings, say))


async def _serve(settings: Settings, say: Callable[[str], None]) -> int:
    stopped, sealer = stop_signal(), Sealer(settings.home)
    running: Running | None = None

    async def figures() -> Figures:
        return running.figures() if running is not None else {}

    try:
        async with AdminPort(settings.admin_port, figures) as admin, opened(settings) as running:
            sealer.start()
            keeping = asyncio.create_task(sealer.keep())
            admin.ready = True
            say(" ".join(["ready", *(f"{name}={address}" for name, address in running.addresses.items())]))
            await running.until(stopped)
            admin.ready = False
            await cancelled(keeping)
    finally:
        await asyncio.to_thread(sealer.stop)
    return 0


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Running]:
    """Both doors on one journal, from when they accept; they drain when the block ends."""
    home = settings.home
    book = load_book(home.book)
    # Open files are counted by process; the machine's memory is all workers' together.
    admission = Admission(places_of(raise_file_limit()), memory_limit() // settings.workers)
    guard = Guard(
        Access.of(settings.host, book.settings.allowed_clients, os.environ), admission, Targets(book, is_local=is_loopback(settings.host))
    )
    shared = settings.workers > 1
    journal = Journal(home, settings.slot)
    try:
        credentials = tuple(filter(None, (os.environ.get(channel.api_key_env or "") for channel in book.channels)))
        bodies, subjects = book.settings.capture.bodies, Subjects(book)
        recording = Recording(home_key(home), bodies != "digest", credentials, subjects.of)
        desk = Desk(book, recording, journal, Clock(), BodyKeys(home) if bodies == "encrypted" else None)
        ensure_ca(home, book.tls_hosts)
        bundle = upstream_roots(home, os.environ, settings.upstream_ca)
        doors: dict[str, Door] = {}
        permissions = Permissions(book)
        renewal = Renewal(home, permissions, subjects, desk)
        await renewal.check()
        if settings.gateway_port is not None:
            tls = ssl.create_default_context(cafile=str(bundle))
            gateway = GatewayDoor(settings.host, settings.gateway_port, desk, Plans(book), permissions, tls, guard, shared=shared)
            doors["gateway"] = gateway
        if settings.forward_port is not None:
            forward = ForwardSettings(settings.host, settings.forward_port, settings.forward_modes, home.ca, bundle, shared)
            doors["forward"] = ForwardDoor(forward, Hosts(book), desk, guard)
        async with contextlib.AsyncExitStack() as stack:
            addresses = {}
            for name, door in doors.items():
                port = await door.start()
                stack.push_async_callback(door.stop)
                addresses[name] = f"http://{shown(settings.host)}:{port}"
            unverified = [channel.name for channel in book.channels if channel.tls_unverified]
            for name in unverified:
                _log.warning("the certificate of channel %s is NOT verified (tls_unverified in channels.toml)", name)
            begun = desk.event("proxy_started", book=book.digest, torn_bytes=journal.truncated_bytes, **addresses)
            await desk.tell([*(desk.event("tls_unverified", channel=name) for name in unverified), begun])
            pulse = Pulse(admission)
            looking = asyncio.create_task(pulse.run())
            stack.push_async_callback(cancelled, looking)
            gc.freeze()  # what the imports and the book made stays; to look through it again and again finds nothing
            yield Running(desk, journal, admission, pulse, renewal, addresses)
            admission.leaving = True
            await _drain(desk, list(doors.values()))
            for attempt in list(desk.live):  # before the doors cut them, which would look as if the client had left
                desk.close(attempt, "proxy_stopped", relayed=True)
        with contextlib.suppress(JournalError):  # a disk that is full is no reason not to stop; what was lost is noted
            await desk.tell([desk.event("proxy_stopped")])
    finally:
        journal.close()


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    return stopped


async def _drain(desk: Desk, doors: list[Door]) -> None:
    """Stop accepting, then give what is live its time to end by itself."""
    for door in doors:
        await door.stop_accepting()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(desk.idle(), DRAIN_S)


class Sealer:
    """The sealing process: sealing inline would hold up every stream for seconds."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to seal now and then."""
        store = load_book(self._home.book).settings.raw.store
        command = [sys.executable, "-m", "proxy.seal", str(self._home.root), str(SEAL_EVERY_S), *([store] if store else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    async def keep(self) -> None:
        """Start it again where it was killed, as by a kernel that is short of memory; for ever."""
        while True:
            await asyncio.sleep(SEAL_EVERY_S)
            if self._process is not None and (code := self._process.poll()) is not None:
                _log.error("the sealing process ended with %d, and is started again", code)
                self.start()

    def stop(self) -> None:
        """Seal what is left, and end; after the journals are closed."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()


def shown(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
