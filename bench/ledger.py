"""How long a month takes to become a ledger, as a multiple of what DuckDB takes to copy the same Parquet files, and to be read.

`python -m bench.ledger --requests 1000000` generates the month, copies it, builds it, adds one percent and builds again,
reads it as a person does, closes it with its exports, and builds a smaller month with and without two years of closed
months before it. Each figure comes from a process of its own. It prints a table, writes it as JSON, and fails when the
ledger's counts or sums are not the generator's. A busy machine stretches seconds; CPU seconds are told beside them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path

import duckdb

from bench.machine import machine, write
from bench.months import DAYS, ROWS, Month, make_month
from schemas.home import Home

COPY = """
import duckdb, sys
connection = duckdb.connect()
for kind in sys.argv[3:]:
    connection.execute(f"COPY (FROM read_parquet('{sys.argv[1]}/{kind}/*/*.parquet')) TO '{sys.argv[2]}/{kind}.parquet' (COMPRESSION zstd)")
"""
READINGS = 3
AFTER_HISTORY = "2026-09-02T06:00:00Z"  # every month before the generated one is over and due
AFTER_MONTH = "2026-10-02T06:00:00Z"

# The questions that the README asks of the demo, as it writes them.
QUESTIONS = (
    "select project, public_model, sum(final_charge) as charged, count(*) as requests from ledger group by all order by charged desc",
    "select * from wallet_balances",
    "select request_id, primary_channel, backup_channel, retry_count, fallback_count, fallback_latency_ms from ledger where fallback_count > 0",
    "select outcome, failed_request_policy, count(*) as requests, sum(final_charge) as charged from failed_requests group by all order by all",
    (
        "select served_channel, sum(list_charge) as list, sum(final_charge) as charged, sum(savings) as saved from ledger "
        "where status = 'ok' group by all order by all"
    ),
)


class BenchError(Exception):
    """A figure that must not be printed: the ledger is not what the generator's own arithmetic says, or a process failed."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one process took: seconds by the clock and on all cores, and its peak resident memory in megabytes.

    `ratio` is `seconds` as a multiple of those of the row `of`; `bar` is what it may be at most (seconds where `of` is empty).
    """

    what: str
    requests: int
    seconds: float
    cpu_seconds: float
    peak_mb: int
    of: str = ""
    ratio: float | None = None
    bar: float | None = None

    def __add__(self, other: Taken) -> Taken:
        """Both, one after the other."""
        seconds, cpu = self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds
        return Taken(f"{self.what}, {other.what}", other.requests, seconds, cpu, max(self.peak_mb, other.peak_mb))

    def against(self, other: Taken, bar: float | None = None) -> Taken:
        """The same as a multiple of another."""
        return replace(self, of=other.what, ratio=self.seconds / other.seconds, bar=bar)

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:>7.2f} x {self.of}"
        bar = "" if self.bar is None else f" (bar {self.bar:g}{'' if self.of else ' s'})"
        return f"{self.what:<38}{self.requests:>10}{self.seconds:>9.2f} s{self.cpu_seconds:>9.2f} s CPU{self.peak_mb:>7} MB {ratio}{bar}"


def timed(what: str, requests: int, command: list[str]) -> Taken:
    """Run one process to its end. Raises BenchError if it fails."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise BenchError(f"{what} ended with {process.returncode}: {output.read()[-2000:].decode(errors='replace')}")
    return Taken(what, requests, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024)


def compare(month: Month) -> None:
    """Hold the published ledger to the generator's arithmetic. Raises BenchError with both sides."""
    with duckdb.connect(str(month.home.ledger_file), read_only=True) as connection:
        ((requests, unknown),) = connection.execute("SELECT count(*), count(*) - count(final_charge) FROM ledger").fetchall()
        ((attempts,),) = connection.execute("SELECT count(*) FROM attempts").fetchall()
        charged = dict(
            connection.execute("SELECT balance_bucket, sum(final_charge) FROM ledger WHERE final_charge > 0 GROUP BY ALL").fetchall()
        )
    found = (requests, attempts, unknown, {bucket: Decimal(amount) for bucket, amount in charged.items()})
    expected = (month.requests, month.attempts, 0, {bucket: amount for bucket, amount in month.charged.items() if amount})
    if found != expected:
        raise BenchError(f"the ledger says {found}, the generator {expected} (requests, attempts, unknown charges, charged by bucket)")


def _tokenledger(month: Month, *words: str) -> list[str]:
    return [sys.executable, "-m", "tokenledger", "--home", str(month.home.root), *words]


def building(root: Path, requests: int) -> Iterator[Taken]:
    """A month of so many requests built, built again with one percent more, read, and closed; compared after each build."""
    month = make_month(root, requests, lambda line: print(line, file=sys.stderr))
    copies = root / "copies"
    copies.mkdir()
    copy = timed("copy", requests, [sys.executable, "-c", COPY, str(month.home.raw), str(copies), *ROWS])
    shutil.rmtree(copies)
    yield copy
    open_month = ("ledger", "--no-close", "--as-of", AFTER_MONTH)
    first = timed("build", requests, _tokenledger(month, *open_month)).against(copy)
    compare(month)
    yield first
    month.add(max(requests // 100, 1), day=DAYS - 1)
    yield timed("build again after 1 % more", month.requests, _tokenledger(month, *open_month)).against(first, 0.1)
    compare(month)
    yield from reading(month)
    closing = timed("close, with its exports", month.requests, _tokenledger(month, "ledger", "--as-of", AFTER_MONTH))
    compare(month)
    if not (month.home.ledger / "2026-09" / "seal.json").exists():
        raise BenchError("the month was not closed")
    yield closing
    yield (first + closing).against(copy, 8)


def reading(month: Month) -> Iterator[Taken]:
    """The receipt of a request in the middle, and the README's questions, each the quickest of a few as a whole command."""
    receipt = ("receipt of one request", ("receipt", f"r-{month.requests // 2:010d}"), 0.3)
    asked = [(f"README query {n}", ("sql", question), 1.0) for n, question in enumerate(QUESTIONS, 1)]
    for what, words, bar in (receipt, *asked):
        runs = [timed(what, month.requests, _tokenledger(month, *words)) for _ in range(READINGS)]
        yield replace(min(runs, key=lambda run: run.seconds), bar=bar)


def history(root: Path, requests: int, months: int) -> Iterator[Taken]:
    """A month built alone and after so many closed ones, each of a tenth of its requests."""
    alone = make_month(root / "alone", requests)
    words = ("ledger", "--no-close", "--as-of", AFTER_MONTH)
    first = timed("build without history", requests, _tokenledger(alone, *words))
    compare(alone)
    yield first
    month = Month(Home(root / "after"))
    month.write_book()
    for back in range(months, 0, -1):
        month.add(requests // 10, day=15 - 30 * back - back // 2)
    yield timed(f"close {months} months", month.requests, _tokenledger(month, "ledger", "--as-of", AFTER_HISTORY))
    compare(month)
    for day in range(DAYS):
        month.add(requests * (day + 1) // DAYS - requests * day // DAYS, day=day)
    yield timed(f"build after {months} closed months", month.requests, _tokenledger(month, *words)).against(first, 1.1)
    compare(month)


def main() -> None:
    """Read the options, measure, print and write; ends with 1 and the reason where a figure would not be true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--history", type=int, default=24, help="closed months before the small month")
    parser.add_argument("--json", type=Path, help="write the table here too")
    options = parser.parse_args()
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory(prefix="tokenledger-bench-") as folder:
        try:
            for measured in (
                building(Path(folder) / "month", options.requests),
                history(Path(folder) / "history", min(max(options.requests // 10, 100), 100_000), options.history),
            ):
                for row in measured:
                    print(row, flush=True)
                    rows.append(asdict(row))
        except BenchError as fault:
            sys.exit(f"bench: {fault}")
    if options.json:
        write(options.json, {"bench": "ledger", "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
