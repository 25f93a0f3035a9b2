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
from etl.table import jsonable, render
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

    def total(self, column: str) -> Decimal:
        """The sum of a column of amounts."""
        return sum((row[self.columns.index(column)] for row in self.rows), Decimal(0))


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
            booked, then = self.channels.total("booked"), self.channels.total("what_if")
            blocks.append("By route and channel\n" + render(self.channels.columns, self.channels.rows))
            blocks.append(f"booked {plain(booked)}, what if {plain(then)}, difference {plain(then - booked)}")
        if self.moved is not None:
            booked, then = self.moved.total("booked"), self.moved.total("on_route")
            blocks.append(f"As if sent to the route {self.route} at once\n" + render(self.moved.columns, self.moved.rows))
            blocks.append(f"booked {plain(booked)}, on the route {self.route} {plain(then)}, saved by not taking it {plain(then - booked)}")
            blocks.append(_MOVED_NOTE)
        return "\n\n".join(blocks)


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
                amount(sum((row[4] or ZERO for row in own if row[0] not in compared), ZERO)),
                len(failed),
                *(sum(row[place] or 0 for row in own if row[0] in compared) for place in (5, 6)),
                *(amount(value) for value in (booked, failed_cost, on_route, on_route - booked + failed_cost, on_route - booked)),
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


def _median(values: Sequence[int]) -> int | None:
    """The lower median."""
    return values[(len(values) - 1) // 2] if values else None


# Per channel tried. saved: list price less what was booked, over the requests that it served, less what its failures cost.
_COMPARED = """
    WITH month AS (SELECT request_id, served_channel, list_charge, final_charge, status, fallback_latency_ms FROM ledger WHERE period = $period),
    tries AS (
        SELECT a.channel, a.request_id, a.ordinal, a.status, a.reason, a.charged, m.list_charge, m.status AS ended, m.served_channel,
            CASE WHEN a.ended_at >= a.started_at THEN date_diff('microsecond', a.started_at, a.ended_at) // 1000 END AS took_ms
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
    GROUP BY ALL ORDER BY ALL
"""
