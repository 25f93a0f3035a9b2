"""The statement of a month, whole or of one project or wallet: questions put to the published ledger, and their exact answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb

from etl.published import require_period
from etl.reconcile.month import Gap, gaps_of
from etl.table import jsonable
from schemas.errors import UsageError


class UnknownFilterError(UsageError):
    """No request of any month belongs to this project or wallet."""


@dataclass(frozen=True, slots=True)
class Part:
    """One table of the statement: a select over the published tables, and what it means when it is empty.

    `chosen` and `before` are the ledger's rows that the statement is about, of its month and of the one before it;
    `moved` are the entries of its wallets in the month.
    """

    key: str
    title: str
    sql: str
    none: str
    note: str = ""
    of_balances: bool = False  # about wallets as a whole, which a project has no part of its own in
    most: int = 20  # rows shown; the figures of the others are added up in one more row


CHOSEN = """
    chosen AS (
        SELECT * FROM ledger
        WHERE period = $period AND ($project IS NULL OR project = $project) AND ($wallet IS NULL OR wallet = $wallet)
    ),
    before AS (
        SELECT * FROM ledger
        WHERE period = $previous AND ($project IS NULL OR project = $project) AND ($wallet IS NULL OR wallet = $wallet)
    ),
    moved AS (
        SELECT s.* FROM wallet_statement s
        WHERE ($wallet IS NULL OR s.wallet = $wallet)
            AND s.entry_id IN (SELECT j.entry_id FROM journal j WHERE j.period = $period)
            AND ($project IS NULL OR s.request_id IN (SELECT c.request_id FROM chosen c))
    )
"""
# What is added up of requests, wherever they are grouped. A charge that is not known is counted, never summed as zero.
SUMS = """count(*) AS requests, sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens,
    sum(final_charge)::DECIMAL(38,12) AS charged, count(*) FILTER (WHERE final_charge IS NULL) AS charge_unknown"""


def _spend(key: str, title: str, /, **names: str) -> Part:
    """What was spent by one name or several; each is given as the column's name and what it is taken from."""
    chosen = ", ".join(f"{source} AS {name}" for name, source in names.items())
    sql = f"SELECT {chosen}, {SUMS} FROM chosen GROUP BY ALL ORDER BY charged DESC NULLS LAST, requests DESC, {', '.join(names)}"
    return Part(key, title, sql, "nothing was spent")


# The facts that each of the dearest requests is shown with, in this order.
REQUEST_FACTS = (
    "request_id",
    "created_at",
    "user_id",
    "project",
    "api_key_label",
    "public_model",
    "api_model",
    "upstream_model",
    "route",
    "primary_channel",
    "backup_channel",
    "retry_count",
    "fallback_count",
    "status",
    "outcome",
    "input_tokens",
    "output_tokens",
    "input_price_per_mtok",
    "output_price_per_mtok",
    "list_charge",
    "final_charge",
    "balance_bucket",
    "wallet",
    "failed_request_policy",
    "wallet_entry_id",
    "adjustment_amount",
    "adjustment_reason",
)

PARTS: tuple[Part, ...] = (
    Part(
        "statuses",
        "How requests ended",
        f"""SELECT status, {SUMS}, sum(attempt_count)::BIGINT AS attempts, sum(retry_count)::BIGINT AS retries,
            sum(fallback_count)::BIGINT AS fallbacks
        FROM chosen GROUP BY status ORDER BY status = 'ok' DESC, status""",
        "no requests",
    ),
    Part(
        "proof",
        "Balances",
        """SELECT p.wallet, p.bucket, p.opening, p.topups, p.bonuses, p.charges, p.suspense, p.adjustments, p.refunds, p.expiries, p.transfers,
            p.reversals, p.closing, p.snapshot, p.difference, p.first_broken_day
        FROM balance_proof p WHERE p.period = $period AND ($wallet IS NULL OR p.wallet = $wallet) ORDER BY p.wallet, p.bucket, p.currency""",
        "no wallet has moved yet",
        of_balances=True,
        most=1000,
    ),
    Part(
        "balances",
        "Balance over time",
        """SELECT wallet, bucket, posted_at, balance_after FROM (
            SELECT m.wallet, m.bucket, m.posted_at, m.balance_after, row_number() OVER (
                PARTITION BY m.wallet, m.bucket, date_trunc('hour', m.posted_at) ORDER BY m.posted_at DESC, m.entry_id DESC) AS latest
            FROM moved m) AS entries
        WHERE latest = 1 ORDER BY wallet, bucket, posted_at""",
        "nothing moved",
        of_balances=True,
        most=100_000,
    ),
    Part(
        "paid_from",
        "Paid from",
        """SELECT wallet, bucket, kind, count(*) AS entries, sum(amount)::DECIMAL(38,12) AS amount
        FROM moved GROUP BY ALL ORDER BY wallet, bucket, kind""",
        "nothing moved in any wallet",
    ),
    _spend("by_project", "By project", project="project"),
    _spend("by_model", "By model", model="coalesce(public_model, api_model)"),
    _spend("by_key", "By key", key="api_key_label", key_id="api_key_id"),
    _spend("by_route", "By route", route="route", channel="coalesce(served_channel, backup_channel, primary_channel)"),
    Part(
        "savings",
        "Against list prices",
        """SELECT coalesce(route, 'none') AS route, count(*) AS requests, sum(list_charge)::DECIMAL(38,12) AS list_price,
            sum(final_charge)::DECIMAL(38,12) AS charged, sum(savings)::DECIMAL(38,12) AS saved
        FROM chosen WHERE savings IS NOT NULL GROUP BY ALL ORDER BY saved DESC, route""",
        "no request ended ok with both prices known",
        "Requests that ended ok and whose charge and list price are both known; failed tries before them are in what was charged.",
    ),
    Part(
        "failures",
        "What did not end ok",
        f"SELECT status, outcome, {SUMS} FROM chosen WHERE status <> 'ok' GROUP BY ALL ORDER BY charged DESC NULLS LAST, requests DESC, status, outcome",
        "no request ended otherwise than well",
    ),
    Part(
        "failed_tries",
        "Tries that failed",
        """SELECT a.channel, a.outcome, c.status AS request_ended, count(*) AS tries, sum(a.charged)::DECIMAL(38,12) AS charged,
            count(*) FILTER (WHERE a.charged IS NULL) AS charge_unknown
        FROM attempts a JOIN chosen c ON a.request_id = c.request_id WHERE a.status <> 'ok'
        GROUP BY ALL ORDER BY charged DESC NULLS LAST, tries DESC, channel, outcome, request_ended""",
        "no try failed",
        "Each try by its own end, also those before a retry or a fallback that worked.",
    ),
    Part(
        "fallbacks",
        "Fallbacks",
        """SELECT primary_channel, backup_channel, count(*) AS requests, count(*) FILTER (WHERE status = 'ok') AS saved_by_it,
            sum(leakage)::DECIMAL(38,12) AS paid_for_failed_tries, sum(final_charge)::DECIMAL(38,12) AS charged,
            max(fallback_latency_ms) AS longest_added_ms
        FROM chosen WHERE fallback_count > 0 GROUP BY ALL ORDER BY requests DESC, primary_channel, backup_channel""",
        "no request fell back",
    ),
    Part(
        "top_requests",
        "Dearest requests",
        f"SELECT {', '.join(REQUEST_FACTS)} FROM chosen WHERE final_charge IS NOT NULL ORDER BY final_charge DESC, created_at, request_id LIMIT 10",
        "no request has a known charge",
    ),
    Part(
        "top_runs",
        "Dearest runs",
        f"SELECT run_id, {SUMS} FROM chosen WHERE run_id IS NOT NULL GROUP BY run_id ORDER BY charged DESC NULLS LAST, run_id LIMIT 10",
        "no request named a run",
    ),
    Part(
        "movers",
        "What changed most, by model",
        """SELECT coalesce(n.model, b.model) AS model,
            -- a model that was not used cost nothing; of a month that the ledger does not have nobody knows
            (CASE WHEN m.period IS NULL THEN NULL WHEN b.model IS NULL THEN 0 ELSE b.charged END)::DECIMAL(38,12) AS month_before,
            (CASE WHEN n.model IS NULL THEN 0 ELSE n.charged END)::DECIMAL(38,12) AS this_month,
            (this_month - month_before)::DECIMAL(38,12) AS change
        FROM (SELECT coalesce(public_model, api_model, 'none') AS model, sum(final_charge)::DECIMAL(38,12) AS charged FROM chosen GROUP BY 1) n
        FULL JOIN (SELECT coalesce(public_model, api_model, 'none') AS model, sum(final_charge)::DECIMAL(38,12) AS charged FROM before GROUP BY 1) b
            ON n.model = b.model
        LEFT JOIN periods m ON m.period = $previous
        ORDER BY abs(CASE WHEN m.period IS NULL THEN this_month ELSE change END) DESC NULLS LAST, model LIMIT 10""",
        "nothing was spent in either month",
    ),
    Part(
        "entries",
        "Entries that people made",
        """SELECT posted_at, wallet, bucket, kind, amount, balance_after, request_id, reason FROM moved
        WHERE kind NOT IN ('charge', 'suspense') ORDER BY posted_at, entry_id""",
        "nobody topped up, adjusted, refunded or let anything lapse",
        most=200,
    ),
    Part(
        "unpriced",
        "Charge not known",
        """SELECT u.channel, u.upstream_model AS model, u.meter, u.reason, count(DISTINCT u.request_id) AS requests, sum(u.quantity)::BIGINT AS quantity
        FROM unpriced u JOIN chosen c ON u.request_id = c.request_id GROUP BY ALL ORDER BY requests DESC, channel, model, meter, reason""",
        "every charge is known",
        "Not in any sum of this statement; what is known of it waits in suspense.",
    ),
)


def _sum(column: str, requests: str = "true") -> str:
    """What is known of a column: nothing where there are no such requests, null where there are some and it is known of none."""
    return f"CASE WHEN count(*) FILTER (WHERE {requests}) = 0 THEN 0 ELSE sum({column}) END"


# The figures set beside those of the month before, each an aggregate over the chosen rows; `month_begins` is the first instant of theirs.
FIGURES: tuple[tuple[str, str], ...] = (
    ("requests", "count(*)"),
    ("of these ended ok", "count(*) FILTER (WHERE status = 'ok')"),
    ("of these came late, for an earlier month", "count(*) FILTER (WHERE created_at < month_begins)"),
    ("tries", "coalesce(sum(attempt_count), 0)::BIGINT"),
    ("retries", "coalesce(sum(retry_count), 0)::BIGINT"),
    ("fallbacks", "coalesce(sum(fallback_count), 0)::BIGINT"),
    ("input tokens", _sum("input_tokens") + "::BIGINT"),
    ("output tokens", _sum("output_tokens") + "::BIGINT"),
    ("charged", _sum("final_charge") + "::DECIMAL(38,12)"),
    ("requests whose charge is not known", "count(*) FILTER (WHERE final_charge IS NULL)"),
    ("paid for failed tries", _sum("leakage") + "::DECIMAL(38,12)"),
    ("saved against list prices", _sum("savings", "status = 'ok'") + "::DECIMAL(38,12)"),
    ("reported by vendors", "sum(vendor_charge)::DECIMAL(38,12)"),
    ("which is more than booked by", "sum(vendor_difference)::DECIMAL(38,12)"),
)
# Columns that can be added up over the rows that a table does not show; amounts of several balances cannot.
ADDS = frozenset(
    "requests input_tokens output_tokens charged charge_unknown tries saved_by_it paid_for_failed_tries list_price saved".split()
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the month beside that of the month before, null where nobody knows it or the ledger has no month before."""

    name: str
    this_month: int | Decimal | None
    month_before: int | Decimal | None

    @property
    def change(self) -> int | Decimal | None:
        """What was added or taken away."""
        return None if self.this_month is None or self.month_before is None else self.this_month - self.month_before


@dataclass(frozen=True, slots=True)
class Answer:
    """One part answered: the rows shown, and how many others are added up in one row more."""

    part: Part
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    others: int
    rest: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A month for people, over everything or filtered."""

    period: str
    previous: str
    project: str | None
    wallet: str | None
    is_closed: bool
    blockers: int
    starts_at: datetime
    ends_at: datetime
    currency: str
    figures: tuple[Figure, ...]
    answers: dict[str, Answer]
    gaps: tuple[Gap, ...]  # vendors' bills beside the books; none with a filter or while closing, for no seal covers them

    def as_json(self) -> dict[str, Any]:
        """The statement for machines; amounts are texts, and the rows that a table does not show are added up under `others`."""
        return {
            "period": self.period,
            "status": "closed" if self.is_closed else "open",
            "filters": {"project": self.project, "wallet": self.wallet},
            "currency": self.currency,
            "figures": [
                {
                    "name": f.name,
                    "this_month": jsonable(f.this_month),
                    "month_before": jsonable(f.month_before),
                    "change": jsonable(f.change),
                }
                for f in self.figures
            ],
            **{key: [_named(answer.columns, row) for row in answer.rows] for key, answer in self.answers.items()},
            "bills": [gap.as_json() for gap in self.gaps],
            "others": {key: _named(answer.columns, answer.rest) for key, answer in self.answers.items() if answer.rest},
        }


def _named(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(columns, map(jsonable, row), strict=True))


def statement(
    connection: duckdb.DuckDBPyConnection, period: str, *, project: str | None = None, wallet: str | None = None, closing: bool = False
) -> Statement:
    """The statement of a month that the published ledger knows; `closing` while its close is writing it.

    Raises PeriodError, or UnknownFilterError where no month has anything of the project or wallet.
    """
    require_period(connection, period)
    _require(connection, "project", project)
    _require(connection, "wallet", wallet)
    asked = {"period": period, "previous": previous(period), "project": project, "wallet": wallet}
    ((starts_at, ends_at, status, blockers, currency),) = connection.execute(
        "SELECT starts_at, ends_at, status, blockers, currency FROM periods WHERE period = ?", [period]
    ).fetchall()
    parts = [part for part in PARTS if project is None or not part.of_balances]
    return Statement(
        period=period,
        previous=asked["previous"] or "",
        project=project,
        wallet=wallet,
        is_closed=closing or status == "closed",
        blockers=blockers,
        starts_at=starts_at,
        ends_at=ends_at,
        currency=currency,
        figures=_figures(connection, asked),
        answers={part.key: _answer(connection, part, asked) for part in parts},
        gaps=() if closing or project is not None or wallet is not None else gaps_of(connection, period),
    )


def previous(period: str) -> str:
    """The month before: 2026-01 gives 2025-12."""
    year, month = int(period[:4]), int(period[5:])
    return f"{year - 1}-12" if month == 1 else f"{year}-{month - 1:02d}"


def _require(connection: duckdb.DuckDBPyConnection, column: str, value: str | None) -> None:
    if value is None:
        return
    known = f"SELECT {column} FROM ledger" + (" UNION ALL SELECT wallet FROM wallet_statement" if column == "wallet" else "")
    names = [row[0] for row in connection.execute(f"SELECT DISTINCT {column} FROM ({known}) ORDER BY 1").fetchall() if row[0] is not None]
    if value not in names:
        raise UnknownFilterError(f"the ledger has nothing of {column} {value!r}", f"choose one of: {', '.join(names[:20]) or 'none yet'}")


def _figures(connection: duckdb.DuckDBPyConnection, asked: dict[str, str | None]) -> tuple[Figure, ...]:
    sums = ", ".join(sql for _, sql in FIGURES)
    found = [
        connection.execute(
            f"WITH {CHOSEN} SELECT {sums} FROM (SELECT c.*, p.starts_at AS month_begins FROM {rows} c JOIN periods p ON c.period = p.period)",
            asked,
        ).fetchall()[0]
        for rows in ("chosen", "before")
    ]
    has_before = connection.execute("SELECT 1 FROM periods WHERE period = ?", [asked["previous"]]).fetchone() is not None
    return tuple(
        Figure(name, this, before if has_before else None) for (name, _), this, before in zip(FIGURES, found[0], found[1], strict=True)
    )


def _answer(connection: duckdb.DuckDBPyConnection, part: Part, asked: dict[str, str | None]) -> Answer:
    cursor = connection.execute(f"WITH {CHOSEN} {part.sql}", asked)
    columns = tuple(column[0] for column in cursor.description or ())
    rows = tuple(cursor.fetchall())
    shown, others = rows[: part.most], rows[part.most :]
    rest = tuple(_added([row[i] for row in others]) if name in ADDS else None for i, name in enumerate(columns)) if others else None
    return Answer(part, columns, shown, len(others), rest)


def _added(values: Sequence[Any]) -> Any:
    """The sum of what is known, null where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
