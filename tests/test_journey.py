"""Every golden case through both doors, from the client's bytes to the receipt."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from jsonschema import Draft202012Validator

from etl.build import build
from etl.receipt import load
from etl.receipt_schema import schema
from schemas.bodykeys import BodyKeys
from schemas.home import Home
from tests.certs import Authority, Leaf
from tests.clients import Door
from tests.journey import Case, cases, prices_of, rows, sockets, travel
from tests.sidecar import Way, recorded, seal_all, sidecar, write_book
from tests.upstream import Upstream

CASES = cases()
TOLD = [pytest.param(case, door, id=f"{case.name}-{door}") for case in CASES if case.evidence is not None for door in case.doors]
UNKNOWN = [pytest.param(case, door, id=f"{case.name}-{door}") for case in CASES if case.reason is not None for door in case.doors]
TRIPS = [pytest.param(case, door, id=f"{case.name}-{door}") for case in CASES for door in case.doors]


@dataclass(frozen=True)
class Travelled:
    """What all journeys left: what each client got, the raw response rows and the published ledger."""

    got: Mapping[str, tuple[int, bytes]]
    responses: Mapping[str, dict[str, Any]]
    ledger: duckdb.DuckDBPyConnection
    home: Home

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """A query's rows as dictionaries."""
        cursor = self.ledger.execute(query, list(values))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory, authority: Authority, leaf: Leaf) -> Travelled:
    """All cases through one sidecar that encrypts the bodies, then one build: what is read from them is read from encrypted ones."""
    home = Home(tmp_path_factory.mktemp("golden") / "home")
    return asyncio.run(_travel_all(home, authority, leaf, CASES, '[capture]\nbodies = "encrypted"'))


async def _travel_all(home: Home, authority: Authority, leaf: Leaf, found: list[Case], settings: str = "") -> Travelled:
    got: dict[str, tuple[int, bytes]] = {}
    async with Upstream(name="golden", tls=leaf) as upstream:
        channels = sorted({case.channel for case in found} | {"official"}, key=lambda name: (name != "official", name))
        write_book(
            home,
            [Way(name, f"{upstream.url}/{name}/v1", rules=_rules(name)) for name in channels],
            models={case.model: [(case.channel, case.model)] for case in found if case.model and case.channel != "official"},
            prices=prices_of(found),
            settings=settings,
        )
        with sidecar(home, "--upstream-ca", str(authority.cert)) as running:
            for case in found:
                for name in case.doors:
                    upstream.queue.append(case.answer(name))
                    door = Door(f"{upstream.url}/{case.channel}/v1", proxy=running.forward, ca=home.ca / "mitmproxy-ca-cert.pem")
                    got[case.id(name)] = await travel(case, Door(running.base_url) if name == "gateway" else door, name)
                    upstream.release(case.id(name))
    by_request = {response["request_id"]: response for response in recorded(home, "response") if response["ordinal"]}
    seal_all(home)
    build(home)
    ledger = duckdb.connect(str(home.ledger_file), read_only=True)
    ids = dict(ledger.execute("select client_request_id, request_id from ledger").fetchall())
    return Travelled(got, {name: by_request[raw] for name, raw in ids.items() if raw in by_request}, ledger, home)


def _rules(channel: str) -> str:
    """No retries, so that one answer serves one case; a channel named after a dialect speaks it."""
    dialect = "" if channel == "official" or channel.startswith("plain") else f'usage_dialect = "{channel}"\n'
    return f"max_retries = 0\n{dialect}"


@pytest.mark.parametrize(("case", "door"), TRIPS)
def test_the_bytes_reach_the_client_unchanged(travelled: Travelled, case: Case, door: str) -> None:
    """What the upstream sent is what the client got."""
    assert travelled.got[case.id(door)] == (case.response.get("status", 200), case.answered_bytes(door))


@pytest.mark.parametrize(("case", "door"), TRIPS)
def test_the_raw_record_says_what_was_seen(travelled: Travelled, case: Case, door: str) -> None:
    """The columns that the case names, as the proxy recorded them."""
    response = travelled.responses[case.id(door)]
    assert {name: response[name] for name in case.record} == case.record


@pytest.mark.parametrize(("case", "door"), TRIPS)
def test_the_ledger_row_and_the_charge_are_those_worked_by_hand(travelled: Travelled, case: Case, door: str) -> None:
    """Columns, meters and the charge to the last digit."""
    (row,) = travelled.rows("select * from ledger where client_request_id = ?", case.id(door))
    assert {name: _written(row[name]) for name in case.ledger} == {name: _written(value) for name, value in case.ledger.items()}
    if case.meters is not None:
        lines = travelled.rows(
            "select case when c.model is distinct from coalesce(a.sent_model, ?, c.model) then coalesce(c.model || '/', '') else '' end || meter as meter, "
            "quantity, unit_price, amount from charges c join attempts a on c.request_id = a.request_id and c.attempt_ordinal = a.ordinal "
            "where c.request_id = ?",
            case.model,
            row["request_id"],
        )
        assert len({line["meter"] for line in lines}) == len(lines)
        assert {line["meter"]: int(line["quantity"]) for line in lines} == case.meters
        assert all(line["amount"] == line["quantity"] * line["unit_price"] for line in lines)


def test_every_golden_receipt_holds_to_the_published_schema(travelled: Travelled) -> None:
    """All members of the JSON, their types and their forms, for every case through both doors."""
    validator = Draft202012Validator(schema())
    receipts = [
        load(travelled.ledger, row["request_id"], published=True).as_json() for row in travelled.rows("select request_id from ledger")
    ]
    assert len(receipts) >= len(TRIPS)
    assert {receipt["client_request_id"]: error.message for receipt in receipts for error in validator.iter_errors(receipt)} == {}


@pytest.mark.parametrize(("case", "door"), TOLD)
def test_what_another_gateway_tells_is_kept_as_evidence(travelled: Travelled, case: Case, door: str) -> None:
    """Each fact that the case names, and no other; the same through both doors."""
    told = travelled.rows(
        "select gateway || '.' || fact as fact, value from evidence e join ledger l on e.request_id = l.request_id where client_request_id = ?",
        case.id(door),
    )
    wanted = {(f"{gateway}.{fact}", value) for gateway, facts in (case.evidence or {}).items() for fact, value in facts.items()}
    assert {(row["fact"], row["value"]) for row in told} == wanted


@pytest.mark.parametrize(("case", "door"), UNKNOWN)
def test_what_is_unknown_has_its_reason(travelled: Travelled, case: Case, door: str) -> None:
    """`unpriced` says in words why, and the month has a blocker."""
    told = travelled.rows(
        "select u.reason from unpriced u join ledger l on u.request_id = l.request_id where l.client_request_id = ?", case.id(door)
    )
    assert [case.reason in row["reason"] for row in told] == [True], told


def _written(value: object) -> object:
    """Amounts compare by value whatever zeros they are written with; `null` stands for an unknown."""
    if isinstance(value, Decimal):
        return value.normalize()
    if value == "null":
        return None
    if isinstance(value, str):
        try:
            return Decimal(value).normalize()
        except ArithmeticError:
            return value
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_doors_tell_the_same_story(travelled: Travelled, case: Case) -> None:
    """Apart from the door, the ids and the times, a case's rows are equal."""
    same = "status, outcome, http_status, input_tokens, output_tokens, usage_source, final_charge, balance_bucket, served_model, upstream_model"
    stories = [travelled.rows(f"select {same} from ledger where client_request_id = ?", case.id(door))[0] for door in case.doors]
    assert all(story == stories[0] for story in stories)


def test_each_case_says_a_sentence_and_has_a_charge_or_its_absence() -> None:
    """A case without either would prove nothing to a reader."""
    assert all(case.says.endswith(".") for case in CASES)
    assert all("final_charge" in case.ledger for case in CASES)


def test_every_row_of_the_wire_has_a_case() -> None:
    """Each endpoint, usage dialect, quirk of a stream and gateway's signals: no row without a case, no case that is not there."""
    told = rows()
    assert len({(row.table, row.name) for row in told}) == len(told)
    assert [row for row in told if not row.cases] == []
    assert {name for row in told for name in row.cases} - {case.name for case in CASES} - {path.parent.name for path in sockets()} == set()


@pytest.mark.parametrize("run_id", ["codex-s1", "ses_oc1", "0c1d"])
def test_the_calls_of_an_agent_tools_session_are_one_run(travelled: Travelled, run_id: str) -> None:
    """Two calls of Codex, opencode and a Claude-style tool through each door, the session told in two ways: one run of four requests."""
    (run,) = travelled.rows("select * from runs where run_id = ?", run_id)
    assert run["requests"] == 4
    found = travelled.rows("select sum(final_charge) as total from ledger where run_id = ?", run_id)
    assert run["final_charge"] == found[0]["total"] > 0


def test_brotli_is_unknown_where_only_digests_are_kept(tmp_path: Path, authority: Authority, leaf: Leaf) -> None:
    """The proxy reads gzip as it passes and brotli never: without its bytes its usage is lost, and the charge is unknown with that reason."""
    found = [case for case in CASES if case.name in ("coded-br", "coded-br-stream", "coded-gzip", "coded-zstd")]
    digested = asyncio.run(_travel_all(Home(tmp_path / "home"), authority, leaf, found, '[capture]\nbodies = "digest"'))
    assert recorded(digested.home, "body") == []
    for case in found:
        for door in case.doors:
            assert digested.got[case.id(door)] == (200, case.answered_bytes(door))
            response = digested.responses[case.id(door)]
            assert response["body_sha256"] == hashlib.sha256(case.answered_bytes(door)).hexdigest()
            (row,) = digested.rows("select * from ledger where client_request_id = ?", case.id(door))
            told = digested.rows("select reason from unpriced where request_id = ?", row["request_id"])
            if "-br" in case.name:
                assert (row["final_charge"], row["usage_source"]) == (None, "none")
                assert ["brotli" in one["reason"] and "digest" in one["reason"] for one in told] == [True], told
            else:
                assert (row["final_charge"], told) == (Decimal(case.ledger["final_charge"]), [])


def test_the_key_that_all_cases_used_is_nowhere_below_the_home(travelled: Travelled) -> None:
    """Not in a spool segment, a Parquet file, the ledger or a log."""
    files = [path for path in travelled.home.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if b"sk-golden-0123456789abcdef" in path.read_bytes()] == []


def test_no_message_lies_in_the_clear_and_each_can_be_read_with_its_key(travelled: Travelled) -> None:
    """All cases used one credential; under that subject's key each body is the bytes whose hash its record names."""
    keys, bodies = BodyKeys(travelled.home), recorded(travelled.home, "body")
    assert len(bodies) > len(CASES)
    assert len({row["subject"] for row in bodies}) == len({row["key"] for row in bodies}) >= 1
    for row in bodies:
        content = keys.content(row)
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert len(content) < 16 or content not in row["content"]


QUARANTINED = {
    "count-bent-float": "no whole number",
    "count-fraction": "no whole number",
    "count-inner-too-large": "reported inside it",
    "count-negative": "no whole number",
    "count-null-output": "no output is reported",
    "count-total-mismatch": "its parts add up to 15",
}


def test_usage_that_cannot_be_right_is_quarantined_with_its_reason(travelled: Travelled) -> None:
    """Each has a row in data_quality that keeps its month open, and no other case has one."""
    found = travelled.rows(
        "select r.client_request_id as name, q.detail, q.blocks_close from data_quality q "
        "join attempts a on q.subject = a.raw_request_id || '/' || a.raw_ordinal join ledger r on a.request_id = r.request_id "
        "where q.kind = 'quarantined_usage'"
    )
    assert {row["name"] for row in found} == {f"golden-{name}-{door}" for name in QUARANTINED for door in ("gateway", "forward")}
    for row in found:
        name = row["name"].removeprefix("golden-").rpartition("-")[0]
        assert QUARANTINED[name] in row["detail"]
        assert row["blocks_close"]


def test_a_batch_and_its_output_that_differ_are_told(travelled: Travelled) -> None:
    """The batch tells 1000 and 100 tokens, its output 500 and 50; those that agree are not told; a dated model's price is."""
    rows = travelled.rows("select subject, detail, blocks_close from data_quality where kind = 'batch_disagrees' order by subject")
    assert [row["subject"] for row in rows] == ["official batch_forward", "official batch_gateway"]
    assert "1000 input and 100 output tokens, the lines of its output 500 and 50" in rows[0]["detail"]
    assert not rows[0]["blocks_close"]
    (assumed,) = travelled.rows("select subject, rows from data_quality where kind = 'assumed_model'")
    assert assumed == {"subject": "official gpt-batch-2024-07-18", "rows": 2}


def test_what_is_free_names_what_it_repeats(travelled: Travelled) -> None:
    """Polls, downloads and stored objects name the request that was charged; the others say why they are free or not known."""
    told = "select client_request_id as name, disposition_reason as reason from attempts join ledger using (request_id)"
    reasons = {row["name"]: row["reason"] for row in travelled.rows(told)}
    ids = {row["name"]: row["id"] for row in travelled.rows("select client_request_id as name, request_id as id from ledger")}
    for door in ("gateway", "forward"):
        for copy, original in (
            ("batches-4-again", "batches-3-done"),
            ("batches-5-output", "batches-3-done"),
            ("batches-lines-3-again", "batches-lines-2-output"),
            ("batches-both-2-poll", "batches-both-1-output"),
            ("messages-batch-4-again", "messages-batch-3-results"),
        ):
            assert reasons[f"golden-{copy}-{door}"] == f"repeat of {ids[f'golden-{original}-{door}']}"
        for name, words in (
            ("batches-lines-1-poll", f"its result is charged once, with {ids[f'golden-batches-lines-2-output-{door}']}"),
            ("batches-without-usage", "it ended and told no usage, and its output was never downloaded"),
            ("batches-none-completed", "none of its requests was completed"),
            ("files-content", "a stored file, and no output of a batch"),
        ):
            assert reasons[f"golden-{name}-{door}"] == words


def test_a_tier_that_the_answer_did_not_name_is_flagged_as_assumed(travelled: Travelled) -> None:
    """One row in data_quality says for how many calls."""
    rows = travelled.rows("select subject, rows, blocks_close from data_quality where kind = 'assumed'")
    assert rows == [{"subject": "official flex", "rows": 2, "blocks_close": False}]


def test_only_the_model_that_is_another_one_is_a_finding(travelled: Travelled) -> None:
    """Of all that the gateways' replies name, the substituted model is reported through both doors, and so is a router's own choice."""
    found = travelled.rows("select subject, rows from data_quality where kind = 'model_substituted' and subject like '%gpt-4o-mini ->%'")
    assert sorted((row["subject"].split(" -> ")[1], row["rows"]) for row in found) == [
        ("gpt-4o-nano-2025-01-01", 2),
        ("gpt-5-nano-2025-08-07", 2),
    ]


def test_what_gateways_say_beside_their_route_is_not_recorded(travelled: Travelled) -> None:
    """No prompt that a gateway sends back, no budget of a key, no credential of another tool."""
    kept = "\n".join(f"{response['headers']} {response['facts']}" for response in travelled.responses.values())
    assert [word for word in ("secret", "key-spend", "max-budget", "Bearer", "set-cookie") if word in kept] == []


def test_journeys_one_after_the_other_are_never_taken_for_one(travelled: Travelled) -> None:
    """Each case's two journeys end in two requests; nothing passed both doors."""
    assert travelled.rows("select raw_request_id from dispositions where disposition = 'duplicate'") == []
