"""Whether sealing keeps up with a gateway at full load: what is recorded and not yet sealed, over minutes.

Nothing is pinned here: the sealing process takes what the doors leave it, as it does in service.
"""

from __future__ import annotations

import re
import statistics
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench import contenders
from bench.contenders import every_core, free_port, home_of, running
from bench.load import Load, wrk
from schemas import manifest
from schemas.home import Home

CLIENTS = 32
LAG_S = "0.02"
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
    lag_soon: float  # of the looks at the gateway's event loop, the part that was no later than LAG_S


def measure(folder: Path, seconds: float) -> Sealing:
    """Load for so long. Raises SealingError, LoadError, StartError."""
    vendor_port, port, admin = free_port(), free_port(), free_port()
    for name in ("upstream", "gateway"):
        (folder / name).mkdir()
    everywhere = every_core()
    home = home_of(folder / "gateway")
    load = Load(port, "/v1/chat/completions", {}, CLIENTS, ROUND_S)
    behind, rates, tails = [], [], []
    passed = 0
    with (
        running(contenders.upstream(folder / "upstream", vendor_port), vendor_port, everywhere, folder / "upstream"),
        running(
            contenders.gateway(folder / "gateway", port, vendor_port, "--admin-port", str(admin)), port, everywhere, folder / "gateway"
        ) as process,
    ):
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            taken = wrk(folder, load, everywhere, process.pid)
            passed += taken.requests
            rates.append(taken.per_second)
            tails.append(taken.p99_ms)
            behind.append((passed - sealed(home)) / taken.per_second)
        took = time.monotonic() - began
        every, soon = looks(admin)
    if not passed <= sealed(home) <= passed + CLIENTS * len(rates):
        raise SealingError(f"{passed} requests passed, {sealed(home)} are sealed")
    third = max(len(behind) // 3, 1)
    first, last = statistics.median(behind[:third]), statistics.median(behind[-third:])
    if last > 3 * max(first, 10.0):
        raise SealingError(f"the spool grows: {first:.0f} seconds of traffic were unsealed at first, {last:.0f} at last")
    return Sealing(took, statistics.median(rates), first, last, statistics.median(tails), soon / every)


def sealed(home: Home) -> int:
    """Requests in raw/ so far."""
    return sum(file.rows for line in manifest.read(home.manifest) for file in line.files if file.kind == "request")


def looks(admin: int) -> tuple[int, int]:
    """How often a proxy's event loop was looked at, and how often it was then no later than LAG_S."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    every, soon = (re.search(rf'loop_lag_seconds_bucket{{le="{bound}"}} (\d+)', text) for bound in (r"\+Inf", LAG_S))
    assert every is not None
    assert soon is not None
    return int(every[1]), int(soon[1])


def shown(found: Sealing) -> str:
    """The figures as a line."""
    return (
        f"sealing: {found.per_second:.0f} requests/s for {found.seconds:.0f} s, of which {found.unsealed_first:.0f} s were unsealed "
        f"at first and {found.unsealed_last:.0f} s at last; p99 {found.p99_ms:.1f} ms meanwhile, "
        f"and {found.lag_soon:.1%} of the looks at the event loop within {float(LAG_S) * 1000:g} ms"
    )
