"""What if: a month built again in a separate book with other prices or policies, or sent to another route. The real book is untouched.

The separate home is a folder that is gone afterwards: the book is copied into it, raw/ and spool/ are only read. Nothing of
it is signed, sealed or published.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from etl.build import build
from etl.closed import bounds
from etl.published import open_ledger, require_period
from etl.reconcile.pricing import Pricer
from etl.reconcile.records import ZERO, Try
from etl.reconcile.step import read_requests
from etl.table import UNKNOWN, jsonable, render
from schemas.book import Book, load_book
from schemas.bookfile import BookError
from schemas.errors import UsageError
from schemas.home import Home
from schemas.money import amount, plain


class ChangeError(UsageError):
    """A file that was to take the place of one of the book's cannot be read."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One table of the answer."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def named(self) -> list[dict[str, Any]]:
        """Rows for machines; money as text."""
        return [dict(zip(self.columns, map(jsonable, row), strict=True)) for row in self.rows]

    def total(self, column: str) -> str:
        """The sum of what is known in a column of amounts, as a text."""
        found = _sum([row[self.columns.index(column)] for row in self.rows])
        return UNKNOWN if found is None else plain(found)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A month as booked beside what it would have been: under other prices by channel tried, on another route by channel first tried."""

    period: str
    route: str | None
    channels: Shown | None  # None where only a route was asked for
    moved: Shown | None

    def as_json(self) -> dict[str, Any]:
        """For machines; money as text."""
        found: dict[str, Any] = {"period": self.period}
        if self.channels is not None:
            found["channels"] = self.channels.named()
        if self.moved is not None:
            found |= {"route": self.route, "moved": self.moved.named()}
        return found

    def as_text(self) -> str:
        """The page."""
        blocks = [f"{self.period}; nothing real was changed"]
        if self.channels is not None:
            booked, then, difference = map(self.channels.total, ("booked", "what_if", "difference"))
            blocks.append("By route and channel\n" + render(self.channels.columns, self.channels.rows))
            blocks.append(f"booked {booked}, what if {then}, difference {difference}")
            blocks.append(_CHANNELS_NOTE)
        if self.moved is not None:
            booked, then, saved = map(self.moved.total, ("booked", "on_route", "saved"))
            blocks.append(f"As if sent to the route {self.route} at once\n" + render(self.moved.columns, self.moved.rows))
            blocks.append(f"booked {booked}, on the route {self.route} {then}, saved by not taking it {saved}")
            blocks.append(_MOVED_NOTE)
        return "\n\n".join(blocks)


_CHANNELS_NOTE = """booked, failed_cost and what_if are sums of what is known. difference is that of the tries whose charge is known both times; list_price and
saved leave out the tries that are not_compared: their charge is not known, or their request ended ok and its charge or list price is not."""
_MOVED_NOTE = """Requests are listed by the channel tried first. Compared are those that ended ok, whose charge is known and for which the route has a
channel and a price; of the others stands what was booked. The usage is that of the try that served, in one try without failure. saved is price_saved less failed_cost.
added_ms passed before the serving try began. Free allowances of the other route are not counted."""


def what_if(home: Home, period: str, *, rates: Path | None = None, policies: Path | None = None, route: str | None = None) -> WhatIf:
    """Price a month again with these files in the place of the book's, and as if its requests had gone to a route at once.

    Raises NoLedgerError, PeriodError, ChangeError or BookError.
    """
    with open_ledger(home) as connection:
        require_period(connection, period)
    with tempfile.TemporaryDirectory(prefix="tokenledger-whatif-") as folder:
        other = Home(Path(folder))
        shutil.copytree(home.book, other.book, ignore=shutil.ignore_patterns("bills"))
        book = _changed(other, {name: path for name, path in (("rates.csv", rates), ("failed_requests.csv", policies)) if path is not None})
        repriced = None if route is not None and rates is None and policies is None else _repriced(home, other, period)
        with open_ledger(home) as connection:
            moved = None if route is None else _moved(connection, book, period, route)
    return WhatIf(period, route, repriced, moved)


def _changed(other: Home, changes: Mapping[str, Path]) -> Book:
    """Put these files in the place of the other book's. Raises ChangeError, or BookError, which names a file as it was given."""
    for name, path in changes.items():
        try:
            (other.book / name).write_bytes(path.read_bytes())
        except OSError as error:
            raise ChangeError(f"{path} cannot be read ({error.strerror})", f"name a file like book/{name}") from None
    try:
        return load_book(other.book)
    except BookError as error:
        given = {f"{other.book.name}/{name}": str(path) for name, path in changes.items()}
        raise BookError(replace(problem, file=given.get(problem.file, problem.file)) for problem in error.problems) from None


def _repriced(home: Home, other: Home, period: str) -> Shown:
    """Build the other book over the same records, and set its charges beside the real ones."""
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
        cursor = connection.execute(_COMPARED, {"period": period})
        return Shown(tuple(column[0] for column in cursor.description or ()), cursor.fetchall())


MOVED = tuple(
    "first_channel requests compared not_known not_known_booked failed_tries retries fallbacks booked failed_cost on_route price_saved saved "
    "added_ms p50_ms route_p50_ms".split()
)


def _moved(connection: duckdb.DuckDBPyConnection, book: Book, period: str, route: str) -> Shown:
    """Each channel that requests were first sent to: what they cost with everything that failed, and on the route at once."""
    pricer = Pricer.of_book(book)
    by_name = {channel.name: channel for channel in book.channels}
    month = bounds(book.settings.timezone, period)
    tried = {request.request_id: request for request in read_requests(connection, sorted(by_name), [period], [month])}
    asked = connection.execute(
        "SELECT request_id, coalesce(primary_channel, 'none'), api_model, status, final_charge, retry_count, fallback_count, latency_ms, "
        "route FROM ledger WHERE period = ? ORDER BY request_id",
        [period],
    ).fetchall()
    taken = sorted(ms for *_, status, _, _, _, ms, own in asked if status == "ok" and own == route and ms is not None)
    rows = []
    for first in sorted({row[1] for row in asked}):
        own = [row for row in asked if row[1] == first]
        known = []
        for request_id, _, api_model, status, charge, *_ in own:
            request = tried.get(request_id)
            target = _target(book, api_model, request.main if request else None, route)
            if request is None or status != "ok" or charge is None or target is None:
                continue
            cost = pricer.total(pricer.elsewhere(request.main, *target))
            if cost is not None:
                known.append((request, charge, cost))
        failed = [t for request, _, _ in known for t in request.tries if t is not request.main]
        booked = sum((charge for _, charge, _ in known), ZERO)
        failed_cost = sum((t.amount for t in failed), ZERO)
        on_route = sum((cost for _, _, cost in known), ZERO)
        compared = {request.request_id for request, _, _ in known}
        rows.append(
            (
                *(first, len(own), len(known), len(own) - len(known)),
                _sum([row[4] for row in own if row[0] not in compared]),
                len(failed),
                *(sum(row[place] or 0 for row in own if row[0] in compared) for place in (5, 6)),
                *(
                    amount(value) if known else None
                    for value in (booked, failed_cost, on_route, on_route - booked + failed_cost, on_route - booked)
                ),
                sum(r.main.started_at - min(t.started_at for t in r.tries) for r, _, _ in known) // 1000,
                _median(sorted(row[7] for row in own if row[0] in compared and row[7] is not None)),
                _median(taken),
            )
        )
    return Shown(MOVED, rows)


def _target(book: Book, api_model: str | None, one: Try | None, route: str) -> tuple[str, str] | None:
    """The channel of the route that a model goes to, and its id there; a model that is not listed keeps its id on the default channel."""
    by_name = {channel.name: channel for channel in book.channels}
    listed = next((model for model in book.models if model.api == api_model), None)
    if listed is not None:
        return next(((way.name, way.upstream) for way in listed.channel if by_name[way.name].route == route), None)
    default = book.default_channel
    return (default.name, one.model) if default and default.route == route and one and one.model else None


def _sum(values: Sequence[Decimal | None]) -> Decimal | None:
    """What is known of these amounts; null where there are some and none is known, for that is not zero."""
    known = [value for value in values if value is not None]
    return amount(sum(known, ZERO)) if known or not values else None


def _median(values: Sequence[int]) -> int | None:
    """The lower median."""
    return values[(len(values) - 1) // 2] if values else None


# Per channel tried. saved: list price less what was booked, over the requests that it served, less what its failures cost. A sum of
# which no part is known is null; what did not happen cost nothing.
_COMPARED = """
    WITH month AS (SELECT request_id, served_channel, list_charge, savings, status FROM ledger WHERE period = $period),
    tries AS (
        SELECT a.channel, a.request_id, a.ordinal, a.reason, a.charged, m.list_charge, a.status <> 'ok' AS is_failed,
            a.status = 'ok' AND a.channel IS NOT DISTINCT FROM m.served_channel AS is_served,
            a.charged IS NOT NULL AND (m.status <> 'ok' OR m.savings IS NOT NULL) AS is_compared,
            CASE WHEN a.ended_at >= a.started_at THEN date_diff('microsecond', a.started_at, a.ended_at) // 1000 END AS took_ms
        FROM attempts a JOIN month m USING (request_id)
    ),
    then_tries AS (SELECT request_id, ordinal, charged FROM other.attempts),
    sums AS (
        SELECT
            coalesce(r.route, 'unknown') AS route, t.channel, count(*) AS tries,
            count(*) FILTER (WHERE is_failed) AS failed,
            count(*) FILTER (WHERE t.reason IN ('client_retry', 'retry')) AS retries,
            CASE WHEN failed = 0 THEN 0 ELSE sum(t.took_ms) FILTER (WHERE is_failed) END::BIGINT AS failed_ms,
            sum(t.charged)::DECIMAL(38,12) AS booked,
            count(*) FILTER (WHERE t.charged IS NULL) AS booked_unknown,
            CASE WHEN failed = 0 THEN 0 ELSE sum(t.charged) FILTER (WHERE is_failed) END::DECIMAL(38,12) AS failed_cost,
            CASE WHEN count(*) FILTER (WHERE is_served) = 0 THEN 0 ELSE sum(t.list_charge) FILTER (WHERE is_served AND is_compared) END
                ::DECIMAL(38,12) AS list_price,
            (list_price - sum(t.charged) FILTER (WHERE is_compared))::DECIMAL(38,12) AS saved,
            count(*) FILTER (WHERE NOT is_compared) AS not_compared,
            sum(o.charged)::DECIMAL(38,12) AS what_if,
            sum(o.charged - t.charged)::DECIMAL(38,12) AS difference,
            count(*) FILTER (WHERE o.charged IS NULL) AS what_if_unknown
        FROM tries t
        LEFT JOIN book_route r ON t.channel = r.channel
        LEFT JOIN then_tries o ON t.request_id = o.request_id AND t.ordinal = o.ordinal
        GROUP BY r.route, t.channel
    )
    SELECT * FROM sums ORDER BY ALL
"""
