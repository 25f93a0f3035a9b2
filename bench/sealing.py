"""Whether sealing keeps up with a gateway at full load: what is recorded and not yet sealed, over minutes.

Nothing is pinned here: the sealing process takes what the doors leave it, as it does in service.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from bench import contenders
from bench.contenders import free_port, home_of, running
from bench.load import Load, wrk
from schemas import manifest
from schemas.home import Home

CLIENTS = 32
ROUND_S = 5


class SealingError(Exception):
    """The spool grew, or records are missing."""


@dataclass(frozen=True, slots=True)
class Sealing:
    """Medians over the first and the last third of the rounds."""

    seconds: float
    per_second: float
    unsealed_first: float  # seconds of traffic that were recorded and not sealed
    unsealed_last: float
    p99_ms: float


def measure(folder: Path, seconds: float) -> Sealing:
    """Load for so long. Raises SealingError, LoadError, StartError."""
    vendor_port, port = free_port(), free_port()
    for name in ("upstream", "gateway"):
        (folder / name).mkdir()
    everywhere = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    home = home_of(folder / "gateway")
    load = Load(port, "/v1/chat/completions", {}, CLIENTS, ROUND_S)
    behind, rates, tails = [], [], []
    passed = 0
    with (
        running(contenders.upstream(folder / "upstream", vendor_port), vendor_port, everywhere, folder / "upstream"),
        running(contenders.gateway(folder / "gateway", port, vendor_port), port, everywhere, folder / "gateway") as process,
    ):
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            taken = wrk(folder, load, everywhere, process.pid)
            passed += taken.requests
            rates.append(taken.per_second)
            tails.append(taken.p99_ms)
            behind.append((passed - sealed(home)) / taken.per_second)
        took = time.monotonic() - began
    if not passed <= sealed(home) <= passed + CLIENTS * len(rates):
        raise SealingError(f"{passed} requests passed, {sealed(home)} are sealed")
    third = max(len(behind) // 3, 1)
    first, last = statistics.median(behind[:third]), statistics.median(behind[-third:])
    if last > 3 * max(first, 10.0):
        raise SealingError(f"the spool grows: {first:.0f} seconds of traffic were unsealed at first, {last:.0f} at last")
    return Sealing(took, statistics.median(rates), first, last, statistics.median(tails))


def sealed(home: Home) -> int:
    """Requests in raw/ so far."""
    return sum(file.rows for line in manifest.read(home.manifest) for file in line.files if file.kind == "request")


def shown(found: Sealing) -> str:
    """The figures as a line."""
    return (
        f"sealing: {found.per_second:.0f} requests/s for {found.seconds:.0f} s, of which {found.unsealed_first:.0f} s were unsealed "
        f"at first and {found.unsealed_last:.0f} s at last; p99 {found.p99_ms:.1f} ms meanwhile"
    )
