"""Where did the balance go? Balances over time, then the charges of a month from the whole down to one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from etl.table import cell
from schemas.counts import counted
from web import figures
from web.filters import (
    BY_NAME,
    DIMENSIONS,
    EVERY,
    WAY_DOWN,
    Choice,
    choice_of,
    first_day,
    period_faults,
    period_links,
    periods,
    playground_link,
)
from web.page import UNKNOWN, Cell, Figure, Link, Notice, Page, Table, Tile, address, amount, count, instant, receipt_address, text
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
    totals, days, groups = _sums(db, "NULL::VARCHAR" if following is None else BY_NAME[following].column, where, values)
    if following is None:
        last, shown = _requests(db, choice, where, values), []
    else:
        last, shown = _groups(groups, choice, following), _drawn(groups, BY_NAME[following].label)
    return Page(
        title="Where did the balance go?",
        notices=[*period_faults(asked, known), *_standing(db, choice.period)],
        trail=choice.trail(PATH) if choice.chosen else (),
        choices=[*period_links(choice, known, PATH), playground_link(choice, PATH)],
        tiles=_tiles(totals, address("/close", {"period": choice.period or EVERY}) + "#unpriced"),
        figures=[*([] if choice.chosen else figures.balances(db, choice.period)), *_by_day(days, choice.period), *shown],
        tables=[*([] if choice.chosen else [_balances(db)]), _totals(totals), last],
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
    close = address("/close", {"period": period or EVERY})
    notices = []
    unpriced, held = db.execute(
        "SELECT count(DISTINCT request_id), count(DISTINCT request_id) FILTER (WHERE quantity IS NULL) "
        "FROM unpriced WHERE $period IS NULL OR period = $period",
        at,
    ).fetchall()[0]
    if unpriced:
        more = f", {held:,} of them without a usage that can be relied on" if held else ""
        notices.append(
            Notice(
                "bad",
                f"{counted(unpriced, 'request has', 'requests have')} no known charge{more}: the money is in suspense",
                f"{close}#unpriced",
            )
        )
    (blocking,) = db.execute(
        "SELECT count(*) FROM data_quality WHERE blocks_close AND ($period IS NULL OR period IS NULL OR period = $period)", at
    ).fetchall()[0]
    if blocking:
        notices.append(Notice("bad", f"{counted(blocking, 'finding keeps', 'findings keep')} the month from closing", f"{close}#standing"))
    (different,) = db.execute(
        "SELECT count(*) FROM reconciliation WHERE difference <> 0 AND ($period IS NULL OR period = $period)", at
    ).fetchall()[0]
    if different:
        notices.append(
            Notice(
                "note",
                f"{counted(different, 'figure of the vendors differs', 'figures of the vendors differ')} from ours",
                f"{close}#reconciliation",
            )
        )
    for state, told in (("no_bill", "no bill to compare with yet"), ("unexplained", "a part of the bill that nothing explains")):
        vendors = db.execute(
            "SELECT vendor, period FROM reconciled_months WHERE state = $state AND ($period IS NULL OR period = $period) "
            "ORDER BY period DESC, vendor",
            {**at, "state": state},
        ).fetchall()
        if vendors:
            named = ", ".join(f"{cell(vendor)} {month}" for vendor, month in vendors[:4])
            more = f" and {len(vendors) - 4} more" if len(vendors) > 4 else ""
            notices.append(Notice("note", f"not reconciled, {told}: {named}{more}", f"{close}#bills"))
    return notices if unpriced or blocking else [Notice("good", "every charge is known, and nothing stands against the close"), *notices]


def _balances(db: duckdb.DuckDBPyConnection) -> Table:
    rows = db.execute("SELECT wallet, bucket, currency, balance, held, available FROM wallet_balances ORDER BY ALL").fetchall()
    return Table(
        "Balances now",
        ("wallet", "bucket", "balance", "held", "available", "currency"),
        [
            (
                text(wallet, address("/wallets", {"wallet": wallet, "bucket": bucket})),
                text(bucket),
                *(amount(value, currency) for value in moved),
                text(currency),
            )
            for wallet, bucket, currency, *moved in rows
        ],
        "no wallet has moved yet: `tokenledger wallet topup` books what was bought",
    )


# Of each sum its name and how it is made from the ledger.
_SUMS = {
    "requests": "count(*)",
    "not_ok": "count(*) FILTER (WHERE status <> 'ok')",
    "input_tokens": "sum(input_tokens)",
    "output_tokens": "sum(output_tokens)",
    "charged": "sum(final_charge)",
    "list": "CASE WHEN count(list_charge) = count(*) THEN sum(list_charge) END",
    "without": "count(*) FILTER (WHERE final_charge IS NULL)",
}
_AMOUNTS = ("charged", "list")
DAY, CURRENCY, MEMBER, REQUESTS, NOT_OK, READ, WRITTEN, CHARGED, LIST, WITHOUT = range(10)  # places in a row of _sums
NOTHING = "no request in this choice: take another month above, or send one through a door and run `make ledger`"
_HEADS = ("requests", "not ok", "input tokens", "output tokens", "charged", "list price", "charge unknown")


def _cells(row: Sequence[Any], currency: str | None) -> list[Cell]:
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


def _sums(db: duckdb.DuckDBPyConnection, column: str, where: str, values: Mapping[str, Any]) -> tuple[list[tuple[Any, ...]], ...]:
    """The sums by the balance that pays; by day and balance; and by `column`, the dearest first, one more row than is shown.

    The ledger is gone through once: what all three add up is its sums by all of these together.
    """
    once = ", ".join(f"{made} AS {name}" for name, made in _SUMS.items())
    whole = {"list": "CASE WHEN count(list) = count(*) THEN sum(list) END"}
    again = ", ".join(
        f"({whole.get(name, f'sum({name})')})::{'DECIMAL(38,12)' if name in _AMOUNTS else 'BIGINT'} AS {name}" for name in _SUMS
    )
    dearest = "ORDER BY charged DESC NULLS LAST, requests DESC, member"
    rows = db.execute(
        f"""
        WITH once AS MATERIALIZED (
            SELECT currency, balance_bucket AS bucket, created_at::DATE AS day, {column} AS member, {once} FROM ledger WHERE {where} GROUP BY ALL
        )
        (SELECT 0 AS part, NULL::DATE AS day, currency, bucket AS member, {again} FROM once GROUP BY ALL {dearest})
        UNION ALL (SELECT 1, day, currency, bucket AS member, {again} FROM once GROUP BY ALL ORDER BY currency, day, member)
        UNION ALL (SELECT 2, NULL, currency, member, {again} FROM once GROUP BY ALL {dearest} LIMIT {TOP + 1})
        """,
        values,
    ).fetchall()
    return tuple([row[1:] for row in rows if row[0] == part] for part in range(3))


def _tiles(totals: Sequence[tuple[Any, ...]], unknown: str) -> list[Tile]:
    """What is read first, one charge a currency; a sum of what is known says so where something is not."""
    tiles = []
    for currency in dict.fromkeys(row[CURRENCY] for row in totals):
        rows = [row for row in totals if row[CURRENCY] == currency]
        known = [row[CHARGED] for row in rows if row[CHARGED] is not None]
        is_whole = not any(row[WITHOUT] for row in rows)
        name = "charged" if is_whole else "charged, as far as it is known"
        tiles.append(Tile(name, amount(sum(known), currency), currency) if known else Tile(name, UNKNOWN))
    return [
        *tiles,
        Tile("requests", count(sum(row[REQUESTS] for row in totals))),
        Tile("of these, not ok", count(sum(row[NOT_OK] for row in totals))),
        Tile("charge unknown", count(sum(row[WITHOUT] for row in totals), unknown)),
    ]


def _totals(rows: Sequence[tuple[Any, ...]]) -> Table:
    return Table(
        "Charged, by the balance that pays",
        ("bucket", *_HEADS),
        [(text(bucket), *_cells(sums, currency)) for _, currency, bucket, *sums in rows],
        NOTHING,
    )


def _groups(rows: Sequence[tuple[Any, ...]], choice: Choice, name: str) -> Table:
    dimension = BY_NAME[name]
    others = [d for d in DIMENSIONS if d.name != name and d.name not in choice.chosen]
    return Table(
        f"By {dimension.label}",
        (dimension.label, *_HEADS),
        [
            (text(member, address(PATH, choice.with_(name, member).query())), *_cells(sums, currency))
            for _, currency, member, *sums in rows[:TOP]
        ],
        NOTHING,
        note=f"the {TOP} largest are shown; narrow the choice to see the rest" if len(rows) > TOP else None,
        turns=[Link(d.label, address(PATH, {**choice.query(), "by": d.name})) for d in others]
        + [Link("request", address(PATH, {**choice.query(), "by": "request"}))],
        turned="Split by",
    )


def _drawn(rows: Sequence[tuple[Any, ...]], label: str) -> list[Figure]:
    """The groups as bars, where there is more than one to compare."""
    found = []
    for currency in dict.fromkeys(row[CURRENCY] for row in rows):
        lengths = [(row[MEMBER], row[CHARGED]) for row in rows if row[CURRENCY] == currency]
        if len(lengths) > 1:
            found += figures.largest(f"Charged by {label} ({currency})", lengths, currency)
    return found


def _by_day(rows: Sequence[tuple[Any, ...]], period: str | None) -> list[Figure]:
    """What each day cost, by the balance that pays."""
    found = []
    for currency in dict.fromkeys(row[CURRENCY] for row in rows):
        moved = [(row[DAY], row[MEMBER], row[CHARGED]) for row in rows if row[CURRENCY] == currency]
        found += figures.by_day(f"Charged each day ({currency})", moved, currency, first_day(period), stacked=True)
    return found


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
        NOTHING,
        turns=[Link("search all of them", address("/requests", choice.query()))],
    )
