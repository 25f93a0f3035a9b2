"""A vendor that rounds its charges: what the wallet pays, what the traffic cost, and the account that holds the difference."""

from __future__ import annotations

from decimal import Decimal

import pytest

from etl.receipt import find
from etl.receipt_text import as_text
from schemas.home import Home
from tests.rawdata import BOOK, NOON, SECOND, attempt, broken, built, call, failure, one, request, response, rows, usage


def _rounding(rule: str, channel: str = "official") -> str:
    """The book's channels, one of them with a rounding rule."""
    return BOOK["channels.toml"].replace(f'name = "{channel}"', f'name = "{channel}"\nrounding = {{ {rule} }}')


TICK = 'unit = "0.000002", minimum = "0.000002"'  # 1/500,000 of a dollar, one at least


@pytest.mark.parametrize(
    ("prompt", "completion", "exact", "charged"),
    [
        (1000, 500, "0.00045", "0.00045"),  # 225 units: nothing to round
        (7, 1, "0.00000165", "0.000002"),  # 0.00000105 + 0.0000006: below one unit, and more than half of it
        (20, 0, "0.000003", "0.000004"),  # one unit and a half: half upwards
        (19, 0, "0.00000285", "0.000002"),  # a little less than one and a half: down
        (1, 0, "0.00000015", "0.000002"),  # to the nearest it would be nothing: the minimum
        (0, 0, "0", "0"),  # nothing stays nothing
    ],
)
def test_a_charge_is_a_multiple_of_the_vendors_unit(home: Home, prompt: int, completion: int, exact: str, charged: str) -> None:
    """Input at 0.00000015 and output at 0.0000006, in units of 0.000002: the wallet pays the rounded sum, usage has the exact one."""
    built(home, call("r1", prompt=prompt, completion=completion), channels=_rounding(TICK))
    assert one(home, "SELECT final_charge, list_charge FROM ledger") == {"final_charge": Decimal(charged), "list_charge": Decimal(exact)}
    accounts = {row["account"]: row["amount"] for row in rows(home, "SELECT account, amount FROM journal")}
    expected = {
        "wallet:research:official_credit": -Decimal(charged),
        "usage:official": Decimal(exact),
        "rounding:official": Decimal(charged) - Decimal(exact),
    }
    assert accounts == {account: amount for account, amount in expected.items() if amount}
    assert one(home, "SELECT coalesce(sum(amount), 0) AS total FROM charges") == {"total": Decimal(charged)}


def test_the_receipt_shows_the_rounding_as_a_line_of_its_arithmetic(home: Home) -> None:
    """0.00000105 + 0.0000006 + 0.00000035 of rounding = 0.000002, and the line names the channel that has the rule."""
    built(home, call("r1", prompt=7, completion=1), channels=_rounding(TICK))
    receipt = find(home, "r1")
    assert [(line.meter, line.quantity, line.amount, line.rate_id) for line in receipt.lines if line.meter == "rounding"] == [
        ("rounding", 1, Decimal("0.00000035"), "rounding:official")
    ]
    assert "sum of these lines: 0.000002000000 USD" in as_text(receipt)


def test_without_a_minimum_a_speck_rounds_to_nothing(home: Home) -> None:
    """0.00000015 is less than half of 0.000002: the vendor charges nothing, and the exact cost still stands in usage."""
    built(home, call("r1", prompt=1, completion=0), channels=_rounding('unit = "0.000002"'))
    assert one(home, "SELECT final_charge, list_charge FROM ledger") == {"final_charge": Decimal(0), "list_charge": Decimal("0.00000015")}
    assert one(home, "SELECT amount FROM journal WHERE account = 'rounding:official'") == {"amount": Decimal("-0.00000015")}


def test_a_minimum_above_one_unit(home: Home) -> None:
    """0.00045 is 225 units, but this vendor charges 0.001 at least: the rest, 0.00055, is rounding."""
    built(home, call("r1"), channels=_rounding('unit = "0.000002", minimum = "0.001"'))
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": Decimal("0.001")}
    assert one(home, "SELECT amount FROM journal WHERE account = 'rounding:official'") == {"amount": Decimal("0.00055")}


def test_each_try_is_rounded_by_its_own_channel(home: Home) -> None:
    """Routed fails after 0.0000042 and rounds that to 0.00001; official serves for 0.00045 and does not round."""
    built(
        home,
        [
            request("r1"),
            attempt("r1", 1, NOON, channel="routed"),
            broken("r1", 1, NOON + SECOND, usage=usage(100, 10), relayed=False),
            attempt("r1", 2, NOON + SECOND, channel="official", role="backup", reason="fallback"),
            response("r1", 2, NOON + 3 * SECOND, usage=usage(1000, 500)),
        ],
        channels=_rounding('unit = "0.00001", minimum = "0.00001"', "routed"),
    )
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": Decimal("0.00046")}
    assert rows(home, "SELECT bucket, balance FROM wallet_balances ORDER BY bucket") == [
        {"bucket": "official_credit", "balance": Decimal("-0.00045")},
        {"bucket": "routed_balance", "balance": Decimal("-0.00001")},
    ]


def test_a_zero_price_a_flat_charge_and_an_unknown_one_are_not_rounded(home: Home) -> None:
    """A configured zero has no minimum; a policy's flat 0.002 is the contract's own figure; what is not known whole has no bill."""
    half = "+official,half,input,1,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,\n"
    timeout = failure("slow", at=NOON + 2 * SECOND, http_status=None, ending="timeout", terminal=None)
    records = [
        *call("gift", model="gift"),
        request("slow", NOON + SECOND, match_sha256="s" * 64),
        attempt("slow", at=NOON + SECOND),
        timeout,
        *call("half", NOON + 3 * SECOND, model="half"),
    ]
    built(home, records, rates=half, channels=_rounding('unit = "0.03", minimum = "0.03"'))
    assert rows(home, "SELECT request_id, final_charge FROM ledger ORDER BY created_at") == [
        {"request_id": "gift", "final_charge": Decimal(0)},
        {"request_id": "slow", "final_charge": Decimal("0.002")},
        {"request_id": "half", "final_charge": None},
    ]
    assert rows(home, "FROM charges WHERE meter = 'rounding'") == []
    assert one(home, "SELECT amount FROM journal WHERE account = 'suspense:unpriced'") == {"amount": Decimal("0.001")}


def test_specks_are_rounded_one_by_one(home: Home) -> None:
    """Rounding is each bill's own: 50 calls of 0.00000015 pay 50 x 0.000002 = 0.0001, of which 0.0000925 is rounding."""
    records = [record for n in range(50) for record in call(f"r{n:02d}", NOON + n * SECOND, prompt=1, completion=0)]
    built(home, records, channels=_rounding(TICK))
    assert one(home, "SELECT sum(final_charge) AS paid FROM ledger") == {"paid": Decimal("0.0001")}
    totals = rows(home, "SELECT account, sum(amount) AS total FROM journal GROUP BY account ORDER BY account")
    assert totals == [
        {"account": "rounding:official", "total": Decimal("0.0000925")},
        {"account": "usage:official", "total": Decimal("0.0000075")},
        {"account": "wallet:research:official_credit", "total": Decimal("-0.0001")},
    ]
