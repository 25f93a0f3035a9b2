"""Which recorded requests are one logical request, who it belongs to, and how it is found again."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

import orjson

from schemas.home import Home
from schemas.ledger import LEDGER
from schemas.records import Record
from tests.rawdata import (
    DAY,
    NOON,
    OTHER_KEY,
    SECOND,
    attempt,
    broken,
    built,
    call,
    event,
    failure,
    json,
    one,
    request,
    response,
    rows,
    topup,
    usage,
)


def failed(request_id: str, at: int, retry: int, **facts: Any) -> list[Record]:
    """A try of an SDK that got a 500 half a second later."""
    return [request(request_id, at, retry=retry, **facts), attempt(request_id, at=at), failure(request_id, at=at + SECOND // 2)]


def served(request_id: str, at: int, retry: int, **facts: Any) -> list[Record]:
    """A try of an SDK that was answered a second later."""
    return [
        request(request_id, at, retry=retry, **facts),
        attempt(request_id, at=at),
        response(request_id, at=at + SECOND, usage=usage(1000, 500)),
    ]


def logical(home: Home) -> list[list[str]]:
    """The recorded requests, grouped as the ledger groups them."""
    found = rows(home, "SELECT list(raw_request_id ORDER BY raw_request_id) AS ids FROM dispositions GROUP BY request_id ORDER BY ids")
    return [row["ids"] for row in found]


# ---- retries of an SDK ----


def test_an_sdks_retries_are_one_logical_request(home: Home) -> None:
    """Two failures and a success with counts 0, 1, 2 are one request of three tries, under the first one's id."""
    built(home, [*failed("a", NOON, 0), *failed("b", NOON + SECOND, 1), *served("c", NOON + 2 * SECOND, 2)])
    assert one(home, "SELECT request_id, status, attempt_count, retry_count, fallback_count, final_charge, latency_ms FROM ledger") == {
        "request_id": "a",
        "status": "ok",
        "attempt_count": 3,
        "retry_count": 2,
        "fallback_count": 0,
        "final_charge": Decimal("0.00045"),
        "latency_ms": 3000,
    }
    assert rows(home, "SELECT ordinal, reason, raw_request_id, outcome FROM attempts ORDER BY ordinal") == [
        {"ordinal": 1, "reason": "first", "raw_request_id": "a", "outcome": "error_before_output"},
        {"ordinal": 2, "reason": "client_retry", "raw_request_id": "b", "outcome": "error_before_output"},
        {"ordinal": 3, "reason": "client_retry", "raw_request_id": "c", "outcome": "ok"},
    ]


def test_two_equal_calls_stay_two(home: Home) -> None:
    """Equal bodies one after the other, and at once: without a retry count above zero nothing is linked."""
    built(
        home,
        [
            *served("a", NOON, 0),
            *served("b", NOON + SECOND // 2, 0),
            *failed("c", NOON + 9 * SECOND, 0),
            *served("d", NOON + 10 * SECOND, 0),
        ],
    )
    assert logical(home) == [["a"], ["b"], ["c"], ["d"]]


def test_equal_calls_at_once_each_get_one_retry(home: Home) -> None:
    """Two threads send equal bodies, both fail, both retry: two requests with one retry each, not one with three."""
    built(
        home,
        [
            *failed("a", NOON, 0),
            *failed("b", NOON + 1, 0),
            *served("c", NOON + SECOND, 1),
            *served("d", NOON + SECOND + 1, 1),
        ],
    )
    assert sorted(len(ids) for ids in logical(home)) == [2, 2]
    assert rows(home, "SELECT DISTINCT attempt_count, retry_count FROM ledger") == [{"attempt_count": 2, "retry_count": 1}]


def test_a_retry_belongs_to_the_failure_before_it(home: Home) -> None:
    """Of an old failure nobody tried again and a new one, the retry takes the new one."""
    built(home, [*failed("old", NOON, 0), *failed("new", NOON + 60 * SECOND, 0), *served("retry", NOON + 61 * SECOND, 1)])
    assert logical(home) == [["new", "retry"], ["old"]]


def test_what_is_no_retry_of_it_is_not_linked(home: Home) -> None:
    """Another body, key, path or client, a success, an end after the retry began, or a day between: each stands alone."""
    apart: list[list[Record]] = [
        [*failed("a1", NOON, 0), *served("a2", NOON + SECOND, 1, match_sha256="x" * 64)],
        [*failed("b1", NOON + DAY, 0, credential=OTHER_KEY), *served("b2", NOON + DAY + SECOND, 1)],
        [*failed("c1", NOON + 3 * DAY, 0, path="/v1/completions"), *served("c2", NOON + 3 * DAY + SECOND, 1)],
        [*failed("d1", NOON + 5 * DAY, 0, headers={"user-agent": "OpenAI/JS 6"}), *served("d2", NOON + 5 * DAY + SECOND, 1)],
        [*served("e1", NOON + 7 * DAY, 0), *served("e2", NOON + 7 * DAY + 2 * SECOND, 1)],
        [*failed("f1", NOON + 9 * DAY, 0), *served("f2", NOON + 9 * DAY + SECOND // 4, 1)],
        [*failed("g1", NOON + 11 * DAY, 0), *served("g2", NOON + 12 * DAY + SECOND, 1)],
    ]
    built(home, [record for pair in apart for record in pair])
    assert logical(home) == [[f"{pair}{n}"] for pair in "abcdefg" for n in (1, 2)]


def test_a_clients_timeout_and_its_retry_are_one(home: Home) -> None:
    """The client left after a second and asked again, while the gateway still drained the first reply for its usage."""
    left = broken("a", at=NOON + 30 * SECOND, ending="client_gone", client_gone_at=NOON + SECOND, usage=usage(1000, 100))
    built(home, [request("a"), attempt("a"), left, *served("b", NOON + 2 * SECOND, 1)])
    # 0.00015 + 100 x 0.0000006 for what was seen of the first, 0.00045 for the second
    assert one(home, "SELECT request_id, status, final_charge, retry_count, failed_request_policy FROM ledger") == {
        "request_id": "a",
        "status": "ok",
        "final_charge": Decimal("0.00066"),
        "retry_count": 1,
        "failed_request_policy": "seen",
    }


def test_nested_retries_are_counted_once_each(home: Home) -> None:
    """The SDK tries twice and the proxy twice within each: four tries, one request, three retries."""
    records: list[Record] = []
    for raw, at, retry in (("a", NOON, 0), ("b", NOON + 10 * SECOND, 1)):
        records += [
            request(raw, at, retry=retry),
            attempt(raw, 1, at),
            failure(raw, 1, at + SECOND, relayed=False),
            attempt(raw, 2, at + SECOND, reason="retry"),
            failure(raw, 2, at + 2 * SECOND),
        ]
    built(home, records)
    assert one(home, "SELECT attempt_count, retry_count, status FROM ledger") == {"attempt_count": 4, "retry_count": 3, "status": "failed"}
    assert [row["reason"] for row in rows(home, "FROM attempts ORDER BY ordinal")] == ["first", "retry", "client_retry", "retry"]


def test_long_chains_are_followed(home: Home) -> None:
    """Twenty retries of one call are one request."""
    records = [record for n in range(20) for record in failed(f"r{n:02}", NOON + n * SECOND, n)]
    built(home, [*records, *served("r20", NOON + 20 * SECOND, 20)])
    assert one(home, "SELECT request_id, attempt_count, retry_count FROM ledger") == {
        "request_id": "r00",
        "attempt_count": 21,
        "retry_count": 20,
    }


# ---- who ----


def test_the_registry_comes_first(home: Home) -> None:
    """A header that contradicts the registry is kept beside it as claimed; runs and tags come from the request."""
    headers = {"x-ledger-user": "mallory", "x-ledger-run": "run-7", "x-ledger-tag-team": 'blue "1"', "x-ledger-tag-app": "a"}
    built(home, call("r1", headers=headers))
    assert one(home, "SELECT user_id, project, run_id, tags, api_key_id, api_key_label, wallet FROM ledger") == {
        "user_id": "ada",
        "project": "search",
        "run_id": "run-7",
        "tags": '{"app":"a","team":"blue \\"1\\""}',
        "api_key_id": "k-ada",
        "api_key_label": "Ada's laptop",
        "wallet": "research",
    }
    assert orjson.loads(one(home, "SELECT tags FROM ledger")["tags"]) == {"app": "a", "team": 'blue "1"'}
    assert rows(home, "SELECT value, source, standing FROM attribution WHERE fact = 'user_id' ORDER BY standing") == [
        {"value": "ada", "source": "registry", "standing": "applied"},
        {"value": "mallory", "source": "x-ledger-user", "standing": "claimed"},
    ]
    assert one(home, "SELECT requests, known_charge FROM runs WHERE run_id = 'run-7'") == {
        "requests": 1,
        "known_charge": Decimal("0.00045"),
    }


def test_a_trusted_keys_header_wins(home: Home) -> None:
    """A gateway that calls for many users says who; a vendor's own field does not outrank the registry."""
    headers = {"x-ledger-user": "grace", "openai-project": "proj_1"}
    built(home, call("r1", headers=headers), keys="+trusted = true\n")
    assert one(home, "SELECT user_id, project FROM ledger") == {"user_id": "grace", "project": "search"}


def test_an_unknown_key_is_recorded_and_visible(home: Home) -> None:
    """Its label and wallet are `unregistered`, its user what the request says, and data_quality names it."""
    built(home, call("r1", credential=OTHER_KEY, body_facts=json({"user": "u-1", "safety_identifier": "s-1"})))
    assert one(home, "SELECT user_id, project, api_key_id, api_key_label, wallet FROM ledger") == {
        "user_id": "s-1",
        "project": None,
        "api_key_id": OTHER_KEY,
        "api_key_label": "unregistered",
        "wallet": "unregistered",
    }
    assert one(home, "SELECT subject, rows FROM data_quality WHERE kind = 'unregistered_key'") == {"subject": OTHER_KEY, "rows": 1}


def test_a_key_counts_while_it_is_registered(home: Home) -> None:
    """Before its first instant the same credential is unknown."""
    built(home, [*call("before", NOON - 1), *call("from", NOON)], keys=_FROM_NOON)
    assert [row["api_key_label"] for row in rows(home, "FROM ledger ORDER BY created_at")] == ["unregistered", "Ada's laptop"]


_FROM_NOON = """
[[key]]
id = "k-ada"
label = "Ada's laptop"
fingerprint = "fp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
user = "ada"
project = "search"
wallet = "research"
from = 2026-10-10T12:00:00Z
"""


# ---- ids and the digest ----


def test_every_id_leads_to_the_request(home: Home) -> None:
    """Its own id, a linked retry's, the client's, the vendor's two and its wallet entry's all find one request."""
    built(
        home,
        [
            *failed("a", NOON, 0, headers={"x-client-request-id": "mine-1", "idempotency-key": "idem-1"}),
            *served("b", NOON + SECOND, 1, headers={"idempotency-key": "idem-1"}),
        ],
    )
    entry = one(home, "SELECT wallet_entry_id FROM ledger")["wallet_entry_id"]
    ids = {row["id"]: row["request_id"] for row in rows(home, "FROM request_ids")}
    wanted = ("a", "b", "mine-1", "idem-1", "up-b-1", "chatcmpl-b-1", entry)
    assert {name: ids.get(name) for name in wanted} == dict.fromkeys(wanted, "a")
    assert one(home, "SELECT client_request_id, upstream_request_id FROM ledger") == {
        "client_request_id": "mine-1",
        "upstream_request_id": "up-b-1",
    }


def test_the_receipt_digest_can_be_recomputed(home: Home) -> None:
    """By the recipe in its column's comment, without any of our code."""
    built(home, [*call("r1", headers={"x-ledger-tag-app": "ü"}), *call("r2", NOON + 1, model="nobody-knows-me")])
    for row in rows(home, "FROM ledger"):
        lines = []
        for name in LEDGER.column_names[:-1]:
            value = row[name]
            if isinstance(value, Decimal):
                value = f"{value:.12f}"
            elif name == "created_at":
                value = value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            lines.append(f"{name}\n" if value is None else f"{name}={value}\n")
        assert row["receipt_digest"] == hashlib.sha256("".join(lines).encode()).hexdigest()


# ---- entries of people ----


def test_wallet_entries_are_booked_against_their_own_accounts(home: Home) -> None:
    """100 credited of which 10 were given, 5 taken back, 0.00045 used: 94.99955 left, and no bucket knows of another."""
    taken = event("e2", "wallet_adjust", NOON - DAY + 1, actor="cfo", reason="wrong invoice", reference="t-1", **_RESEARCH, amount="-5")
    routed = topup("e3", "7", bucket="routed_balance")
    built(home, [topup("e1", "100", paid="90", bonus="10"), taken, routed, *call("r1")])
    assert rows(home, "SELECT account, sum(amount) AS amount FROM journal GROUP BY account ORDER BY account") == [
        {"account": "adjustment:research:official_credit", "amount": Decimal(5)},
        {"account": "bonus:research:official_credit", "amount": Decimal(-10)},
        {"account": "funding:research:official_credit", "amount": Decimal(-90)},
        {"account": "funding:research:routed_balance", "amount": Decimal(-7)},
        {"account": "usage:official", "amount": Decimal("0.00045")},
        {"account": "wallet:research:official_credit", "amount": Decimal("94.99955")},
        {"account": "wallet:research:routed_balance", "amount": Decimal(7)},
    ]
    assert [row["balance_after"] for row in rows(home, "FROM wallet_statement WHERE bucket = 'official_credit' ORDER BY posted_at")] == [
        Decimal(100),
        Decimal(95),
        Decimal("94.99955"),
    ]


_RESEARCH = {"wallet": "research", "bucket": "official_credit", "currency": "USD"}


def test_an_adjustment_stands_on_the_request_it_names(home: Home) -> None:
    """By the id of a retry that was linked, too; the charge itself stays what it was."""
    entry = event(
        "e1", "wallet_adjust", NOON + DAY, actor="cfo", reason="goodwill", reference="t-1", request_id="b", **_RESEARCH, amount="0.0002"
    )
    built(home, [*failed("a", NOON, 0), *served("b", NOON + SECOND, 1), entry])
    assert one(home, "SELECT final_charge, adjustment_amount, adjustment_reason FROM ledger") == {
        "final_charge": Decimal("0.00045"),
        "adjustment_amount": Decimal("0.0002"),
        "adjustment_reason": "goodwill",
    }
    assert one(home, "SELECT request_id, actor FROM wallet_statement WHERE kind = 'adjustment'") == {"request_id": "a", "actor": "cfo"}


def test_an_entry_that_cannot_be_read_is_not_booked(home: Home) -> None:
    """It is a finding that keeps its month open, not a guess."""
    built(home, [topup("e1", "ten"), topup("e2", "0.0000000000001"), topup("e3", "5", bonus="6"), topup("e4", "1")])
    assert rows(home, "SELECT subject, blocks_close FROM data_quality WHERE kind = 'faulty_entry' ORDER BY subject") == [
        {"subject": subject, "blocks_close": True} for subject in ("e1", "e2", "e3")
    ]
    assert one(home, "SELECT balance FROM wallet_balances") == {"balance": Decimal(1)}


# ---- reports ----


def test_percentiles_are_the_nearest_rank(home: Home) -> None:
    """Of 1, 2, ... 20 seconds the median is the 10th value and the 95th percentile the 19th."""
    records: list[Record] = []
    for n in range(1, 21):
        at = NOON + n * 60 * SECOND
        records += [request(f"r{n:02}", at, match_sha256=f"{n:064}"), attempt(f"r{n:02}", at=at)]
        records.append(response(f"r{n:02}", at=at + n * SECOND, first_token_at=at + n * SECOND // 2, usage=usage(10, 10)))
    built(home, records)
    assert one(home, "SELECT requests, ok, failed, p50_ms, p95_ms, first_token_p50_ms FROM route_health") == {
        "requests": 20,
        "ok": 20,
        "failed": 0,
        "p50_ms": 10000,
        "p95_ms": 19000,
        "first_token_p50_ms": 5000,
    }


def test_a_backup_that_is_tried_first_is_told_as_one(home: Home) -> None:
    """Where the primary's route is closed to the key, or on a connection that fell back before its turns: no move, and yet a backup served."""
    tried = attempt("r1", 1, NOON, channel="official", role="backup")
    built(home, [request("r1", NOON), tried, response("r1", 1, NOON + SECOND, usage=usage(1000, 500))])
    (row,) = rows(home, "SELECT primary_channel, backup_channel, served_channel, fallback_count, balance_bucket FROM ledger")
    assert tuple(row.values()) == ("routed", "official", "official", 0, "official_credit")
