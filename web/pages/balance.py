"""Where did the balance go? Balances over time, then the charges of a month from the whole down to one request."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from etl.charts import Point, steps
from web.filters import BY_NAME, DIMENSIONS, WAY_DOWN, Choice, choice_of, period_links, periods
from web.page import Cell, Figure, Link, Notice, Page, Table, address, amount, count, drawn, instant, receipt_address, text
from web.reading import Asked

PATH = "/"
TOP = 200
NEWEST = 50


def page(asked: Asked) -> Page:
    """The first page."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    where, values = choice.where()
    following = _following(choice, asked.one("by"))
    tables = [_balances(db)] if not choice.chosen else []
    tables.append(_totals(db, where, values))
    if following is None:
        tables.append(_requests(db, choice, where, values))
    else:
        tables.append(_groups(db, choice, following, where, values))
    return Page(
        title="Where did the balance go?",
        notices=_standing(db, choice.period),
        trail=choice.trail(PATH) if choice.chosen else (),
        choices=period_links(choice, known, PATH),
        figures=[] if choice.chosen else _figures(db, choice.period),
        tables=tables,
    )


def _following(choice: Choice, asked: str) -> str | None:
    """The dimension to split by: the one asked for, else the next on the way down; None where only requests are left."""
    if asked == "request":
        return None
    if asked in BY_NAME and asked not in choice.chosen:
        return asked
    return next((name for name in WAY_DOWN if name not in choice.chosen), None)


def _standing(db: duckdb.DuckDBPyConnection, period: str | None) -> list[Notice]:
    """What is unpriced, in suspense or unreconciled, and what else blocks the close."""
    at = {"period": period}
    notices = []
    unpriced, held = db.execute(
        "SELECT count(DISTINCT request_id), count(DISTINCT request_id) FILTER (WHERE quantity IS NULL) "
        "FROM unpriced WHERE $period IS NULL OR period = $period",
        at,
    ).fetchall()[0]
    if unpriced:
        more = f", {held:,} of them without a usage that can be relied on" if held else ""
        notices.append(Notice("bad", f"{unpriced:,} requests have no known charge{more}: their money is in suspense", "/close#unpriced"))
    (different,) = db.execute(
        "SELECT count(*) FROM reconciliation WHERE difference <> 0 AND ($period IS NULL OR period = $period)", at
    ).fetchall()[0]
    if different:
        notices.append(Notice("note", f"{different:,} figures of the vendors differ from ours", "/close#reconciliation"))
    (blocking,) = db.execute(
        "SELECT count(*) FROM data_quality WHERE blocks_close AND ($period IS NULL OR period IS NULL OR period = $period)", at
    ).fetchall()[0]
    if blocking:
        notices.append(Notice("bad", f"{blocking:,} findings keep the month from closing", "/close"))
    return notices or [Notice("good", "every charge is known, and nothing stands against the close")]


def _figures(db: duckdb.DuckDBPyConnection, period: str | None) -> list[Figure]:
    """The balance of each bucket at the end of each day of the chosen time, one figure a currency."""
    rows = db.execute(
        """
        WITH bounds AS (SELECT min(starts_at) AS begins, max(ends_at) AS ends FROM periods WHERE $period IS NULL OR period = $period),
        moved AS (
            SELECT j.currency, s.wallet, s.bucket, greatest(CAST(s.posted_at AS DATE), CAST(b.begins AS DATE)) AS day, sum(s.amount) AS amount
            FROM wallet_statement s JOIN (SELECT DISTINCT entry_id, currency FROM journal) j USING (entry_id), bounds b
            WHERE s.posted_at < b.ends GROUP BY ALL
        )
        SELECT currency, wallet || ' ' || bucket AS series, day, CAST(sum(amount) OVER (PARTITION BY currency, wallet, bucket ORDER BY day)
            AS DECIMAL(38,12)) AS balance
        FROM moved ORDER BY currency, series, day
        """,
        {"period": period},
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
        points = [Point(series, dt.datetime.combine(day, dt.time()), balance) for c, series, day, balance in rows if c == currency]
        last = {point.series: point for point in points}
        points += [Point(series, end, point.amount) for series, point in last.items()]
        summary = "; ".join(f"{series} {point.amount:f} {currency}" for series, point in last.items())
        figures.append(Figure(f"Balance by bucket ({currency})", drawn(steps(points, begin, end, currency)), f"At the end: {summary}."))
    return figures


def _balances(db: duckdb.DuckDBPyConnection) -> Table:
    rows = db.execute("SELECT wallet, bucket, currency, balance FROM wallet_balances ORDER BY ALL").fetchall()
    return Table(
        "Balances now",
        ("wallet", "bucket", "balance", "currency"),
        [
            (
                text(wallet, address("/wallets", {"wallet": wallet, "bucket": bucket})),
                text(bucket),
                amount(balance, currency),
                text(currency),
            )
            for wallet, bucket, currency, balance in rows
        ],
        "no wallet has moved yet",
    )


_SUMS = """
    count(*) AS requests,
    count(*) FILTER (WHERE status <> 'ok') AS not_ok,
    sum(input_tokens)::BIGINT AS input_tokens,
    sum(output_tokens)::BIGINT AS output_tokens,
    sum(final_charge)::DECIMAL(38,12) AS charged,
    sum(list_charge)::DECIMAL(38,12) AS list,
    count(*) FILTER (WHERE final_charge IS NULL) AS unknown
"""
_HEADS = ("requests", "not ok", "input tokens", "output tokens", "charged", "list price", "charge unknown")


def _sums(row: Sequence[Any], currency: str | None) -> list[Cell]:
    requests, not_ok, read, written, charged, listed, unknown = row
    return [
        count(requests),
        count(not_ok),
        count(read),
        count(written),
        amount(charged, currency),
        amount(listed, currency),
        count(unknown),
    ]


def _totals(db: duckdb.DuckDBPyConnection, where: str, values: Mapping[str, Any]) -> Table:
    rows = db.execute(
        f"SELECT currency, balance_bucket, {_SUMS} FROM ledger WHERE {where} GROUP BY ALL ORDER BY charged DESC NULLS LAST, 2", values
    )
    return Table(
        "Charged, by the balance that pays",
        ("bucket", *_HEADS),
        [(text(bucket), *_sums(sums, currency)) for currency, bucket, *sums in rows.fetchall()],
        "no request in this choice",
    )


def _groups(db: duckdb.DuckDBPyConnection, choice: Choice, name: str, where: str, values: Mapping[str, Any]) -> Table:
    dimension = BY_NAME[name]
    rows = db.execute(
        f"SELECT currency, {dimension.column} AS member, {_SUMS} FROM ledger WHERE {where} GROUP BY ALL "
        f"ORDER BY charged DESC NULLS LAST, requests DESC, member LIMIT {TOP + 1}",
        values,
    ).fetchall()
    lines = [
        (text(member, address(PATH, choice.with_(name, member).query())), *_sums(sums, currency)) for currency, member, *sums in rows[:TOP]
    ]
    others = [d for d in DIMENSIONS if d.name != name and d.name not in choice.chosen]
    return Table(
        f"By {dimension.label}",
        (dimension.label, *_HEADS),
        lines,
        "no request in this choice",
        note=f"the {TOP} largest are shown; narrow the choice to see the rest" if len(rows) > TOP else None,
        turns=[Link(d.label, address(PATH, {**choice.query(), "by": d.name})) for d in others]
        + [Link("request", address(PATH, {**choice.query(), "by": "request"}))],
    )


def _requests(db: duckdb.DuckDBPyConnection, choice: Choice, where: str, values: Mapping[str, Any]) -> Table:
    rows = db.execute(
        "SELECT request_id, created_at, public_model, served_channel, status, input_tokens, output_tokens, final_charge, currency "
        f"FROM ledger WHERE {where} ORDER BY final_charge DESC NULLS FIRST, created_at, request_id LIMIT {NEWEST}",
        values,
    ).fetchall()
    return Table(
        "The most expensive requests",
        ("created", "request", "model", "channel", "status", "input tokens", "output tokens", "charged"),
        [
            (
                instant(created),
                text(request_id, receipt_address(request_id)),
                text(model),
                text(channel),
                text(status),
                count(read),
                count(written),
                amount(charge, currency),
            )
            for request_id, created, model, channel, status, read, written, charge, currency in rows
        ],
        "no request in this choice",
        turns=[Link("search all of them", address("/requests", choice.query()))],
    )
