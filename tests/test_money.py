"""Money: what is exact passes, what is not is refused with what would help, and one rounding is half to even."""

from __future__ import annotations

from decimal import Decimal

import pytest

from schemas.money import MoneyError, amount, parse_decimal, plain, share, unit_price

D = Decimal
WIDE = D("9" * 26 + "." + "9" * 12)  # 38 digits, the most that the ledger's amounts hold


def test_a_plain_decimal_is_read_as_written() -> None:
    """Digits with at most one point, a minus before them, blanks around them."""
    for text, value in (("0.15", "0.15"), (" 12 ", "12"), ("-3.", "-3"), (".5", "0.5"), ("-0", "-0")):
        assert str(parse_decimal(text)) == value


def test_anything_else_is_refused() -> None:
    """No exponent, no infinity, no other digits than ours, no second point or sign."""
    for text in ("", "-", ".", "-.", "1e3", "1.2.3", "--1", "+1", "NaN", "Infinity", "1,5", "\u0661", "1 2"):
        with pytest.raises(MoneyError, match="is not a plain decimal") as refused:
            parse_decimal(text)
        assert (refused.value.exit_code, refused.value.cure) == (2, "write digits with at most one point, for example 0.15"), text


def test_an_amount_has_twelve_places_or_is_refused() -> None:
    """Zeros are added and none is lost; a 13th place and a 39th digit are told apart."""
    assert str(amount(D("1.5"))) == "1.500000000000"
    assert amount(WIDE) == WIDE
    assert amount(WIDE.copy_negate()) == WIDE.copy_negate()
    with pytest.raises(MoneyError, match=r"^0\.0000000000001 is not exact in 12 decimals") as refused:
        amount(D("0.0000000000001"))
    assert refused.value.cure == "use fewer decimals"
    with pytest.raises(MoneyError, match="needs more than 38 digits") as refused:
        amount(D("1" + "0" * 26))
    assert refused.value.cure == "check the unit of this amount"
    with pytest.raises(MoneyError, match="is not exact"):
        amount(D("Infinity"))


def test_a_unit_price_is_a_quotient_without_a_rest() -> None:
    """0.15 a million is 0.00000015; a third is no price, and neither is one of more than 18 digits."""
    assert plain(unit_price(D("0.15"), D(1_000_000))) == "0.000000150000"
    assert unit_price(D("999999.999999999999"), D(1)) == D("999999.999999999999")  # 18 digits
    for price, per, what, cure in (
        (D(1), D(0), "is not a positive number of units", "write the number of units the price is for"),
        (D(1), D(-1), "is not a positive number of units", "write the number of units the price is for"),
        (D(1), D(3), "is not exact in 12 decimals", "state the price per 1 or per a power of ten"),
        (D(1_000_000), D(1), "needs more than 18 digits", "check price and unit"),
    ):
        with pytest.raises(MoneyError, match=what) as refused:
            unit_price(price, per)
        assert refused.value.cure == cure


@pytest.mark.parametrize(
    ("whole_amount", "part", "whole", "expected"),
    [
        ("10", "1", "4", "2.500000000000"),
        ("1", "1", "3", "0.333333333333"),
        ("2", "1", "3", "0.666666666667"),
        ("0.000000000001", "1", "2", "0.000000000000"),  # half of the last place: to the even neighbour, down
        ("0.000000000003", "1", "2", "0.000000000002"),  # and up
        ("-0.000000000003", "1", "2", "-0.000000000002"),
    ],
)
def test_a_share_is_rounded_once_half_to_even(whole_amount: str, part: str, whole: str, expected: str) -> None:
    """The amount x part / whole, worked by hand."""
    assert plain(share(D(whole_amount), D(part), D(whole))) == expected


def test_an_amount_is_written_in_one_way() -> None:
    """Twelve places, and never an exponent."""
    assert plain(D("1E-7")) == "0.000000100000"
    assert plain(WIDE) == str(WIDE)
    assert plain(D(0)) == "0.000000000000"
