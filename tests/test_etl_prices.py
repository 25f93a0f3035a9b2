"""What a call costs, each figure worked by hand from the prices in tests/rawdata.py."""

from __future__ import annotations

from decimal import Decimal

import pytest

from schemas.home import Home
from schemas.records import Record, UsageSeen
from tests.rawdata import (
    BOOK,
    DAY,
    HOUR,
    NOON,
    SECOND,
    attempt,
    body,
    broken,
    built,
    call,
    failure,
    json,
    one,
    request,
    response,
    rows,
    usage,
)


def test_a_plain_call(home: Home) -> None:
    """1000 x 0.00000015 + 500 x 0.0000006 = 0.00015 + 0.0003 = 0.00045 dollars, and each line names its rate row."""
    built(home, call("r1"))
    assert one(home, "SELECT final_charge, list_charge, status, usage_source, balance_bucket, wallet FROM ledger") == {
        "final_charge": Decimal("0.00045"),
        "list_charge": Decimal("0.00045"),
        "status": "ok",
        "usage_source": "reported",
        "balance_bucket": "official_credit",
        "wallet": "research",
    }
    assert rows(home, "SELECT meter, quantity, unit_price, amount FROM charges ORDER BY meter") == [
        {"meter": "input", "quantity": 1000, "unit_price": Decimal("0.00000015"), "amount": Decimal("0.00015")},
        {"meter": "output", "quantity": 500, "unit_price": Decimal("0.0000006"), "amount": Decimal("0.0003")},
    ]
    unexplained = rows(home, "SELECT * FROM charges c ANTI JOIN model_prices p ON c.rate_id = p.rate_id")
    assert unexplained == []


def test_cached_tokens_are_counted_once(home: Home) -> None:
    """Of 1000 input tokens 400 are cached: 600 x 0.00000015 + 400 x 0.000000075 + 500 x 0.0000006 = 0.00009 + 0.00003 + 0.0003."""
    details = {"prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 200}}
    built(home, [request("r1"), attempt("r1"), response("r1", usage=usage(1000, 500, **details))])
    assert one(home, "SELECT final_charge, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens FROM ledger") == {
        "final_charge": Decimal("0.00042"),
        "input_tokens": 1000,
        "cached_input_tokens": 400,
        "output_tokens": 500,
        "reasoning_tokens": 200,
    }
    # no price for reasoning: those 200 are priced as the output they lie inside
    assert one(home, "SELECT quantity, priced_as, amount FROM charges WHERE meter = 'reasoning'") == {
        "quantity": 200,
        "priced_as": "output",
        "amount": Decimal("0.00012"),
    }


def test_routed_is_cheaper_than_list(home: Home) -> None:
    """1000 x 0.00000003 + 500 x 0.00000012 = 0.00009 from the routed balance, against 0.00045 at list prices."""
    built(home, [request("r1"), attempt("r1", channel="routed"), response("r1", usage=usage(1000, 500))])
    assert one(home, "SELECT final_charge, list_charge, balance_bucket, route, primary_channel, served_channel FROM ledger") == {
        "final_charge": Decimal("0.00009"),
        "list_charge": Decimal("0.00045"),
        "balance_bucket": "routed_balance",
        "route": "routed",
        "primary_channel": "routed",
        "served_channel": "routed",
    }


def test_the_price_of_the_instant_the_request_began(home: Home) -> None:
    """A microsecond before noon 1000 x 0.000001 = 0.001; from noon 1000 x 0.000002 + 0.001 a call = 0.003."""
    built(home, [*call("early", NOON - 1, completion=0, model="dated"), *call("late", NOON, completion=0, model="dated")])
    assert rows(home, "SELECT request_id, final_charge FROM ledger ORDER BY created_at") == [
        {"request_id": "early", "final_charge": Decimal("0.001")},
        {"request_id": "late", "final_charge": Decimal("0.003")},
    ]


@pytest.mark.parametrize(
    ("prompt", "tier", "charge"),
    [
        (1000, None, "0.001"),  # 1000 x 0.000001
        (1001, None, "0.002002"),  # the whole prompt at the higher rate: 1001 x 0.000002
        (1000, "flex", "0.0005"),  # 1000 x 0.0000005
    ],
)
def test_conditions_of_a_rate(home: Home, prompt: int, tier: str | None, charge: str) -> None:
    """A threshold prices the whole prompt, and the tier that served decides."""
    built(
        home,
        [
            request("r1", api_model="tiered"),
            attempt("r1", sent_model="tiered"),
            response("r1", usage=usage(prompt, 0), service_tier=tier),
        ],
    )
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": Decimal(charge)}


@pytest.mark.parametrize(
    ("at", "charge"),
    [
        (NOON, "0.001"),
        (NOON + 10 * HOUR, "0.00025"),  # 22:00:00
        (NOON + 10 * HOUR - 1, "0.001"),  # 21:59:59.999999
        (NOON + 18 * HOUR - 1, "0.00025"),  # 05:59:59.999999 the next morning
        (NOON + 18 * HOUR, "0.001"),  # 06:00:00
    ],
)
def test_night_prices_cross_midnight(home: Home, at: int, charge: str) -> None:
    """From 22:00 until before 06:00 1000 tokens cost a quarter."""
    built(home, call("r1", at, completion=0, model="nightly"))
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": Decimal(charge)}


def test_night_prices_follow_the_vendors_clock(home: Home) -> None:
    """In Berlin (UTC+2 in October) night begins at 20:00 UTC."""
    built(home, call("r1", NOON + 8 * HOUR, completion=0, model="nightly"), channels=_BERLIN)
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": Decimal("0.00025")}


_BERLIN = """
[[channel]]
name = "official"
base_url = "https://api.openai.test/v1"
route = "official"
bucket = "official_credit"
vendor = "OpenAI"
default = true
timezone = "Europe/Berlin"

[[channel]]
name = "routed"
base_url = "https://routed.test/v1"
route = "routed"
bucket = "routed_balance"
vendor = "Router"
"""


def test_a_price_of_zero_is_a_price(home: Home) -> None:
    """It is charged, with an entry of zero, and nothing is unpriced."""
    built(home, call("r1", model="gift"))
    assert one(home, "SELECT final_charge, wallet_entry_id IS NOT NULL AS posted FROM ledger") == {
        "final_charge": Decimal(0),
        "posted": True,
    }
    assert rows(home, "FROM unpriced") == []


def test_a_missing_price_is_not_zero(home: Home) -> None:
    """The charge is null, the money in suspense, and the month has a blocker."""
    built(home, call("r1", model="nobody-knows-me"))
    assert one(home, "SELECT final_charge, failed_request_policy FROM ledger") == {"final_charge": None, "failed_request_policy": None}
    assert rows(home, "SELECT meter, quantity, reason FROM unpriced ORDER BY meter") == [
        {"meter": "input", "quantity": 1000, "reason": "no price for input of nobody-knows-me on official"},
        {"meter": "output", "quantity": 500, "reason": "no price for output of nobody-knows-me on official"},
    ]
    assert one(home, "SELECT account, amount, kind FROM journal WHERE account LIKE 'suspense%'") == {
        "account": "suspense:unpriced",
        "amount": Decimal(0),
        "kind": "suspense",
    }
    assert one(home, "SELECT requests, suspense_requests, blockers > 0 AS blocked FROM periods") == {
        "requests": 1,
        "suspense_requests": 1,
        "blocked": True,
    }


def test_the_known_part_of_a_charge_waits_in_suspense(home: Home) -> None:
    """Input has a price and output has none: 1000 x 0.000001 = 0.001 is held, the charge is null."""
    rates = "+official,half,input,1,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,\n"
    built(home, call("r1", model="half"), rates=rates)
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": None}
    assert rows(home, "SELECT account, amount FROM journal ORDER BY account") == [
        {"account": "suspense:unpriced", "amount": Decimal("0.001")},
        {"account": "wallet:research:official_credit", "amount": Decimal("-0.001")},
    ]


# ---- failed attempts ----


def test_a_fallback_pays_each_try_from_its_own_bucket(home: Home) -> None:
    """Routed breaks having reported 100 + 10 (0.000003 + 0.0000012); official serves for 0.00045: 0.0004542 from two buckets."""
    built(
        home,
        [
            request("r1"),
            attempt("r1", 1, NOON, channel="routed"),
            broken("r1", 1, NOON + SECOND, usage=usage(100, 10), relayed=False),
            attempt("r1", 2, NOON + SECOND, channel="official", role="backup", reason="fallback"),
            response("r1", 2, NOON + 3 * SECOND, usage=usage(1000, 500)),
        ],
    )
    assert one(
        home,
        """SELECT final_charge, status, attempt_count, retry_count, fallback_count, primary_channel, backup_channel, served_channel,
        failed_request_policy, balance_bucket, fallback_latency_ms, latency_ms, first_token_ms FROM ledger""",
    ) == {
        "final_charge": Decimal("0.0004542"),
        "status": "ok",
        "attempt_count": 2,
        "retry_count": 0,
        "fallback_count": 1,
        "primary_channel": "routed",
        "backup_channel": "official",
        "served_channel": "official",
        "failed_request_policy": "routed-bills",
        "balance_bucket": "official_credit",
        "fallback_latency_ms": 1000,
        "latency_ms": 3000,
        "first_token_ms": 3000,
    }
    assert rows(home, "SELECT bucket, balance FROM wallet_balances ORDER BY bucket") == [
        {"bucket": "official_credit", "balance": Decimal("-0.00045")},
        {"bucket": "routed_balance", "balance": Decimal("-0.0000042")},
    ]


FAILURES = {
    # outcome: (how it ended, what the policy makes of it)
    "error_before_output": (failure("r1"), "0"),
    "rate_limited": (failure("r1", status=429), "0"),
    "timeout": (failure("r1", http_status=None, ending="timeout", terminal=None), "0.002"),  # a flat amount
    "error_mid_stream": (broken("r1", usage=usage(1000, 100)), "0.00021"),  # 0.00015 + 100 x 0.0000006
    "client_gone": (broken("r1", ending="client_gone", usage=usage(1000, 100)), "0.00021"),
    "refused_no_output": (
        response("r1", finish_reasons=("content_filter",), output_seen=False, usage=usage(1000, 50)),
        "0.00015",  # the input only
    ),
    "refused_with_output": (response("r1", finish_reasons=("content_filter",), usage=usage(1000, 50)), "0.00018"),  # + 50 x 0.0000006
    "empty_reply": (response("r1", output_seen=False), "0"),  # what is reported, and nothing was
}


@pytest.mark.parametrize("outcome", FAILURES)
def test_failed_attempts_are_charged_by_policy(home: Home, outcome: str) -> None:
    """Each outcome is recognised, and costs what its row of failed_requests.csv says."""
    ended, charge = FAILURES[outcome]
    built(home, [request("r1"), attempt("r1"), ended])
    assert one(home, "SELECT outcome, final_charge FROM ledger") == {"outcome": outcome, "final_charge": Decimal(charge)}
    assert one(home, "SELECT policy_charged FROM failed_requests") == {"policy_charged": Decimal(charge)}


def test_a_failure_without_a_policy_is_not_free(home: Home) -> None:
    """No row covers it, so its charge is not known."""
    policies = BOOK["failed_requests.csv"].replace("2026-01-01", "2026-11-01")
    built(home, [request("r1"), attempt("r1"), failure("r1")], failed_requests=policies)
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": None}
    assert one(home, "SELECT reason FROM unpriced") == {"reason": "no row of failed_requests.csv covers error_before_output on official"}


def test_a_terminal_marker_outlives_the_socket(home: Home) -> None:
    """The official Python SDK closes its socket after [DONE]: that is success."""
    built(home, [request("r1"), attempt("r1"), broken("r1", ending="client_gone", terminal="[DONE]", usage=usage(1000, 500))])
    assert one(home, "SELECT status, final_charge FROM ledger") == {"status": "ok", "final_charge": Decimal("0.00045")}


def test_what_was_opened_and_never_closed_is_unknown(home: Home) -> None:
    """OPEN without CLOSE is held in suspense and listed, never a silent zero."""
    built(home, [request("r1"), attempt("r1")])
    assert one(home, "SELECT status, outcome, final_charge, usage_source FROM ledger") == {
        "status": "unknown",
        "outcome": "unknown",
        "final_charge": None,
        "usage_source": "none",
    }
    assert rows(home, "SELECT account FROM journal WHERE account LIKE 'suspense%'") == [{"account": "suspense:unknown"}]
    assert one(home, "SELECT kind, blocks_close FROM data_quality WHERE kind = 'open_hold'") == {"kind": "open_hold", "blocks_close": True}


def test_what_the_proxy_refused_costs_nothing(home: Home) -> None:
    """No attempt was made: status rejected, charge zero, the policy named."""
    refused = failure("r1", 0, status=403, ending="refused", terminal=None, headers=None)
    built(home, [request("r1"), refused])
    assert one(home, "SELECT status, attempt_count, final_charge, http_status, failed_request_policy FROM ledger") == {
        "status": "rejected",
        "attempt_count": 0,
        "final_charge": Decimal(0),
        "http_status": 403,
        "failed_request_policy": "no-charge",
    }
    assert rows(home, "FROM attempts") == []


def test_all_channels_failed_shows_what_the_client_saw(home: Home) -> None:
    """The proxy's own 502 is the request's status; the try keeps its own."""
    exhausted = failure("r1", 0, NOON + 2 * SECOND, status=502, ending="exhausted", terminal=None, headers=None)
    built(home, [request("r1"), attempt("r1"), failure("r1", status=500), exhausted])
    assert one(home, "SELECT status, http_status, attempt_count FROM ledger") == {
        "status": "failed",
        "http_status": 502,
        "attempt_count": 1,
    }
    assert one(home, "SELECT http_status FROM attempts") == {"http_status": 500}


# ---- endpoints and usage ----


def test_free_endpoints_are_free_for_a_named_reason(home: Home) -> None:
    """A list of models and a stored call that repeats a billed usage cost nothing and post nothing."""
    stored = request("r2", NOON + SECOND, method="GET", path="/v1/chat/completions/chatcmpl-1", match_sha256=None)
    built(
        home,
        [
            request("r1", method="GET", path="/v1/models", api_model=None, match_sha256=None),
            attempt("r1", sent_model=None),
            response("r1", output_seen=False),
            stored,
            attempt("r2", at=NOON + SECOND),
            response("r2", at=NOON + 2 * SECOND, usage=usage(1000, 500)),
        ],
    )
    assert rows(home, "SELECT endpoint, final_charge, status FROM ledger ORDER BY created_at") == [
        {"endpoint": "models", "final_charge": Decimal(0), "status": "ok"},
        {"endpoint": "chat.completions.stored", "final_charge": Decimal(0), "status": "ok"},
    ]
    assert rows(home, "SELECT DISTINCT disposition, reason FROM dispositions ORDER BY reason") == [
        {"disposition": "free", "reason": "a stored object: it was billed when it was made"},
        {"disposition": "free", "reason": "this endpoint is free"},
    ]
    assert rows(home, "FROM journal") == []


def test_an_endpoint_that_is_not_understood_is_unpriced(home: Home) -> None:
    """It is relayed and recorded; its charge is not known, and its path stands as its endpoint."""
    built(home, [request("r1", path="/v1/fancy"), attempt("r1"), response("r1")])
    assert one(home, "SELECT endpoint, final_charge FROM ledger") == {"endpoint": "/v1/fancy", "final_charge": None}
    assert one(home, "SELECT reason FROM unpriced") == {"reason": "usage of this endpoint is not understood"}


@pytest.mark.parametrize(
    ("prompt", "cached", "fault"),
    [
        (100, 101, "input is reported as 100, but 101 are reported inside it"),
        (-5, 0, "input is reported as -5, which is no whole number"),
        ("12.5", 0, "input is reported as 12.5, which is no whole number"),
        (10**18, 0, "input is reported as 1000000000000000000, which is no whole number"),
    ],
)
def test_impossible_usage_is_quarantined(home: Home, prompt: object, cached: int, fault: str) -> None:
    """It is never charged, least of all negative; the request is unpriced and the month has a blocker."""
    seen = usage(prompt, 1, prompt_tokens_details={"cached_tokens": cached})
    built(home, [request("r1"), attempt("r1"), response("r1", usage=seen)])
    assert one(home, "SELECT final_charge, input_tokens FROM ledger") == {"final_charge": None, "input_tokens": None}
    assert one(home, "SELECT detail, blocks_close FROM data_quality WHERE kind = 'quarantined_usage'") == {
        "detail": fault,
        "blocks_close": True,
    }


@pytest.mark.parametrize("prompt", ["1000", 1000.0, "1000.0"])
def test_whole_numbers_count_however_they_are_written(home: Home, prompt: object) -> None:
    """Texts of digits and floats without a fraction are exact."""
    built(home, [request("r1"), attempt("r1"), response("r1", usage=usage(prompt, 500))])
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": Decimal("0.00045")}


def test_zero_null_and_absent_usage_are_three_things(home: Home) -> None:
    """Zero tokens cost nothing; a null or absent usage is recounted or unpriced."""
    built(home, [*call("zero", prompt=0, completion=0), *call("null", NOON + SECOND, prompt=None, completion=None)])
    assert rows(home, "SELECT request_id, final_charge, input_tokens, usage_source FROM ledger ORDER BY created_at") == [
        {"request_id": "zero", "final_charge": Decimal(0), "input_tokens": 0, "usage_source": "reported"},
        {"request_id": "null", "final_charge": None, "input_tokens": None, "usage_source": "none"},
    ]
    assert one(home, "SELECT reason FROM dispositions WHERE raw_request_id = 'zero'") == {"reason": "the usage is zero"}


def test_what_the_vendor_says_it_charged_is_kept_as_evidence(home: Home) -> None:
    """usage.cost and LiteLLM's header stand beside our charge and change nothing in it."""
    built(
        home,
        [
            *call("r1")[:2],
            response("r1", usage=usage(1000, 500, cost=0.00046)),
            *call("r2", NOON + SECOND)[:2],
            response("r2", at=NOON + 2 * SECOND, usage=usage(1000, 500), headers=json({"x-litellm-response-cost": "4.5e-4"})),
        ],
    )
    assert rows(home, "SELECT final_charge, vendor_charge FROM ledger ORDER BY created_at") == [
        {"final_charge": Decimal("0.00045"), "vendor_charge": Decimal("0.00046")},
        {"final_charge": Decimal("0.00045"), "vendor_charge": Decimal("0.00045")},
    ]
    assert rows(home, "SELECT class, difference FROM reconciliation ORDER BY subject") == [
        {"class": "mismatch", "difference": Decimal("0.00001")},
        {"class": "matched", "difference": Decimal(0)},
    ]


# ---- the recount ----

CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello to the world."}]}'
STREAM = (
    b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello"}}]}\r\n\r\n'
    b": keep-alive\n\n"
    b'data: {"choices": [{"index": 0, "delta": {"content": ", world"}}]}\n\ndata: {"choices": [{"ind'
)


def test_a_broken_stream_without_usage_is_recounted(home: Home) -> None:
    """Of the prompt "Say hello to the world." the text is 6 tokens, + 1 role + 3 a message + 3 priming = 13; "Hello, world" is 3.

    13 x 0.00000015 + 3 x 0.0000006 = 0.00000195 + 0.0000018 = 0.00000375.
    """
    built(home, [request("r1"), attempt("r1"), broken("r1", ending="client_gone"), body("r1", 0, CHAT), body("r1", 1, STREAM)])
    assert one(home, "SELECT input_tokens, output_tokens, usage_source, final_charge FROM ledger") == {
        "input_tokens": 13,
        "output_tokens": 3,
        "usage_source": "recounted",
        "final_charge": Decimal("0.00000375"),
    }


def test_what_cannot_be_recounted_is_unpriced_for_a_reason(home: Home) -> None:
    """A prompt with a picture is not guessed, and a body that was not kept is said to be missing."""
    picture = b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}'
    second: list[Record] = [request("r2", NOON + DAY), attempt("r2", at=NOON + DAY), response("r2", at=NOON + DAY + SECOND)]
    built(home, [request("r1"), attempt("r1"), response("r1"), body("r1", 0, picture), body("r1", 1, b"{}"), *second])
    assert rows(home, "SELECT final_charge FROM ledger") == [{"final_charge": None}] * 2
    assert rows(home, "SELECT detail FROM data_quality WHERE kind = 'not_recounted' ORDER BY subject") == [
        {"detail": "the prompt holds image_url, which has no text"},
        {"detail": "the request's body was not kept"},
    ]


STUB = (UsageSeen("message.usage", '{"input_tokens":100,"output_tokens":1}', 1),)
SAID = (
    b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello, world"}}\n\n'
    b'data: {"type": "content_block_start", "index": 1, "content_block": {"type": "redacted_thinking", "data": "AA"}}\n\n'
)


def test_a_stub_of_an_output_is_charged_only_where_the_policy_says_as_reported(home: Home) -> None:
    """A stream of Messages that broke after message_start, three times; 0.15 in and 0.60 out a million, routed 0.03 and 0.12.

    r1, as observed: 100 x 0.15/M + 3 tokens of "Hello, world" x 0.60/M = 0.000015 + 0.0000018 = 0.0000168; what was encrypted
    is named. r2, as observed, and its bytes were not kept: unknown. r3, on a channel whose policy is as reported: the vendor's
    own 1: 100 x 0.03/M + 1 x 0.12/M = 0.000003 + 0.00000012 = 0.00000312.
    """
    records: list[Record] = []
    for number, channel in enumerate(("official", "official", "routed")):
        name, at = f"r{number + 1}", NOON + number * HOUR
        records += [
            request(name, at, path="/v1/messages", match_sha256=f"{name:m<64}"),
            attempt(name, at=at, channel=channel),
            broken(name, at=at + SECOND, usage=STUB),
        ]
    built(home, [*records, body("r1", 1, SAID)])
    assert rows(home, "SELECT input_tokens, output_tokens, usage_source, final_charge FROM ledger ORDER BY created_at") == [
        {"input_tokens": 100, "output_tokens": 3, "usage_source": "partial", "final_charge": Decimal("0.0000168")},
        {"input_tokens": 100, "output_tokens": None, "usage_source": "partial", "final_charge": None},
        {"input_tokens": 100, "output_tokens": 1, "usage_source": "partial", "final_charge": Decimal("0.00000312")},
    ]
    assert one(home, "SELECT reason FROM unpriced") == {
        "reason": "no output was reported and none could be recounted: the reply's body was not kept"
    }
    told = "SELECT kind, detail, blocks_close FROM data_quality WHERE kind LIKE '%recounted%' ORDER BY subject"
    assert rows(home, told) == [
        {"kind": "recounted_in_part", "detail": "without redacted_thinking", "blocks_close": False},
        {"kind": "not_recounted", "detail": "the reply's body was not kept", "blocks_close": True},
    ]
