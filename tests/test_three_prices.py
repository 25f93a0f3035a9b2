"""List, contract and vendor: three prices of one request, what lies between them, and three figures for each failed try."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from etl.published import open_ledger
from etl.receipt import find
from etl.receipt_text import as_text
from etl.summary import summarise
from schemas.home import Home
from schemas.records import Record
from tests.rawdata import DAY, NOON, SECOND, attempt, broken, built, call, failure, more_rates, one, request, response, rows, usage


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def routed(request_id: str, usage_told: tuple[int, int], **more: str) -> list[Record]:
    """A call that the routed channel answered."""
    return [
        request(request_id, match_sha256=f"{request_id:m<64}"),
        attempt(request_id, channel="routed"),
        response(request_id, usage=usage(*usage_told, **more)),
    ]


def fell_back(request_id: str) -> list[Record]:
    """The routed channel broke off after 200 in and 100 out, and the official one answered 1000 in and 500 out."""
    return [
        request(request_id, stream=True, match_sha256=f"{request_id:m<64}"),
        attempt(request_id, channel="routed"),
        broken(request_id, usage=usage(200, 100)),
        attempt(request_id, 2, NOON + 2 * SECOND, channel="official", role="backup", reason="fallback"),
        response(request_id, 2, NOON + 3 * SECOND, usage=usage(1000, 500)),
    ]


def test_savings_lie_between_list_and_charge(home: Home) -> None:
    """1000 in and 500 out: list 1000 x 0.15 + 500 x 0.60 = 450 millionths, routed 1000 x 0.03 + 500 x 0.12 = 90: 360 saved."""
    built(home, routed("r1", (1000, 500)))
    row = one(home, "FROM ledger")
    assert (row["list_charge"], row["final_charge"], row["savings"]) == (Decimal("0.00045"), Decimal("0.00009"), Decimal("0.00036"))
    assert row["leakage"] == 0
    assert row["vendor_difference"] is None  # the vendor said nothing


def test_the_vendors_own_figure_is_held_against_ours(home: Home) -> None:
    """The vendor says 0.0001 and the contract 0.00009: it says 0.00001 more than we booked."""
    built(home, routed("r1", (1000, 500), cost="0.0001"))
    row = one(home, "FROM ledger")
    assert (row["vendor_charge"], row["vendor_difference"]) == (Decimal("0.0001"), Decimal("0.00001"))


def test_a_failed_try_before_a_fallback_is_leakage(home: Home) -> None:
    """Broken off: 200 x 0.03 + 100 x 0.12 = 18 millionths leaked; served: 450. List is 18 x 5 = 90 and 450, so 540 - 468 = 72 saved."""
    built(home, fell_back("r1"))
    row = one(home, "FROM ledger")
    assert (row["final_charge"], row["leakage"], row["savings"]) == (Decimal("0.000468"), Decimal("0.000018"), Decimal("0.000072"))


def test_a_failed_try_is_paid_by_its_own_bucket_and_policy(home: Home) -> None:
    """The broken try by the routed channel's policy from the routed balance, the answer from the official credit; never in one transaction."""
    built(home, fell_back("r1"))
    paid = rows(home, "SELECT bucket, amount FROM wallet_statement ORDER BY bucket")
    assert [(row["bucket"], row["amount"]) for row in paid] == [
        ("official_credit", Decimal("-0.00045")),
        ("routed_balance", Decimal("-0.000018")),
    ]
    assert one(home, "SELECT count(DISTINCT transaction_id) AS n FROM journal")["n"] == 2
    row = one(home, "FROM attempt_policy")
    assert (row["policy"], row["charge"], row["booked_bucket"]) == ("routed-bills", "reported", "routed_balance")


def test_a_failed_request_shows_contract_booking_and_vendor(home: Home) -> None:
    """A timeout costs its flat 0.002 and saves nothing; the vendor says nothing. What it said of a broken stream stands beside ours."""
    timeout: list[Record] = [
        request("slow"),
        attempt("slow"),
        response("slow", ending="timeout", output_seen=False, first_token_at=None, terminal=None, http_status=None),
    ]
    told: list[Record] = [
        request("told", stream=True, match_sha256="t" * 64),
        attempt("told", channel="routed"),
        broken("told", usage=usage(200, 100, cost="0.00005")),
    ]
    built(home, [*timeout, *told])
    shown = {row["request_id"]: row for row in rows(home, "FROM attempt_policy")}
    assert shown["slow"]["contract_amount"] == shown["slow"]["booked_amount"] == Decimal("0.002")
    assert shown["slow"]["vendor_amount"] is None
    assert (shown["told"]["booked_amount"], shown["told"]["vendor_amount"]) == (Decimal("0.000018"), Decimal("0.00005"))
    facts = {row["request_id"]: row for row in rows(home, "FROM ledger")}
    assert (facts["slow"]["savings"], facts["slow"]["leakage"]) == (None, Decimal("0.002"))
    assert facts["told"]["vendor_difference"] == Decimal("0.000032")
    text = as_text(find(home, "slow"))
    assert "    by contract     0.002000000000 USD\n" in text
    assert "    booked          0.002000000000 USD from official_credit\n" in text
    assert "    vendor charged  not reported\n" in text
    assert "    vendor charged  0.000050000000 USD" in as_text(find(home, "told"))


def test_what_is_not_known_is_neither_saved_nor_leaked(home: Home) -> None:
    """A model without a price has no charge: no savings; a failed try without one leaks nobody knows how much."""
    unknown: list[Record] = [request("r1"), attempt("r1", sent_model="new"), response("r1", usage=usage(1, 1))]
    failed: list[Record] = [
        request("r2", stream=True, match_sha256="n" * 64),
        attempt("r2", sent_model="new"),
        broken("r2", usage=usage(1, 1)),
    ]
    free: list[Record] = [request("r3", match_sha256="o" * 64), attempt("r3"), failure("r3")]
    built(home, [*unknown, *failed, *free])
    facts = {row["request_id"]: (row["savings"], row["leakage"]) for row in rows(home, "FROM ledger")}
    assert facts == {"r1": (None, Decimal(0)), "r2": (None, None), "r3": (None, Decimal(0))}
    assert one(home, "FROM attempt_policy WHERE request_id = 'r2'")["booked_amount"] is None


def test_a_sum_of_what_is_not_known_is_null(home: Home) -> None:
    """Each reply has 1000 in and 500 out. On routed the first day `plain` is charged 0.00009 and has no list price, and a failure before it
    is free; the second day the list price is 0.00045. On official a model without a price is charged nobody knows what.
    """
    at = NOON + DAY
    plain: list[Record] = [
        *(request("free", match_sha256="f" * 64), attempt("free", channel="routed", sent_model="plain"), failure("free")),
        *(request("plain", match_sha256="p" * 64), attempt("plain", channel="routed", sent_model="plain")),
        response("plain", usage=usage(1000, 500)),
        *(request("known", at, match_sha256="k" * 64), attempt("known", at=at, channel="routed")),
        response("known", at=at + SECOND, usage=usage(1000, 500)),
    ]
    built(home, [*plain, *call("dark", model="dark")], rates=more_rates("routed plain input 0.03", "routed plain output 0.12"))
    days = rows(home, "SELECT served_channel, day, charged, list_charge, unpriced FROM usage_daily WHERE ok > 0 ORDER BY ALL")
    assert [(row["served_channel"], row["charged"], row["list_charge"], row["unpriced"]) for row in days] == [
        ("official", None, None, 1),
        ("routed", Decimal("0.00009"), None, 0),
        ("routed", Decimal("0.00009"), Decimal("0.00045"), 0),
    ]
    with open_ledger(home) as connection:
        (block,) = [b for b in summarise(connection, None).blocks if b.question.key == "prices"]
    prices = {row["route"]: row for row in (dict(zip(block.columns, row, strict=True)) for row in block.rows)}
    assert (prices["official"]["list_charge"], prices["official"]["charged"]) == (None, None)
    # the list price of the free failure is zero and that of `plain` unknown: their sum is not the 0.00045 of the one that is known
    assert (prices["routed"]["requests"], prices["routed"]["list_charge"], prices["routed"]["charged"]) == (3, None, Decimal("0.00018"))
    assert prices["routed"]["savings"] == Decimal("0.00036")
    assert one(home, "SELECT charged, monthly_limit FROM key_usage") == {"charged": Decimal("0.00018"), "monthly_limit": None}
    assert rows(home, "SELECT channel, model, failed, failed_cost FROM route_health ORDER BY ALL") == [
        {"channel": "official", "model": "dark", "failed": 0, "failed_cost": Decimal(0)},
        {"channel": "routed", "model": "openai/gpt-4o-mini", "failed": 0, "failed_cost": Decimal(0)},
        {"channel": "routed", "model": "plain", "failed": 1, "failed_cost": Decimal(0)},
    ]


def test_nothing_known_is_no_zero_anywhere(home: Home) -> None:
    """One run of one key, all of it without a price, one call broken off: no table says that it was charged 0."""
    headers = {"x-ledger-run": "run-7"}
    lost: list[Record] = [request("lost", stream=True, headers=headers, match_sha256="l" * 64), attempt("lost", sent_model="dark")]
    built(home, [*call("dark", model="dark", headers=headers), *lost, broken("lost", usage=usage(100, 10))])
    for query in ("SELECT known_charge FROM runs", "SELECT charged FROM key_usage", "SELECT charged FROM periods"):
        assert list(one(home, query).values()) == [None], query
    assert one(home, "SELECT failed, failed_cost FROM route_health") == {"failed": 1, "failed_cost": None}
