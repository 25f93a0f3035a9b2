"""The balance summary: what a tired person wants to know after a build, read from the published ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from etl.cures import cures_of
from etl.table import jsonable, render
from schemas.home import Home


@dataclass(frozen=True, slots=True)
class Question:
    """One block of the summary: a select over the published tables, `$period` null for all periods."""

    key: str
    title: str
    sql: str
    none: str  # what an empty answer means
    then: str = ""  # what to do when the answer is not empty
    uncured: str = ""  # a select of meter and reason: the rows of `unpriced` whose cures are told too


# What still keeps a month open: what was acknowledged, or stands in a closed month, has no cure and needs none.
OPEN_UNPRICED = """
    SELECT DISTINCT u.meter, u.reason FROM unpriced u JOIN periods p ON u.period = p.period
    LEFT JOIN attempts t ON u.request_id = t.request_id AND u.attempt_ordinal = t.ordinal
    LEFT JOIN (SELECT json_extract_string(facts, '$.subject') AS subject FROM audit_trail WHERE event IN ('acknowledged', 'loss_acknowledged')) a
        ON a.subject = t.raw_request_id || '/' || t.raw_ordinal
    WHERE p.status <> 'closed' AND (u.meter IS NOT NULL OR a.subject IS NULL) AND ($period IS NULL OR u.period = $period)
"""

# A charge that is not known is counted, never summed as zero.
QUESTIONS: tuple[Question, ...] = (
    Question(
        "balances",
        "Balances",
        """
        WITH entries AS (
            SELECT s.wallet, s.bucket, s.kind, s.amount, j.period, j.currency
            FROM wallet_statement AS s JOIN (SELECT DISTINCT entry_id, period, currency FROM journal) AS j USING (entry_id)
            WHERE $period IS NULL OR j.period <= $period
        )
        SELECT wallet, bucket, currency,
            coalesce(sum(amount) FILTER (WHERE period < $period), 0)::DECIMAL(38,12) AS opening,
            coalesce(sum(amount) FILTER (WHERE kind = 'topup' AND (period >= $period OR $period IS NULL)), 0)::DECIMAL(38,12) AS topups,
            coalesce(sum(amount) FILTER (WHERE kind = 'charge' AND (period >= $period OR $period IS NULL)), 0)::DECIMAL(38,12) AS charges,
            coalesce(sum(amount) FILTER (WHERE kind = 'suspense' AND (period >= $period OR $period IS NULL)), 0)::DECIMAL(38,12) AS in_suspense,
            coalesce(sum(amount) FILTER (WHERE kind NOT IN ('topup', 'charge', 'suspense') AND (period >= $period OR $period IS NULL)), 0)
                ::DECIMAL(38,12) AS other,
            sum(amount)::DECIMAL(38,12) AS balance
        FROM entries GROUP BY ALL ORDER BY wallet, bucket, currency
        """,
        "no wallet has moved yet",
    ),
    Question(
        "requests",
        "Requests by status",
        """
        SELECT status, count(*) AS requests, sum(attempt_count)::BIGINT AS attempts, sum(retry_count)::BIGINT AS retries,
            sum(fallback_count)::BIGINT AS fallbacks, currency, sum(final_charge)::DECIMAL(38,12) AS charged,
            count(*) FILTER (WHERE final_charge IS NULL) AS charge_unknown
        FROM ledger WHERE $period IS NULL OR period = $period GROUP BY status, currency ORDER BY status = 'ok' DESC, status, currency
        """,
        "no requests",
    ),
    Question(
        "spend",
        "Spend by project and model",
        """
        SELECT coalesce(project, 'unknown') AS project, coalesce(public_model, api_model, 'none') AS model, count(*) AS requests,
            sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens, currency,
            sum(final_charge)::DECIMAL(38,12) AS charged
        FROM ledger WHERE $period IS NULL OR period = $period
        GROUP BY ALL ORDER BY charged DESC NULLS LAST, project, model
        """,
        "nothing was spent",
    ),
    Question(
        "prices",
        "List, charged and reported by the vendor",
        """
        SELECT coalesce(route, 'none') AS route, count(*) AS requests, currency,
            CASE WHEN count(list_charge) = count(*) THEN sum(list_charge)::DECIMAL(38,12) END AS list_charge,
            sum(final_charge)::DECIMAL(38,12) AS charged, sum(vendor_charge)::DECIMAL(38,12) AS vendor_charge,
            sum(savings)::DECIMAL(38,12) AS savings, sum(leakage)::DECIMAL(38,12) AS leakage,
            sum(vendor_difference)::DECIMAL(38,12) AS vendor_difference
        FROM ledger WHERE $period IS NULL OR period = $period GROUP BY ALL ORDER BY route, currency
        """,
        "no requests",
    ),
    Question(
        "failures",
        "Cost of requests that did not end well",
        """
        SELECT outcome, count(*) AS requests, currency, sum(final_charge)::DECIMAL(38,12) AS charged
        FROM ledger WHERE status <> 'ok' AND ($period IS NULL OR period = $period)
        GROUP BY ALL ORDER BY charged DESC NULLS LAST, outcome
        """,
        "no request ended otherwise than well",
    ),
    Question(
        "unpriced",
        "Charge unknown, held in suspense",
        """
        SELECT u.channel, u.upstream_model AS model, u.meter, u.reason, count(DISTINCT u.request_id) AS requests, sum(u.quantity)::BIGINT AS quantity
        FROM unpriced AS u WHERE $period IS NULL OR period = $period
        GROUP BY ALL ORDER BY requests DESC, channel, model, meter
        """,
        "every charge is known",
        uncured=OPEN_UNPRICED,
    ),
    Question(
        "periods",
        "Months",
        """
        SELECT period, status, requests, charged_requests, free_requests, suspense_requests, charged, suspense, blockers
        FROM periods WHERE $period IS NULL OR period = $period ORDER BY period
        """,
        "no month has anything in it",
    ),
    Question(
        "data_quality",
        "Worth knowing about the data",
        """
        SELECT kind, count(*) AS findings, sum(rows)::BIGINT AS rows, count(*) FILTER (WHERE blocks_close) AS block_the_close, min(detail) AS for_example
        FROM data_quality WHERE $period IS NULL OR period IS NULL OR period = $period
        GROUP BY kind ORDER BY block_the_close DESC, kind
        """,
        "nothing to report",
        'all of them: tokenledger sql "FROM data_quality"',
    ),
)


@dataclass(frozen=True, slots=True)
class Block:
    """One question answered."""

    question: Question
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    then: tuple[str, ...]  # what to do about them


@dataclass(frozen=True, slots=True)
class Summary:
    """Every question answered, and the newest request as an example of what can be looked up."""

    blocks: tuple[Block, ...]
    newest: str | None
    month: str | None

    def as_json(self) -> dict[str, Any]:
        """The blocks by key, each a list of objects; amounts are texts."""
        return {
            block.question.key: [dict(zip(block.columns, map(jsonable, row), strict=True)) for row in block.rows] for block in self.blocks
        }

    def as_text(self, home: Home) -> str:
        """One table a block, then what to type next for this home."""
        lines: list[str] = []
        command = home.command
        for block in self.blocks:
            lines += [block.question.title, render(block.columns, block.rows, indent="  ") if block.rows else f"  {block.question.none}"]
            lines += [*(f"  {home.typed(then)}" for then in block.then), ""]
        lines.append("Next")
        if self.newest is None:
            lines.append(f"  no requests yet: `{command} proxy` opens both doors, `{command} env` prints what puts clients behind them")
        else:
            lines.append(f"  {command} receipt {self.newest}")
            lines.append(f"  {command} export csv --period {self.month} --out ledger-{self.month}.csv")
        lines.append(f'  {command} sql "SHOW TABLES"')
        return "\n".join(lines)


def summarise(connection: duckdb.DuckDBPyConnection, period: str | None) -> Summary:
    """Every question answered over `period`, or over everything."""
    blocks = []
    for question in QUESTIONS:
        cursor = connection.execute(question.sql, {"period": period})
        columns = tuple(column[0] for column in cursor.description or ())
        rows = tuple(cursor.fetchall())
        then = [question.then] if rows and question.then else []
        if question.uncured:
            then += cures_of(connection.execute(question.uncured, {"period": period}).fetchall())
        blocks.append(Block(question, columns, rows, tuple(then)))
    newest = connection.execute(  # of the month, else of any: a month may have entries alone
        "SELECT request_id, period FROM ledger ORDER BY $period IS NULL OR period = $period DESC, created_at DESC, request_id LIMIT 1",
        {"period": period},
    ).fetchone()
    return Summary(tuple(blocks), *(newest or (None, None)))
