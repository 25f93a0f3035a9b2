"""The benchmarks run at toy size, and what they print stands on a ledger equal to the generator's own arithmetic."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from bench.ledger import BenchError, compare
from bench.months import make_month
from etl.build import build


def test_a_generated_month_comes_to_what_its_generator_says(tmp_path: Path) -> None:
    """Counts, and charges by bucket, to the last digit; one picodollar more in the generator's sum is told."""
    month = make_month(tmp_path, 2_000)
    result = build(month.home)
    assert (result.requests, result.unpriced, result.blockers) == (2_000, 0, 0)
    compare(month)
    month.charged["routed_balance"] += Decimal("0.000000000001")
    with pytest.raises(BenchError, match="the ledger says"):
        compare(month)
