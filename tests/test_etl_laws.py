"""Laws of the ledger over any traffic: legs sum to zero, every raw row ends somewhere, buckets never meet, order is nothing."""

from __future__ import annotations

import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.home import Home
from schemas.records import Record, Response
from tests.rawdata import (
    KEY,
    NOON,
    OTHER_KEY,
    SECOND,
    Archive,
    attempt,
    broken,
    built,
    event,
    failure,
    request,
    response,
    rows,
    topup,
    usage,
    write_book,
)

COUNTS = st.one_of(st.integers(0, 2000), st.sampled_from([None, -1, "12", 10**18]))
USAGE = st.one_of(
    st.just(()), st.builds(lambda p, c, cached: usage(p, c, prompt_tokens_details={"cached_tokens": cached}), COUNTS, COUNTS, COUNTS)
)
ENDS = st.sampled_from(["ok", "500", "429", "timeout", "broken", "gone", "refused", "empty", "open"])
MODELS = st.sampled_from(["gpt-4o-mini", "tiered", "gift", "unknown-model"])
CHANNELS = st.sampled_from(["official", "routed", "renamed"])


def end_of(kind: str, request_id: str, ordinal: int, at: int, seen: Any) -> Response | None:
    """One way an attempt can end."""
    match kind:
        case "open":
            return None
        case "500" | "429":
            return failure(request_id, ordinal, at, status=int(kind), usage=seen)
        case "timeout":
            return failure(request_id, ordinal, at, http_status=None, ending="timeout", terminal=None)
        case "broken" | "gone":
            return broken(request_id, ordinal, at, ending={"broken": "upstream_truncated", "gone": "client_gone"}[kind], usage=seen)
        case "refused":
            return response(request_id, ordinal, at, finish_reasons=("content_filter",), usage=seen)
        case _:
            return response(request_id, ordinal, at, output_seen=kind == "ok", usage=seen)


@st.composite
def exchanges(draw: st.DrawFn) -> list[Record]:
    """Some calls with tries, SDK retries, refusals, and wallet entries, at any distance from each other."""
    records: list[Record] = [topup("e1", "10", bonus="1"), event("e2", "wallet_expire", NOON, wallet="w", bucket="b", amount="0.5")]
    at: int = NOON
    for n in range(draw(st.integers(1, 12))):
        at += draw(st.sampled_from([1, SECOND, 86400 * SECOND, 20 * 86400 * SECOND]))
        raw_id = f"r{n}"
        path = draw(st.sampled_from(["/v1/chat/completions", "/v1/chat/completions", "/v1/models", "/v1/new"]))
        method = "GET" if path == "/v1/models" else "POST"
        facts: dict[str, Any] = {"path": path, "method": method, "credential": draw(st.sampled_from([KEY, OTHER_KEY, None]))}
        records.append(request(raw_id, at, retry=draw(st.sampled_from([None, 0, 0, 1, 2])), **facts))
        for ordinal in range(1, draw(st.integers(0, 3)) + 1):
            reason = draw(st.sampled_from(["retry", "fallback"])) if ordinal > 1 else "first"
            records.append(attempt(raw_id, ordinal, at, channel=draw(CHANNELS), sent_model=draw(MODELS), reason=reason))
            at += draw(st.sampled_from([1, SECOND]))
            end = end_of(draw(ENDS), raw_id, ordinal, at, draw(USAGE))
            records += [end] if end else []
        if draw(st.booleans()):
            records.append(failure(raw_id, 0, at, status=502, ending="exhausted", terminal=None, headers=None))
    return records


def check_laws(home: Home, records: list[Record]) -> None:
    """Each law, from the published tables alone."""
    assert rows(home, "SELECT transaction_id FROM journal GROUP BY transaction_id, currency HAVING sum(amount) <> 0") == []
    kinds = Counter(row["disposition"] for row in rows(home, "FROM dispositions WHERE raw_rows > 0"))
    duplicates = sum(row["duplicates"] for row in rows(home, "FROM dispositions"))
    assert sum(kinds.values()) + duplicates == sum(1 for record in records if record.kind == "request")
    buckets = "SELECT transaction_id FROM journal WHERE account LIKE 'wallet:%' GROUP BY transaction_id HAVING count(DISTINCT account) <> 1"
    assert rows(home, buckets) == []
    # what the wallets lost is what the requests cost, what waits in suspense, and what people took
    moved = {row["kind"]: row["amount"] for row in rows(home, "SELECT kind, sum(amount) AS amount FROM wallet_statement GROUP BY kind")}
    balance = sum((row["balance"] for row in rows(home, "FROM wallet_balances")), Decimal(0))
    assert balance == sum(moved.values(), Decimal(0))
    charged = rows(home, "SELECT coalesce(sum(charged), 0) AS charged FROM attempts")[0]["charged"]
    assert moved.get("charge", Decimal(0)) == -charged
    assert rows(home, "FROM charges WHERE amount < 0 OR quantity < 0 OR amount <> quantity * unit_price") == []
    unknown = {row["request_id"] for row in rows(home, "FROM ledger WHERE final_charge IS NULL")}
    assert unknown == {row["request_id"] for row in rows(home, "FROM unpriced")}


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(exchanges(), st.data())
def test_the_laws_hold_over_any_traffic(records: list[Record], data: st.DataObject) -> None:
    """And however its files were split, ordered and repeated."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Home(Path(folder) / "plain")
        built(plain, records)
        check_laws(plain, records)

        moved = Home(Path(folder) / "moved")
        archive = Archive(moved)
        order = data.draw(st.permutations(list(enumerate(records, 1))))
        cut = data.draw(st.integers(1, len(order)))
        for part in (order[:cut], order[cut:]):
            if part:
                archive.seal_frames(part)
        if data.draw(st.booleans()):
            archive.line("w1", 1, len(records), archive.seals[0].files)
            repeated = [record for _, record in order[:cut]]
        else:
            repeated = []
        write_book(moved)
        built(moved)
        check_laws(moved, [*records, *repeated])
        for table in ("ledger", "attempts", "charges", "journal", "wallet_statement", "unpriced"):
            assert rows(moved, f"FROM {table}") == rows(plain, f"FROM {table}"), table


CALLS = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, SECOND), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=2, deadline=None)
@given(st.lists(CALLS, min_size=5, max_size=5))
def test_equal_calls_are_never_merged_beyond_their_retries(groups: list[list[tuple[int, int, bool]]]) -> None:
    """Of any number of equal calls in flight at once, each first try leads one logical request, and every retry joins one.

    Five groups at the same time, the calls of each equal to one another alone.
    """
    records: list[Record] = []
    for group, calls in enumerate(groups):
        equal: dict[str, Any] = {"match_sha256": f"{group}" * 64}
        for n, (start, took, again) in enumerate(calls):
            name, at = f"{group}-{n}", NOON + start
            records += [request(f"{name}a", at, **equal), attempt(f"{name}a", at=at), failure(f"{name}a", at=at + took)]
            if again:
                at += took + SECOND // 2
                records += [request(f"{name}b", at, retry=1, **equal), attempt(f"{name}b", at=at), response(f"{name}b", at=at + 9)]
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        built(home, records)
        sizes = rows(home, "SELECT list(left(raw_request_id, 1)) AS groups FROM dispositions GROUP BY request_id")
        assert all(len(set(row["groups"])) == 1 for row in sizes)
        found = Counter((row["groups"][0], len(row["groups"])) for row in sizes)
        assert found == Counter((f"{group}", 1 + again) for group, calls in enumerate(groups) for _, _, again in calls)
