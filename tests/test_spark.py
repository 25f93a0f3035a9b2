"""The models on a Spark cluster make what they make on DuckDB, in every published table, to the last digit."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.close import close
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.cluster import spark_cluster
from tests.published import differences
from tests.rawdata import DAY, NOON, Archive, attempt, call, event, failure, more_rates, request, terms, topup, write_book
from tests.test_journey import Travelled, travelled  # noqa: F401  the fixture is asked for by name

pytestmark = [
    pytest.mark.spark,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="Spark is not installed: run `make test-spark`"),
]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of two workers."""
    with spark_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as url:
        yield url


def build_twice(master: str, home: Home, as_of: str, folder: Path) -> dict[str, int]:
    """The command as a person types it, on DuckDB and then on the cluster; how the two ledgers differ."""
    here = folder / "here.duckdb"
    for options in ([], ["--engine", "spark", "--master", master]):
        command = [sys.executable, "-m", "tokenledger", "--home", str(home.root), "ledger", "--as-of", as_of, "--no-close", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if not options:
            here.write_bytes(home.ledger_file.read_bytes())
            home.ledger_file.unlink()  # else the cluster would go on from it, and make nothing
    return differences(here, home.ledger_file)


def test_every_golden_case_has_the_same_ledger(master: str, travelled: Travelled, tmp_path: Path) -> None:  # noqa: F811
    """Every endpoint, dialect, stream and gateway of the wire, through both doors: no table differs by a row."""
    as_of = travelled.rows("select strftime(max(created_at), '%Y-%m-%dT%H:%M:%SZ') as at from ledger")[0]["at"]
    assert build_twice(master, travelled.home, as_of, tmp_path) == {}


def test_books_with_a_closed_month_are_the_same(master: str, tmp_path: Path) -> None:
    """Terms, currencies, marginal limits, entries of every kind, a closed month and what came late for it: no table differs by a row."""
    home = Home(tmp_path / "home")
    write_book(
        home,
        rates=more_rates(
            "official gpt-4o-mini input 0.05 min=900 marginal=true",
            "official euro input 2 currency=EUR",
            "official euro output 3 currency=EUR",
        ),
        terms=terms(
            "official gpt-4o-mini output multiplier 1.1", "official gpt-4o-mini input allowance_day 700", "official euro input minimum 5000"
        ),
        fx="EUR,1.087654321,2026-01-01T00:00:00Z,,test,\n",
    )
    archive = Archive(home)
    archive.seal([topup("t1", "10", paid="9", bonus="1"), *call("a"), *call("b", NOON + 1, model="euro"), *_failed("c", NOON + 2)])
    assert close(home, parse_instant("2026-11-02T00:00:00Z")).closed == ("2026-10",)
    entry = {"actor": "ada", "reason": "why", "reference": "r", "wallet": "research", "bucket": "official_credit", "currency": "USD"}
    november = parse_instant("2026-11-10T12:00:00Z")
    archive.seal(
        [
            *call("late", NOON + DAY),
            *(record for n in range(50) for record in call(f"n{n}", november + n, prompt=100 * n + 1, completion=n)),
            event("e1", "wallet_adjust", november, **entry | {"amount": "-0.5"}),
            event("e2", "wallet_transfer", november, **entry | {"amount": "1", "to_wallet": "research", "to_bucket": "pool"}),
            event("e3", "wallet_hold", november, **entry | {"amount": "2", "until": "2026-12-01T00:00:00Z"}),
            event("e4", "wallet_snapshot", november, **entry | {"amount": "3"}),
        ]
    )
    assert build_twice(master, home, "2026-11-20T00:00:00Z", tmp_path) == {}


def _failed(request_id: str, at: int) -> list[Record]:
    return [request(request_id, at), attempt(request_id, at=at), failure(request_id, at=at + 1)]
