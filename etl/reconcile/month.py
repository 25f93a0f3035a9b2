"""A month's bills as figures and a picture, for the statement and the pages: totals, classes, and the steps of each gap."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb

from etl.charts import Bar
from etl.reconcile.page import NEXT
from etl.table import jsonable


@dataclass(frozen=True, slots=True)
class GapStep:
    """One step of a gap: how much, in how many comparisons, what it means and what to do about it."""

    step: str
    amount: Decimal
    comparisons: int
    rule: str
    next: str


@dataclass(frozen=True, slots=True)
class Gap:
    """One vendor's month: what the bill wants, what we booked, and the steps between them that are not nothing."""

    vendor: str
    currency: str
    vendor_total: Decimal
    our_total: Decimal
    gap: Decimal  # the vendor's total less ours, and the sum of the steps
    steps: tuple[GapStep, ...]
    classes: tuple[tuple[str, int, int, int, Decimal | None], ...]  # class, comparisons, bill lines, our requests, difference

    @property
    def bars(self) -> tuple[Bar, ...]:
        """For etl.charts.waterfall."""
        return tuple(Bar(step.step.replace("_", " "), step.amount) for step in self.steps)

    @property
    def table(self) -> list[tuple[str, Decimal, int, str, str]]:
        """The steps as rows for people."""
        return [(step.step.replace("_", " "), step.amount, step.comparisons, step.rule, step.next) for step in self.steps]

    def as_json(self) -> dict[str, Any]:
        """For machines; amounts are texts."""
        columns = ("class", "comparisons", "bill_lines", "requests", "difference")
        return {
            **{name: jsonable(getattr(self, name)) for name in ("vendor", "currency", "vendor_total", "our_total", "gap")},
            "steps": [
                {"step": s.step, "amount": jsonable(s.amount), "comparisons": s.comparisons, "rule": s.rule, "next": s.next}
                for s in self.steps
            ],
            "classes": [dict(zip(columns, map(jsonable, row), strict=True)) for row in self.classes],
        }


def gaps_of(connection: duckdb.DuckDBPyConnection, period: str) -> tuple[Gap, ...]:
    """Each vendor that has a bill for the month, by name; empty where none has."""
    cursor = connection.execute(
        "SELECT vendor, currency, vendor_total, our_total, gap, step, amount, groups, rule FROM reconciliation_waterfall "
        "WHERE period = ? ORDER BY vendor, place",
        [period],
    )
    by_vendor: dict[tuple[Any, ...], list[GapStep]] = {}
    for *head, step, amount, groups, rule in cursor.fetchall():
        steps = by_vendor.setdefault(tuple(head), [])
        if amount:
            steps.append(GapStep(step, amount, groups, rule, NEXT[step]))
    return tuple(
        Gap(vendor, currency, theirs, ours, gap, tuple(steps), _classes(connection, vendor, period))
        for (vendor, currency, theirs, ours, gap), steps in by_vendor.items()
    )


def _classes(connection: duckdb.DuckDBPyConnection, vendor: str, period: str) -> tuple[tuple[str, int, int, int, Decimal | None], ...]:
    return tuple(
        connection.execute(
            "SELECT class, count(*), sum(bill_lines)::BIGINT, sum(requests)::BIGINT, sum(difference)::DECIMAL(38,12) FROM reconciliation "
            "WHERE vendor = ? AND period = ? AND source = 'bill' GROUP BY class ORDER BY class",
            [vendor, period],
        ).fetchall()
    )
