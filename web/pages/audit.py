"""Audit trail: who changed what in the book and the wallets, before and after, in a chain of hashes."""

from __future__ import annotations

from web.page import Field, Link, Page, Table, address, count, instant, receipt_address, text
from web.reading import Asked

PATH = "/audit"
SIZE = 100


def page(asked: Asked) -> Page:
    """The newest events, or those of one kind, actor or reference."""
    db = asked.db
    given = {name: asked.one(name) for name in ("event", "actor", "reference", "before")}
    conditions, values = ["true"], {}
    for name in ("event", "actor", "reference"):
        if given[name]:
            conditions.append(f"{name} = ${name}")
            values[name] = given[name]
    if given["before"]:
        conditions.append("number < try_cast($before AS BIGINT)")
        values["before"] = given["before"]
    rows = db.execute(
        'SELECT number, "at", event, actor, reason, reference, request_id, facts, hash FROM audit_trail '
        f"WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT {SIZE + 1}",
        values,
    ).fetchall()
    kinds = [row[0] for row in db.execute("SELECT DISTINCT event FROM audit_trail ORDER BY event").fetchall()]
    kept = {name: given[name] for name in ("event", "actor", "reference") if given[name]}
    return Page(
        title="Audit trail",
        lead="Each event carries the hash of the one before it; `tokenledger verify` recomputes the chain.",
        fields=[
            Field("event", "event", given["event"], [("", "any"), *((kind, kind) for kind in kinds)]),
            Field("actor", "who", given["actor"]),
            Field("reference", "reference", given["reference"]),
        ],
        tables=[
            Table(
                "Events",
                ("number", "at", "event", "who", "reason", "reference", "request", "facts", "hash"),
                [
                    (
                        count(number), instant(at), text(event), text(actor or ""), text(reason or ""), text(reference or ""),
                        text(request_id or "", receipt_address(request_id) if request_id else None), text(facts), text(digest[:16]),
                    )
                    for number, at, event, actor, reason, reference, request_id, facts, digest in rows[:SIZE]
                ],
                "nothing has happened yet",
                turns=[Link("older events", address(PATH, {**kept, "before": str(rows[SIZE - 1][0])}))] if len(rows) > SIZE else (),
            )
        ],
    )  # fmt: skip
