"""The receipt: what it tells of a request that was retried, failed over, adjusted and partly unknown."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from etl import run as agent_run
from etl.published import open_ledger
from etl.receipt import AmbiguousRequestError, Receipt, UnknownRunError, load, matches, of_run
from etl.receipt_text import SECTIONS, as_text
from schemas.home import Home
from schemas.ledger import LEDGER
from tests.published import Rows, publish

START = dt.datetime(2026, 10, 3, 12, 0, 0, 250_000, dt.UTC)
SECOND = dt.timedelta(seconds=1)
ADMIN = "mallory-the-admin"


def _ledger(request_id: str, **facts: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "created_at": START,
        "period": "2026-10",
        "status": "ok",
        "currency": "USD",
        "wallet": "team",
        **facts,
    }


# One request: the routed channel timed out, the official one served it. 1,000 plain and 200 cached input tokens, 50 output
# tokens: 1000 x 0.00000125 + 200 x 0.000000125 + 50 x 0.00001 = 0.00125 + 0.000025 + 0.0005 = 0.001775.
ROWS: Rows = {
    "ledger": [
        _ledger(
            "req-1",
            user_id="alice",
            run_id="run-7",
            api_model="gpt-5",
            primary_channel="cheap",
            backup_channel="openai",
            served_channel="openai",
            attempt_count=2,
            fallback_count=1,
            retry_count=0,
            outcome="ok",
            input_tokens=1200,
            cached_input_tokens=200,
            output_tokens=50,
            final_charge=Decimal("0.001775"),
            balance_bucket="official_credit",
            wallet_entry_id="entry-1",
            failed_request_policy="routed timeouts are free",
            adjustment_amount=Decimal("0.000775"),
            adjustment_reason="goodwill",
            receipt_digest="ab" * 32,
        ),
        _ledger(
            "req-2", run_id="run-7", status="failed", outcome="timeout", balance_bucket="routed_balance", final_charge=Decimal("0.0001")
        ),
        _ledger("req-3", run_id="run-7", balance_bucket="official_credit", api_model="model\x1b[2Jx"),
    ],
    "attempts": [
        {
            "request_id": "req-1",
            "ordinal": 1,
            "channel": "cheap",
            "role": "primary",
            "reason": "first",
            "status": "failed",
            "outcome": "timeout",
            "started_at": START,
            "ended_at": START + 2 * SECOND,
            "charged": Decimal(0),
            "bucket": "routed_balance",
            "error": "no byte for 2 s",
            "disposition": "free",
            "disposition_reason": "policy",
            "raw_request_id": "raw-1",
            "raw_ordinal": 1,
        },
        {
            "request_id": "req-1",
            "ordinal": 2,
            "channel": "openai",
            "role": "backup",
            "reason": "fallback",
            "status": "ok",
            "outcome": "ok",
            "started_at": START + 2 * SECOND,
            "ended_at": START + 3 * SECOND + dt.timedelta(milliseconds=50),
            "charged": Decimal("0.001775"),
            "bucket": "official_credit",
            "disposition": "charged",
            "raw_request_id": "raw-1",
            "raw_ordinal": 2,
        },
        *(
            {
                "request_id": request_id,
                "ordinal": 1,
                "channel": "any",
                "role": "primary",
                "reason": "first",
                "started_at": START,
                "charged": charged,
                "bucket": bucket,
                "disposition": "charged" if charged else "suspense",
                "raw_request_id": request_id,
                "raw_ordinal": 1,
            }
            for request_id, bucket, charged in (("req-2", "routed_balance", Decimal("0.0001")), ("req-3", "official_credit", None))
        ),
    ],
    "charges": [
        {
            "request_id": "req-1",
            "attempt_ordinal": 2,
            "meter": meter,
            "quantity": quantity,
            "unit_price": Decimal(price),
            "amount": Decimal(price) * quantity,
            "rate_id": f"rate-{priced_as}",
            "rate_effective_from": START - 90 * 24 * 3600 * SECOND,
            "priced_as": priced_as,
        }
        for meter, quantity, price, priced_as in (
            ("input", 1000, "0.00000125", "input"),
            ("cached_input", 200, "0.000000125", "cached_input"),
            ("reasoning", 50, "0.00001", "output"),
        )
    ],
    "model_prices": [
        {
            "rate_id": f"rate-{meter}",
            "book": "charge",
            "channel": "openai",
            "model": "gpt-5",
            "meter": meter,
            "unit_price": Decimal(price) / 1_000_000,
            "price": Decimal(price),
            "per": Decimal(1_000_000),
            "currency": "USD",
            "effective_from": START - 90 * 24 * 3600 * SECOND,
            "source": "https://example.com/pricing",
            "note": "read on 2026-07-05",
            "line": line,
        }
        for line, meter, price in ((2, "input", "1.25"), (3, "cached_input", "0.125"), (4, "output", "10"), (5, "unrelated", "9"))
    ],
    "attempt_policy": [
        {
            "request_id": "req-1",
            "attempt_ordinal": 1,
            "raw_request_id": "raw-1",
            "channel": "cheap",
            "outcome": "timeout",
            "policy_id": "policy-1",
            "policy": "routed timeouts are free",
            "charge": "none",
            "effective_from": START - SECOND,
        }
    ],
    "wallet_statement": [
        {
            "entry_id": "entry-1",
            "posted_at": START + 2 * SECOND,
            "wallet": "team",
            "bucket": "official_credit",
            "kind": "charge",
            "amount": Decimal("-0.001775"),
            "balance_after": Decimal("9.998225"),
            "request_id": "req-1",
        },
        {
            "entry_id": "entry-2",
            "posted_at": START + 60 * SECOND,
            "wallet": "team",
            "bucket": "official_credit",
            "kind": "adjustment",
            "amount": Decimal("0.000775"),
            "balance_after": Decimal("9.999"),
            "request_id": "req-1",
            "actor": ADMIN,
            "reason": "goodwill",
        },
    ],
    "unpriced": [
        {
            "request_id": "req-3",
            "channel": "openai",
            "upstream_model": "new",
            "meter": "input",
            "quantity": 7,
            "reason": "no rate",
            "attempt_ordinal": 1,
        }
    ],
    "attribution": [
        {"request_id": "req-1", "fact": "user_id", "value": "alice", "source": "registry", "standing": "applied"},
        {"request_id": "req-1", "fact": "user_id", "value": "bob", "source": "x-ledger-user", "standing": "claimed"},
    ],
    "request_ids": [
        {"id": "req-1", "kind": "request", "request_id": "req-1"},
        {"id": "raw-1b", "kind": "linked", "request_id": "req-1"},
        {"id": "order-42", "kind": "client_request_id", "request_id": "req-1"},
        {"id": "chatcmpl-9", "kind": "response_id", "request_id": "req-1"},
        {"id": "shared", "kind": "idempotency_key", "request_id": "req-1"},
        {"id": "shared", "kind": "idempotency_key", "request_id": "req-2"},
        {"id": "req-2", "kind": "client_request_id", "request_id": "req-3"},
    ],
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    publish(home, ROWS)
    return home


def _receipt(home: Home, request_id: str) -> Receipt:
    with open_ledger(home) as connection:
        return load(connection, request_id, published=True)


def test_the_arithmetic_stands_line_by_line(home: Home) -> None:
    """Each line multiplies out to its amount, the lines to the charge, and each names its rate row and source."""
    receipt = _receipt(home, "req-1")
    assert [line.quantity * line.unit_price for line in receipt.lines] == [line.amount for line in receipt.lines]
    assert sum(line.amount for line in receipt.lines) == receipt.facts["final_charge"] == Decimal("0.001775")
    text = as_text(receipt)
    assert " ".join(next(row for row in text.splitlines() if "cached_input  " in row).split()) == (
        "2 cached_input 200 x 0.000000125000 = 0.000025000000 rate-cached_input 2026-07-05T12:00:00.250000Z"
    )
    assert "sum of these lines: 0.001775000000 USD" in text
    assert "rates.csv line 3, openai gpt-5 cached_input, 0.125 USD per 1000000" in text
    assert "source: https://example.com/pricing; read on 2026-07-05" in text
    assert "reasoning has no price of its own and lies inside output" in text
    assert "unrelated" not in text


def test_the_attempts_are_a_timeline_with_their_policy(home: Home) -> None:
    """The failed try stands before the one that served, with its milliseconds, its error and the policy that freed it."""
    receipt = _receipt(home, "req-1")
    assert [(a.ordinal, a.channel, a.reason, a.ms) for a in receipt.attempts] == [
        (1, "cheap", "first", 2000),
        (2, "openai", "fallback", 1050),
    ]
    text = as_text(receipt)
    assert "#1 error: no byte for 2 s" in text
    assert "#1 timeout: policy routed timeouts are free charges none, in force from 2026-10-03T11:59:59.250000Z" in text


def test_every_fact_of_the_contract_is_on_both_faces(home: Home) -> None:
    """Text and JSON carry every column of the ledger's row; JSON writes amounts as texts of 12 places."""
    receipt = _receipt(home, "req-1")
    shown = {column for _, named in SECTIONS for _, column in named}
    told_elsewhere = {"request_id", "receipt_digest"}  # in the first line and the last
    assert shown | told_elsewhere == set(LEDGER.column_names)
    facts = json.loads(json.dumps(receipt.as_json()))
    assert set(LEDGER.column_names) <= set(facts)
    assert facts["final_charge"] == "0.001775000000"
    assert facts["wallet_entries"][1]["balance_after"] == "9.999000000000"
    assert facts["created_at"] == "2026-10-03T12:00:00.250000Z"
    assert facts["charges"][0]["unit_price"] == "0.000000125000"


def test_wallet_and_adjustment_are_told_without_the_admin(home: Home) -> None:
    """The balance after each entry and the reason of an adjustment stand there; who made it does not."""
    receipt = _receipt(home, "req-1")
    text = as_text(receipt)
    assert "9.998225000000" in text
    assert "goodwill" in text
    assert ADMIN not in text
    assert ADMIN not in json.dumps(receipt.as_json())


def test_a_claim_that_does_not_count_is_kept_apart(home: Home) -> None:
    """What a header claimed against the registry is shown as claimed, and the registry's value is the fact."""
    text = as_text(_receipt(home, "req-1"))
    assert "alice" in text.split("Who")[1].split("Model")[0]
    assert "user_id: bob (said by x-ledger-user)" in text.split("Claimed, but not what counts")[1]


def test_unknown_is_called_unknown(home: Home) -> None:
    """A null is never shown as 0, and a meter without a price stands in suspense with its cure."""
    receipt = _receipt(home, "req-3")
    text = as_text(receipt)
    charged = next(row for row in text.splitlines() if row.strip().startswith("charged "))
    assert charged.split() == ["charged", "unknown"]
    assert receipt.as_json()["final_charge"] is None
    assert "no rate" in text.split("Without a price")[1]
    assert "\x1b" not in text, "a terminal must not obey what a client sent"


def test_any_id_leads_to_the_request(home: Home) -> None:
    """A linked retry's id, the client's own, the vendor's: each finds the request; its own id wins over another's alias."""
    with open_ledger(home) as connection:
        for asked in ("req-1", "raw-1b", "order-42", "chatcmpl-9"):
            assert matches(connection, asked) == ["req-1"]
        assert matches(connection, "req-2") == ["req-2"]
        assert matches(connection, "shared") == ["req-1", "req-2"]
        assert matches(connection, "' OR 1=1 --") == []


def test_an_ambiguous_id_lists_what_it_names() -> None:
    """The refusal names every request and the command for the first."""
    error = AmbiguousRequestError("shared", ["req-1", "req-2"])
    assert error.exit_code == 1
    assert "req-1" in error.what
    assert "req-2" in error.what
    assert error.cure == "tokenledger receipt req-1"


def test_a_run_adds_up_without_netting_buckets(home: Home) -> None:
    """A run lists its requests and one total a bucket, by attempt; an attempt without a charge is counted, not summed as zero."""
    receipts = of_run(home, "run-7")
    totals = {total.bucket: (total.attempts, total.charged, total.unknown) for total in agent_run.totals(receipts)}
    assert totals == {"official_credit": (2, Decimal("0.001775"), 1), "routed_balance": (2, Decimal("0.0001"), 0)}
    assert agent_run.as_json("run-7", receipts)["totals"][0]["charged"] == "0.001775000000"
    text = agent_run.as_text("run-7", receipts)
    assert "3 requests (1 failed, 2 ok)" in text
    with pytest.raises(UnknownRunError):
        of_run(home, "run-8")
