"""Route health: per channel and model how it did, what it cost to fail, and whether the model served was the one asked for."""

from __future__ import annotations

from web.filters import choice_of, period_links, periods
from web.page import Page, Table, amount, count, ms, text
from web.reading import Asked

PATH = "/routes"


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
    days = db.execute(
        "SELECT day, served_channel, sum(requests)::BIGINT, sum(requests - ok)::BIGINT, sum(charged)::DECIMAL(38,12), any_value(currency) "
        "FROM usage_daily WHERE $period IS NULL OR strftime(day, '%Y-%m') = $period GROUP BY ALL ORDER BY day DESC, served_channel LIMIT 400",
        at,
    ).fetchall()
    return Page(
        title="Route health",
        lead="Latency is that of whole requests, by nearest rank. A fallback's cost in time is what passed before the backup was asked.",
        choices=period_links(choice, known, PATH),
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
                "no channel was tried",
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
                ("day", "channel", "requests", "not ok", "charged"),
                [(text(day), text(channel), count(n), count(bad), amount(charged, currency)) for day, channel, n, bad, charged, currency in days],
                "no day has anything",
            ),
        ],
    )  # fmt: skip
