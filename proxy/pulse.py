"""How one process is doing: how late its event loop comes to what is due, and how much memory it holds."""

from __future__ import annotations

import asyncio

from proxy.admission import Admission

LOOK_EVERY_S = 0.05
LAG_BUCKETS_S = (
    "0.001",
    "0.002",
    "0.005",
    "0.01",
    "0.02",
    "0.05",
    "0.1",
    "0.25",
    "1.0",
    "+Inf",
)  # each stream waits as long as the loop does


class Pulse:
    """`figures` counts, for each bound, the looks that were no later than it; and adds up all lateness."""

    def __init__(self, admission: Admission) -> None:
        self.figures = dict.fromkeys([*(f"loop_lag_{bound}" for bound in LAG_BUCKETS_S), "loop_lag_us"], 0)
        self._admission = admission
        self._bounds = [(f"loop_lag_{bound}", float(bound)) for bound in LAG_BUCKETS_S]

    async def run(self) -> None:
        """Look, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self._late(max(0.0, loop.time() - due))
            self._admission.look()

    def _late(self, lag_s: float) -> None:
        self.figures["loop_lag_us"] += round(lag_s * 1e6)
        for name, bound_s in self._bounds:
            if lag_s <= bound_s:
                self.figures[name] += 1
