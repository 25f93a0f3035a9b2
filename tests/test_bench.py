"""The benchmarks run at toy size, and what they print stands on a ledger equal to the generator's own arithmetic."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from bench import doors, ledger, pages, sealing, streams, workers
from bench.contenders import home_of
from bench.doors import Effort
from bench.ledger import QUESTIONS, BenchError, compare
from bench.load import Round
from bench.months import Month, make_month
from etl.build import build
from etl.published import open_ledger


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Month:
    """A generated month and its ledger."""
    made = make_month(tmp_path_factory.mktemp("month"), 2_000)
    result = build(made.home)
    assert (result.requests, result.unpriced, result.blockers) == (2_000, 0, 0)
    return made


def test_a_generated_month_comes_to_what_its_generator_says(month: Month) -> None:
    """Counts, and charges by bucket, to the last digit; one picodollar more in the generator's sum is told."""
    compare(month)
    more = month.charged["routed_balance"] + Decimal("0.000000000001")
    with pytest.raises(BenchError, match="the ledger says"):
        compare(replace(month, charged={**month.charged, "routed_balance": more}))


def test_a_month_is_read_by_command(month: Month, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipt and each question, each with the seconds that it may take; once is enough where nobody compares."""
    monkeypatch.setattr(ledger, "READINGS", 1)
    assert [row.bar for row in ledger.reading(month)] == [0.3, *(1.0 for _ in QUESTIONS)]


@pytest.mark.parametrize(
    "names", [("nginx as a relay", "tokenledger gateway", "aiohttp relay on uvloop"), ("tokenledger forward door", "mitmdump")]
)
def test_the_doors_are_compared_and_their_records_counted(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Each contender has its row; records that are not what passed are told instead of a figure."""
    ours = next(name for name in names if name.startswith("tokenledger"))
    rows = doors.compare(names, Effort(1, 1), tmp_path, forward="mitmdump" in names)
    assert [row.name for row in rows] == [*names, doors.ALONE]
    assert all(row.per_second > 0 and row.p50_ms > 0 for row in rows)
    assert ours in doors.table(rows, ours)
    with pytest.raises(doors.BenchError, match="the records are"):
        doors.check_records(home_of(tmp_path / ours.replace(" ", "-")), {1: [Round(10_000_000, 1, 1, 1, 1)]})


def test_streams_at_once_are_counted(tmp_path: Path) -> None:
    """Thirty that all begin before any ends, each of them on record."""
    found = streams.measure(tmp_path, 30, 10, doors.SERVER_CORE, doors.LOAD_CORE)
    assert (found.at_once, found.complete) == (30, 30)
    assert "30 of 30" in streams.shown(found)


def test_workers_are_counted_against_one(tmp_path: Path) -> None:
    """Both serve; the figure is theirs to each other."""
    found = workers.measure(tmp_path, 1, 1)
    assert found.one > 0
    assert found.two > 0
    assert f"{found.two / found.one:.2f} x" in workers.shown(found)


def test_sealing_is_watched_under_load(tmp_path: Path) -> None:
    """Everything that passed is sealed in the end; how far sealing was behind is told in seconds of traffic."""
    found = sealing.measure(tmp_path, 1)
    assert found.per_second > 0
    assert found.unsealed_last > 0
    assert "unsealed" in sealing.shown(found)


def test_every_page_is_asked_and_told(month: Month, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page that reads the ledger stands in the table, the way down and the searches too, with what it took."""
    monkeypatch.setattr(pages, "TIMES", 1)
    with open_ledger(month.home) as db:
        asked_for = pages.addresses(db)
    told = pages.measure(month.home, asked_for)
    assert {row.page for row in told.rows} == set(asked_for)
    assert {line.split()[0] for line in pages.shown(told).splitlines()[2:-1]} == set(asked_for)
    assert len(asked_for) > 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bench_of_the_ledger_runs_whole_and_writes_its_table(tmp_path: Path) -> None:
    """Copy, builds, receipt, the README's questions and the close, then a month after a closed one: a row each, sums compared."""
    written = tmp_path / "ledger.json"
    subprocess.run([sys.executable, "-m", "bench.ledger", "--requests", "100", "--history", "1", "--json", str(written)], check=True)
    found = json.loads(written.read_text())
    assert (found["bench"], bool(found["machine"])) == ("ledger", True)
    rows = {row["what"]: row for row in found["rows"]}
    assert {name for name in rows if "README" not in name} == {
        *("copy", "build", "build again after 1 % more", "receipt of one request", "build, close and every export"),
        *("build without history", "close 1 months", "build after 1 closed months"),
    }
    assert all(row["ratio"] is None or row["ratio"] == row["seconds"] / rows[row["of"]]["seconds"] for row in rows.values())


def test_the_bench_asks_what_the_readme_asks() -> None:
    """Each question of the bench stands in the README word for word, and the README has no other."""
    asked = re.findall(r'^\$ tokenledger sql "(.*)"$', Path("README.md").read_text(), re.MULTILINE)
    assert tuple(asked) == QUESTIONS
