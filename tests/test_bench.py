"""The benchmarks run at toy size, and what they print stands on a ledger equal to the generator's own arithmetic."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from bench.ledger import BenchError, compare
from bench.months import make_month
from bench.pages import addresses, report
from etl.build import build
from etl.published import open_ledger


def test_a_generated_month_comes_to_what_its_generator_says(tmp_path: Path) -> None:
    """Counts, and charges by bucket, to the last digit; one picodollar more in the generator's sum is told."""
    month = make_month(tmp_path, 2_000)
    result = build(month.home)
    assert (result.requests, result.unpriced, result.blockers) == (2_000, 0, 0)
    compare(month)
    month.charged["routed_balance"] += Decimal("0.000000000001")
    with pytest.raises(BenchError, match="the ledger says"):
        compare(month)


def test_every_page_is_asked_and_told(tmp_path: Path) -> None:
    """Each page that reads the ledger stands in the table, the way down and the searches too, with what it took."""
    month = make_month(tmp_path, 500)
    build(month.home)
    with open_ledger(month.home) as db:
        asked_for = addresses(db)
    told = report(month.home, asked_for)
    assert {line.split()[0] for line in told[2:-1]} == set(asked_for)
    assert len(asked_for) > 30
