"""Wallets: balances, the proof of each, lots, and the statement of one bucket with its running balance."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from web import figures
from web.filters import EVERY, choice_of, period_faults, period_links, periods
from web.page import Cell, Field, Link, Page, Table, address, amount, instant, receipt_address, text
from web.reading import Asked

PATH = "/wallets"
SIZE = 100
KINDS = ("charge", "suspense", "topup", "adjustment", "refund", "expiry", "transfer", "reversal")
_TERMS = ("opening", "topups", "bonuses", "charges", "suspense", "adjustments", "refunds", "expiries", "transfers", "reversals", "closing")
_SHOWN = ("snapshot", "difference")  # of the vendor; null where it showed none


def page(asked: Asked) -> Page:
    """All wallets, or the statement of one bucket."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    given = {name: asked.one(name) for name in ("period", "wallet", "bucket", "after", "kind")}
    if given["period"] not in ("", EVERY):
        given["period"] = choice.period or ""
    kept = {name: given[name] for name in ("wallet", "bucket", "kind") if given[name]}
    return Page(
        title="Wallets",
        lead="Official credit, routed balances and pools are never netted against one another.",
        trail=[Link("all wallets", PATH), Link(f"{given['wallet']} {given['bucket']}".rstrip(), "", here=True)] if given["wallet"] else (),
        notices=period_faults(asked, known),
        choices=period_links(choice, known, PATH, kept),
        fields=[
            Field("wallet", "wallet", given["wallet"]),
            Field("bucket", "bucket", given["bucket"]),
            Field("kind", "kind", given["kind"], [("", "any"), *((kind, kind) for kind in KINDS)]),
        ],
        hidden=[("period", str(choice.query()["period"]))],
        figures=figures.balances(db, choice.period, given["wallet"], given["bucket"]),
        tables=[
            *([_statement(db, given)] if given["wallet"] else []),
            _balances(db),
            _proof(db, choice.period),
            _lots(db),
            *([] if given["wallet"] else [_entries(db)]),
        ],
    )


def _balances(db: duckdb.DuckDBPyConnection) -> Table:
    rows = db.execute("SELECT wallet, bucket, currency, balance, held, available FROM wallet_balances ORDER BY ALL").fetchall()
    return Table(
        "Balances",
        ("wallet", "bucket", "balance", "held", "available", "currency"),
        [
            (
                text(wallet, address(PATH, {"wallet": wallet})),
                text(bucket, address(PATH, {"wallet": wallet, "bucket": bucket})),
                *(amount(value, currency) for value in moved),
                text(currency),
            )
            for wallet, bucket, currency, *moved in rows
        ],
        "no wallet has moved yet: `tokenledger wallet topup` books what was bought",
    )


def _proof(db: duckdb.DuckDBPyConnection, period: str | None) -> Table:
    rows = db.execute(
        f"SELECT period, wallet, bucket, currency, {', '.join((*_TERMS, *_SHOWN))}, first_broken_day FROM balance_proof "
        "WHERE $period IS NULL OR period = $period ORDER BY period DESC, wallet, bucket",
        {"period": period},
    ).fetchall()
    return Table(
        "The balance proof",
        ("month", "wallet", "bucket", *_TERMS, "vendor showed", "difference", "first day that differs"),
        [
            (
                text(month), text(wallet), text(bucket), *(amount(value, currency) for value in terms),
                *(amount(value, currency) if value is not None else Cell("-", "no snapshot", right=True, known=False) for value in (shown, differs)),
                text(broken or "none"),
            )
            for month, wallet, bucket, currency, *terms, shown, differs, broken in rows
        ],
        "no month has moved a wallet",
        note="Opening + top-ups + bonuses - charges - suspense + adjustments + refunds - expiries + transfers + reversals = closing. "
        "`tokenledger wallet snapshot` records what the vendor shows, to compare with.",
        name="proof",
    )  # fmt: skip


def _lots(db: duckdb.DuckDBPyConnection) -> Table:
    rows = db.execute(
        "SELECT wallet, bucket, currency, posted_at, paid, credit, bonus, expires, remaining, paid_for_spent FROM wallet_lots ORDER BY wallet, bucket, posted_at, lot_id"
    ).fetchall()
    return Table(
        "Top-ups, each a lot",
        ("wallet", "bucket", "posted", "paid", "credit", "bonus", "left", "paid for what is spent", "expires"),
        [
            (text(wallet), text(bucket), instant(posted), amount(paid, currency), amount(credit, currency), amount(bonus, currency),
             amount(left, currency), amount(spent, currency), text(expires or "never"))
            for wallet, bucket, currency, posted, paid, credit, bonus, expires, left, spent in rows
        ],
        "nothing was topped up yet: `tokenledger wallet topup` books what was bought",
    )  # fmt: skip


def _entries(db: duckdb.DuckDBPyConnection) -> Table:
    """What people entered, over all wallets."""
    rows = db.execute(
        "SELECT posted_at, wallet, bucket, kind, amount, request_id, actor, reason FROM wallet_statement "
        f"WHERE kind NOT IN ('charge', 'suspense') ORDER BY posted_at DESC, entry_id DESC LIMIT {SIZE + 1}"
    ).fetchall()
    return Table(
        "Top-ups, adjustments and what else people entered",
        ("posted", "wallet", "bucket", "kind", "amount", "request", "by", "reason"),
        [
            (
                instant(posted), text(wallet, address(PATH, {"wallet": wallet, "bucket": bucket})), text(bucket), text(kind), amount(moved),
                text(request_id or "", receipt_address(request_id) if request_id else None), text(actor or ""), text(reason or ""),
            )
            for posted, wallet, bucket, kind, moved, request_id, actor, reason in rows[:SIZE]
        ],
        "nobody has entered anything: `tokenledger wallet topup` books what was bought",
        note=f"the newest {SIZE} are shown; choose a wallet for its whole statement" if len(rows) > SIZE else None,
        name="entries",
    )  # fmt: skip


def _statement(db: duckdb.DuckDBPyConnection, given: Mapping[str, str]) -> Table:
    conditions, values = ["wallet = $wallet"], {"wallet": given["wallet"]}
    for name in ("bucket", "kind"):
        if given[name]:
            conditions.append(f"{name} = ${name}")
            values[name] = given[name]
    if given["period"]:  # `all` leaves every month
        conditions.append("posted_at >= coalesce((SELECT starts_at FROM periods WHERE period = $period), posted_at)")
        conditions.append("posted_at < coalesce((SELECT ends_at FROM periods WHERE period = $period), posted_at + INTERVAL 1 DAY)")
        values["period"] = given["period"]
    if given["after"]:
        at, _, last = given["after"].partition("~")
        conditions.append("(posted_at, entry_id) < (try_cast($at AS TIMESTAMP), $last)")
        values |= {"at": at, "last": last}
    rows = db.execute(
        "SELECT entry_id, posted_at, bucket, kind, amount, balance_after, request_id, actor, reason FROM wallet_statement "
        f"WHERE {' AND '.join(conditions)} ORDER BY posted_at DESC, entry_id DESC LIMIT {SIZE + 1}",
        values,
    ).fetchall()
    kept = {name: given[name] for name in ("period", "wallet", "bucket", "kind") if given[name]}
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
