"""The admin port: liveness, readiness and metrics, on loopback and apart from traffic."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.admission import Admission
from proxy.desk import Desk
from proxy.journal import Journal
from proxy.ports import PortInUseError

LOOK_EVERY_S = 0.05
LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)  # seconds; each stream waits as long as the loop does
_COUNTERS = {
    "requests": "Requests received at both doors",
    "attempts": "Attempts opened upstream",
    "closed": "Attempts closed, however they ended",
    "lost_records": "Records that could not be made durable",
    "refused": "Requests refused by the proxy itself",
    "tunnels": "Connections tunnelled untouched",
}


class _Collector(Collector):
    def __init__(self, desk: Desk, journal: Journal, admission: Admission) -> None:
        self._desk = desk
        self._journal = journal
        self._admission = admission

    def collect(self) -> list[Metric]:
        """The counters as they stand."""
        counters = [
            CounterMetricFamily(f"tokenledger_{name}", words, value=getattr(self._desk.counters, name)) for name, words in _COUNTERS.items()
        ]
        return [
            *counters,
            GaugeMetricFamily("tokenledger_live_attempts", "Attempts open upstream now", value=len(self._desk.live)),
            GaugeMetricFamily("tokenledger_places", "Client connections that open files allow", value=self._admission.places),
            GaugeMetricFamily("tokenledger_places_taken", "Client connections open now", value=self._admission.taken),
            GaugeMetricFamily("tokenledger_resident_bytes", "Memory held by the proxy", value=self._admission.resident_bytes),
            GaugeMetricFamily("tokenledger_journal_queue_entries", "Entries waiting for the journal", value=self._journal.queued),
        ]


class AdminPort:
    """GET /healthz, /readyz and /metrics."""

    def __init__(self, port: int, desk: Desk, journal: Journal, admission: Admission) -> None:
        self._port = port
        self._admission = admission
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(desk, journal, admission))
        words = "How late the event loop comes to what is due, looked at every 50 ms"
        self._lag = Histogram("tokenledger_loop_lag_seconds", words, buckets=LAG_BUCKETS, registry=self._registry)
        self._looking: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self.ready = False

    async def start(self) -> int:
        """Listen on loopback; the port in use. Raises PortInUseError."""
        app = web.Application()
        app.add_routes([web.get("/healthz", self._healthz), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise PortInUseError(
                f"the admin port cannot listen on 127.0.0.1:{self._port}: {error.strerror}", "choose another --admin-port"
            ) from None
        self._looking = asyncio.create_task(self._look())
        return int(self._runner.addresses[0][1])

    async def _look(self) -> None:
        """See how the loop and the memory are doing."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self._lag.observe(max(0.0, loop.time() - due))
            self._admission.look()

    async def stop(self) -> None:
        """Close the port."""
        if self._looking is not None:
            self._looking.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self.ready else web.Response(status=503, text="not ready\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
