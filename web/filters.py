"""The query string as a choice of requests: which month, and how far down from the whole; one place that turns it into SQL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb

from web.page import Link, Notice, address
from web.reading import Asked

EVERY = "all"
PLAYGROUND = "playground"
# Requests that the playground sent carry this tag; they are left out of totals unless asked for.
# The plain search is there because it is cheap: only a text that holds the name is taken apart.
NOT_PLAYGROUND = f"(tags IS NULL OR NOT contains(tags, '\"{PLAYGROUND}\"') OR json_extract_string(tags, '$.{PLAYGROUND}') IS NULL)"


@dataclass(frozen=True, slots=True)
class Dimension:
    """One step down from the whole."""

    name: str  # in the address
    column: str
    label: str
    plural: str


DIMENSIONS = (
    Dimension("project", "project", "project", "projects"),
    Dimension("user", "user_id", "user", "users"),
    Dimension("key", "api_key_label", "key", "keys"),
    Dimension("model", "public_model", "model", "models"),
    Dimension("route", "route", "route", "routes"),
    Dimension("channel", "served_channel", "channel", "channels"),
    Dimension("run", "run_id", "run", "runs"),
)
BY_NAME = {dimension.name: dimension for dimension in DIMENSIONS}
WAY_DOWN = ("project", "key", "model", "route", "run")


@dataclass(frozen=True, slots=True)
class Choice:
    """What the address asks for: a month or all of them, and a value (None: not known) of each chosen dimension."""

    period: str | None
    chosen: Mapping[str, str | None] = field(default_factory=dict)
    playground: bool = False

    def where(self) -> tuple[str, dict[str, Any]]:
        """The condition on `ledger` and its parameters."""
        parts = [] if self.playground else [NOT_PLAYGROUND]
        values: dict[str, Any] = {}
        if self.period is not None:
            parts.append("period = $period")
            values["period"] = self.period
        for name, value in self.chosen.items():
            parts.append(f"{BY_NAME[name].column} IS NOT DISTINCT FROM $d_{name}")
            values[f"d_{name}"] = value
        return " AND ".join(parts) or "true", values

    def query(self) -> dict[str, str | Sequence[str]]:
        """The same choice as a query string."""
        query: dict[str, str | Sequence[str]] = {"period": self.period or EVERY}
        query |= {name: value for name, value in self.chosen.items() if value is not None}
        unknown = [name for name, value in self.chosen.items() if value is None]
        return query | ({"unknown": unknown} if unknown else {}) | ({PLAYGROUND: "1"} if self.playground else {})

    def with_(self, name: str, value: str | None) -> Choice:
        """One step further down."""
        return replace(self, chosen={**self.chosen, name: value})

    def trail(self, path: str) -> list[Link]:
        """From the whole down to here, each step a link."""
        above = replace(self, chosen={})
        links = [Link(self.period or "all months", address(path, above.query()))]
        for name, value in self.chosen.items():
            above = above.with_(name, value)
            links.append(Link(f"{BY_NAME[name].label}: {'unknown' if value is None else value}", address(path, above.query())))
        return [*links[:-1], replace(links[-1], here=True)]


def choice_of(asked: Asked, periods: Sequence[str]) -> Choice:
    """The choice in a query string; without a known month it is the newest one, with `all` every one."""
    month = asked.one("period")
    period = month if month in periods else (None if month == EVERY or not periods else periods[-1])
    chosen: dict[str, str | None] = {}
    unknown = asked.query.get("unknown", ())
    for dimension in DIMENSIONS:
        value = asked.one(dimension.name)
        if value:
            chosen[dimension.name] = value
        elif dimension.name in unknown:
            chosen[dimension.name] = None
    return Choice(period, chosen, asked.one(PLAYGROUND) == "1")


def period_faults(asked: Asked, known: Sequence[str]) -> list[Notice]:
    """A month in the address that the ledger does not have, and which one is shown in its place."""
    month = asked.one("period")
    if month in ("", EVERY, *known):
        return []
    return [Notice("bad", f"period: the ledger has no month {month}" + (f"; {known[-1]} is shown" if known else ""))]


def periods(db: duckdb.DuckDBPyConnection) -> list[str]:
    """Every month that the ledger knows, in order."""
    return [row[0] for row in db.execute("SELECT period FROM periods ORDER BY period").fetchall()]


def first_day(period: str | None) -> dt.date | None:
    """The first day of a month; none of all of them."""
    return dt.date.fromisoformat(f"{period}-01") if period else None


def period_links(choice: Choice, known: Sequence[str], path: str, kept: Mapping[str, str] | None = None) -> list[Link]:
    """The period picker: each month, newest first, and all of them; `kept` is what else of the address holds for each."""
    return [
        Link(name or "all months", address(path, {**replace(choice, period=name).query(), **(kept or {})}), here=name == choice.period)
        for name in (*reversed(known), None)
    ]


def playground_link(choice: Choice, path: str, kept: Mapping[str, str] | None = None) -> Link:
    """The way to the same page with what the playground sent, or without it again."""
    other = replace(choice, playground=not choice.playground)
    return Link(
        "leave playground calls out" if choice.playground else "count playground calls too",
        address(path, {**other.query(), **(kept or {})}),
    )
