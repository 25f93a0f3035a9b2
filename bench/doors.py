"""What the doors cost, everything recorded, beside relays and gateways that record nothing: one run, one core, one upstream.

`python -m bench.doors` starts each contender on core 0, with the load and the upstream on core 1, and goes round them in
short rounds, so that a busy machine is busy for all. It prints tables, writes them as JSON, and fails when a request
failed or a door's records are not what the upstream was asked.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import contenders, sealing, streams, workers
from bench.contenders import Command, StartError, folder_name, free_port, home_of, room, running
from bench.load import Load, LoadError, Round, once, wrk
from bench.machine import machine, write
from schemas import manifest
from schemas.home import Home

Start = Callable[[Path, int, int], Command]
GATEWAYS: dict[str, Start] = {
    "nginx as a relay": contenders.nginx_relay,
    "tokenledger gateway": contenders.gateway,
    "aiohttp relay on uvloop": contenders.aiohttp_relay,
    "Portkey gateway": contenders.portkey,
    "LiteLLM proxy": contenders.litellm,
}
FORWARDS: dict[str, Start] = {"tokenledger forward door": contenders.forward, "mitmdump": contenders.mitmdump}
PATH = "/v1/chat/completions"
PEERS = {"Portkey gateway": contenders.PORTKEY, "LiteLLM proxy": contenders.LITELLM, "mitmdump": contenders.MITMDUMP}
CLIENTS = 32
ALONE = "the upstream alone"
SERVER_CORE, LOAD_CORE = "0", str((os.cpu_count() or 1) - 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One contender over all rounds: medians."""

    name: str
    per_second: float
    cpu_us: float
    p50_ms: float  # at one client
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Effort:
    """How long: rounds over all contenders, and seconds for each round."""

    rounds: int
    seconds: int
    streams: int = 2000
    sealing_s: int = 60


class BenchError(Exception):
    """A figure that must not be printed: the records are not what passed."""


def compare(names: Sequence[str], effort: Effort, folder: Path, *, forward: bool) -> list[Row]:
    """Round after round over these contenders, and the upstream alone as the last row. Raises BenchError, StartError, LoadError."""
    table = FORWARDS if forward else GATEWAYS
    upstream_port = free_port()
    path = f"http://127.0.0.1:{upstream_port}{PATH}" if forward else PATH
    taken: dict[str, dict[int, list[Round]]] = {}
    with ExitStack() as stack:
        place = room(folder, "upstream")
        vendor = stack.enter_context(running(contenders.upstream(place, upstream_port), upstream_port, LOAD_CORE, place))
        started = {ALONE: (vendor.pid, upstream_port, PATH, Command([]))}
        for name in names:
            place, port = room(folder, name), free_port()
            command = table[name](place, port, upstream_port)
            process = stack.enter_context(running(command, port, SERVER_CORE, place))
            started[name] = (process.pid, port, path, command)
        for name, (_, port, where, command) in started.items():
            body = once(Load(port, where, command.headers, 1, 0))
            if name not in PEERS and body != contenders.ANSWER.encode():
                raise BenchError(f"{name} changed the answer: {body[:500].decode(errors='replace')}")
        for _ in range(effort.rounds):
            for name, (pid, port, where, command) in started.items():
                for clients in (CLIENTS, 1):
                    load = Load(port, where, command.headers, clients, effort.seconds)
                    taken.setdefault(name, {}).setdefault(clients, []).append(wrk(folder, load, LOAD_CORE, pid))
    for name in names:
        if table[name] in (contenders.gateway, contenders.forward):
            check_records(home_of(folder / folder_name(name)), taken[name])
    return [_row(name, taken[name]) for name in [*names, ALONE]]


def check_records(home: Home, taken: dict[int, list[Round]]) -> None:
    """Hold what a stopped door has sealed to what passed: wrk leaves at most one request per client and round uncounted. Raises BenchError."""
    rows: dict[str, int] = {}
    for file in (file for line in manifest.read(home.manifest) for file in line.files):
        rows[file.kind] = rows.get(file.kind, 0) + file.rows
    passed = sum(each.requests for rounds in taken.values() for each in rounds) + 1
    uncounted = sum(clients * len(rounds) for clients, rounds in taken.items())
    kinds = [rows.get(kind, 0) for kind in ("request", "attempt", "response")]
    if not passed <= kinds[0] <= passed + uncounted or len(set(kinds)) != 1 or not 2 * passed <= rows.get("body", 0) <= 2 * kinds[0]:
        raise BenchError(f"{passed} requests passed (and at most {uncounted} more), the records are {rows}")


def _row(name: str, taken: dict[int, list[Round]]) -> Row:
    busy, calm = (taken[clients][1:] or taken[clients] for clients in (CLIENTS, 1))  # the first warms up
    middle = statistics.median
    return Row(
        name,
        per_second=middle(each.per_second for each in busy),
        cpu_us=middle(each.cpu_us for each in busy),
        p50_ms=middle(each.p50_ms for each in calm),
        p99_ms=middle(each.p99_ms for each in calm),
    )


def table(rows: Sequence[Row], ours: str) -> str:
    """The rows as text; ratios are ours to theirs."""
    first, alone = next(row for row in rows if row.name == ours), rows[-1]
    lines = [f"{'':<26}{'req/s':>9}{'ours':>8}{'CPU us':>9}{'ours':>8}{'p50 ms':>9}{'added':>8}{'p99 ms':>9}{'added':>8}"]
    for row in rows:
        times = [first.per_second / row.per_second, row.cpu_us / first.cpu_us]
        added = [row.p50_ms - alone.p50_ms, row.p99_ms - alone.p99_ms]
        lines.append(
            f"{row.name:<26}{row.per_second:>9.0f}{times[0]:>7.2f}x{row.cpu_us:>9.0f}{times[1]:>7.2f}x"
            f"{row.p50_ms:>9.2f}{added[0]:>8.2f}{row.p99_ms:>9.2f}{added[1]:>8.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print and write; ends with 1 and the reason where a figure would not be true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--sealing", type=int, default=60, metavar="SECONDS", help="how long sealing must keep up with full load")
    parser.add_argument("--only", action="append", help="a contender; repeatable. All that are installed otherwise")
    parser.add_argument("--json", type=Path, help="write the tables here too")
    options = parser.parse_args()
    effort = Effort(3, 1, 200, 20) if options.quick else Effort(8, 2, 2000, options.sealing)
    result: dict[str, object] = {"machine": machine(), **asdict(effort)}
    print(result["machine"])
    with tempfile.TemporaryDirectory(prefix="tokenledger-bench-") as folder:
        try:
            for what, names, ours in (("gateway", GATEWAYS, "tokenledger gateway"), ("forward", FORWARDS, "tokenledger forward door")):
                chosen = [name for name in names if (not options.only or name in options.only) and PEERS.get(name, Path("/")).exists()]
                for name in [name for name in names if name in PEERS and not PEERS[name].exists()]:
                    print(f"left out, because it is not installed: {name}")
                if ours not in chosen:
                    continue
                rows = compare(chosen, effort, room(Path(folder), what), forward=what == "forward")
                print(table(rows, ours))
                result[what] = [asdict(row) for row in rows]
            if not options.only:
                opened = streams.measure(room(Path(folder), "streams"), effort.streams, effort.streams // 4, SERVER_CORE, LOAD_CORE)
                print(streams.shown(opened))
                kept_up = sealing.measure(room(Path(folder), "sealing"), effort.sealing_s)
                print(sealing.shown(kept_up))
                many = workers.measure(room(Path(folder), "workers"), effort.rounds, effort.seconds)
                print(workers.shown(many))
                result |= {"streams": asdict(opened), "sealing": asdict(kept_up), "workers": asdict(many)}
        except (BenchError, LoadError, StartError, streams.StreamError, sealing.SealingError) as fault:
            sys.exit(f"bench: {fault}")
    if options.json:
        write(options.json, result)


if __name__ == "__main__":
    main()
