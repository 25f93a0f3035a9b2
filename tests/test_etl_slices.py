"""A ledger built in slices is the ledger of one go, whatever ties the records of one slice to those of another."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]  # it ships no types
import duckdb
import orjson
import pytest

from etl.build import build
from etl.close import close
from etl.kernel import Progress
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.published import differences
from tests.rawdata import (
    DAY,
    HOUR,
    NOON,
    SECOND,
    Archive,
    attempt,
    body,
    call,
    event,
    failure,
    json,
    request,
    response,
    rows,
    terms,
    topup,
    usage,
    write_book,
)
from tests.test_etl_batches import RATES, asked, download, poll

AS_OF = parse_instant("2026-11-20T00:00:00Z")
LATER = NOON + HOUR


def in_slices(home: Home, records: int = 1) -> dict[str, int]:
    """Build in slices of at least so many records, a seal each for one; the last slice's steps with their rows, and `slices`."""
    steps: dict[str, int] = {"slices": 1}

    def told(step: Progress) -> None:
        steps[step.name] = step.rows
        if step.name == "slice":
            steps["slices"] = step.of

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etl.build.SLICE_RECORDS", records)
        build(home, as_of=AS_OF, progress=told)
    return steps


def in_one(home: Home, folder: Path) -> Path:
    """The ledger of the same records in one go."""
    copy = Home(folder / "copy")
    shutil.rmtree(copy.root, ignore_errors=True)
    shutil.copytree(home.root, copy.root)
    copy.ledger_file.unlink(missing_ok=True)
    build(copy, as_of=AS_OF)
    return copy.ledger_file


def own(name: str) -> str:
    """The digest of a body that only one case has."""
    return f"{name:0<64}"


def failed(request_id: str, body_of: str, at: int, **facts: Any) -> list[Record]:
    return [request(request_id, at, match_sha256=own(body_of), **facts), attempt(request_id, at=at), failure(request_id, at=at + SECOND)]


def served(request_id: str, body_of: str, at: int, response_id: str | None = None, **facts: Any) -> list[Record]:
    return [
        request(request_id, at, match_sha256=own(body_of), **facts),
        attempt(request_id, at=at),
        response(request_id, at=at + SECOND, usage=usage(70, 7), response_id=response_id or f"answer of {request_id}"),
    ]


def passed_on(
    request_id: str,
    body_of: str,
    at: int,
    until: int,
    *,
    door: str,
    sent_to: str,
    host: str = "127.0.0.1:8780",
    path: str = "/v1/chat/completions",
    **reply: Any,
) -> list[Record]:
    """A call at one door, of a body or without one, sent on to a host, whose reply came whole at an instant."""
    told: dict[str, Any] = {"headers": "{}", "response_id": None, "usage": usage(50, 5), "headers_at": until, **reply}
    return [
        request(request_id, at, door=door, match_sha256=own(body_of) if body_of else None, host=host, path=path),
        attempt(request_id, at=at, url=f"https://{sent_to}/v1/chat/completions"),
        response(request_id, at=until, **told),
    ]


def background(request_id: str, at: int, status: str, *, polled: bool) -> list[Record]:
    """A response in the background: asked for, or polled."""
    method, path = ("GET", "/v1/responses/resp_1") if polled else ("POST", "/v1/responses")
    done: dict[str, Any] = (
        {"usage": usage(90, 9)} if status == "completed" else {"output_seen": False, "finish_reasons": (), "body_state": "read"}
    )
    return [
        request(request_id, at, method=method, path=path, match_sha256=None if polled else own("background"), retry=None),
        attempt(request_id, at=at, url=f"https://official.test{path}"),
        response(request_id, at=at + SECOND, response_id="resp_1", facts=json({"status": status, "background": True}), **done),
    ]


def unread(request_id: str, at: int, until: int, response_id: str) -> list[Record]:
    """A call at the gateway whose reply came in brotli, so that its id is in the bytes kept alone."""
    told = {"id": response_id, "choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": 50, "completion_tokens": 5}}
    content = brotli.compress(orjson.dumps(told))
    silent: dict[str, Any] = {
        "usage": (),
        "body_bytes": len(content),
        "content_encoding": "br",
        "body_state": "opaque",
        "output_seen": False,
    }
    return [
        *passed_on(request_id, request_id, at, until, door="gateway", sent_to="vendor.test", **silent),
        body(request_id, 1, content, until, content_encoding="br"),
    ]


def entry(name: str, at: int, **facts: str) -> Record:
    told = {"actor": "ada", "reason": "why", "reference": "r", "currency": "USD", "wallet": "research", "bucket": "official_credit"}
    return event(name, facts.pop("event"), at, **{**told, **facts})


# What ties records to each other: what the first of three slices has of it, what the second, and what the third.
TIES: dict[str, tuple[Sequence[Record], Sequence[Record], Sequence[Record]]] = {
    "a late end": ([request("end", match_sha256=own("end")), attempt("end")], [response("end", usage=usage(10, 5))], []),
    "a copy": (call("copied"), call("copied"), []),
    "only an end": ([], failed("lone", "lone", LATER)[1:2], failed("lone", "lone", LATER)[2:]),
    "an SDK's retry": (failed("first", "sdk", NOON), served("second", "sdk", NOON + 3 * SECOND, retry=1), []),
    "retries over three slices": (
        failed("one", "thrice", NOON),
        failed("two", "thrice", NOON + 3 * SECOND, retry=1),
        served("three", "thrice", NOON + 6 * SECOND, retry=2),
    ),
    "a key sent again": (
        failed("try", "keyed", NOON, retry=None, headers={"idempotency-key": "k-1"}),
        [],
        served("again", "keyed", NOON + HOUR, retry=None, headers={"idempotency-key": "k-1"}),
    ),
    "an answer given again": (
        served("said", "said", NOON, "once", headers={"idempotency-key": "k-2"}),
        served("repeated", "said", NOON + HOUR, "once", headers={"idempotency-key": "k-2"}),
        [],
    ),
    "a vendor's id that nobody read": (
        unread("o1", NOON, NOON + 9 * SECOND, "hidden"),
        [],
        passed_on(
            "i1", "i1", NOON + SECOND, NOON + 8 * SECOND, door="forward", sent_to="vendor.test", host="vendor.test", response_id="hidden"
        ),
    ),
    "a retry of a call whose end came late": (
        [
            request("late", match_sha256=own("late")),
            attempt("late"),
            *served("at once", "late", NOON + 3 * SECOND, retry=1),
        ],
        [failure("late")],
        [],
    ),
    "a call that names the other door's": (
        passed_on(
            "outer", "", NOON, NOON + 9 * SECOND, door="forward", sent_to="gateway.test", headers=json({"x-ledger-request-id": "inner"})
        ),
        passed_on(
            "inner", "", NOON + SECOND, NOON + 8 * SECOND, door="gateway", sent_to="official.test", path="/behind/v1/chat/completions"
        ),
        [],
    ),
    "a vendor's id at both doors": (
        passed_on("o2", "outer body", NOON, NOON + 9 * SECOND, door="gateway", sent_to="vendor.test", response_id="both"),
        [],
        passed_on(
            "i2",
            "inner body",
            NOON + SECOND,
            NOON + 8 * SECOND,
            door="forward",
            sent_to="vendor.test",
            host="vendor.test",
            response_id="both",
        ),
    ),
    "a vendor's id in a header at both doors": (
        passed_on("o3", "outer 3", NOON, NOON + 9 * SECOND, door="gateway", sent_to="vendor.test", headers=json({"x-request-id": "v"})),
        passed_on(
            "i3",
            "inner 3",
            NOON + SECOND,
            NOON + 8 * SECOND,
            door="forward",
            sent_to="vendor.test",
            host="vendor.test",
            headers=json({"x-request-id": "v"}),
        ),
        [],
    ),
    "no answer at both doors": (
        passed_on("o4", "none", NOON, NOON + 9 * SECOND, door="gateway", sent_to="vendor.test", http_status=None, usage=()),
        [],
        passed_on(
            "i4",
            "none",
            NOON + SECOND,
            NOON + 8 * SECOND,
            door="forward",
            sent_to="vendor.test",
            host="vendor.test",
            http_status=None,
            usage=(),
        ),
    ),
    "a response in the background": (
        background("asked", NOON, "queued", polled=False),
        background("asking", NOON + HOUR, "in_progress", polled=True),
        background("answered", NOON + 2 * HOUR, "completed", polled=True),
    ),
    "a batch": (asked(), poll(), download()),
    "a refund, and an adjustment of two calls": (
        call("r1"),
        call("r2"),
        [
            entry("e1", LATER, event="wallet_refund", amount="0.0001", request_id="r1"),
            entry("e2", LATER, event="wallet_adjust", amount="0.5", request_id="r2"),
        ],
    ),
    "a refund before its call was read": ([entry("e3", LATER, event="wallet_refund", amount="0.0001", request_id="r3")], call("r3"), []),
    "credit, a hold and its end, a balance shown": (
        [topup("t1", "5"), entry("h1", NOON, event="wallet_hold", amount="1", until="2026-12-01T00:00:00Z")],
        [entry("h2", LATER, event="wallet_release", hold="h1")],
        [entry("s1", LATER, event="wallet_snapshot", amount="3")],
    ),
}


def recorded(home: Home, ties: Sequence[str]) -> Archive:
    """Three seals: of each tie its part, and calls that nothing ties."""
    write_book(home, rates=RATES)
    archive = Archive(home)
    for place in range(3):
        alone = [record for n in range(4) for record in call(f"alone {place} {n}", NOON + place * HOUR + n * SECOND, prompt=100 + n)]
        archive.seal([*alone, *(record for tie in ties for record in TIES[tie][place])])
    return archive


def test_nothing_is_torn_apart(home: Home, tmp_path: Path) -> None:
    """Every tie at once, over three slices; the reversal names a transaction of the first."""
    archive = recorded(home, list(TIES))
    expected = in_one(home, tmp_path)
    with duckdb.connect(str(expected), read_only=True) as connection:
        ((transaction,),) = connection.execute(
            "SELECT DISTINCT transaction_id FROM journal WHERE request_id = 'alone 0 1' AND kind = 'charge'"
        ).fetchall()
    archive.seal([entry("undone", LATER, event="wallet_reverse", transaction=transaction)])
    steps = in_slices(home)
    assert steps["slices"] == 4
    assert differences(in_one(home, tmp_path), home.ledger_file) == {}
    assert rows(home, "SELECT count(*) AS n FROM ledger WHERE request_id LIKE 'alone%'") == [{"n": 12}]


def test_what_nothing_ties_stays_in_its_slice(home: Home, tmp_path: Path) -> None:
    """Of two ties only what they tie is read with the last slice."""
    recorded(home, ["an SDK's retry", "a late end"])
    assert in_slices(home)["received"] == 4 + 3
    assert differences(in_one(home, tmp_path), home.ledger_file) == {}
    # the same seals in two slices: what both have in the first is no tie over slices
    home.ledger_file.unlink()
    steps = in_slices(home, records=24)
    assert (steps["slices"], steps["received"]) == (2, 4)


def test_closed_months_and_what_came_late_for_them(home: Home, tmp_path: Path) -> None:
    """Beside a closed month, from nothing but its seal and from the ledger that has its rows."""
    write_book(home)
    archive = Archive(home)
    archive.seal([topup("t0", "5"), *call("old"), *call("older", NOON - DAY)])
    assert close(home, AS_OF).closed == ("2026-10",)
    november = parse_instant("2026-11-10T12:00:00Z")
    archive.seal([*call("late", NOON + DAY), *call("n1", november), response("old", at=NOON + DAY, usage=usage(1, 1))])
    archive.seal([*call("n2", november + DAY), entry("e1", november, event="wallet_refund", amount="0.00001", request_id="old")])
    archive.seal(failed("n3", "n3", november + DAY))
    expected = in_one(home, tmp_path)
    assert in_slices(home)["slices"] > 1
    assert differences(expected, home.ledger_file) == {}
    rates = home.book / "rates.csv"
    rates.write_text(rates.read_text().replace("0.15,", "0.30,"), encoding="utf-8")
    assert in_slices(home)["slices"] > 1
    assert differences(in_one(home, tmp_path), home.ledger_file) == {}


def test_what_came_since_comes_in_slices(home: Home, tmp_path: Path) -> None:
    """A ledger is gone on from: of two hundred calls none is made again but those that something ties to what came."""
    write_book(home, rates=RATES)
    archive = Archive(home)
    archive.seal([record for n in range(200) for record in call(f"old {n}", NOON + n * SECOND, prompt=100 + n)])
    archive.seal([record for tie in TIES.values() for record in tie[0]])
    build(home, as_of=AS_OF)
    archive.seal([record for tie in TIES.values() for part in tie[1:] for record in part])
    steps = in_slices(home, records=20)
    assert steps["slices"] > 3  # as many as seals, if everything were made again
    assert steps["received"] < 60
    assert differences(in_one(home, tmp_path), home.ledger_file) == {}


def test_a_free_allowance_keeps_a_month_whole(home: Home) -> None:
    """Who comes first takes of it, whichever seal has it."""
    write_book(home, terms=terms("official gpt-4o-mini input allowance_month 1500 pool=p"))
    archive = Archive(home)
    archive.seal(call("second", LATER))
    archive.seal(call("first"))
    assert in_slices(home)["slices"] == 1
    assert {row["request_id"]: row["free_quantity"] for row in rows(home, "FROM allowance_use")} == {"first": 1000, "second": 500}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
def test_records_in_any_slices_make_one_ledger(home: Home, tmp_path: Path, seed: int) -> None:
    """Every record of every tie and of calls between them, sealed in random pieces in random order."""
    chance = random.Random(seed)
    records = [record for tie in TIES.values() for part in tie for record in part]
    records += [record for n in range(20) for record in call(f"alone {n}", NOON + n * SECOND, prompt=100 + n)]
    chance.shuffle(records)
    write_book(home, rates=RATES)
    archive = Archive(home)
    while records:
        size = chance.randrange(10, 60)
        archive.seal(records[:size])
        records = records[size:]
    assert in_slices(home)["slices"] == len(archive.seals)
    assert differences(in_one(home, tmp_path), home.ledger_file) == {}
