"""Prices: the rate table as of an instant, what changed, the list price beside the contract's, and what a million tokens really cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb

from etl.table import cell
from web import figures
from web.filters import Choice, choice_of, period_faults, period_links, periods, playground_link
from web.page import UNKNOWN, Cell, Field, Figure, Notice, Page, Table, amount, count, instant, instant_of, text
from web.reading import Asked

PATH = "/prices"
TOP = 500
# What a price may be bound to beside its meter: rows that differ in one of these alone are different prices.
CONDITIONS = ("service_tier", "min_input_tokens", "hours", "weekdays", "region", "endpoint", "marginal")
CONDITION_TITLES = ("tier", "from tokens", "hours", "weekdays", "region", "endpoint", "marginal")
_CONDITIONS = ", ".join(CONDITIONS)


@dataclass(frozen=True, slots=True)
class Paid:
    """What one model on one route was charged in all, in one currency."""

    model: str | None
    route: str | None
    currency: str
    requests: int
    read: int | None
    written: int | None
    charged: Decimal
    listed: Decimal | None

    def per_million(self, charge: Decimal | None) -> Decimal | None:
        """A figure to look at, so a quotient is allowed: nothing is booked from it. Null where nothing was counted."""
        tokens = (self.read or 0) + (self.written or 0)
        return (charge * 1_000_000 / tokens).quantize(Decimal("0.000000000001")) if charge is not None and tokens else None


def page(asked: Asked) -> Page:
    """Prices in force at an instant, by default the newest that the ledger has seen."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    given = {name: asked.one(name) for name in ("at", "model", "channel")}
    notices = period_faults(asked, known)
    at = instant_of(given["at"])
    if given["at"] and at is None:
        notices.append(Notice("bad", "as of: write an instant as 2026-11-23 or 2026-11-23T14:00 (UTC)"))
    if at is None:
        (at,) = db.execute(
            "SELECT coalesce((SELECT max(created_at) FROM ledger), (SELECT max(effective_from) FROM model_prices))"
        ).fetchall()[0]
    values = {"at": at, "model": given["model"], "channel": given["channel"]}
    rows = db.execute(
        f"""
        SELECT channel, model, meter, book, price, per, currency, {_CONDITIONS}, effective_from, effective_to, source, note
        FROM model_prices
        WHERE effective_from <= $at AND (effective_to IS NULL OR effective_to > $at)
            AND ($model = '' OR model = $model) AND ($channel = '' OR channel = $channel)
        ORDER BY model, channel, book, meter, service_tier NULLS FIRST, min_input_tokens NULLS FIRST, hours NULLS FIRST, line
        LIMIT 501
        """,
        values,
    ).fetchall()
    changes = db.execute(
        f"""
        WITH history AS (
            SELECT *, lag(unit_price) OVER w AS before, lag(price) OVER w AS price_before FROM model_prices
            WINDOW w AS (PARTITION BY channel, model, meter, book, {_CONDITIONS} ORDER BY effective_from)
        )
        SELECT effective_from, channel, model, meter, book, price_before, price, per, currency, source, {_CONDITIONS}
        FROM history WHERE before IS DISTINCT FROM unit_price AND before IS NOT NULL
            AND ($model = '' OR model = $model) AND ($channel = '' OR channel = $channel)
        ORDER BY effective_from DESC, channel, model, meter LIMIT 200
        """,
        {"model": given["model"], "channel": given["channel"]},
    ).fetchall()
    paid = _paid(db, choice)
    kept = {name: value for name, value in given.items() if value}
    return Page(
        title="Prices",
        lead=f"As of {at:%Y-%m-%d %H:%M:%S} UTC." if at else "",
        notices=notices,
        choices=[*period_links(choice, known, PATH, kept), playground_link(choice, PATH, kept)],
        fields=[Field("at", "as of (UTC)", given["at"], example="2026-11-23"), Field("model", "model", given["model"]), Field("channel", "channel", given["channel"])],
        hidden=[("period", str(choice.query()["period"])), *((("playground", "1"),) if choice.playground else ())],
        figures=_figures(paid),
        tables=[
            Table(
                "What a million tokens really cost, failures and fallbacks included",
                ("model", "route", "requests", "input tokens", "output tokens", "charged", "at list price", "per million tokens",
                 "per million at list"),
                [
                    (text(line.model), text(line.route), count(line.requests), count(line.read), count(line.written),
                     amount(line.charged, line.currency), amount(line.listed, line.currency), _per_million(line.charged, line),
                     _per_million(line.listed, line))
                    for line in paid
                ],
                "no priced request in this month",
                note="Charged, divided by the input and output tokens together; at list, where every request of the row has a list price.",
                name="paid",
            ),
            Table(
                "List against contract",
                ("channel", "model", "meter", *CONDITION_TITLES, "list", "contract", "difference", "of list", "per", "currency"),
                [
                    (text(channel), text(model), text(meter), *_conditions(bound), amount(listed, currency), amount(price, currency),
                     amount(price - listed, currency),
                     Cell(f"{price * 100 / listed:.1f} %", f"{price:f} of {listed:f}", right=True) if listed else Cell("-", right=True),
                     _per(per), text(currency))
                    for channel, model, meter, listed, price, per, currency, *bound in _beside_list(db, values)
                ],
                "no price in force has a list price beside it: rows of rates.csv with `list` as their book are the reference",
                name="list",
            ),
            Table(
                "In force",
                ("channel", "model", "meter", "book", "price", "per", "currency", *CONDITION_TITLES, "since", "until", "source", "note"),
                [
                    (text(channel), text(model), text(meter), text(book), amount(price, currency), _per(per), text(currency),
                     *_conditions(bound), instant(since), instant(until) if until else text(""), text(source or ""), text(note or ""))
                    for channel, model, meter, book, price, per, currency, *bound, since, until, source, note in rows[:TOP]
                ],
                "no price is in force",
                note=f"the first {TOP} are shown; name a model or a channel" if len(rows) > TOP else None,
            ),
            Table(
                "What changed",
                ("from", "channel", "model", "meter", "book", *CONDITION_TITLES, "before", "after", "per", "source"),
                [
                    (instant(since), text(channel), text(model), text(meter), text(book), *_conditions(bound), amount(before, currency),
                     amount(price, currency), _per(per), text(source or ""))
                    for since, channel, model, meter, book, before, price, per, currency, source, *bound in changes
                ],
                "no price has changed yet",
                name="changes",
            ),
        ],
    )  # fmt: skip


def _paid(db: duckdb.DuckDBPyConnection, choice: Choice) -> list[Paid]:
    """The dearest first; requests whose charge is unknown are left out."""
    where, values = choice.where()
    rows = db.execute(
        "SELECT public_model, route, currency, count(*), sum(input_tokens)::BIGINT, sum(output_tokens)::BIGINT, "
        "sum(final_charge)::DECIMAL(38,12) AS charged, CASE WHEN count(list_charge) = count(*) THEN sum(list_charge)::DECIMAL(38,12) END "
        f"FROM ledger WHERE {where} AND final_charge IS NOT NULL GROUP BY ALL ORDER BY charged DESC, public_model, route",
        values,
    ).fetchall()
    return [Paid(*row) for row in rows]


def _beside_list(db: duckdb.DuckDBPyConnection, values: dict[str, object]) -> list[tuple[Any, ...]]:
    """Each contract price in force with the list price of the same conditions, that of its own channel before that of any, per the same units."""
    return db.execute(
        f"""
        WITH force AS (SELECT * FROM model_prices WHERE effective_from <= $at AND (effective_to IS NULL OR effective_to > $at))
        SELECT c.channel, c.model, c.meter, (l.unit_price * c.per::DECIMAL(18,0))::DECIMAL(38,12), c.price, c.per, c.currency,
            {", ".join(f"c.{name}" for name in CONDITIONS)}
        FROM force c JOIN force l ON l.book = 'list' AND c.meter = l.meter AND c.currency = l.currency
            AND l.channel IN (c.channel, '*') AND l.model IN (c.model, '*')
            AND {" AND ".join(f"c.{name} IS NOT DISTINCT FROM l.{name}" for name in CONDITIONS)}
        WHERE c.book = 'charge' AND ($model = '' OR c.model = $model) AND ($channel = '' OR c.channel = $channel)
        QUALIFY row_number() OVER (PARTITION BY c.rate_id ORDER BY (l.channel = '*')::INTEGER, (l.model = '*')::INTEGER, l.rate_id) = 1
        ORDER BY c.model, c.channel, c.meter, c.line LIMIT 500
        """,
        values,
    ).fetchall()


def _conditions(bound: Sequence[Any]) -> list[Cell]:
    """The cells of CONDITIONS; empty where a price is not bound."""
    return [text("" if value is None or value is False else cell(value)) for value in bound]


def _per(units: Decimal) -> Cell:
    """How many units a price is for, as a person writes it."""
    return text(f"{units.normalize():f}")


def _figures(paid: Sequence[Paid]) -> list[Figure]:
    """What a million tokens cost beside what they would at list prices, one picture a currency."""
    found = []
    for currency in dict.fromkeys(line.currency for line in paid):
        rows = [
            (f"{cell(line.model)} {cell(line.route)}", {"charged": charged, "at list price": listed})
            for line in paid
            if line.currency == currency
            and (charged := line.per_million(line.charged)) is not None
            and (listed := line.per_million(line.listed)) is not None
        ]
        found += figures.beside("A million tokens as paid, and at list price", rows, currency)
    return found


def _per_million(charged: Decimal | None, line: Paid) -> Cell:
    quotient = line.per_million(charged)
    if charged is None:
        return UNKNOWN
    return Cell("-", "no tokens were counted", right=True, known=False) if quotient is None else amount(quotient, line.currency)
