"""The admin port: liveness, readiness and metrics, on loopback and apart from traffic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Self

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.admission import Admission
from proxy.desk import Desk
from proxy.journal import Journal
from proxy.ports import PortInUseError
from proxy.pulse import LAG_BUCKETS_S, Pulse

_COUNTERS = {
    "requests": "Requests received at both doors",
    "attempts": "Attempts opened upstream",
    "closed": "Attempts closed, however they ended",
    "lost_records": "Records that could not be made durable",
    "refused": "Requests refused by the proxy itself",
    "tunnels": "Connections tunnelled untouched",
}
GAUGES = {
    "live_attempts": "Attempts open upstream now",
    "places": "Client connections that open files allow",
    "places_taken": "Client connections open now",
    "resident_bytes": "Memory held by the proxy",
    "journal_queue_entries": "Entries waiting for the journal",
}

Figures = dict[str, int]


def figures_of(desk: Desk, journal: Journal, admission: Admission, pulse: Pulse) -> Figures:
    """What one process counts, by the names above, and how late its loop was."""
    return {
        **asdict(desk.counters),
        "live_attempts": len(desk.live),
        "places": admission.places,
        "places_taken": admission.taken,
        "resident_bytes": admission.resident_bytes,
        "journal_queue_entries": journal.queued,
        **pulse.figures,
    }


class _Collector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> list[Metric]:
        """The figures as they stand."""
        lag = HistogramMetricFamily("tokenledger_loop_lag_seconds", "How late the event loop comes to what is due, looked at every 50 ms")
        buckets = [(bound, self._figures.get(f"loop_lag_{bound}", 0)) for bound in LAG_BUCKETS_S]
        lag.add_metric([], buckets, self._figures.get("loop_lag_us", 0) / 1e6)
        return [
            *(CounterMetricFamily(f"tokenledger_{name}", words, value=self._figures.get(name, 0)) for name, words in _COUNTERS.items()),
            *(GaugeMetricFamily(f"tokenledger_{name}", words, value=self._figures.get(name, 0)) for name, words in GAUGES.items()),
            lag,
        ]


class AdminPort:
    """GET /healthz, /readyz and /metrics, while the block lasts. `figures` gives what is counted now, of all workers together."""

    def __init__(self, port: int, figures: Callable[[], Awaitable[Figures]]) -> None:
        self._port = port
        self._figures = figures
        self._runner: web.AppRunner | None = None
        self.ready = False

    async def __aenter__(self) -> Self:
        """Listen on loopback. Raises PortInUseError."""
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
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self.ready else web.Response(status=503, text="not ready\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        registry = CollectorRegistry()
        registry.register(_Collector(await self._figures()))
        return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
