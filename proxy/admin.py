"""The admin port: liveness, readiness and metrics, on loopback and apart from traffic."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.desk import Desk
from proxy.journal import Journal
from proxy.ports import PortInUseError

_COUNTERS = {
    "requests": "Requests received at both doors",
    "attempts": "Attempts opened upstream",
    "closed": "Attempts closed, however they ended",
    "lost_records": "Records that could not be made durable",
    "refused": "Requests refused by the proxy itself",
    "tunnels": "Connections tunnelled untouched",
}


class _Collector(Collector):
    def __init__(self, desk: Desk, journal: Journal) -> None:
        self._desk = desk
        self._journal = journal

    def collect(self) -> list[Metric]:
        """The counters as they stand."""
        counters = [
            CounterMetricFamily(f"tokenledger_{name}", words, value=getattr(self._desk.counters, name)) for name, words in _COUNTERS.items()
        ]
        return [
            *counters,
            GaugeMetricFamily("tokenledger_live_attempts", "Attempts open upstream now", value=len(self._desk.live)),
            GaugeMetricFamily("tokenledger_journal_queue_entries", "Entries waiting for the journal", value=self._journal.queued),
        ]


class AdminPort:
    """GET /healthz, /readyz and /metrics."""

    def __init__(self, port: int, desk: Desk, journal: Journal) -> None:
        self._port = port
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(desk, journal))
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
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self.ready else web.Response(status=503, text="not ready\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
