"""What if: a month built again in a separate book with other prices or policies; and what a route really saved. The real book is untouched.

The separate home is a folder that is gone afterwards: the book is copied into it, raw/ and spool/ are only read. Nothing of
it is signed, sealed or published.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl.build import build
from etl.published import open_ledger, require_period
from etl.table import jsonable, render
from schemas.book import load_book
from schemas.errors import UsageError
from schemas.home import Home


class ChangeError(UsageError):
    """A file that was to take the place of one of the book's cannot be read."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Each route and channel of a month, as booked and as it would be; what its failures cost, and the time they took."""

    period: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def as_json(self) -> dict[str, Any]:
        """For machines; money as text."""
        named = [dict(zip(self.columns, map(jsonable, row), strict=True)) for row in self.rows]
        return {"period": self.period, "channels": named}

    def as_text(self) -> str:
        """The page."""
        sums = [sum((row[self.columns.index(name)] for row in self.rows), Decimal(0)) for name in ("booked", "what_if")]
        total = f"booked {sums[0]}, what if {sums[1]}, difference {sums[1] - sums[0]}"
        return f"{self.period}, by route and channel; nothing real was changed\n\n{render(self.columns, self.rows)}\n\n{total}"


def what_if(home: Home, period: str, *, rates: Path | None = None, policies: Path | None = None, route: str | None = None) -> WhatIf:
    """Price a month again with these files in the place of the book's; only one route's channels where it is named.

    Raises NoLedgerError, PeriodError, ChangeError or BookError.
    """
    with open_ledger(home) as connection:
        require_period(connection, period)
    with tempfile.TemporaryDirectory(prefix="tokenledger-whatif-") as folder:
        other = Home(Path(folder))
        shutil.copytree(home.book, other.book, ignore=shutil.ignore_patterns("bills"))
        for name, path in (("rates.csv", rates), ("failed_requests.csv", policies)):
            if path is not None:
                try:
                    (other.book / name).write_bytes(path.read_bytes())
                except OSError as error:
                    raise ChangeError(f"{path} cannot be read ({error.strerror})", f"name a file like book/{name}") from None
        for mine, theirs in ((home.raw, other.raw), (home.spool, other.spool)):
            if mine.exists():
                theirs.symlink_to(mine)
        build(other)
        with open_ledger(home) as connection:
            quoted = str(other.ledger_file).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS other (READ_ONLY)")
            channels = load_book(home.book).channels
            routes = pa.table({"channel": [c.name for c in channels], "route": [str(c.route) for c in channels]})
            connection.register("book_route", routes)
            cursor = connection.execute(_COMPARED, {"period": period, "route": route})
            columns = tuple(column[0] for column in cursor.description or ())
            return WhatIf(period, columns, cursor.fetchall())


# Per channel tried. saved: list price less what was booked, over the requests that it served, less what its failures cost.
_COMPARED = """
    WITH month AS (SELECT request_id, served_channel, list_charge, final_charge, status, fallback_latency_ms FROM ledger WHERE period = $period),
    tries AS (
        SELECT a.channel, a.request_id, a.ordinal, a.status, a.reason, a.charged, m.list_charge, m.status AS ended, m.served_channel,
            date_diff('microsecond', a.started_at, a.ended_at) // 1000 AS took_ms
        FROM attempts a JOIN month m USING (request_id)
    ),
    then_tries AS (SELECT request_id, ordinal, charged FROM other.attempts)
    SELECT
        coalesce(r.route, 'unknown') AS route, t.channel, count(*) AS tries,
        count(*) FILTER (WHERE t.status <> 'ok') AS failed,
        count(*) FILTER (WHERE t.reason IN ('client_retry', 'retry')) AS retries,
        coalesce(sum(t.took_ms) FILTER (WHERE t.status <> 'ok'), 0)::BIGINT AS failed_ms,
        coalesce(sum(t.charged), 0)::DECIMAL(38,12) AS booked,
        coalesce(sum(t.charged) FILTER (WHERE t.status <> 'ok'), 0)::DECIMAL(38,12) AS failed_cost,
        coalesce(sum(t.list_charge) FILTER (WHERE t.status = 'ok' AND t.channel = t.served_channel), 0)::DECIMAL(38,12) AS list_price,
        (coalesce(sum(t.list_charge) FILTER (WHERE t.status = 'ok' AND t.channel = t.served_channel), 0) - coalesce(sum(t.charged), 0))
            ::DECIMAL(38,12) AS saved,
        coalesce(sum(o.charged), 0)::DECIMAL(38,12) AS what_if,
        (coalesce(sum(o.charged), 0) - coalesce(sum(t.charged), 0))::DECIMAL(38,12) AS difference,
        count(*) FILTER (WHERE o.charged IS NULL) AS what_if_unknown
    FROM tries t
    LEFT JOIN book_route r ON t.channel = r.channel
    LEFT JOIN then_tries o ON t.request_id = o.request_id AND t.ordinal = o.ordinal
    WHERE $route IS NULL OR r.route = $route
    GROUP BY ALL ORDER BY ALL
"""
