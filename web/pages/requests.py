"""Search: requests by any id, who, what, how it ended, when and how much; pages follow one another by key, not by number."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from etl.receipt import matches
from web.filters import BY_NAME, choice_of, period_faults, period_links, periods, playground_link
from web.page import Field, Link, Notice, Page, Table, address, amount, count, instant, instant_of, ms, receipt_address, text
from web.reading import Asked

PATH = "/requests"
SIZE = 50
STATUSES = ("ok", "failed", "client_gone", "rejected", "unknown")


class _Search:
    """The conditions so far, and what could not be understood."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.values: dict[str, Any] = {}
        self.faults: list[str] = []

    def add(self, condition: str, name: str, value: Any) -> None:
        self.parts.append(condition)
        self.values[name] = value

    def instant(self, name: str, written: str, condition: str) -> None:
        value = instant_of(written)
        if value is None:
            self.faults.append(f"{name}: write an instant as 2026-11-23T14:00 (UTC)")
            return
        self.add(condition, name, value)

    def decimal(self, name: str, written: str, condition: str) -> None:
        try:
            value = Decimal(written)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or not -30 < value.adjusted() < 24:
            self.faults.append(f"{name}: write an amount as 0.05")
            return
        self.add(condition, name, f"{value:f}")


def found(asked: Asked) -> str | None:
    """The one request that the address names by any kind of id."""
    known = matches(asked.db, asked.one("id"))
    return known[0] if len(known) == 1 else None


def page(asked: Asked) -> Page:
    """One page of the search, newest first."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    where, values = choice.where()
    search = _Search()
    search.parts.append(where)
    search.values |= values
    given = {name: asked.one(name) for name in ("id", "status", "from", "until", "least", "most", "after")}
    if given["id"]:
        search.add("request_id IN (SELECT unnest($ids::VARCHAR[]))", "ids", matches(db, given["id"]))
    if given["status"]:
        search.add("status = $status", "status", given["status"])
    if given["from"]:
        search.instant("from", given["from"], "created_at >= $from")
    if given["until"]:
        search.instant("until", given["until"], "created_at < $until")
    if given["least"]:
        search.decimal("least", given["least"], "final_charge >= $least::DECIMAL(38,12)")
    if given["most"]:
        search.decimal("most", given["most"], "final_charge <= $most::DECIMAL(38,12)")
    if given["after"]:
        at, _, key = given["after"].partition("~")
        search.instant("after", at, "(created_at < $after OR (created_at = $after AND request_id < $last))")
        search.values["last"] = key
    if "after" not in search.values:
        search.values.pop("last", None)
    rows = db.execute(
        "SELECT request_id, created_at, user_id, project, api_key_label, public_model, served_channel, status, http_status, "
        "attempt_count, input_tokens, output_tokens, latency_ms, final_charge, currency "
        f"FROM ledger WHERE {' AND '.join(search.parts)} ORDER BY created_at DESC, request_id DESC LIMIT {SIZE + 1}",
        search.values,
    ).fetchall()
    asked_for = {name: value for name, value in given.items() if value and name != "after"}
    kept = {**choice.query(), **asked_for}
    turns = []
    if len(rows) > SIZE:
        last = rows[SIZE - 1]
        turns.append(Link("older requests", address(PATH, {**kept, "after": f"{last[1].isoformat()}~{last[0]}"})))
    if given["after"]:
        turns.insert(0, Link("newest requests", address(PATH, kept)))
    return Page(
        title="Requests and receipts",
        lead="Any id works: ours, the client's, the vendor's, a wallet entry's.",
        notices=[*period_faults(asked, known), *(Notice("bad", fault) for fault in search.faults)],
        trail=choice.trail(PATH) if choice.chosen else (),
        choices=[*period_links(choice, known, PATH, asked_for), playground_link(choice, PATH, asked_for)],
        fields=_fields(choice.chosen, given),
        hidden=[("period", str(choice.query()["period"])), *((("playground", "1"),) if choice.playground else ())],
        tables=[
            Table(
                "Requests",
                (
                    "created", "request", "user", "project", "key", "model", "channel", "status", "HTTP",
                    "tries", "input tokens", "output tokens", "took", "charged",
                ),
                [
                    (
                        instant(created),
                        text(request_id, receipt_address(request_id)),
                        text(user),
                        text(project),
                        text(key),
                        text(model),
                        text(channel),
                        text(status),
                        count(http),
                        count(tries),
                        count(read),
                        count(written),
                        ms(took),
                        amount(charge, currency),
                    )
                    for (
                        request_id, created, user, project, key, model, channel, status, http, tries, read, written, took, charge, currency,
                    ) in rows[:SIZE]
                ],
                "no request answers to all of this: leave a field empty, or choose all months above",
                turns=turns,
            )
        ],
    )  # fmt: skip


def _fields(chosen: Mapping[str, str | None], given: Mapping[str, str]) -> list[Field]:
    fields = [Field("id", "any id", given["id"])]
    fields += [Field(name, BY_NAME[name].label, chosen.get(name) or "") for name in BY_NAME]
    return [
        *fields,
        Field("status", "status", given["status"], [("", "any"), *((status, status) for status in STATUSES)]),
        Field("from", "from (UTC)", given["from"], example="2026-11-23T14:00"),
        Field("until", "until (UTC)", given["until"], example="2026-11-24"),
        Field("least", "charged at least", given["least"], example="0.05"),
        Field("most", "charged at most", given["most"], example="10"),
    ]
