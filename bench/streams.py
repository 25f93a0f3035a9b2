"""Streams through the gateway, everything recorded: what a first token waits longer, and what thousands at once take.

It compares the time to the first event with that of the upstream alone, one stream after the other and
in turns, then opens all streams at once and lets them end only when every one of them has begun.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import contenders
from bench.contenders import Command, free_port, home_of, running
from bench.load import BODY, resident_kb
from bench.stream_vendor import FIRST
from schemas import manifest


class StreamError(Exception):
    """A stream that did not end as it should, or a record that is missing."""


@dataclass(frozen=True, slots=True)
class Streams:
    """What was measured; times are milliseconds."""

    added_first_event_p50_ms: float
    added_first_event_p99_ms: float
    at_once: int
    complete: int
    kb_each: float


async def one(port: int, query: str) -> float:
    """Seconds to the first event of one stream, which is read to its end. Raises StreamError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions{query} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    body = BODY.replace("{", '{"stream":true,', 1).encode()
    began = time.perf_counter()
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    got = b""
    first = 0.0
    while not got.endswith(b"0\r\n\r\n"):
        piece = await reader.read(1 << 16)
        if not piece:
            raise StreamError(f"a stream ended early: {got[-200:]!r}")
        got += piece
        if not first and FIRST in got:
            first = time.perf_counter() - began
    writer.close()
    if b"data: [DONE]\n\n" not in got:
        raise StreamError(f"a stream without its end: {got[-200:]!r}")
    return first


async def first_events(ports: tuple[int, int], count: int) -> tuple[list[float], list[float]]:
    """Times to the first event at two ports, in turns, one stream at a time."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        for port, kept in zip(ports, times, strict=True):
            kept.append(await one(port, ""))
    return times


async def at_once(port: int, count: int) -> int:
    """So many streams, each open until all have begun; how many came to their end."""
    ended = await asyncio.gather(*(one(port, f"?together={count}") for _ in range(count)), return_exceptions=True)
    return sum(not isinstance(each, BaseException) for each in ended)


def measure(folder: Path, count: int, singles: int, server_core: str, load_core: str) -> Streams:
    """The figures of so many streams at once. Raises StreamError, contenders.StartError."""
    vendor_port, port = free_port(), free_port()
    (folder / "vendor").mkdir()
    (folder / "gateway").mkdir()
    vendor = Command([sys.executable, "-m", "bench.stream_vendor", str(vendor_port)])
    with (
        running(vendor, vendor_port, load_core, folder / "vendor"),
        running(contenders.gateway(folder / "gateway", port, vendor_port), port, server_core, folder / "gateway") as process,
    ):
        uvloop.run(first_events((port, vendor_port), 20))  # warm
        through, alone = uvloop.run(first_events((port, vendor_port), singles))
        before = resident_kb(process.pid)
        peak = before

        async def watched() -> int:
            nonlocal peak
            streams = asyncio.create_task(at_once(port, count))
            while not streams.done():
                peak = max(peak, resident_kb(process.pid))
                await asyncio.wait({streams}, timeout=0.1)
            return streams.result()

        complete = uvloop.run(watched())
    if complete != count:
        raise StreamError(f"{complete} of {count} streams at once came to their end")
    rows = sum(file.rows for line in manifest.read(home_of(folder / "gateway").manifest) for file in line.files if file.kind == "response")
    if rows != 20 + singles + count:
        raise StreamError(f"{20 + singles + count} streams passed, {rows} responses are on record")
    return Streams(
        added_first_event_p50_ms=(statistics.median(through) - statistics.median(alone)) * 1e3,
        added_first_event_p99_ms=(_p99(through) - _p99(alone)) * 1e3,
        at_once=count,
        complete=complete,
        kb_each=(peak - before) / count,
    )


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def shown(streams: Streams) -> str:
    """The figures as a line."""
    return (
        f"streams: first event {streams.added_first_event_p50_ms:.2f} ms later at p50, {streams.added_first_event_p99_ms:.2f} ms at p99; "
        f"{streams.complete} of {streams.at_once} at once complete, {streams.kb_each:.0f} KB each"
    )
