"""What gateways beyond ours tell, which model served, which run a request belongs to, and that one call seen twice is one."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from etl.lookup import lookup_tables
from schemas.home import Home
from schemas.records import JsonText, Record, Response, UsageSeen
from tests.rawdata import DAY, NOON, SECOND, attempt, built, call, failure, json, one, request, response, rows, usage

# ---- evidence ----


def test_every_layer_of_retries_is_told_apart_and_counted_once(home: Home) -> None:
    """The SDK tried twice, our channel twice, and the next gateway three times more within its one answer: three tries are ours."""
    told = json({"x-litellm-attempted-retries": "3", "x-litellm-call-id": "llm-1", "x-portkey-retry-attempt-count": "-1"})
    built(
        home,
        [
            request("a", NOON, retry=0),
            attempt("a", 1, NOON),
            failure("a", 1, NOON + SECOND),
            request("b", NOON + 2 * SECOND, retry=1),
            attempt("b", 1, NOON + 2 * SECOND),
            failure("b", 1, NOON + 3 * SECOND, relayed=False),
            attempt("b", 2, NOON + 3 * SECOND),
            response("b", 2, NOON + 4 * SECOND, headers=told, usage=usage(1000, 500)),
        ],
    )
    assert one(home, "SELECT attempt_count, retry_count, final_charge FROM ledger") == {
        "attempt_count": 3,
        "retry_count": 2,
        "final_charge": Decimal("0.00045"),
    }
    assert [row["reason"] for row in rows(home, "FROM attempts ORDER BY ordinal")] == ["first", "client_retry", "retry"]
    assert rows(home, "SELECT attempt_ordinal, gateway, value FROM evidence WHERE fact = 'retries' ORDER BY gateway") == [
        {"attempt_ordinal": 3, "gateway": "litellm", "value": "3"},
        {"attempt_ordinal": 3, "gateway": "portkey", "value": "-1"},
    ]
    assert one(home, "SELECT request_id FROM request_ids WHERE id = 'llm-1'") == {"request_id": "a"}


def test_evidence_never_takes_the_place_of_our_own_facts(home: Home) -> None:
    """A relay that copies every gateway's headers through changes no column of the ledger and no charge; counts of tokens are usage."""
    names = {row["name"] for row in lookup_tables()["table_signals"].to_pylist() if row["place"] == "header" and "token" not in row["name"]}
    forged = json(dict.fromkeys(names, "9"))
    plain = "SELECT * EXCLUDE (request_id, created_at, upstream_request_id, vendor_charge, vendor_difference, wallet_entry_id, receipt_digest) FROM ledger"
    built(home, [*call("r1"), request("r2", NOON + DAY, match_sha256="x" * 64), attempt("r2", at=NOON + DAY)])
    before = rows(home, f"{plain} WHERE request_id = 'r1'")
    built(home, [*call("r1")[:2], response("r1", headers=forged, usage=usage(1000, 500))])
    assert rows(home, f"{plain} WHERE request_id = 'r1'") == before
    assert one(home, "SELECT count(DISTINCT gateway) AS n FROM evidence") == {"n": len(_GATEWAYS_WITH_HEADERS)}


_GATEWAYS_WITH_HEADERS = {row["gateway"] for row in lookup_tables()["table_signals"].to_pylist() if row["place"] == "header"}


def test_a_value_that_says_nothing_is_no_evidence(home: Home) -> None:
    """Empty and `None` are left out, as is a place that the pattern does not find."""
    told = json({"x-litellm-model-id": "None", "x-litellm-call-id": "", "x-portkey-last-used-option-index": "config"})
    built(home, [*call("r1")[:2], response("r1", headers=told, usage=usage(10, 5))])
    assert rows(home, "SELECT gateway, fact, value FROM evidence") == [{"gateway": "portkey", "fact": "strategy", "value": "config"}]


# ---- which model served ----


def verdict(home: Home, sent: str, served: str, url: str = "https://official.test/v1/chat/completions", **facts: Any) -> str:
    """What the ledger says of one call that sent and was served these."""
    built(home, [request("r1", api_model=sent), attempt("r1", sent_model=sent, url=url), response("r1", served_model=served, **facts)])
    return str(one(home, "SELECT verdict FROM model_substitution WHERE source = 'body model'")["verdict"])


EXAMPLES = (
    ("gpt-4o-mini", "gpt-4o-mini", "same"),
    ("openai/gpt-4o", "gpt-4o", "same"),
    ("gpt-4o", "openai/gpt-4o", "same"),
    ("anthropic/claude-3.5-sonnet", "claude-3-5-sonnet", "same"),
    ("deepseek/deepseek-r1:free", "deepseek/deepseek-r1", "same"),
    ("gpt-35-turbo", "gpt-3.5-turbo", "same"),
    ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet-20241022", "same"),
    ("llama3:8b", "llama3:8b", "same"),
    ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "snapshot"),
    ("openai/gpt-4o", "gpt-4o-2024-08-06", "snapshot"),
    ("gpt-4", "gpt-4-0613", "snapshot"),
    ("gpt-35-turbo", "gpt-3.5-turbo-0125", "snapshot"),
    ("claude-3-5-sonnet", "claude-3-5-sonnet-20241022", "snapshot"),
    ("claude-sonnet-4", "claude-sonnet-4@20250514", "snapshot"),
    ("gemini-2.0-flash", "models/gemini-2.0-flash-001", "snapshot"),
    ("gemini-2.5-pro-preview", "gemini-2.5-pro-preview-06-05", "snapshot"),
    ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", "alias"),
    ("gpt-4o-2024-08-06", "gpt-4o", "alias"),
    ("openrouter/auto", "anthropic/claude-sonnet-4", "alias"),
    ("model-router", "gpt-5-nano-2025-08-07", "alias"),
    ("gpt-4o", "gpt-4o-mini", "different"),
    ("gpt-4o", "gpt-4o-mini-2024-07-18", "different"),
    ("gpt-4o-2024-08-06", "gpt-4o-2024-05-13", "different"),
    ("gpt-5", "gpt-5-nano-2025-08-07", "different"),
    ("claude-opus-4-5", "claude-haiku-4-5", "different"),
    ("llama3:70b", "llama3:8b", "different"),
    ("claude-3-5-sonnet-latest", "claude-3-haiku-20240307", "different"),
    ("gpt-4", "gpt-4-1106-preview", "different"),
)


def test_a_dated_snapshot_and_a_prefix_are_no_substitution_and_another_model_is(home: Home) -> None:
    """Each example of the table, in one build; only what is different is a finding, and it keeps no month open."""
    records: list[Record] = []
    for n, (sent, served, _) in enumerate(EXAMPLES):
        raw, at = f"r{n:02}", NOON + n * 10 * SECOND
        records += [request(raw, at, api_model=sent, match_sha256=f"{n:064}"), attempt(raw, at=at, sent_model=sent)]
        records.append(response(raw, at=at + SECOND, served_model=served, usage=usage(10, 5)))
    built(home, records)
    found = rows(home, "SELECT asked, sent, served, verdict, source FROM model_substitution ORDER BY request_id")
    assert [(row["sent"], row["served"], row["verdict"]) for row in found] == list(EXAMPLES)
    assert {row["source"] for row in found} == {"body model"}
    assert all(row["asked"] == row["sent"] for row in found)
    findings = rows(home, "SELECT subject, rows, blocks_close FROM data_quality WHERE kind = 'model_substituted'")
    wanted = [(f"official {sent} -> {served}", 1, False) for sent, served, said in EXAMPLES if said == "different"]
    assert sorted(tuple(row.values()) for row in findings) == sorted(wanted)


def test_our_own_mapping_is_no_substitution(home: Home) -> None:
    """Asked by its public id, sent by the marketplace's, served as sent: models.toml said so."""
    built(home, [request("r1"), attempt("r1", channel="routed"), response("r1", served_model="gpt-4o-mini-2024-07-18", usage=usage(10, 5))])
    assert one(home, "SELECT asked, sent, served, verdict FROM model_substitution") == {
        "asked": "gpt-4o-mini",
        "sent": "openai/gpt-4o-mini",
        "served": "gpt-4o-mini-2024-07-18",
        "verdict": "snapshot",
    }


def test_a_header_that_admits_another_model_is_a_source_of_its_own(home: Home) -> None:
    """LiteLLM writes the group's name into the body; its header says what served."""
    told = json({"x-litellm-model-name": "openai/gpt-4o-mini"})
    built(
        home, [request("r1", api_model="gpt-4o"), attempt("r1", sent_model="gpt-4o"), response("r1", served_model="gpt-4o", headers=told)]
    )
    assert rows(home, "SELECT source, served, verdict FROM model_substitution ORDER BY source") == [
        {"source": "body model", "served": "gpt-4o", "verdict": "same"},
        {"source": "header x-litellm-model-name", "served": "openai/gpt-4o-mini", "verdict": "different"},
    ]
    assert one(home, "SELECT served_model FROM ledger") == {"served_model": "gpt-4o"}


def test_an_azure_deployment_promises_no_model(home: Home) -> None:
    """Its name is whatever its owner chose."""
    url = "https://team.openai.azure.com/openai/deployments/blue/chat/completions"
    assert verdict(home, "blue", "gpt-4o-2024-08-06", url) == "alias"


_NAMES = st.from_regex(r"[a-z]{2,6}-[0-9](\.[0-9])?(-(mini|pro|nano|turbo))?", fullmatch=True)
_DATES = st.dates(min_value=date(2021, 1, 1), max_value=date(2029, 12, 31))


@settings(max_examples=1, deadline=None)
@given(st.lists(st.tuples(_NAMES, _DATES, st.sampled_from(("", "openai/", "a/b/", "models/"))), min_size=60, max_size=60), st.data())
def test_whatever_the_name_a_date_or_a_prefix_is_no_substitution(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, Any, str]], data: st.DataObject
) -> None:
    """Of any model: its dated snapshot is a snapshot with or without prefix, itself the same, and itself with `x` behind it different."""
    home = Home(tmp_path_factory.mktemp("names") / "home")
    records: list[Record] = []
    wanted: dict[str, str] = {}
    for n, (name, day, prefix) in enumerate(names):
        form = data.draw(st.sampled_from(("%Y-%m-%d", "%Y%m%d")))
        for kind, served in (("snapshot", f"{prefix}{name}-{day.strftime(form)}"), ("same", f"{prefix}{name}"), ("different", f"{name}x")):
            raw, at = f"{kind}-{n:03}", NOON + len(records) * SECOND
            records += [request(raw, at, api_model=name, match_sha256=f"{len(records):064}"), attempt(raw, at=at, sent_model=name)]
            records.append(response(raw, at=at + SECOND, served_model=served, usage=usage(1, 1)))
            wanted[raw] = kind
    built(home, records)
    assert {row["request_id"]: row["verdict"] for row in rows(home, "FROM model_substitution")} == wanted


# ---- who and which run ----

CODEX_TURN = '{"turn_id":"t-1","session_id":"codex-s","thread_id":"codex-t","sandbox":"none"}'
RUNS: dict[str, tuple[dict[str, str], dict[str, Any], str | None, str | None]] = {
    "x-ledger-run": ({"x-ledger-run": "mine", "session-id": "codex", "helicone-session-id": "h"}, {}, "mine", "x-ledger-run"),
    "helicone": ({"helicone-session-id": "h-1"}, {}, "h-1", "helicone-session-id"),
    "litellm": ({"x-litellm-session-id": "l-1"}, {}, "l-1", "x-litellm-session-id"),
    "litellm trace": ({"x-litellm-trace-id": "l-2"}, {}, "l-2", "x-litellm-trace-id"),
    "litellm body": ({}, {"litellm_session_id": "l-3"}, "l-3", "body.litellm_session_id"),
    "portkey": ({"x-portkey-trace-id": "p-1"}, {}, "p-1", "x-portkey-trace-id"),
    "codex": ({"session-id": "c-1", "thread-id": "c-2", "originator": "codex_cli_rs"}, {}, "c-1", "session-id"),
    "codex before 2026": ({"session_id": "c-3", "conversation_id": "c-4"}, {}, "c-3", "session_id"),
    "codex turn metadata": ({"x-codex-turn-metadata": CODEX_TURN}, {}, "codex-s", "x-codex-turn-metadata"),
    "codex thread only": ({"thread-id": "c-5"}, {}, "c-5", "thread-id"),
    "codex conversation only": ({"conversation_id": "c-6"}, {}, "c-6", "conversation_id"),
    "codex sub-agent": ({"x-codex-parent-thread-id": "c-7", "thread-id": "c-8"}, {}, "c-7", "x-codex-parent-thread-id"),
    "codex frame": ({}, {"client_metadata": {"session_id": "c-9"}}, "c-9", "body.client_metadata.session_id"),
    "codex frame metadata": (
        {},
        {"client_metadata": {"x-codex-turn-metadata": CODEX_TURN}},
        "codex-s",
        "body.client_metadata.x-codex-turn-metadata",
    ),
    "opencode": ({"x-session-affinity": "o-1", "x-session-id": "o-1"}, {}, "o-1", "x-session-affinity"),
    "opencode sub-agent": ({"x-session-id": "o-2", "x-parent-session-id": "o-1"}, {}, "o-1", "x-parent-session-id"),
    "a vendor's convention": ({"x-claude-code-session-id": "v-1"}, {}, "v-1", "x-claude-code-session-id"),
    "openrouter": ({}, {"session_id": "or-1"}, "or-1", "body.session_id"),
    "claude packed": ({}, {"metadata": {"user_id": "user_ab12_account_cd34_session_ef-56"}}, "ef-56", "body.metadata.user_id"),
    "claude object": ({}, {"metadata": {"user_id": {"session_id": "ef-57"}}}, "ef-57", "body.metadata.user_id.session_id"),
    "claude object as text": ({}, {"metadata": {"user_id": '{"session_id": "ef-58"}'}}, "ef-58", "body.metadata.user_id"),
    "openai conversation": ({}, {"conversation": {"id": "conv_1"}}, "conv_1", "body.conversation.id"),
    "openai conversation id": ({}, {"conversation": "conv_2"}, "conv_2", "body.conversation"),
    "none": ({"x-request-id": "r"}, {"metadata": {"user_id": "ada"}}, None, None),
}


def test_agent_tools_group_into_runs_without_configuration(home: Home) -> None:
    """Each tool's own way of naming its session becomes the run, and the source of it is said."""
    records: list[Record] = []
    for n, (name, (headers, facts, _, _)) in enumerate(RUNS.items()):
        records += call(name, NOON + n * 10 * SECOND, headers=headers, body_facts=json(facts))
    built(home, records)
    found = {row["request_id"]: row["run_id"] for row in rows(home, "FROM ledger")}
    assert found == {name: run for name, (_, _, run, _) in RUNS.items()}
    sources = rows(home, "SELECT request_id, source FROM attribution WHERE fact = 'run_id' AND standing = 'applied'")
    assert {row["request_id"]: row["source"] for row in sources} == {name: source for name, (_, _, _, source) in RUNS.items() if source}


def test_what_else_named_a_run_is_kept_as_claimed(home: Home) -> None:
    """A sub-agent's own session stands beside the one that it counts to."""
    built(home, call("r1", headers={"x-session-id": "child", "x-parent-session-id": "parent"}))
    assert rows(home, "SELECT value, standing FROM attribution WHERE fact = 'run_id' ORDER BY standing") == [
        {"value": "parent", "standing": "applied"},
        {"value": "child", "standing": "claimed"},
    ]


USERS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "packed": ({}, {"metadata": {"user_id": "user_ab12_account_cd34_session_ef-56"}}, "user_ab12"),
    "plain": ({}, {"metadata": {"user_id": "grace"}}, "grace"),
    "object": ({}, {"metadata": {"user_id": {"account_uuid": "acc-1", "session_id": "s"}}}, "acc-1"),
    "object as text": ({}, {"metadata": {"user_id": '{"account_uuid":"acc-2","session_id":"s"}'}}, "acc-2"),
    "portkey": ({"x-portkey-metadata": '{"_user":"p-user","env":"prod"}'}, {}, "p-user"),
    "helicone": ({"helicone-user-id": "h-user"}, {"user": "u"}, "h-user"),
    "litellm": ({"x-litellm-end-user-id": "l-user"}, {}, "l-user"),
    "safety identifier": ({}, {"safety_identifier": "s-1", "user": "u-1"}, "s-1"),
}


def test_users_are_found_where_the_vendors_put_them(home: Home) -> None:
    """For a key without a user of its own; a packed session is no part of the user."""
    records: list[Record] = []
    for n, (name, (headers, facts, _)) in enumerate(USERS.items()):
        records += call(name, NOON + n * 10 * SECOND, headers=headers, body_facts=json(facts), credential="fp_" + "c" * 32)
    built(home, records)
    assert {row["request_id"]: row["user_id"] for row in rows(home, "FROM ledger")} == {name: user for name, (_, _, user) in USERS.items()}


TAGS: dict[str, tuple[dict[str, str], dict[str, Any], str | None]] = {
    "ours first": (
        {"x-ledger-tag-env": "a", "helicone-property-env": "b"},
        {"metadata": {"env": "c", "app": "d"}},
        '{"app":"d","env":"a"}',
    ),
    "helicone": ({"helicone-property-team": "blue"}, {}, '{"team":"blue"}'),
    "portkey": ({"x-portkey-metadata": '{"_user":"p","env":"prod"}'}, {}, '{"_user":"p","env":"prod"}'),
    "cloudflare": ({"cf-aig-metadata": '{"team":"AI","user":12345,"test":true}'}, {}, '{"team":"AI","test":"true","user":"12345"}'),
    "litellm": ({"x-litellm-tags": "blue,green"}, {}, '{"litellm":"blue,green"}'),
    "openrouter": ({"x-openrouter-title": "My App"}, {}, '{"app":"My App"}'),
    "openai": ({}, {"metadata": {"a\nb": 'q"\\', "user_id": "u"}}, '{"a\\nb":"q\\"\\\\"}'),
    "broken": ({"cf-aig-metadata": "{not json", "x-portkey-metadata": "[1]"}, {"metadata": {"deep": {"x": 1}}}, None),
}


def test_tags_come_from_the_vendors_own_places_too(home: Home) -> None:
    """Ours first; what is no JSON, or no plain member, is no tag."""
    records: list[Record] = []
    for n, (name, (headers, facts, _)) in enumerate(TAGS.items()):
        records += call(name, NOON + n * 10 * SECOND, headers=headers, body_facts=json(facts))
    built(home, records)
    assert {row["request_id"]: row["tags"] for row in rows(home, "FROM ledger")} == {name: tags for name, (_, _, tags) in TAGS.items()}


# ---- one call, once ----

GATEWAY_HOST = "127.0.0.1:8780"


def both_doors(
    *,
    inner: str = "forward",
    inner_id: str = "same",
    outer_id: str = "same",
    shift: int = 0,
    inner_usage: tuple[UsageSeen, ...] | None = None,
) -> list[Record]:
    """A gateway's try that passed the forward door on its way out (inner = forward), or a forward door's try at our gateway."""
    counted = usage(1000, 500)
    began = NOON + SECOND // 4 + shift
    if inner == "forward":
        outer: list[Record] = [
            request("gate", headers={"x-ledger-run": "run-1"}),
            attempt("gate", url="https://api.openai.test/v1/chat/completions"),
            response("gate", at=NOON + 2 * SECOND, response_id=outer_id, usage=counted),
        ]
        within: list[Record] = [
            request("fwd", began, door="forward", host="api.openai.test:443", credential="fp_" + "d" * 32),
            attempt("fwd", at=began, role="direct", url="https://api.openai.test/v1/chat/completions"),
            response("fwd", at=began + SECOND, response_id=inner_id, usage=inner_usage or counted),
        ]
    else:
        outer = [
            request("fwd", door="forward", host=GATEWAY_HOST, headers={"x-ledger-run": "run-1"}),
            attempt("fwd", role="direct", url=f"http://{GATEWAY_HOST}/v1/chat/completions"),
            response("fwd", at=NOON + 2 * SECOND, response_id=outer_id, usage=counted),
        ]
        within = [
            request("gate", began, host=GATEWAY_HOST),
            attempt("gate", at=began),
            response("gate", at=began + SECOND, response_id=inner_id, usage=inner_usage or counted),
        ]
    return [*outer, *within]


def unanswered(shift: int = 0, **facts: Any) -> list[Record]:
    """A gateway's try that passed the forward door, where the vendor never answered; the forward door's 502 is all that came back."""
    silent: dict[str, Any] = {"status": None, "headers": None, "ending": "connect_error", "terminal": None}
    return [
        request("gate"),
        attempt("gate", url="https://api.openai.test/v1/chat/completions"),
        failure("gate", at=NOON + 2 * SECOND, status=502, headers="{}"),
        request("fwd", NOON + SECOND + shift, door="forward", host="api.openai.test:443", credential="fp_" + "d" * 32, **facts),
        attempt("fwd", at=NOON + SECOND + shift, role="direct", url="https://api.openai.test/v1/chat/completions"),
        failure("fwd", at=NOON + SECOND + shift + 1, **silent),
    ]


def test_a_call_that_passed_both_doors_and_got_no_answer_is_one(home: Home) -> None:
    """The same body, host and path, within the gateway's try, and no answer that could carry an id: the gateway's record counts."""
    built(home, unanswered())
    assert [row["request_id"] for row in rows(home, "FROM ledger")] == ["gate"]
    assert one(home, "SELECT duplicate_of FROM dispositions WHERE raw_request_id = 'fwd'") == {"duplicate_of": "gate"}


@pytest.mark.parametrize("other", [{"shift": 5 * SECOND}, {"match_sha256": "o" * 64}, {"path": "/v1/embeddings"}])
def test_two_calls_without_an_answer_stay_two(home: Home, other: dict[str, Any]) -> None:
    """One that began after the gateway's try ended, one with another body, one for another endpoint."""
    built(home, unanswered(**other))
    assert one(home, "SELECT count(*) AS n FROM ledger") == {"n": 2}


@pytest.mark.parametrize("inner", ["forward", "gateway"])
def test_traffic_that_passes_both_doors_is_charged_once(home: Home, inner: str) -> None:
    """The gateway's record counts, the forward door's is a named duplicate, and either id leads to the one request."""
    built(home, both_doors(inner=inner))
    assert one(home, "SELECT request_id, door, run_id, attempt_count, retry_count, final_charge, user_id FROM ledger") == {
        "request_id": "gate",
        "door": "gateway",
        "run_id": "run-1",
        "attempt_count": 1,
        "retry_count": 0,
        "final_charge": Decimal("0.00045"),
        "user_id": "ada",
    }
    assert rows(home, "SELECT raw_request_id, request_id, disposition, duplicates, duplicate_of FROM dispositions ORDER BY 1") == [
        {"raw_request_id": "fwd", "request_id": "gate", "disposition": "duplicate", "duplicates": 1, "duplicate_of": "gate"},
        {"raw_request_id": "gate", "request_id": "gate", "disposition": "charged", "duplicates": 0, "duplicate_of": None},
    ]
    assert one(home, "SELECT subject, detail FROM data_quality WHERE kind = 'duplicate'") == {
        "subject": "fwd",
        "detail": "the same call as gate, which passed both doors",
    }
    assert one(home, "SELECT request_id FROM request_ids WHERE id = 'fwd'") == {"request_id": "gate"}
    assert one(home, "SELECT sum(amount) AS amount FROM journal WHERE account LIKE 'wallet:%'") == {"amount": Decimal("-0.00045")}


APART: dict[str, dict[str, Any]] = {
    "other ids": {"inner_id": "other"},
    "empty ids": {"inner_id": "", "outer_id": ""},
    "other usage": {"inner_usage": usage(1000, 501)},
    "one after the other": {"shift": 3 * SECOND},
    "one right after the other": {"shift": 2 * SECOND},
    "begun before": {"shift": -SECOND},
    "ended after": {"shift": 3 * SECOND // 2 + SECOND},
}


@pytest.mark.parametrize("inner", ["forward", "gateway"])
@pytest.mark.parametrize("why", APART)
def test_two_genuine_calls_through_two_doors_stay_two(home: Home, why: str, inner: str) -> None:
    """Another id, an empty one, another usage, or times that do not nest: each is charged."""
    records = both_doors(inner=inner, **APART[why])
    records = [_without_header_ids(record) for record in records]
    built(home, records)
    assert one(home, "SELECT count(*) AS n, sum(final_charge) > 0.0008 AS paid FROM ledger") == {"n": 2, "paid": True}


def _without_header_ids(record: Record) -> Record:
    return replace(record, headers=JsonText("{}")) if isinstance(record, Response) else record


def test_a_vendor_that_repeats_its_ids_merges_nothing(home: Home) -> None:
    """Three calls at once, one through the gateway and two through the forward door, all with the id `chatcmpl-1`."""
    records = both_doors(inner_id="chatcmpl-1", outer_id="chatcmpl-1")
    at = NOON + SECOND // 3
    records += [
        request("third", at, door="forward", host="api.openai.test:443"),
        attempt("third", at=at, role="direct", url="https://api.openai.test/v1/chat/completions"),
        response("third", at=at + SECOND, response_id="chatcmpl-1", usage=usage(1000, 500)),
    ]
    built(home, records)
    assert one(home, "SELECT count(*) AS n, sum(final_charge) AS paid FROM ledger") == {"n": 3, "paid": Decimal("0.00135")}


def test_equal_calls_at_one_door_stay_two(home: Home) -> None:
    """The same body, id and usage at the same time through one door: nothing says that they are one."""
    records: list[Record] = []
    for raw in ("a", "b"):
        records += [request(raw), attempt(raw), response(raw, response_id="chatcmpl-1", usage=usage(1000, 500))]
    built(home, records)
    assert one(home, "SELECT count(*) AS n, sum(final_charge) AS paid FROM ledger") == {"n": 2, "paid": Decimal("0.0009")}


def test_an_answer_that_names_our_own_gateways_request_is_its_duplicate(home: Home) -> None:
    """Whatever the vendor's id and usage are; but only with the same body and credential, while the forward door waited."""
    named = json({"x-ledger-request-id": "gate"})

    def story(at: int = NOON + SECOND, **facts: Any) -> list[Record]:
        return [
            request("fwd", door="forward", host=GATEWAY_HOST, match_sha256="n" * 64),
            attempt("fwd", role="direct", url=f"http://{GATEWAY_HOST}/v1/chat/completions"),
            response("fwd", at=NOON + 2 * SECOND, response_id=None, headers=named),
            request("gate", at, **{"match_sha256": "n" * 64} | facts),
            attempt("gate", at=at),
            failure("gate", at=at + SECOND, status=502),
        ]

    counts = []
    others: tuple[dict[str, Any], ...] = ({}, {"match_sha256": "o" * 64}, {"credential": "fp_" + "e" * 32}, {"at": NOON + 5 * SECOND})
    for n, facts in enumerate(others):
        there = Home(home.root / str(n))
        built(there, story(**facts))
        counts.append(one(there, "SELECT count(*) AS n FROM ledger")["n"])
    assert counts == [1, 2, 2, 2]


def test_retries_of_an_sdk_through_both_doors_are_one_request_of_two_tries(home: Home) -> None:
    """Each try was recorded twice: four raw requests, two of them duplicates, one retry."""
    records: list[Record] = []
    for n, (at, status) in enumerate(((NOON, 500), (NOON + 10 * SECOND, 200))):
        named = json({"x-ledger-request-id": f"gate{n}"})
        end: dict[str, Any] = (
            {"usage": usage(1000, 500)} if status == 200 else {"http_status": 500, "output_seen": False, "response_id": None}
        )
        records += [
            request(f"fwd{n}", at, retry=n, door="forward", host=GATEWAY_HOST),
            attempt(f"fwd{n}", at=at, role="direct", url=f"http://{GATEWAY_HOST}/v1/chat/completions"),
            response(f"fwd{n}", at=at + 2 * SECOND, headers=named, **end),
            request(f"gate{n}", at + SECOND // 2, retry=n),
            attempt(f"gate{n}", at=at + SECOND // 2),
            response(f"gate{n}", at=at + SECOND, **end),
        ]
    built(home, records)
    assert one(home, "SELECT request_id, attempt_count, retry_count, final_charge FROM ledger") == {
        "request_id": "gate0",
        "attempt_count": 2,
        "retry_count": 1,
        "final_charge": Decimal("0.00045"),
    }
    counts = rows(home, "SELECT disposition, count(*) AS n FROM dispositions GROUP BY ALL ORDER BY 1")
    assert [(row["disposition"], row["n"]) for row in counts] == [("charged", 1), ("duplicate", 2), ("free", 1)]


# ---- retries with and without keys ----


def tried(raw: str, at: int, ok: bool, key: str | None = None, retry: int | None = None, **facts: Any) -> list[Record]:
    """One try of a client with or without an idempotency key and a count."""
    headers = {"idempotency-key": key} if key else {}
    end = response(raw, at=at + SECOND // 2, usage=usage(1000, 500)) if ok else failure(raw, at=at + SECOND // 2)
    return [request(raw, at, retry=retry, headers=headers, **facts), attempt(raw, at=at), end]


def grouped(home: Home) -> list[list[str]]:
    found = rows(home, "SELECT list(raw_request_id ORDER BY raw_request_id) AS ids FROM dispositions GROUP BY request_id ORDER BY ids")
    return [row["ids"] for row in found]


def test_a_client_that_does_not_count_is_followed_by_its_key(home: Home) -> None:
    """Three tries with one key are one request; without a key, with another one, or after a success each stands alone."""
    hour = 3600 * SECOND
    built(
        home,
        [
            *tried("a1", NOON, False, "k1"),
            *tried("a2", NOON + SECOND, False, "k1"),
            *tried("a3", NOON + 2 * SECOND, True, "k1"),
            *tried("b1", NOON + hour, False),
            *tried("b2", NOON + hour + SECOND, True),
            *tried("c1", NOON + 2 * hour, False, "k2"),
            *tried("c2", NOON + 2 * hour + SECOND, True, "k3"),
            *tried("d1", NOON + 3 * hour, True, "k4"),
            *tried("d2", NOON + 3 * hour + SECOND, True, "k4"),
            *tried("e1", NOON + 4 * hour, False, "k5"),
            *tried("e2", NOON + 4 * hour + SECOND, True, "k5", match_sha256="x" * 64),
        ],
    )
    assert grouped(home) == [["a1", "a2", "a3"], ["b1"], ["b2"], ["c1"], ["c2"], ["d1"], ["d2"], ["e1"], ["e2"]]


def test_a_count_and_a_key_together_link_once(home: Home) -> None:
    """An SDK that repeats the application's key on each counted try: one chain, and another call with another key its own."""
    built(
        home,
        [
            *tried("a0", NOON, False, "k1", 0),
            *tried("b0", NOON + 1, False, "k2", 0),
            *tried("b1", NOON + SECOND, True, "k2", 1),
            *tried("a1", NOON + SECOND + 1, False, "k1", 1),
            *tried("a2", NOON + 2 * SECOND, True, "k1", 2),
            *tried("a9", NOON + 9 * SECOND, True, "k1", 0),
        ],
    )
    assert grouped(home) == [["a0", "a1", "a2"], ["a9"], ["b0", "b1"]]
