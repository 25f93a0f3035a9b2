"""The sidecar as a whole: settings once, both doors on one journal, the sealer beside them, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proxy.access import Access
from proxy.admin import AdminPort
from proxy.admission import Admission, memory_limit, places_of, raise_file_limit
from proxy.authority import ensure_ca, upstream_roots
from proxy.clock import Clock
from proxy.desk import Desk
from proxy.exchange import Recording
from proxy.forward import ForwardDoor, ForwardSettings, Hosts
from proxy.gateway import GatewayDoor
from proxy.guard import Guard
from proxy.journal import PROXY_SLOT, Journal
from proxy.renewal import Renewal
from proxy.routing import Plans
from proxy.targets import Targets
from schemas.book import load_book
from schemas.fingerprint import home_key
from schemas.home import Home

DRAIN_S = 30.0
SEAL_EVERY_S = 10.0
CLOCK_CHECK_S = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What `tokenledger proxy` was asked for; a port of None leaves that door shut, 0 lets the kernel choose."""

    home: Home
    host: str = "127.0.0.1"
    gateway_port: int | None = 8780
    forward_port: int | None = 8781
    admin_port: int = 8782
    upstream_ca: Path | None = None
    forward_modes: tuple[str, ...] = ("regular",)


class Door(Protocol):
    """What the service asks of a door."""

    async def start(self) -> int: ...
    async def stop_accepting(self) -> None: ...
    async def stop(self) -> None: ...


def run(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT, then drain; 0. `say` is given the one `ready` line. Raises UsageError subclasses."""
    return asyncio.run(_serve(settings, say))


async def _serve(settings: Settings, say: Callable[[str], None]) -> int:
    home = settings.home
    book = load_book(home.book)
    admission = Admission(places_of(raise_file_limit()), memory_limit())
    guard = Guard(Access.of(settings.host, book.settings.allowed_clients, os.environ), admission, Targets(book))
    journal = Journal(home, PROXY_SLOT)
    sealer: subprocess.Popen[bytes] | None = None
    try:
        desk = Desk(book, Recording(home_key(home), book.settings.capture.bodies == "keep"), journal, Clock())
        ensure_ca(home, book.tls_hosts)
        bundle = upstream_roots(home, os.environ, settings.upstream_ca)
        doors: dict[str, Door] = {}
        renewal: Renewal | None = None
        if settings.gateway_port is not None:
            tls = ssl.create_default_context(cafile=str(bundle))
            gateway = GatewayDoor(settings.host, settings.gateway_port, desk, Plans(book), tls, guard)
            renewal = Renewal(home, gateway.permissions, desk)
            await renewal.check()
            doors["gateway"] = gateway
        if settings.forward_port is not None:
            forward = ForwardSettings(settings.host, settings.forward_port, settings.forward_modes, home.ca, bundle)
            doors["forward"] = ForwardDoor(forward, Hosts(book), desk, guard)
        admin = AdminPort(settings.admin_port, desk, journal, admission)
        async with contextlib.AsyncExitStack() as stack:
            addresses = {}
            await admin.start()
            stack.push_async_callback(admin.stop)
            for name, door in doors.items():
                port = await door.start()
                stack.push_async_callback(door.stop)
                addresses[name] = f"http://{_shown(settings.host)}:{port}"
            unverified = [channel.name for channel in book.channels if channel.tls_unverified]
            for name in unverified:
                sys.stderr.write(f"warning: the certificate of channel {name} is NOT verified (tls_unverified in channels.toml)\n")
            await journal.append([desk.event("tls_unverified", channel=name) for name in unverified])
            await journal.append([desk.event("proxy_started", book=book.digest, torn_bytes=journal.truncated_bytes, **addresses)])
            sealer = _start_sealer(home)
            stopped = _on_signal()
            admin.ready = True
            say(" ".join(["ready", *(f"{name}={address}" for name, address in addresses.items())]))
            await _until(stopped, desk, renewal)
            admin.ready = False
            admission.leaving = True
            await _drain(desk, list(doors.values()))
            for attempt in list(desk.live):  # before the doors cut them, which would look as if the client had left
                desk.close(attempt, "proxy_stopped", relayed=True)
        await journal.append([desk.event("proxy_stopped")])
    finally:
        journal.close()
        if sealer is not None and sealer.stdin is not None:
            sealer.stdin.close()  # its cue to seal what is left and end
            sealer.wait()
    return 0


def _on_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    return stopped


async def _until(stopped: asyncio.Event, desk: Desk, renewal: Renewal | None) -> None:
    while not stopped.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), CLOCK_CHECK_S)
        desk.check_clock()
        if renewal is not None:
            await renewal.check()


async def _drain(desk: Desk, doors: list[Door]) -> None:
    """Stop accepting, then give what is live its time to end by itself."""
    for door in doors:
        await door.stop_accepting()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(desk.idle(), DRAIN_S)


def _start_sealer(home: Home) -> subprocess.Popen[bytes]:
    """A process of its own: sealing inline would hold up every stream for seconds."""
    return subprocess.Popen(
        [sys.executable, "-m", "proxy.seal", str(home.root), str(SEAL_EVERY_S)], stdin=subprocess.PIPE, start_new_session=True
    )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
