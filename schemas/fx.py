"""fx.csv: what one unit of a foreign currency or of a vendor's credit is worth in the book's currency, dated.

A price in such a currency is converted at the rate in force when the request began. Each unit price is rounded half to even
to 12 decimals; what the lines of a try then differ by from their exact sum, converted once and rounded once in the same way,
is a line of its own, `conversion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from schemas.bookfile import CsvRow, Problem, RefusedError, read_csv, shown
from schemas.dated import Cell, DatedRow, decimal, ends_after_it_begins, instant, instant_or_none, read_cells, required, resolve, row_id
from schemas.money import EXACT, MoneyError, plain, unit_price
from schemas.rates import Rate

COLUMNS = ("currency", "rate", "effective_from", "effective_to", "source", "note")


class Fx(DatedRow):
    """One exchange rate."""

    fx_id: str
    currency: str  # as rates.csv writes it
    rate: Decimal  # units of the book's currency for one of this, exact in 12 decimals
    source: str
    note: str

    @property
    def key(self) -> tuple[object, ...]:
        """What is exchanged."""
        return (self.currency,)


def _rate(text: str) -> Decimal:
    try:
        value = unit_price(decimal(text), Decimal(1))
    except MoneyError as error:
        raise RefusedError(error.what, error.cure) from None
    if not value:
        raise RefusedError("worth nothing", "write how much one unit is worth, above zero")
    return value


CELLS: dict[str, Cell] = {
    "currency": required,
    "rate": _rate,
    "effective_from": instant,
    "effective_to": instant_or_none,
    "source": str,
    "note": str,
}


def fx_of(file: str, content: bytes, currency: str, problems: list[Problem]) -> tuple[Fx, ...]:
    """The valid rows in file order, with `effective_to` resolved; everything that is wrong is added to `problems`."""
    rows, faults = read_csv(file, content, COLUMNS)
    problems.extend(faults)
    found = [fx for row in rows if (fx := _fx(file, row, currency, problems)) is not None]
    return resolve(file, found, rows, problems)


def _fx(file: str, row: CsvRow, currency: str, problems: list[Problem]) -> Fx | None:
    values = read_cells(file, row, CELLS, problems)
    if values is None:
        return None
    if values["currency"] == currency:
        problems.append(Problem(file, row.line, "currency", currency, "is the currency of the book", "remove the row"))
        return None
    if not ends_after_it_begins(file, row, values["effective_from"], values["effective_to"], problems):
        return None
    said = (plain(values["rate"]), *(values[name] for name in ("currency", "effective_from", "effective_to")))
    return Fx(fx_id=row_id("fx", *said), line=row.line, **values)


def too_large(file: str, exchanges: Iterable[Fx], rates_file: str, rates: Iterable[Rate], multiplier: Decimal) -> Iterable[Problem]:
    """Exchange rates that make a unit price of more than 18 digits, `multiplier` being the largest that can come to it."""
    by_currency: dict[str, list[Rate]] = {}
    for rate in rates:
        by_currency.setdefault(rate.currency, []).append(rate)
    for fx in exchanges:
        for rate in by_currency.get(fx.currency, ()):
            if EXACT.multiply(EXACT.multiply(rate.unit_price, fx.rate), multiplier) >= LIMIT:
                what = f"makes the price of {rates_file}:{rate.line} longer than 18 digits"
                yield Problem(file, fx.line, "rate", shown("rate", plain(fx.rate)), what, "check the rate, the price and its unit")


LIMIT = Decimal(1_000_000)  # a unit price has 18 digits, 12 of them decimals
