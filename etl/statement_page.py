"""The statement as a page: its tables with the exact figures, and a chart beside those that a picture tells better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from etl import charts, page
from etl.charts import Bar, Point
from etl.reconcile.month import Gap
from etl.statement import ADDS, REQUEST_FACTS, Answer, Statement
from etl.table import UNKNOWN, cell
from schemas.counts import counted

# Of each chart of bars: the part, the columns that name a bar, the columns of its lengths with what each is called, and the caption.
BARS: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...], str], ...] = (
    ("by_project", ("project",), (("charged", ""),), "Charged by project"),
    ("by_model", ("model",), (("charged", ""),), "Charged by model"),
    ("by_key", ("key",), (("charged", ""),), "Charged by key"),
    ("by_route", ("route", "channel"), (("charged", ""),), "Charged by route and channel"),
    ("savings", ("route",), (("list_price", "list price"), ("charged", "charged")), "List price and charge by route"),
    ("failures", ("outcome",), (("charged", ""),), "Charged for requests that did not end ok"),
    ("failed_tries", ("channel", "outcome"), (("charged", ""),), "Charged for tries that failed"),
    (
        "movers",
        ("model",),
        (("month_before", "month before"), ("this_month", "this month")),
        "Charged this month and the month before, by model",
    ),
)
TERMS = (
    ("opening", "opening"),
    ("topups", "+ top-ups"),
    ("bonuses", "+ bonuses"),
    ("charges", "- charges"),
    ("suspense", "- in suspense"),
    ("adjustments", "+ adjustments"),
    ("refunds", "+ refunds"),
    ("expiries", "- lapsed"),
    ("transfers", "+ transfers"),
    ("reversals", "+ reversals"),
    ("closing", "= closing"),
)
# What a null means in a column that names something; anywhere else it is unknown.
NULLS = {"project": "none named", "model": "none", "route": "none", "channel": "none", "request_id": "none", "reason": "none given"}
SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("This month and the month before", ("movers",)),
    ("Spend", ("by_project", "by_model", "by_key", "by_route", "paid_from")),
    ("Savings", ("savings",)),
    ("Failures and fallbacks", ("statuses", "failures", "failed_tries", "fallbacks")),
    ("Runs", ("top_runs",)),
    ("Entries and what is not known", ("entries", "unpriced")),
)


def statement_page(statement: Statement) -> str:
    """The statement as a self-contained HTML page; the same ledger gives the same bytes."""
    has_before = statement.figures[0].month_before is not None
    return page.html(
        "statement.html",
        statement=statement,
        tiles=[figure for figure in statement.figures if figure.name in TILES],
        sections=SECTIONS,
        answers=statement.answers,
        charts=dict(_charts(statement)),
        balances=_balances(statement),
        proofs=_proofs(statement),
        shown=_shown,
        rest=_rest,
        dearest=[dict(zip(REQUEST_FACTS, row, strict=True)) for row in statement.answers["top_requests"].rows],
        request_facts=REQUEST_FACTS,
        figures=[(f.name, f.this_month, f.month_before, f.change) if has_before else (f.name, f.this_month) for f in statement.figures],
        has_before=has_before,
        gaps=[(gap, _gap_chart(gap)) for gap in statement.gaps],
    )


TILES = ("charged", "saved against list prices", "paid for failed tries", "requests")


def _gap_chart(gap: Gap) -> tuple[Markup, str] | None:
    """The steps of a gap, and the gap; none where bill and books agree."""
    if not gap.steps:
        return None
    return page.chart(charts.waterfall(gap.bars, "gap", gap.currency)), f"What the bill of {cell(gap.vendor)} has more than the books"


def _column(answer: Answer, name: str) -> int:
    return answer.columns.index(name)


def _charts(statement: Statement) -> Iterator[tuple[str, tuple[Markup, str]]]:
    """The bars of each part that has any length in it."""
    for key, names, lengths, caption in BARS:
        answer = statement.answers[key]
        rows = [
            Bar(
                " · ".join(cell(row[_column(answer, name)], NULLS.get(name, UNKNOWN)) for name in names),
                row[_column(answer, length)],
                series,
            )
            for row in answer.rows[: charts.MOST_BARS]
            for length, series in lengths
            if row[_column(answer, length)] is not None  # what is not known has no length, and its row says so
        ]
        if any(bar.amount for bar in rows):
            yield key, (page.chart(charts.bars(rows, statement.currency)), _caption(caption, answer))


def _caption(caption: str, answer: Answer) -> str:
    undrawn = max(0, len(answer.rows) + answer.others - charts.MOST_BARS)
    return f"{caption}; the {charts.MOST_BARS} largest of {charts.MOST_BARS + undrawn}" if undrawn else caption


def _balances(statement: Statement) -> tuple[Markup, str] | None:
    """Every balance from its opening on, by the last entry of each hour."""
    if "balances" not in statement.answers or not statement.answers["proof"].rows:
        return None
    points: list[Point] = []
    steps: dict[str, list[Point]] = {}
    for wallet, bucket, at, balance in statement.answers["balances"].rows:
        steps.setdefault(_series(wallet, bucket), []).append(Point(_series(wallet, bucket), at, balance))
    for row in statement.answers["proof"].rows:
        name = _series(row[0], row[1])
        moves = steps.get(name, [])
        points += [Point(name, statement.starts_at, row[2]), *moves]
        if statement.is_closed:
            points.append(Point(name, statement.ends_at, moves[-1].amount if moves else row[2]))
    count = len({point.series for point in points})
    caption = "Balance after the last entry of each hour"
    if count > charts.MOST_SERIES:
        caption += f"; the first {charts.MOST_SERIES} of {count} balances"
    return page.chart(charts.steps(points, statement.starts_at, statement.ends_at, statement.currency)), caption


def _series(wallet: str, bucket: str) -> str:
    return f"{cell(wallet)} · {cell(bucket)}"


def _proofs(statement: Statement) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each balance as the sum that it is, and what the vendor showed beside it."""
    if "proof" not in statement.answers:
        return []
    answer = statement.answers["proof"]
    found = []
    for row in answer.rows:
        facts: dict[str, Any] = dict(zip(answer.columns, row, strict=True))
        terms = [(label, cell(facts[name])) for name, label in TERMS]
        if facts["snapshot"] is not None:
            terms += [("vendor showed", cell(facts["snapshot"])), ("its difference from ours then", cell(facts["difference"]))]
            terms.append(("first day that differs", cell(facts["first_broken_day"], "none")))
        else:
            terms.append(("vendor showed", "no snapshot was recorded"))
        found.append((_series(facts["wallet"], facts["bucket"]), terms))
    return found


def _shown(answer: Answer) -> list[tuple[Any, ...]]:
    """The rows, with what a name's null means in its place."""
    return [
        tuple(NULLS.get(name) if value is None else value for name, value in zip(answer.columns, row, strict=True)) for row in answer.rows
    ]


def _rest(answer: Answer) -> list[str]:
    """The row that stands for those not shown."""
    assert answer.rest is not None
    first = counted(answer.others, "other")
    return [
        cell(value) if name in ADDS else first if index == 0 else ""
        for index, (name, value) in enumerate(zip(answer.columns, answer.rest, strict=True))
    ]
