"""beancount: the month's double entry with accounts opened, balances carried forward and asserted, and no tolerance at all.

https://beancount.github.io/docs/beancount_language_syntax.html: account parts begin with a capital letter or a digit, a
balance directive counts at the beginning of its day.
"""

from __future__ import annotations

import unicodedata
from datetime import timedelta
from pathlib import Path

from etl.export.entries import Leg, books, in_columns, written
from etl.export.source import Source, Written
from schemas.money import PLACES, plain


def write(source: Source, path: Path) -> Written:
    """Write the journal of the period to `path`."""
    month = books(source)
    legs = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'option "title" {text(f"tokenledger {month.period}")}\n')
        for currency in month.currencies:
            file.write(f'option "operating_currency" "{currency}"\n')
        file.write('option "tolerance_multiplier" "0"\n\n')
        for currency in month.currencies:
            file.write(f"{month.first} commodity {currency}\n  precision: {PLACES}\n\n")
        for name, account in month.accounts:
            file.write(f"{month.first} open {name}\n")
            if account:
                file.write(f"  ledger-account: {text(account)}\n")
        if month.opening:
            file.write(f'\n{month.first} * "Carried forward"\n{_postings(month.opening)}')
        for entry in month.entries:
            file.write(f"\n{entry.day} * {text(dict(entry.facts).get('kind', ''))}\n  transaction-id: {text(entry.transaction_id)}\n")
            file.writelines(f"  {name.replace('_', '-')}: {text(value)}\n" for name, value in entry.facts if name != "kind")
            file.write(_postings(entry.legs))
            legs += len(entry.legs)
        file.write("\n")
        after = month.last + timedelta(days=1)
        file.writelines(f"{after} balance {leg.account}  {plain(leg.amount)} ~ 0 {leg.currency}\n" for leg in month.closing)
    return written(source, legs)


def _postings(legs: tuple[Leg, ...]) -> str:
    lines = zip(in_columns(legs), legs, strict=True)
    return "".join(
        f"  {account}  {amount} {currency}\n" + (f"    entry-id: {text(leg.entry_id)}\n" if leg.entry_id else "")
        for (account, amount, currency), leg in lines
    )


def text(value: str) -> str:
    r"""A string in quotes; what cannot be seen (controls, marks of direction) as \uXXXX, which reading leaves as those six letters."""
    shown = "".join(
        f"\\u{ord(char):04x}" if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cn", "Co", "Cs") else char for char in value
    )
    escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
