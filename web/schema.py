"""The published tables as the SQL box lists them, and queries to begin with."""

from __future__ import annotations

from schemas.ledger import TABLES, Table
from web.reading import Asked

EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "Spend by project and model",
        "select project, public_model, sum(final_charge) as charged, count(*) as requests\nfrom ledger group by all order by charged desc nulls last",
    ),
    ("Balances", "from wallet_balances"),
    (
        "Fallbacks and the time they added",
        "select request_id, primary_channel, backup_channel, retry_count, fallback_count, fallback_latency_ms\nfrom ledger where fallback_count > 0",
    ),
    (
        "What failures cost, by rule",
        "select outcome, failed_request_policy, count(*) as requests, sum(final_charge) as charged\nfrom failed_requests group by all order by all",
    ),
    ("What blocks the close", "select kind, subject, detail from data_quality where blocks_close"),
)


def schema(asked: Asked) -> list[Table]:
    """The tables that the published ledger has, with the meaning of each column."""
    there = {row[0] for row in asked.db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    return [table for table in TABLES if table.name in there]
