"""Route health: per channel and model how it did, what it cost to fail, and whether the model served was the one asked for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from schemas.counts import counted
from web import figures
from web.figures import as_decimal
from web.filters import choice_of, first_day, period_faults, period_links, periods
from web.page import Cell, Figure, Notice, Page, Table, amount, count, ms, text
from web.reading import Asked

PATH = "/routes"
MOST_DAYS = 400


@dataclass(frozen=True, slots=True)
class Day:
    """How one channel did on one UTC day; times in milliseconds, of tries that ended ok, null where none was measured."""

    date: dt.date
    channel: str
    tries: int
    ok: int
    retries: int
    fallbacks: int
    p50: int | None
    p95: int | None
    first: int | None
    cost: Decimal | None

    @property
    def share(self) -> Decimal:
        """Of a hundred tries, how many ended ok: a figure to look at."""
        return (Decimal(self.ok * 100) / self.tries).quantize(Decimal("0.01"))


def page(asked: Asked) -> Page:
    """One month of routes, with their months before."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    at = {"period": choice.period}
    health = db.execute(
        "SELECT period, channel, model, requests, ok, failed, retries, fallbacks, p50_ms, p95_ms, first_token_p50_ms, fallback_added_ms, "
        "failed_cost FROM route_health WHERE $period IS NULL OR period = $period ORDER BY requests DESC, channel, model, period",
        at,
    ).fetchall()
    substitutions = db.execute(
        "SELECT s.channel, s.sent, s.served, s.verdict, s.source, count(*) FROM model_substitution s JOIN ledger l USING (request_id) "
        "WHERE s.verdict = 'different' AND ($period IS NULL OR l.period = $period) GROUP BY ALL ORDER BY count(*) DESC, s.channel, s.sent, s.served, s.source",
        at,
    ).fetchall()
    days = _days(asked, choice.period)
    since = first_day(choice.period)
    ((currency,),) = db.execute("SELECT coalesce(any_value(currency), '') FROM periods").fetchall()
    different = sum(row[-1] for row in substitutions)
    return Page(
        title="Route health",
        lead="Times are those of tries that ended ok, start to end, by nearest rank. What a fallback added is the time that passed before the backup was asked.",
        choices=period_links(choice, known, PATH),
        notices=[
            *period_faults(asked, known),
            *([Notice("bad", counted(different, "try was", "tries were") + " answered by another model than the one sent", "#substitution")] if different else []),
        ],
        figures=[*_figures(days, currency, since), *figures.by_day("Time that fallbacks added, p50", _added(asked, choice.period), "ms", since)],
        tables=[
            Table(
                "Channels and models",
                ("month", "channel", "model", "requests", "ok", "failed", "retries", "fallbacks", "p50", "p95", "first token p50",
                 "fallback added", "cost of failures"),
                [
                    (text(period), text(channel), text(model), count(requests), count(ok), count(failed), count(retries), count(fallbacks),
                     ms(p50), ms(p95), ms(first), ms(added), amount(cost))
                    for period, channel, model, requests, ok, failed, retries, fallbacks, p50, p95, first, added, cost in health
                ],
                "no channel was tried: send a request through a door, then run `make ledger`",
            ),
            Table(
                "Another model served than was sent",
                ("channel", "sent", "served", "verdict", "told by", "attempts"),
                [(text(c), text(sent), text(served), text(verdict), text(source), count(n)) for c, sent, served, verdict, source, n in substitutions],
                "no substitution was seen",
                name="substitution",
            ),
            Table(
                "Day by day (UTC)",
                ("day", "channel", "tries", "ok", "not ok", "ok of a hundred", "retries", "fallbacks", "p50", "p95", "first token p50",
                 "cost of failures"),
                [
                    (text(day.date), text(day.channel), count(day.tries), count(day.ok), count(day.tries - day.ok),
                     Cell(f"{day.share:.2f}", f"{day.ok} of {day.tries}", right=True), count(day.retries), count(day.fallbacks),
                     ms(day.p50), ms(day.p95), ms(day.first), amount(day.cost))
                    for day in reversed(days[-MOST_DAYS:])
                ],
                "no day has anything",
                note=f"the newest {MOST_DAYS} are shown" if len(days) > MOST_DAYS else None,
                name="days",
            ),
        ],
    )  # fmt: skip


def _days(asked: Asked, period: str | None) -> list[Day]:
    """Each UTC day of the chosen time and channel, the oldest first. Percentiles are by nearest rank, as in route_health."""
    rows = asked.db.execute(
        """
        WITH bounds AS (SELECT min(starts_at) AS begins, max(ends_at) AS ends FROM periods WHERE $period IS NULL OR period = $period),
        tries AS (
            SELECT started_at::DATE AS day, channel, status, reason, charged,
                CASE WHEN status = 'ok' AND ended_at >= started_at THEN date_diff('microsecond', started_at, ended_at) // 1000 END AS took,
                CASE WHEN status = 'ok' AND first_token_at >= started_at THEN date_diff('microsecond', started_at, first_token_at) // 1000 END AS first
            FROM attempts WHERE started_at >= (SELECT begins FROM bounds) AND started_at < (SELECT ends FROM bounds)
        )
        SELECT day, channel, count(*), count(*) FILTER (WHERE status = 'ok'),
            count(*) FILTER (WHERE reason IN ('client_retry', 'retry', 'without_usage_option')), count(*) FILTER (WHERE reason = 'fallback'),
            quantile_disc(took, 0.5), quantile_disc(took, 0.95), quantile_disc(first, 0.5),
            CASE WHEN count(*) FILTER (WHERE status <> 'ok') = 0 THEN 0 ELSE sum(charged) FILTER (WHERE status <> 'ok') END::DECIMAL(38,12)
        FROM tries GROUP BY day, channel ORDER BY day, channel
        """,
        {"period": period},
    ).fetchall()
    return [Day(*row) for row in rows]


def _added(asked: Asked, period: str | None) -> list[tuple[dt.date, str, Decimal]]:
    """Each UTC day and backup channel: the median time that passed before it was asked, of requests that it served."""
    return asked.db.execute(
        "SELECT created_at::DATE AS day, served_channel, quantile_disc(fallback_latency_ms, 0.5)::DECIMAL(38,0) FROM ledger "
        "WHERE fallback_latency_ms IS NOT NULL AND served_channel IS NOT NULL AND ($period IS NULL OR period = $period) "
        "GROUP BY ALL ORDER BY day, served_channel",
        {"period": period},
    ).fetchall()


def _figures(days: Sequence[Day], currency: str, since: dt.date | None) -> list[Figure]:
    """How the routes did from day to day."""
    return [
        *figures.by_day("Tries that ended ok, of a hundred", [(day.date, day.channel, day.share) for day in days], "%", since),
        *figures.by_day(
            "Time of an ok try, p50 and p95",
            [
                (day.date, f"{day.channel} {name}", as_decimal(value))
                for day in days
                for name, value in (("p50", day.p50), ("p95", day.p95))
            ],
            "ms",
            since,
        ),
        *figures.by_day("Time to the first output, p50", [(day.date, day.channel, as_decimal(day.first)) for day in days], "ms", since),
        *figures.by_day(
            "Retries and fallbacks each day",
            [
                (day.date, f"{day.channel} {name}", Decimal(value))
                for day in days
                for name, value in (("retries", day.retries), ("fallbacks", day.fallbacks))
                if value
            ],
            "tries",
            since,
            stacked=True,
        ),
        *figures.by_day(
            "Cost of failures each day", [(day.date, day.channel, day.cost) for day in days if day.cost], currency, since, stacked=True
        ),
    ]
