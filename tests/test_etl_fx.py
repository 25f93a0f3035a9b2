"""Prices in another currency or in a vendor's credit: exact to the last digit, and the lines still add up."""

from __future__ import annotations

from decimal import Decimal

from etl.close import close
from etl.receipt import find
from etl.receipt_text import as_text
from schemas.home import Home
from schemas.instants import parse_instant
from tests.rawdata import BOOK, NOON, SECOND, built, call, final_charges, more_rates, one, rows, terms

SINCE = "2026-01-01T00:00:00Z,,test,"


def test_lines_are_rounded_half_to_even_and_conversion_has_the_rest(home: Home) -> None:
    """One token costs 0.00000001 EUR, one EUR 1.00025 USD: 0.0000000100025, of which 12 decimals hold 0.000000010002 (2 is even).

    1000 tokens: the line 0.000010002, the exact sum 0.00001 x 1.00025 = 0.0000100025, so conversion is 0.0000000005.
    Output at 0.00000003 EUR: 0.0000000300075 becomes 0.000000030008 (7 is odd); 3 tokens 0.000000090024.
    With 3 tokens of output the exact sum is 0.00001009 x 1.00025 = 0.0000100925225 and rounds to 0.000010092522; conversion 0.000000000498.
    """
    rates = more_rates("official euro input 0.01 currency=EUR", "official euro output 0.03 currency=EUR")
    built(home, [*call("r1", NOON, 1000, 0, "euro"), *call("r2", NOON + 1, 1000, 3, "euro")], rates=rates, fx=f"EUR,1.00025,{SINCE}\n")
    assert final_charges(home) == {"r1": Decimal("0.0000100025"), "r2": Decimal("0.000010092522")}
    found = rows(home, "SELECT meter, unit_price, amount, fx_id FROM charges WHERE request_id = 'r2' ORDER BY meter")
    assert [(row["meter"], row["unit_price"]) for row in found] == [
        ("conversion", Decimal("0.000000000498")),
        ("input", Decimal("0.000000010002")),
        ("output", Decimal("0.000000030008")),
    ]
    assert sum(row["amount"] for row in found) == Decimal("0.000010092522")
    assert rows(home, f"SELECT currency, rate FROM exchange_rates WHERE fx_id = '{found[0]['fx_id']}'") == [
        {"currency": "EUR", "rate": Decimal("1.00025")}
    ]
    assert "1 EUR = 1.00025 USD, fx.csv line 2" in as_text(find(home, "r2"))
    # the channel is the vendor itself: what it charges is the list price, to the last digit
    assert rows(home, "SELECT request_id FROM ledger WHERE list_charge <> final_charge") == []
    assert one(home, "SELECT amount FROM journal WHERE account = 'usage:official' AND request_id = 'r1'") == {
        "amount": Decimal("0.0000100025")
    }


def test_a_credit_whose_worth_changes_at_noon(home: Home) -> None:
    """75000 points a million tokens, 0.075 a token; a point is worth 0.000002, from noon 0.0000025.

    1000 x 0.075 x 0.000002 = 0.00015, and 0.0001875 from noon on.
    """
    worth = "point,0.000002,2026-01-01T00:00:00Z,,test,\npoint,0.0000025,2026-10-10T12:00:00Z,,test,\n"
    records = [*call("before", NOON - 1, 1000, 0, "points"), *call("after", NOON, 1000, 0, "points")]
    built(home, records, rates=more_rates("official points input 75000 currency=point"), fx=worth)
    assert final_charges(home) == {"before": Decimal("0.00015"), "after": Decimal("0.0001875")}
    assert rows(home, "FROM charges WHERE meter = 'conversion'") == []


def test_without_a_rate_in_force_the_charge_is_not_known(home: Home) -> None:
    """The rate ends at noon: what begins then is unpriced, and the reason names the currency, not the price."""
    rates = more_rates("official euro input 1 currency=EUR")
    worth = "EUR,1.1,2026-01-01T00:00:00Z,2026-10-10T12:00:00Z,test,\n"
    built(home, [*call("before", NOON - 1, 1000, 0, "euro"), *call("after", NOON, 1000, 0, "euro")], rates=rates, fx=worth)
    assert final_charges(home) == {"before": Decimal("0.0011"), "after": None}
    assert rows(home, "SELECT reason FROM unpriced") == [
        {"reason": "no exchange rate for EUR: the price for input of euro on official is in it"}
    ]
    assert one(home, "SELECT disposition_reason AS why FROM attempts WHERE request_id = 'after'") == {"why": "no exchange rate for EUR"}
    (first, *_) = close(home, parse_instant("2026-11-03T00:00:00Z")).refusals
    assert first.reason == "1 request: no exchange rate for EUR: the price for input of euro on official is in it"
    assert "book/fx.csv" in first.cure


def test_a_multiplier_comes_before_the_exchange_and_rounding_after(home: Home) -> None:
    """(1000 x 0.000001 + 500 x 0.000002) EUR x 1.5 = 0.003 EUR; x 1.1 = 0.0033; to multiples of 0.0005 that is 0.0035.

    The list, in dollars, stands beside it: 1000 x 0.000003 + 500 x 0.000006 = 0.006.
    """
    rates = more_rates(
        *("official euro input 1 currency=EUR", "official euro output 2 currency=EUR"),
        *("official euro input 3 book=list", "official euro output 6 book=list"),
    )
    channels = BOOK["channels.toml"].replace('name = "official"', 'name = "official"\nrounding = { unit = "0.0005" }')
    agreed = terms("official * * multiplier 1.5")
    built(home, call("r1", NOON, 1000, 500, "euro"), rates=rates, channels=channels, terms=agreed, fx=f"EUR,1.1,{SINCE}\n")
    assert final_charges(home) == {"r1": Decimal("0.0035")}
    assert one(home, "SELECT list_charge FROM ledger") == {"list_charge": Decimal("0.006")}
    assert one(home, "SELECT amount FROM charges WHERE meter = 'rounding'") == {"amount": Decimal("0.0002")}


def test_a_try_in_two_currencies_is_converted_by_each(home: Home) -> None:
    """0.00001 EUR x 1.00025 = 0.0000100025 and 0.00001 GBP x 1.25075 = 0.0000125075: the euro's line has
    2 as its last digit and is 0.0000000005 short, the pound's 8 and is as much too long.
    """
    rates = more_rates("official both input 0.01 currency=EUR", "official both output 0.01 currency=GBP")
    built(home, call("r1", NOON + SECOND, 1000, 1000, "both"), rates=rates, fx=f"EUR,1.00025,{SINCE}\nGBP,1.25075,{SINCE}\n")
    assert final_charges(home) == {"r1": Decimal("0.00002251")}
    found = rows(home, "SELECT amount FROM charges WHERE meter = 'conversion' ORDER BY amount")
    assert [row["amount"] for row in found] == [Decimal("-0.0000000005"), Decimal("0.0000000005")]
