"""What makes a charge known that is not: the sentence for each kind of `unpriced` row, told by the summary and the receipt."""

from __future__ import annotations

from collections.abc import Iterable

ACKNOWLEDGE = "tokenledger acknowledge SUBJECT --by WHO --reason TEXT"
# Where no meter is named no row of rates.csv is missing: what was used is unknown, or who pays for it.
OF_UNPRICED = {
    "price": "cure for a missing price: add the row to book/rates.csv, check it with `tokenledger rates check`, then `tokenledger ledger` again",
    "exchange rate": "cure for a missing exchange rate: add the row to book/fx.csv, then `tokenledger ledger` again",
    "usage": f"cure where no meter is named: mend what the reason says is missing from the book, or give the charge up: `{ACKNOWLEDGE}`; "
    "SUBJECT is the request and its try, as `tokenledger ledger` refuses to close over it",
}


def cures_of(unpriced: Iterable[tuple[str | None, str]]) -> list[str]:
    """The cures of rows of `unpriced`, told by meter and reason; each once."""
    kinds = {_kind(meter, reason) for meter, reason in unpriced}
    return [cure for kind, cure in OF_UNPRICED.items() if kind in kinds]


def _kind(meter: str | None, reason: str) -> str:
    if meter is None:
        return "usage"
    return "exchange rate" if reason.startswith("no exchange rate") else "price"
