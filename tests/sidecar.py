"""The real sidecar for tests: a small book in a folder of its own, and `tokenledger proxy` as a process."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from proxy.seal import seal
from schemas import manifest
from schemas.frames import Frame
from schemas.home import Home
from schemas.records import Instant
from schemas.spool import unsealed
from tests.warm import Forked

ROOT = Path(__file__).resolve().parent.parent
RATES_HEADER = (
    "channel,model,meter,price,per,currency,effective_from,effective_to,book,service_tier,min_input_tokens,hours,weekdays,source,note"
)
POLICIES = """policy,channel,outcome,charge,effective_from,effective_to,note
no output - no charge,*,error_before_output,none,2026-01-01T00:00:00Z,,
cut short - as observed,*,error_mid_stream,observed,2026-01-01T00:00:00Z,,
client left - as observed,*,client_gone,observed,2026-01-01T00:00:00Z,,
timed out - no charge,*,timeout,none,2026-01-01T00:00:00Z,,
rate limited - no charge,*,rate_limited,none,2026-01-01T00:00:00Z,,
refused - as reported,*,refused_no_output,reported,2026-01-01T00:00:00Z,,
refused - as reported,*,refused_with_output,reported,2026-01-01T00:00:00Z,,
empty - no charge,*,empty_reply,none,2026-01-01T00:00:00Z,,
not sent - no charge,*,rejected_by_proxy,none,2026-01-01T00:00:00Z,,
"""


@dataclass(frozen=True)
class Way:
    """One channel of a test's book. `rules` is more TOML for its table."""

    name: str
    base_url: str
    route: str = "official"
    bucket: str = "official_credit"
    rules: str = ""


@dataclass(frozen=True)
class Priced:
    """One price of a test's book, per million tokens."""

    channel: str
    model: str
    meter: str
    price: str
    book: str = "charge"
    tier: str = ""


def write_book(
    home: Home,
    ways: Sequence[Way],
    *,
    models: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    prices: Sequence[Priced] = (),
    settings: str = "",
) -> None:
    """A book folder: the first way is the default; `models` maps an api id to its (channel, upstream id) in order."""
    home.book.mkdir(parents=True, exist_ok=True)
    (home.book / "book.toml").write_text(f'currency = "USD"\ntimezone = "UTC"\n{settings}\n')
    (home.book / "channels.toml").write_text(
        "\n".join(
            f'[[channel]]\nname = "{way.name}"\nbase_url = "{way.base_url}"\nroute = "{way.route}"\nbucket = "{way.bucket}"\n'
            f"default = {'true' if way is ways[0] else 'false'}\n{way.rules}\n"
            for way in ways
        )
    )
    (home.book / "models.toml").write_text(
        "\n".join(
            f'[[model]]\npublic = "{api}"\napi = "{api}"\n'
            + "".join(f'[[model.channel]]\nname = "{name}"\nupstream = "{upstream}"\n' for name, upstream in routes)
            for api, routes in (models or {}).items()
        )
    )
    rows = [
        f"{price.channel},{price.model},{price.meter},{price.price},1000000,USD,2026-01-01T00:00:00Z,,{price.book},{price.tier},,,,test,"
        for price in prices
    ]
    (home.book / "rates.csv").write_text("\n".join([RATES_HEADER, *rows]) + "\n")
    (home.book / "failed_requests.csv").write_text(POLICIES)


@dataclass
class Sidecar:
    """A running proxy: where its doors are, and its process."""

    home: Home
    process: subprocess.Popen[str] | Forked
    gateway: str
    forward: str
    doors: dict[str, str] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        """What a client of the gateway is given."""
        return f"{self.gateway}/v1"

    def stop(self, timeout_s: float = 60) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def free_port() -> int:
    """A port that nobody has, for a server that must be told its own; below those that the kernel gives whoever asks for any."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def command(home: Home, *arguments: str) -> list[str]:
    """A `tokenledger` command line for this home."""
    return [sys.executable, "-m", "tokenledger", "--home", str(home.root), *arguments]


@contextmanager
def sidecar(
    home: Home,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    before: str = "",
    said: IO[bytes] | None = None,
    cold: bool = False,
) -> Iterator[Sidecar]:
    """`tokenledger proxy` on free ports; ended with SIGTERM, and killed only if that fails.

    `before` is Python that its process runs first; `said` takes its standard error. A `cold` one has its memory to itself from the start.
    """
    ports = ("--gateway-port", "0", "--forward-port", "0", "--admin-port", "0")
    words = command(home, "proxy", *ports, *arguments)
    process: subprocess.Popen[str] | Forked
    if before or environment or said or cold:  # what is imported may ask for it
        if before:
            words = [sys.executable, "-c", f"{before}\nimport tokenledger\ntokenledger.main()", *words[3:]]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT, env={**os.environ, **(environment or {})}
        )
    else:
        process = Forked(words)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:1] == ["ready"], f"the proxy did not start: {words} (exit {process.poll()})"
        doors = dict(word.split("=", 1) for word in words[1:])
        running = Sidecar(home, process, doors.get("gateway", ""), doors.get("forward", ""), doors)
        yield running
        running.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def recorded(home: Home, kind: str) -> list[dict[str, Any]]:
    """Every record of a kind in the order of its journal, sealed or still in the spool; instants are microseconds.

    The spool is read before raw: what the sealer moves meanwhile is then seen twice, never missed.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for writer, found, _ in unsealed(home, manifest.sealed_up_to(manifest.read(home.manifest))):
        if isinstance(found, Frame) and found.kind == kind:
            rows[writer, found.seq] = found.fields
    seals = manifest.read(home.manifest)
    for file in (file for line in seals for file in line.files if file.kind == kind):
        table = pq.ParquetFile(home.raw / file.path).read()
        instants = [name for name in table.column_names if pa.types.is_timestamp(table.schema.field(name).type)]
        for name in instants:
            table = table.set_column(table.column_names.index(name), name, table.column(name).cast(pa.int64()))
        rows |= {(row.pop("writer"), row.pop("seq")): row for row in table.to_pylist()}
    return [rows[place] for place in sorted(rows)]


def seal_all(home: Home) -> None:
    """Seal what the spool holds."""
    seal(home, Instant(1))
