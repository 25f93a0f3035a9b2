"""hledger: the month's double entry for `hledger check --strict`: accounts and commodities declared, balances asserted.

https://hledger.org/hledger.html: a declared commodity's decimals are the precision that transactions balance to; a comment
may hold dates and tags that hledger obeys, so foreign text stands in comments with only harmless characters.
"""

from __future__ import annotations

from pathlib import Path

from etl.export.entries import Leg, books, in_columns, written
from etl.export.source import Source, Written
from schemas.money import PLACES, plain

_HARMLESS = frozenset(" _./@+-#:")  # a colon inside a tag's value begins no further tag; only a comma would


def write(source: Source, path: Path) -> Written:
    """Write the journal of the period to `path`."""
    month = books(source)
    legs = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"; tokenledger {month.period}\n\ndecimal-mark .\n")
        file.writelines(f"commodity 1000.{'0' * PLACES} {currency}\n" for currency in month.currencies)
        file.write("\n")
        file.writelines(f"account {name}{f'  ; ledger-account: {text(account)}' if account else ''}\n" for name, account in month.accounts)
        if month.opening:
            file.write(f"\n{month.first} * carried forward\n{_postings(month.opening)}")
        for entry in month.entries:
            facts = dict(entry.facts)
            file.write(f"\n{entry.day} * {text(facts.pop('kind', ''))}\n    ; transaction_id: {text(entry.transaction_id)}\n")
            file.writelines(f"    ; {name}: {text(value)}\n" for name, value in facts.items())
            file.write(_postings(entry.legs))
            legs += len(entry.legs)
        if month.closing:
            file.write(f"\n{month.last} * balances\n")
            file.writelines(f"    {leg.account}  0 {leg.currency} = {plain(leg.amount)} {leg.currency}\n" for leg in month.closing)
    return written(source, legs)


def _postings(legs: tuple[Leg, ...]) -> str:
    lines = zip(in_columns(legs), legs, strict=True)
    return "".join(
        f"    {account}  {amount} {currency}{f'  ; entry_id: {text(leg.entry_id)}' if leg.entry_id else ''}\n"
        for (account, amount, currency), leg in lines
    )


def text(value: str) -> str:
    r"""Letters, digits and a few signs as they are, everything else as \uXXXX."""
    return "".join(char if char.isalnum() or char in _HARMLESS else f"\\u{ord(char):04x}" for char in value)
