"""The books of one month for plain-text accounting: chart of accounts, opening balances, every transaction, closing balances.

What a balance stands on (wallets, suspense) is carried forward from month to month; everything else begins each month at
zero, and its past is in one account of equity. Names are legal in both beancount and hledger, and reversible: the name in
the ledger stands beside each account.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from etl.export.csv import INSTANT
from etl.export.source import Source, Sums, Written
from schemas.errors import LedgerError
from schemas.money import plain

# What the first word of a ledger account becomes, and whether its balance is carried forward.
CHART: Mapping[str, tuple[str, bool]] = {
    "wallet": ("Assets:Wallet", True),
    "suspense": ("Assets:Suspense", True),
    "usage": ("Expenses:Usage", False),
    "rounding": ("Expenses:Rounding", False),
    "expired": ("Expenses:Expired", False),
    "funding": ("Equity:Funding", False),
    "bonus": ("Income:Bonus", False),
    "adjustment": ("Income:Adjustment", False),
    "refunded": ("Income:Refunded", False),
}
CARRIED_FORWARD = "Equity:Carried-Forward"
ACCOUNT_PARTS_OF_TWO = ("wallet", "funding", "bonus", "adjustment", "refunded", "expired")  # wallet and bucket, which has no colon


class UnknownAccountError(LedgerError):
    """An account of the journal that the chart has no place for."""

    def __init__(self, account: str) -> None:
        super().__init__(f"no chart of accounts has a place for {account!r}", "add its first word to CHART in etl/export/entries.py")


@dataclass(frozen=True, slots=True)
class Leg:
    """One posting, or one balance."""

    account: str  # as the chart names it
    amount: Decimal
    currency: str
    entry_id: str = ""  # the ledger's name for the posting; a balance has none


@dataclass(frozen=True, slots=True)
class Entry:
    """One transaction of the journal."""

    transaction_id: str
    day: date  # the UTC day it is posted at, inside the month
    facts: tuple[tuple[str, str], ...]  # name and value, what is unknown left out
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class Books:
    """One month of the journal; `entries` can be read once."""

    period: str
    first: date
    last: date
    currencies: tuple[str, ...]
    accounts: tuple[tuple[str, str], ...]  # the chart's name, and the ledger's
    opening: tuple[Leg, ...]
    closing: tuple[Leg, ...]
    entries: Iterator[Entry]


# ---- names ----

_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]|_(?=[a-z]))*")


def account_name(account: str) -> str:
    """The chart's name of a ledger account; two accounts never share one. Raises UnknownAccountError."""
    word, _, rest = account.partition(":")
    if word not in CHART or not rest:
        raise UnknownAccountError(account)
    parts = rest.rsplit(":", 1) if word in ACCOUNT_PARTS_OF_TWO else [rest]
    return ":".join([CHART[word][0], *map(_part, parts)])


def _part(raw: str) -> str:
    """official_credit becomes OfficialCredit; what cannot be told back from its letters carries a piece of its SHA-256."""
    if _PLAIN.fullmatch(raw):
        return re.sub(r"_([a-z])", lambda found: found[1].upper(), raw[0].upper() + raw[1:])
    shown = re.sub(r"[^A-Za-z0-9]+", "-", raw.encode("ascii", "ignore").decode()).strip("-")[:40]
    return f"X{shown}-{hashlib.sha256(raw.encode()).hexdigest()[:16]}"


# ---- reading ----

_FACTS = ("posted_at", "kind", "request_id", "reference", "reason", "service_at")
_ENTRIES = f"""
    SELECT transaction_id, entry_id, strftime(posted_at, '{INSTANT}') AS posted_at, account, amount, currency, kind, request_id, reference, reason,
        strftime(service_at, '{INSTANT}') AS service_at
    FROM journal WHERE period = $period AND {{piece}} ORDER BY journal.posted_at, transaction_id, entry_id
"""
_BALANCES = """
    SELECT account, currency, CAST(coalesce(sum(amount) FILTER (WHERE period < $period), 0) AS DECIMAL(38,12)) AS before,
        CAST(coalesce(sum(amount) FILTER (WHERE period = $period), 0) AS DECIMAL(38,12)) AS moved,
        count(*) FILTER (WHERE period = $period) AS legs
    FROM journal WHERE period <= $period GROUP BY account, currency ORDER BY account, currency
"""


def books(source: Source) -> Books:
    """The month's books. Raises UnknownAccountError."""
    first, last = bounds(source.period)
    accounts: list[tuple[str, str]] = []
    opening: list[Leg] = []
    closing: list[Leg] = []
    past: dict[str, Decimal] = {}
    for row in source.rows(_BALANCES):
        name, currency = account_name(row["account"]), row["currency"]
        before = row["before"] if CHART[row["account"].partition(":")[0]][1] else Decimal(0)
        if row["legs"] or before:
            accounts.append((name, row["account"]))
            closing.append(Leg(name, before + row["moved"], currency))
        if before:
            opening.append(Leg(name, before, currency))
            past[currency] = past.get(currency, Decimal(0)) - before
    for currency, amount in sorted(past.items()):
        accounts.append((CARRIED_FORWARD, ""))
        opening.append(Leg(CARRIED_FORWARD, amount, currency))
        closing.append(Leg(CARRIED_FORWARD, amount, currency))
    return Books(
        period=source.period,
        first=first,
        last=last,
        currencies=tuple(sorted({leg.currency for leg in closing})),
        accounts=tuple(dict.fromkeys(sorted(accounts))),
        opening=tuple(opening),
        closing=tuple(closing),
        entries=_entries(source, first, last),
    )


def bounds(period: str) -> tuple[date, date]:
    """The first and the last day of a month."""
    year, month = int(period[:4]), int(period[5:])
    first = date(year, month, 1)
    following = date(year + month // 12, month % 12 + 1, 1)
    return first, date.fromordinal(following.toordinal() - 1)


def _entries(source: Source, first: date, last: date) -> Iterator[Entry]:
    # the legs of a transaction have one instant, so that no piece cuts through it
    found = (row for piece in source.pieces("journal", "journal.posted_at") for row in source.rows(_ENTRIES.format(piece=piece)))
    for transaction_id, legs in groupby(found, key=lambda row: row["transaction_id"]):
        rows = list(legs)
        posted = datetime.fromisoformat(rows[0]["posted_at"]).date()
        yield Entry(
            transaction_id=transaction_id,
            day=min(max(posted, first), last),  # a month of another zone begins or ends on a neighbouring UTC day
            facts=tuple((name, rows[0][name]) for name in _FACTS if rows[0][name] is not None),
            legs=tuple(Leg(account_name(row["account"]), row["amount"], row["currency"], row["entry_id"]) for row in rows),
        )


def written(source: Source, legs: int) -> Written:
    """What an export of the books wrote: its legs, and by currency what went into accounts, what came out, and how many legs."""
    control: dict[str, Sums] = {}
    for row in source.rows(
        "SELECT currency, count(*) AS rows, count(DISTINCT transaction_id) AS transactions, "
        "CAST(coalesce(sum(amount) FILTER (WHERE amount > 0), 0) AS DECIMAL(38,12)) AS debits, "
        "CAST(coalesce(sum(amount) FILTER (WHERE amount < 0), 0) AS DECIMAL(38,12)) AS credits "
        "FROM journal WHERE period = $period GROUP BY currency ORDER BY currency"
    ):
        currency = row.pop("currency")
        control[currency] = {name: plain(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    return Written("journal", legs, control, ("account", "amount", "currency", "transaction_id", "entry_id", *_FACTS))


def in_columns(legs: Iterable[Leg]) -> Iterator[tuple[str, str, str]]:
    """Account, amount and currency as text, the first two padded so that amounts stand below each other."""
    rows: list[Any] = [(leg.account, plain(leg.amount), leg.currency) for leg in legs]
    wide = max((len(account) for account, _, _ in rows), default=0)
    digits = max((len(amount) for _, amount, _ in rows), default=0)
    for account, amount, currency in rows:
        yield account.ljust(wide), amount.rjust(digits), currency
