"""Wallets: balances, the proof of each, lots, and the statement of one bucket with its running balance."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from web.filters import choice_of, period_links, periods
from web.page import Field, Link, Page, Table, address, amount, instant, receipt_address, text
from web.reading import Asked

PATH = "/wallets"
SIZE = 100
_PROOF = ("opening", "topups", "bonuses", "charges", "suspense", "adjustments", "refunds", "expiries", "closing", "snapshot", "difference")


def page(asked: Asked) -> Page:
    """All wallets, or the statement of one bucket."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    given = {name: asked.one(name) for name in ("wallet", "bucket", "after", "kind")}
    tables = [_statement(db, given)] if given["wallet"] else []
    return Page(
        title="Wallets",
        lead="Official credit, routed balances and pools are never netted against one another.",
        trail=[Link("all wallets", PATH), Link(f"{given['wallet']} {given['bucket']}", "", here=True)] if given["wallet"] else (),
        choices=period_links(choice, known, PATH),
        fields=[
            Field("wallet", "wallet", given["wallet"]),
            Field("bucket", "bucket", given["bucket"]),
            Field("kind", "kind", given["kind"]),
        ],
        hidden=[("period", str(choice.query()["period"]))],
        tables=[*tables, _balances(db), _proof(db, choice.period), _lots(db)],
    )


def _balances(db: duckdb.DuckDBPyConnection) -> Table:
    rows = db.execute("SELECT wallet, bucket, currency, balance FROM wallet_balances ORDER BY ALL").fetchall()
    return Table(
        "Balances",
        ("wallet", "bucket", "balance", "currency"),
        [
            (text(wallet, address(PATH, {"wallet": wallet, "bucket": bucket})), text(bucket), amount(balance, currency), text(currency))
            for wallet, bucket, currency, balance in rows
        ],
        "no wallet has moved yet",
    )


def _proof(db: duckdb.DuckDBPyConnection, period: str | None) -> Table:
    rows = db.execute(
        f"SELECT period, wallet, bucket, currency, {', '.join(_PROOF)}, first_broken_day FROM balance_proof "
        "WHERE $period IS NULL OR period = $period ORDER BY period DESC, wallet, bucket",
        {"period": period},
    ).fetchall()
    return Table(
        "The proof: opening + top-ups + bonuses - charges - suspense + adjustments + refunds - expiries = closing",
        ("month", "wallet", "bucket", *_PROOF, "first day it breaks"),
        [
            (text(row[0]), text(row[1]), text(row[2]), *(amount(value, row[3]) for value in row[4:-1]), text(row[-1] or "never"))
            for row in rows
        ],
        "no month has moved a wallet",
        name="proof",
    )


def _lots(db: duckdb.DuckDBPyConnection) -> Table:
    rows = db.execute(
        "SELECT wallet, bucket, currency, posted_at, paid, credit, bonus, expires, remaining FROM wallet_lots ORDER BY wallet, bucket, posted_at, lot_id"
    ).fetchall()
    return Table(
        "Top-ups, each a lot",
        ("wallet", "bucket", "posted", "paid", "credit", "bonus", "left", "expires"),
        [
            (text(wallet), text(bucket), instant(posted), amount(paid, currency), amount(credit, currency), amount(bonus, currency),
             amount(left, currency), text(expires or "never"))
            for wallet, bucket, currency, posted, paid, credit, bonus, expires, left in rows
        ],
        "nothing was topped up yet",
    )  # fmt: skip


def _statement(db: duckdb.DuckDBPyConnection, given: Mapping[str, str]) -> Table:
    conditions, values = ["wallet = $wallet"], {"wallet": given["wallet"]}
    for name in ("bucket", "kind"):
        if given[name]:
            conditions.append(f"{name} = ${name}")
            values[name] = given[name]
    if given["after"]:
        at, _, last = given["after"].partition("~")
        conditions.append("(posted_at, entry_id) < (try_cast($at AS TIMESTAMP), $last)")
        values |= {"at": at, "last": last}
    rows = db.execute(
        "SELECT entry_id, posted_at, bucket, kind, amount, balance_after, request_id, actor, reason FROM wallet_statement "
        f"WHERE {' AND '.join(conditions)} ORDER BY posted_at DESC, entry_id DESC LIMIT {SIZE + 1}",
        values,
    ).fetchall()
    kept = {name: given[name] for name in ("wallet", "bucket", "kind") if given[name]}
    older = rows[SIZE - 1] if len(rows) > SIZE else None
    return Table(
        f"Statement of {given['wallet']} {given['bucket']}".rstrip(),
        ("posted", "bucket", "kind", "amount", "balance after", "request", "by", "reason", "entry"),
        [
            (
                instant(posted), text(bucket), text(kind), amount(moved), amount(after),
                text(request_id or "", receipt_address(request_id) if request_id else None),
                text(actor or ""), text(reason or ""), text(entry),
            )
            for entry, posted, bucket, kind, moved, after, request_id, actor, reason in rows[:SIZE]
        ],
        "nothing has moved this wallet",
        turns=[Link("older entries", address(PATH, {**kept, "after": f"{older[1].isoformat()}~{older[0]}"}))] if older else (),
    )  # fmt: skip
