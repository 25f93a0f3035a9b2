"""How long the published ledger takes to answer each page, on a generated month of any size.

`python -m bench.pages --requests 1000000` generates the month and builds it; `--home DIR` takes a home that has a ledger.
Each page is asked several times for its own query strings. What is told is the median of the processor time that the ledger
took on all cores, which a busy machine does not stretch (not that of drawing), and its multiple of one count over the whole
`ledger` table, so that machines can be compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import duckdb

from bench.machine import machine, write
from bench.months import make_month
from etl.build import build
from etl.published import open_ledger
from schemas.home import Home
from web.app import ENTRIES
from web.page import address
from web.pages import requests
from web.reading import Asked

TIMES = 5
LIMIT_MS = 300  # what a page may ask of a ledger of one million requests
MEASURE = "SELECT count(*) FROM ledger WHERE final_charge > 0"


@dataclass
class Clocked:
    """A connection that keeps the processor time that each of its answers took."""

    db: duckdb.DuckDBPyConnection
    seconds: list[float] = field(default_factory=list)

    def execute(self, query: str, values: object = None) -> _Answer:
        """The answer, fetched whole."""
        began = time.process_time()
        rows = self.db.execute(query, values).fetchall()
        self.seconds.append(time.process_time() - began)
        return _Answer(rows)


@dataclass(frozen=True)
class _Answer:
    rows: list[tuple[Any, ...]]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self.rows[0] if self.rows else None


def addresses(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The pages that ask the ledger: each as it opens, the way down to one run, and searches by each kind of field."""
    one = db.execute(
        "SELECT period, project, api_key_label, public_model, route, served_channel, user_id, wallet, balance_bucket, request_id, created_at "
        "FROM ledger WHERE status = 'ok' ORDER BY created_at, request_id LIMIT 1"
    ).fetchone()
    if one is None:
        raise SystemExit("bench: the ledger has no request that ended ok")
    period, project, key, model, route, channel, user, wallet, bucket, request_id, created = one
    found = [entry.path for entry in ENTRIES if entry.page is not None]
    found += [address(path, {"period": "all"}) for path in found]
    down: dict[str, str] = {"period": period}
    for name, value in (("project", project), ("key", key), ("model", model), ("route", route)):
        if value is not None:
            down[name] = value
            found.append(address("/", down))
    found.append(address("/", {**down, "by": "request"}))
    found.append(address("/", {"period": "all", "by": "request"}))
    for name, value in (
        *(("project", project), ("key", key), ("model", model), ("route", route), ("channel", channel), ("user", user), ("run", "nobody")),
        *(("status", "failed"), ("least", "0.01"), ("most", "0"), ("from", "2030-01-01"), ("id", "nobody")),
        *(("until", created.isoformat()), ("after", f"{created.isoformat()}~{request_id}")),
    ):
        if value is not None:
            found.append(address(requests.PATH, {"period": "all", name: value}))
    found.append(address("/wallets", {"wallet": wallet, "bucket": bucket}))
    found.append(address("/wallets", {"wallet": wallet, "bucket": bucket, "after": f"{created.isoformat()}~0"}))
    return found


def took(home: Home, asked_for: str) -> tuple[float, float]:
    """Of one page: the milliseconds of the ledger, the median of several times, and of its slowest question."""
    path, _, query = asked_for.partition("?")
    (page,) = (entry.page for entry in ENTRIES if entry.path == path and entry.page is not None)
    whole, slowest = [], []
    for _ in range(TIMES):
        with open_ledger(home) as db:
            clocked = Clocked(db)
            page(Asked(cast("duckdb.DuckDBPyConnection", clocked), home, parse_qs(query)))
        whole.append(sum(clocked.seconds) * 1000)
        slowest.append(max(clocked.seconds) * 1000)
    return statistics.median(whole), statistics.median(slowest)


@dataclass(frozen=True)
class Taken:
    """What one page asked of the ledger, in milliseconds of its processor time."""

    page: str
    ms: float
    counts: float  # as a multiple of one count over the whole table
    slowest_ms: float  # of its questions


@dataclass(frozen=True)
class Report:
    """All pages, the slowest first."""

    requests: int
    count_ms: float
    rows: list[Taken]


def measure(home: Home, asked_for: Sequence[str]) -> Report:
    """Ask each page several times."""
    with open_ledger(home) as db:
        ((count,),) = db.execute("SELECT count(*) FROM ledger").fetchall()
        clocked = Clocked(db)
        for _ in range(TIMES):
            clocked.execute(MEASURE)
    unit = statistics.median(clocked.seconds) * 1000
    found = [(*took(home, each), each) for each in asked_for]
    return Report(count, unit, [Taken(page, ms, ms / unit, slowest) for ms, slowest, page in sorted(found, reverse=True)])


def shown(report: Report) -> str:
    """The table: one line a page."""
    lines = [f"{report.requests} requests; one count over the ledger takes {report.count_ms:.1f} ms"]
    lines.append(f"{'page':<64} {'ms':>8} {'x count':>8} {'slowest':>8}")
    lines += [f"{row.page:<64} {row.ms:>8.1f} {row.counts:>8.1f} {row.slowest_ms:>8.1f}" for row in report.rows]
    over = sum(row.ms > LIMIT_MS for row in report.rows)
    return "\n".join([*lines, f"{over} of {len(report.rows)} pages ask for more than {LIMIT_MS} ms"])


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--home", type=Path, help="a home that has a ledger; none is generated")
    parser.add_argument("--json", type=Path, help="write the table here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenledger-bench-") as folder:
        if options.home is None:
            home = make_month(Path(folder), options.requests, lambda line: print(line, file=sys.stderr)).home
            build(home)
        else:
            home = Home(options.home)
        with open_ledger(home) as db:
            asked_for = addresses(db)
        report = measure(home, asked_for)
    print(shown(report))
    if options.json:
        write(options.json, {"bench": "pages", "machine": machine(), **asdict(report)})


if __name__ == "__main__":
    main()
