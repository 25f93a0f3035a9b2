"""What each registered key was charged by month, out of a built or published ledger."""

from __future__ import annotations

import duckdb

from schemas.spend import Spend


def spending(connection: duckdb.DuckDBPyConnection) -> Spend:
    """By key id and the month that a request is booked in."""
    rows = connection.execute(
        "SELECT api_key_id, period, sum(charged)::DECIMAL(38,12) FROM key_usage WHERE api_key_id IS NOT NULL AND charged IS NOT NULL GROUP BY ALL"
    ).fetchall()
    return {(key, period): charged for key, period, charged in rows}
