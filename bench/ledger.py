"""How long a month takes to become a ledger, as a multiple of what DuckDB takes to copy the same Parquet files.

`python -m bench.ledger --requests 1000000` generates the month, copies it, builds it, adds one percent and builds again;
each figure comes from a process of its own. It prints a table, writes it as JSON, and fails when the ledger's counts or
sums are not the generator's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

import duckdb

from bench.months import DAYS, ROWS, Month, make_month

COPY = """
import duckdb, sys
connection = duckdb.connect()
for kind in sys.argv[3:]:
    connection.execute(f"COPY (FROM read_parquet('{sys.argv[1]}/{kind}/*/*.parquet')) TO '{sys.argv[2]}/{kind}.parquet' (COMPRESSION zstd)")
"""


class BenchError(Exception):
    """A figure that must not be printed: the ledger is not what the generator's own arithmetic says, or a process failed."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one process took: seconds by the clock, and its peak resident memory in megabytes."""

    what: str
    seconds: float
    peak_mb: int


def timed(what: str, command: list[str]) -> Taken:
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
    return Taken(what, seconds, used.ru_maxrss // 1024)


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


def measure(root: Path, requests: int) -> list[Taken]:
    """The three figures of a month of so many requests, its ledger compared after each build."""
    month = make_month(root, requests, lambda line: print(line, file=sys.stderr))
    copies = root / "copies"
    copies.mkdir()
    ledger = [sys.executable, "-m", "tokenledger", "ledger", "--home", str(root)]
    taken = [timed("copy the raw Parquet", [sys.executable, "-c", COPY, str(month.home.raw), str(copies), *ROWS])]
    shutil.rmtree(copies)
    taken.append(timed("build the ledger", ledger))
    compare(month)
    month.add(max(requests // 100, 1), day=DAYS - 1)
    taken.append(timed("build again after 1 % more", ledger))
    compare(month)
    return taken


def main() -> None:
    """Read the options, measure, print and write; ends with 1 and the reason where a figure would not be true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the table here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenledger-bench-") as folder:
        try:
            taken = measure(Path(folder), options.requests)
        except BenchError as fault:
            sys.exit(f"bench: {fault}")
    copy = taken[0].seconds
    print(f"{options.requests} requests on {os.cpu_count()} cores")
    for each in taken:
        print(f"{each.what:<30} {each.seconds:>8.1f} s {each.seconds / copy:>7.1f} x the copy {each.peak_mb:>7} MB")
    if options.json:
        options.json.write_text(json.dumps({"requests": options.requests, "taken": [asdict(each) for each in taken]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
