"""What a second worker adds on this machine, which also carries the load and the upstream.

One worker is more than one thread: its journal and its sealing take of the other core what two workers would share.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import contenders
from bench.contenders import every_core, free_port, room, running
from bench.load import Load, wrk

CLIENTS = 64


@dataclass(frozen=True, slots=True)
class Workers:
    """Requests per second, medians over the rounds."""

    one: float
    two: float


def measure(folder: Path, rounds: int, seconds: int) -> Workers:
    """One worker and two by turns, nothing pinned. Raises LoadError, StartError."""
    everywhere = every_core()
    vendor_port = free_port()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with ExitStack() as stack:
        place = room(folder, "upstream")
        stack.enter_context(running(contenders.upstream(place, vendor_port), vendor_port, everywhere, place))
        started = {}
        for count in rates:
            place, port = room(folder, str(count)), free_port()
            command = contenders.gateway(place, port, vendor_port, "--workers", str(count))
            started[count] = port, stack.enter_context(running(command, port, everywhere, place))
        for _ in range(rounds):
            for count, (port, process) in started.items():
                load = Load(port, "/v1/chat/completions", {}, CLIENTS, seconds)
                rates[count].append(wrk(folder, load, everywhere, process.pid).per_second)
    return Workers(statistics.median(rates[1]), statistics.median(rates[2]))


def shown(found: Workers) -> str:
    """The figures as a line."""
    return f"workers: two serve {found.two:.0f} requests/s, one {found.one:.0f}: {found.two / found.one:.2f} x"
