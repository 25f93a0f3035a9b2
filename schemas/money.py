"""Exact decimals: amounts and unit prices have 12 places, and nothing is ever rounded in silence."""

from __future__ import annotations

import decimal
from decimal import Decimal

from schemas.errors import UsageError

PLACES = 12
AMOUNT_SQL = "DECIMAL(38,12)"
UNIT_PRICE_SQL = "DECIMAL(18,12)"
ENTRY_LIMIT = Decimal(10) ** 24  # what a person enters lies below, either way: a hundred such add up to what an amount can hold

# 60 digits hold any product of an 18-digit price and a 38-digit quantity; Inexact is trapped so that a result
# that does not fit raises instead of being bent.
EXACT = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_UP, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero])

_QUANTUM = Decimal(1).scaleb(-PLACES)


class MoneyError(UsageError):
    """A decimal text that is not one, or that does not fit 12 places exactly."""


def parse_decimal(text: str) -> Decimal:
    """The decimal that `text` writes, without exponent, NaN or infinity; raises MoneyError."""
    stripped = text.strip()
    body = stripped.removeprefix("-")
    if not body or not all(c.isascii() and (c.isdigit() or c == ".") for c in body) or body.count(".") > 1 or body == ".":
        raise MoneyError(f"{text!r} is not a plain decimal", "write digits with at most one point, for example 0.15")
    return Decimal(stripped)


def amount(value: Decimal) -> Decimal:
    """`value` with exactly 12 places; raises MoneyError when that would change it or it exceeds 38 digits."""
    try:
        fixed = value.quantize(_QUANTUM, context=EXACT)
    except (decimal.Inexact, decimal.InvalidOperation):
        raise MoneyError(f"{value:f} is not exact in {PLACES} decimals", "use fewer decimals") from None
    if len(fixed.as_tuple().digits) > 38:
        raise MoneyError(f"{value:f} needs more than 38 digits", "check the unit of this amount")
    return fixed


def entered(value: Decimal) -> Decimal:
    """`value` as an amount that a person may enter; raises MoneyError where the builder would not book it."""
    if not -ENTRY_LIMIT < value < ENTRY_LIMIT:  # compared as it is: abs() would round it
        raise MoneyError(f"{value:f} is not below {ENTRY_LIMIT:f}, and sums of it would not fit", "check the unit of this amount")
    return amount(value)


def unit_price(price: Decimal, per: Decimal) -> Decimal:
    """The price of one unit, `price / per`, exact in 12 decimals and at most 18 digits; raises MoneyError."""
    if per <= 0:
        raise MoneyError(f"per = {per:f} is not a positive number of units", "write the number of units the price is for")
    try:
        quotient = EXACT.divide(price, per)
    except decimal.Inexact:
        raise MoneyError(
            f"{price:f} per {per:f} is not exact in {PLACES} decimals", "state the price per 1 or per a power of ten"
        ) from None
    fixed = amount(quotient)
    if len(fixed.as_tuple().digits) > 18:
        raise MoneyError(f"{price:f} per {per:f} needs more than 18 digits", "check price and unit")
    return fixed


def share(amount: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    """`amount x part / whole`, rounded once, half to even, to 12 places; `whole` is not zero."""
    return _SHARES.divide(_SHARES.multiply(amount, part), whole).quantize(_QUANTUM, rounding=decimal.ROUND_HALF_EVEN, context=_SHARES)


# Wide enough that a quotient of 38-digit amounts is decided before its 12th place; the one place where a rest is dropped.
_SHARES = decimal.Context(prec=120, rounding=decimal.ROUND_HALF_EVEN, traps=[decimal.InvalidOperation, decimal.DivisionByZero])


def plain(value: Decimal) -> str:
    """`value` with 12 places and never an exponent: the one way an amount is written."""
    return f"{value:.{PLACES}f}"
