"""The pages' charts, each with the sentence that says the same in exact figures."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import duckdb

from etl import charts
from etl.charts import Bar, Point
from etl.reconcile.month import Gap
from web.page import Figure, drawn


def balances(db: duckdb.DuckDBPyConnection, period: str | None, wallet: str = "", bucket: str = "") -> list[Figure]:
    """The balance of each bucket at the end of each day of the chosen time, one figure a currency."""
    values = {"period": period, "wallet": wallet, "bucket": bucket}
    rows = db.execute(
        """
        WITH bounds AS (SELECT min(starts_at) AS begins, max(ends_at) AS ends FROM periods WHERE $period IS NULL OR period = $period),
        moved AS (
            SELECT s.wallet, s.bucket, greatest(CAST(s.posted_at AS DATE), CAST(b.begins AS DATE)) AS day, sum(s.amount) AS amount
            FROM wallet_statement s, bounds b
            WHERE s.posted_at < b.ends AND ($wallet = '' OR s.wallet = $wallet) AND ($bucket = '' OR s.bucket = $bucket) GROUP BY ALL
        )
        SELECT w.currency, m.wallet || ' ' || m.bucket AS series, m.day,
            CAST(sum(m.amount) OVER (PARTITION BY w.currency, m.wallet, m.bucket ORDER BY m.day) AS DECIMAL(38,12)) AS balance
        FROM moved m JOIN wallet_balances w USING (wallet, bucket) ORDER BY w.currency, abs(w.balance) DESC, series, m.day
        """,
        values,
    ).fetchall()
    ((begin, end),) = db.execute(
        """
        SELECT min(starts_at), least(max(ends_at), (SELECT max(posted_at) FROM wallet_statement) + INTERVAL 1 DAY)
        FROM periods WHERE $period IS NULL OR period = $period
        """,
        {"period": period},
    ).fetchall()
    figures = []
    for currency in dict.fromkeys(row[0] for row in rows):
        points = [Point(series, _midnight(day), balance) for c, series, day, balance in rows if c == currency]
        last = {point.series: point for point in points}
        points += [Point(series, end, point.amount) for series, point in last.items()]
        summary = "; ".join(f"{series} {point.amount:f} {currency}" for series, point in last.items())
        left_out = _left_out(len(last), charts.MOST_SERIES, "balances")
        figures.append(
            Figure(
                f"Balance by bucket ({currency})", drawn(charts.steps(points, begin, end, currency)), f"At the end: {summary}.{left_out}"
            )
        )
    return figures


def largest(caption: str, rows: Sequence[tuple[str | None, Decimal | None]], currency: str | None) -> list[Figure]:
    """Bars of the largest amounts of a table, in its order; none where nothing has a length."""
    bars = [Bar("unknown" if name is None else name, amount) for name, amount in rows if amount]
    if not bars:
        return []
    shown = bars[: charts.MOST_BARS]
    summary = "; ".join(f"{bar.name} {bar.amount:f}" for bar in shown[:3])
    left_out = _left_out(len(bars), charts.MOST_BARS, "rows")
    return [Figure(caption, drawn(charts.bars(shown, currency or "")), f"First: {summary} {currency or ''}.{left_out}")]


def by_day(
    caption: str, rows: Sequence[tuple[dt.date, str | None, Decimal | None]], unit: str, since: dt.date | None, *, stacked: bool = False
) -> list[Figure]:
    """A value a day and series, from `since` on: lines, or bars upon one another where the values of a day add up.

    What is not known is left out.
    """
    points = [Point("none" if name is None else name, _midnight(day), value) for day, name, value in rows if value is not None]
    if not points:
        return []
    first, last = min(point.at for point in points), max(point.at for point in points)
    begin = min(first, _midnight(since)) if since else first
    told = "; ".join(f"{point.series} {_short(point.amount)}" for point in points if point.at == last)
    told = f"On {last:%Y-%m-%d}{f', in {unit}' if unit else ''}: {told}."
    left_out = _left_out(len({point.series for point in points}), charts.MOST_SERIES, "lines")
    draw = charts.columns if stacked else charts.lines
    return [Figure(caption, drawn(draw(points, begin, last + dt.timedelta(days=1), unit)), told + left_out)]


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time())


def beside(caption: str, rows: Sequence[tuple[str, Mapping[str, Decimal]]], unit: str) -> list[Figure]:
    """Bars in groups: each name with one bar for each of its series."""
    bars = [Bar(name, amount, series) for name, pair in rows[: charts.MOST_BARS] for series, amount in pair.items()]
    if not any(bar.amount for bar in bars):
        return []
    summary = "; ".join(f"{name}: " + ", ".join(f"{series} {_short(amount)}" for series, amount in pair.items()) for name, pair in rows[:3])
    left_out = _left_out(len(rows), charts.MOST_BARS, "rows")
    return [Figure(caption, drawn(charts.bars(bars, unit)), f"First: {summary} {unit}.{left_out}")]


def waterfall(gap: Gap, period: str) -> Figure | None:
    """The steps of a vendor's gap; none where bill and books agree."""
    if not gap.steps:
        return None
    summary = f"The bill says {gap.vendor_total:f}, the books {gap.our_total:f}: a gap of {gap.gap:f} {gap.currency}."
    return Figure(f"From the books to the bill: {gap.vendor}, {period}", drawn(charts.waterfall(gap.bars, "gap", gap.currency)), summary)


def _short(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _left_out(count: int, most: int, what: str) -> str:
    return f" The first {most} of {count} {what} are drawn; the tables have all." if count > most else ""


def as_decimal(value: Any) -> Decimal | None:
    """A count or an exact quotient of counts as a length to draw."""
    return None if value is None else Decimal(value)
