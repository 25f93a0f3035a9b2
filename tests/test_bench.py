"""The benchmarks run at toy size, and what they print stands on a ledger equal to the generator's own arithmetic."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from bench.ledger import QUESTIONS, BenchError, compare, reading
from bench.months import make_month
from etl.build import build


def test_a_generated_month_comes_to_what_its_generator_says(tmp_path: Path) -> None:
    """Counts, and charges by bucket, to the last digit; one picodollar more in the generator's sum is told. It is read by command."""
    month = make_month(tmp_path, 2_000)
    result = build(month.home)
    assert (result.requests, result.unpriced, result.blockers) == (2_000, 0, 0)
    compare(month)
    assert [row.bar for row in reading(month)] == [0.3, *(1.0 for _ in QUESTIONS)]
    month.charged["routed_balance"] += Decimal("0.000000000001")
    with pytest.raises(BenchError, match="the ledger says"):
        compare(month)


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
