"""Prices: the rate table as of an instant, what changed, the list price beside the contract's, and what a million tokens really cost."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

from web.filters import choice_of, period_links, periods
from web.page import Cell, Field, Notice, Page, Table, amount, count, instant, text
from web.reading import Asked

PATH = "/prices"
TOP = 500


def page(asked: Asked) -> Page:
    """Prices in force at an instant, by default the newest that the ledger has seen."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    given = {name: asked.one(name) for name in ("at", "model", "channel")}
    notices = []
    try:
        at = dt.datetime.fromisoformat(given["at"]) if given["at"] else None
    except ValueError:
        at = None
        notices.append(Notice("bad", "as of: write an instant as 2026-11-23 or 2026-11-23T14:00 (UTC)"))
    if at is not None and at.tzinfo is not None:
        at = at.astimezone(dt.UTC).replace(tzinfo=None)
    if at is None:
        (at,) = db.execute(
            "SELECT coalesce((SELECT max(created_at) FROM ledger), (SELECT max(effective_from) FROM model_prices))"
        ).fetchall()[0]
    values = {"at": at, "model": given["model"], "channel": given["channel"]}
    rows = db.execute(
        """
        SELECT channel, model, meter, book, price, per, currency, service_tier, min_input_tokens, hours, weekdays, effective_from,
            effective_to, source, note
        FROM model_prices
        WHERE effective_from <= $at AND (effective_to IS NULL OR effective_to > $at)
            AND ($model = '' OR model = $model) AND ($channel = '' OR channel = $channel)
        ORDER BY model, channel, book, meter, service_tier NULLS FIRST, min_input_tokens NULLS FIRST, hours NULLS FIRST, line
        LIMIT 501
        """,
        values,
    ).fetchall()
    changes = db.execute(
        """
        WITH history AS (
            SELECT *, lag(unit_price) OVER w AS before, lag(price) OVER w AS price_before FROM model_prices
            WINDOW w AS (PARTITION BY channel, model, meter, book, service_tier, min_input_tokens, hours, weekdays ORDER BY effective_from)
        )
        SELECT effective_from, channel, model, meter, book, service_tier, price_before, price, per, currency, source
        FROM history WHERE before IS DISTINCT FROM unit_price AND before IS NOT NULL
            AND ($model = '' OR model = $model) AND ($channel = '' OR channel = $channel)
        ORDER BY effective_from DESC, channel, model, meter LIMIT 200
        """,
        {"model": given["model"], "channel": given["channel"]},
    ).fetchall()
    paid = db.execute(
        "SELECT public_model, route, count(*), sum(input_tokens)::BIGINT, sum(output_tokens)::BIGINT, sum(final_charge)::DECIMAL(38,12), "
        "sum(list_charge)::DECIMAL(38,12), any_value(currency) FROM ledger "
        "WHERE ($period IS NULL OR period = $period) AND final_charge IS NOT NULL GROUP BY ALL ORDER BY 6 DESC, public_model, route",
        {"period": choice.period},
    ).fetchall()
    return Page(
        title="Prices",
        lead=f"As of {at:%Y-%m-%d %H:%M:%S} UTC." if at else "",
        notices=notices,
        choices=period_links(choice, known, PATH),
        fields=[Field("at", "as of (UTC)", given["at"]), Field("model", "model", given["model"]), Field("channel", "channel", given["channel"])],
        hidden=[("period", str(choice.query()["period"]))],
        tables=[
            Table(
                "What a million tokens really cost, failures and fallbacks included",
                ("model", "route", "requests", "input tokens", "output tokens", "charged", "per million tokens", "at list price"),
                [
                    (text(model), text(route), count(n), count(read), count(written), amount(charged, currency),
                     _per_million(charged, (read or 0) + (written or 0), currency), amount(listed, currency))
                    for model, route, n, read, written, charged, listed, currency in paid
                ],
                "no priced request in this month",
            ),
            Table(
                "In force",
                ("channel", "model", "meter", "book", "price", "per", "currency", "tier", "from tokens", "hours", "weekdays", "since",
                 "until", "source", "note"),
                [
                    (text(channel), text(model), text(meter), text(book), amount(price, currency), text(f"{per:f}"), text(currency),
                     text(tier or ""), text(least or ""), text(hours or ""), text(weekdays or ""), instant(since),
                     instant(until) if until else text(""), text(source or ""), text(note or ""))
                    for channel, model, meter, book, price, per, currency, tier, least, hours, weekdays, since, until, source, note in rows[:TOP]
                ],
                "no price is in force",
                note=f"the first {TOP} are shown; name a model or a channel" if len(rows) > TOP else None,
            ),
            Table(
                "What changed",
                ("from", "channel", "model", "meter", "book", "tier", "before", "after", "per", "source"),
                [
                    (instant(since), text(channel), text(model), text(meter), text(book), text(tier or ""), amount(before, currency),
                     amount(price, currency), text(f"{per:f}"), text(source or ""))
                    for since, channel, model, meter, book, tier, before, price, per, currency, source in changes
                ],
                "no price has changed yet",
                name="changes",
            ),
        ],
    )  # fmt: skip


def _per_million(charged: object, tokens: int, currency: str | None) -> Cell:
    """A figure to look at, so a quotient is allowed: nothing is booked from it."""
    if not isinstance(charged, Decimal) or not tokens:
        return Cell("-", "no tokens were counted", right=True, known=False)
    return amount((charged * 1_000_000 / tokens).quantize(Decimal("0.000000000001")), currency)
