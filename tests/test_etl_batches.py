"""A batch is charged once: by its output or by its own usage, in any order, over months, and never for a file that is none."""

from __future__ import annotations

import gzip
from decimal import Decimal
from itertools import permutations
from typing import Any

import orjson
import pytest
import zstandard

from etl.batch_output import OtherFileError, lines_of, read_line
from etl.build import preview
from etl.close import close
from etl.texts import Uncountable
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record, UsageSeen
from tests.rawdata import (
    DAY,
    HOUR,
    NOON,
    SECOND,
    Archive,
    attempt,
    body,
    built,
    call,
    json,
    one,
    request,
    response,
    rows,
    spool,
    write_book,
)

NOVEMBER = parse_instant("2026-11-01T00:00:00Z")
RATES = """+official,gpt-4o-mini,input,0.075,1000000,USD,2026-01-01T00:00:00Z,,charge,batch,,,,test,
official,gpt-4o-mini,output,0.30,1000000,USD,2026-01-01T00:00:00Z,,charge,batch,,,,test,
official,gpt-big,input,1,1000000,USD,2026-01-01T00:00:00Z,,charge,batch,,,,test,
official,gpt-big,input,2,1000000,USD,2026-01-01T00:00:00Z,,charge,batch,1000,,,test,
official,gpt-big,output,4,1000000,USD,2026-01-01T00:00:00Z,,charge,batch,,,,test,
"""
# 1000 x 0.000000075 + 500 x 0.0000003
CHARGE = Decimal("0.000225")


def line(custom_id: str, prompt: int, completion: int, model: str = "gpt-4o-mini", **changes: Any) -> dict[str, Any]:
    """One line of an output file."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    message = {"id": f"chatcmpl-{custom_id}", "model": model, "usage": usage, **changes}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": {"status_code": 200, "body": message}, "error": None}


LINES = (line("a", 600, 300), line("b", 400, 200))


def asked(request_id: str = "ask", at: int = NOON, batch: str = "1") -> list[Record]:
    """POST /batches."""
    return _batch(request_id, at, batch, "POST", "/v1/batches", {"status": "validating"})


def poll(
    request_id: str = "poll", at: int = NOON + SECOND, usage: dict[str, Any] | None = None, done: int = 2, batch: str = "1"
) -> list[Record]:
    """GET /batches/b1, which is done, or another."""
    told = {"status": "completed", "output_file_id": f"file-{batch}", "request_counts": {"total": 2, "completed": done, "failed": 0}}
    return _batch(request_id, at, batch, "GET", f"/v1/batches/b{batch}", told, usage)


def _batch(
    request_id: str, at: int, batch: str, method: str, path: str, facts: dict[str, Any], usage: dict[str, Any] | None = None
) -> list[Record]:
    seen = (UsageSeen("usage", orjson.dumps(usage).decode(), 1),) if usage else ()
    answer: dict[str, Any] = {"response_id": f"b{batch}", "served_model": "gpt-4o-mini", "output_seen": False, "finish_reasons": ()}
    return [
        request(request_id, at, retry=None, method=method, path=path, api_model=None, match_sha256=None),
        attempt(request_id, at=at, sent_model=None, url=f"https://official.test{path}"),
        response(request_id, at=at + 1, facts=json(facts), usage=seen, **answer),
    ]


def download(
    request_id: str = "down",
    at: int = NOON + 2 * SECOND,
    lines: Any = LINES,
    *,
    file: str = "file-1",
    kept: int | None = None,
    coding: str = "",
) -> list[Record]:
    """GET /files/.../content, and its body; `kept` bytes of it, none for 0."""
    path = f"/v1/files/{file}/content"
    plain = b"".join(orjson.dumps(item) + b"\n" for item in lines)
    content = {"": lambda: plain, "gzip": lambda: gzip.compress(plain), "zstd": lambda: zstandard.compress(plain)}[coding]()
    made: list[Record] = [
        request(request_id, at, retry=None, method="GET", path=path, api_model=None, match_sha256=None),
        attempt(request_id, at=at, sent_model=None, url=f"https://official.test{path}"),
        response(
            request_id,
            at=at + 1,
            response_id=None,
            served_model=None,
            body_state="opaque",
            finish_reasons=(),
            content_type="application/octet-stream",
        ),
    ]
    if kept != 0:
        made.append(body(request_id, 1, content[:kept], at + 1, size=len(content), content_encoding=coding or None))
    return made


USAGE = {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500}


def charged(home: Home) -> dict[str, Decimal | None]:
    return {row["request_id"]: row["final_charge"] for row in rows(home, "SELECT request_id, final_charge FROM ledger")}


def reasons(home: Home) -> dict[str, str | None]:
    return {row["request_id"]: row["disposition_reason"] for row in rows(home, "SELECT request_id, disposition_reason FROM attempts")}


@pytest.mark.parametrize("with_usage", [True, False])
def test_a_batch_is_charged_once_in_any_order(home: Home, with_usage: bool) -> None:
    """A poll and two downloads, in each order that three can have: one download is charged at the batch tier, the rest names it."""
    usage = USAGE if with_usage else None
    records: list[Record] = []
    firsts: dict[str, str] = {}
    for n, order in enumerate(permutations(range(3))):
        batch, begin = str(n), NOON + n * HOUR
        poll_at, *at = [begin + (place + 1) * SECOND for place in order]
        lines = (line(f"a{n}", 600, 300), line(f"b{n}", 400, 200))
        records += asked(f"ask{n}", begin, batch) + poll(f"poll{n}", poll_at, usage, batch=batch)
        for name, download_at in zip("de", at, strict=True):
            records += download(f"{name}{n}", download_at, lines, file=f"file-{n}")
        firsts[f"b{n}"] = f"d{n}" if at[0] < at[1] else f"e{n}"
    built(home, records, rates=RATES)
    told, why = charged(home), reasons(home)
    for batch, first in firsts.items():
        mine = {name + batch[1:] for name in ("ask", "poll", "d", "e")}
        assert {name: told[name] for name in mine} == {name: CHARGE if name == first else Decimal(0) for name in mine}
        assert {why[name] for name in mine} <= {None, f"repeat of {first}", f"its result is charged once, with {first}"}
        tier = one(home, f"SELECT service_tier, job_id FROM attempts WHERE request_id = '{first}'")
        assert tier == {"service_tier": "batch", "job_id": batch}
    assert rows(home, "FROM data_quality WHERE kind = 'batch_disagrees'") == []


@pytest.mark.parametrize(
    ("kept", "why"),
    [(0, "its body is not kept"), (100, "only the first 100 of its"), (None, "line 2 of it is no line of a batch's output")],
)
def test_an_output_that_cannot_be_read_says_why(home: Home, kept: int | None, why: str) -> None:
    """Without the batch's own usage the batch is not known, for the reason told; with it, it is charged by that."""
    lines = LINES if kept is not None else (LINES[0], {"hello": "world"})
    built(home, [*poll(), *download(kept=kept, lines=lines)], rates=RATES)
    assert charged(home) == {"poll": None, "down": None}
    assert why in (reasons(home)["down"] or "")
    assert (reasons(home)["poll"] or "").startswith("it ended and told no usage; its output was downloaded with down, but ")


def test_the_batchs_own_usage_is_charged_where_its_output_is_not_kept(home: Home) -> None:
    """As under bodies = "digest": the poll is charged, the download names it."""
    built(home, [*poll(usage=USAGE), *download(kept=0)], rates=RATES)
    assert charged(home) == {"poll": CHARGE, "down": Decimal(0)}
    assert reasons(home)["down"] == "its result is charged once, with poll"


def test_a_file_without_a_body_or_a_batch_is_free(home: Home) -> None:
    """Nothing says that it was a batch's output."""
    built(home, download(file="file-mine", kept=0), rates=RATES)
    assert charged(home) == {"down": Decimal(0)}


def test_a_batch_that_nobody_asked_for_here_is_charged_by_its_output(home: Home) -> None:
    """The shape of every line says what the file is; at the price of the undated model, which data_quality tells."""
    built(home, download(lines=[line("a", 1000, 500, "gpt-4o-mini-2024-07-18")]), rates=RATES)
    assert charged(home) == {"down": CHARGE}
    assert one(home, "SELECT subject, blocks_close FROM data_quality WHERE kind = 'assumed_model'") == {
        "subject": "official gpt-4o-mini-2024-07-18",
        "blocks_close": False,
    }


def test_each_line_reaches_its_own_threshold(home: Home) -> None:
    """A line of 999 tokens at 1, one of 1000 at 2, each a million, though together they pass the threshold twice."""
    built(home, download(lines=[line("a", 999, 0, "gpt-big"), line("b", 1000, 0, "gpt-big"), line("c", 1, 0, "gpt-big")]), rates=RATES)
    assert rows(home, "SELECT model, meter, quantity, amount FROM charges ORDER BY amount") == [
        {"model": "gpt-big", "meter": "input", "quantity": 1000, "amount": Decimal("0.001")},
        {"model": "gpt-big", "meter": "input", "quantity": 1000, "amount": Decimal("0.002")},
    ]


def test_a_line_that_stands_twice_counts_once_and_a_failed_one_never(home: Home) -> None:
    """The same custom id and answer twice; an error; and an answer that repeats an id under another custom id is another."""
    failed = {"custom_id": "z", "response": {"status_code": 429, "body": {"usage": {"prompt_tokens": 9}}}, "error": None}
    other = line("c", 0, 0) | {"custom_id": "c"}
    built(home, download(lines=[*LINES, LINES[0], failed, other]), rates=RATES)
    assert charged(home) == {"down": CHARGE}


@pytest.mark.parametrize("fault", [{"usage": None}, {"usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 11}}])
def test_a_faulty_line_quarantines_the_output(home: Home, fault: dict[str, Any]) -> None:
    """The line is named; the batch is charged by its own usage where it tells that."""
    built(home, [*poll(usage=USAGE), *download(lines=[LINES[0], line("b", 5, 5, **fault)])], rates=RATES)
    assert charged(home) == {"poll": CHARGE, "down": Decimal(0)}
    assert str(one(home, "SELECT detail FROM data_quality WHERE kind = 'quarantined_usage'")["detail"]).startswith("line 2: ")


def test_an_output_that_holds_less_than_was_completed_repeats_the_batch(home: Home) -> None:
    """The batch says 3 were completed and tells their usage; the lines of two are no charge, and the difference is told."""
    built(home, [*poll(usage=USAGE | {"input_tokens": 1100, "total_tokens": 1600}, done=3), *download()], rates=RATES)
    assert charged(home) == {"poll": Decimal("0.0002325"), "down": Decimal(0)}
    assert reasons(home)["down"] == "repeat of poll"
    assert "1100 input and 500 output" in str(one(home, "SELECT detail FROM data_quality WHERE kind = 'batch_disagrees'")["detail"])


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_coded_output_is_read_from_sealed_files(home: Home, coding: str) -> None:
    """The body lies in raw/ as it was sent."""
    write_book(home, rates=RATES)
    Archive(home).seal(download(coding=coding))
    built(home)
    assert charged(home) == {"down": CHARGE}


@pytest.mark.parametrize("first", ["poll", "down"])
def test_what_a_closed_month_charged_is_not_charged_again(home: Home, first: str) -> None:
    """The batch is charged in October; polls and downloads of November repeat it, though October's records are not read any more."""
    write_book(home, rates=RATES)
    archive = Archive(home)
    archive.seal([*asked(), *poll(usage=USAGE if first == "poll" else None), *(download() if first == "down" else [])])
    assert close(home, NOVEMBER + 2 * DAY).closed == ("2026-10",)
    archive.seal([*poll("p2", NOVEMBER + 2 * DAY, USAGE), *download("d2", NOVEMBER + 3 * DAY)])
    built(home)
    assert charged(home) == {
        "ask": Decimal(0),
        "poll": CHARGE if first == "poll" else Decimal(0),
        "p2": Decimal(0),
        "d2": Decimal(0),
        **({"down": CHARGE} if first == "down" else {}),
    }
    assert (reasons(home)["p2"], reasons(home)["d2"]) == (f"repeat of {first}", f"repeat of {first}")


def test_a_preview_knows_what_was_charged(home: Home) -> None:
    """A download that came after the build repeats what the published ledger charged."""
    built(home, [*asked(), *poll(usage=USAGE)], rates=RATES)
    spool(home, download(), writer="w2")
    with preview(home, "down") as ledger:
        assert ledger.execute("SELECT disposition_reason FROM attempts WHERE request_id = 'down'").fetchall() == [("repeat of poll",)]


def keyed(request_id: str, at: int, key: str = "k-1", response_id: str = "chatcmpl-same", prompt: int = 1000) -> list[Record]:
    """One call under an idempotency key."""
    opened, tried, ended = call(request_id, at, prompt)
    made = request(request_id, at, retry=None, headers={"idempotency-key": key}, match_sha256="m" * 64)
    assert opened.request_id == ended.request_id
    return [made, tried, response(request_id, at=at + SECOND, response_id=response_id, usage=ended.usage)]  # type: ignore[union-attr]


def test_a_replay_under_one_key_is_charged_once(home: Home) -> None:
    """The vendor gave its answer a second time; the second call is a duplicate of the first by name."""
    built(home, [*keyed("first", NOON), *keyed("again", NOON + 5 * SECOND)])
    assert charged(home) == {"first": Decimal("0.00045"), "again": Decimal(0)}
    assert one(home, "SELECT disposition, reason, duplicate_of FROM dispositions WHERE request_id = 'again'") == {
        "disposition": "duplicate",
        "reason": "repeat of first",
        "duplicate_of": "first",
    }


@pytest.mark.parametrize("other", [{"key": "k-2"}, {"response_id": "chatcmpl-other"}, {"prompt": 900}])
def test_two_calls_that_differ_stay_two(home: Home, other: dict[str, Any]) -> None:
    """Another key, another answer, or another usage under an id that repeats."""
    built(home, [*keyed("first", NOON), *keyed("again", NOON + 5 * SECOND, **other)])
    assert all(charge for charge in charged(home).values())
    assert rows(home, "FROM dispositions WHERE disposition = 'duplicate'") == []


def test_a_replay_of_a_closed_months_call_is_free(home: Home) -> None:
    """The key and the id of the answer are kept with the month."""
    write_book(home)
    archive = Archive(home)
    archive.seal(keyed("first", NOVEMBER - DAY))
    assert close(home, NOVEMBER + 2 * DAY).closed == ("2026-10",)
    archive.seal(keyed("again", NOVEMBER + DAY))
    built(home)
    assert charged(home) == {"first": Decimal("0.00045"), "again": Decimal(0)}


def test_a_stored_call_names_what_it_repeats(home: Home) -> None:
    """GET /chat/completions/{id} shows the usage of a call that was charged."""
    stored = response(
        "stored", at=NOON + 9 * SECOND, response_id="chatcmpl-r1-1", usage=(UsageSeen("usage", '{"prompt_tokens": 1000}', 1),)
    )
    asked_again = request(
        "stored", NOON + 8 * SECOND, retry=None, method="GET", path="/v1/chat/completions/chatcmpl-r1-1", match_sha256=None
    )
    built(home, [*call("r1"), asked_again, attempt("stored", at=NOON + 8 * SECOND, sent_model=None), stored])
    assert reasons(home) == {"r1": None, "stored": "repeat of r1"}


def test_lines_come_as_they_unpack() -> None:
    """A file that unpacks to 64 MiB is walked by a reader that never holds it; what is no gzip is refused by name."""
    packed = gzip.compress(b'{"custom_id": "a"}\n' * (1 << 20), 1)
    assert sum(1 for _ in lines_of(packed, "gzip")) == 1 << 20
    with pytest.raises(Uncountable, match="cannot be decoded as gzip"):
        list(lines_of(b"plain", "gzip"))


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"custom_id": "a"}', b'{"response": {}}', b'{"custom_id": "a", "method": "POST", "body": {}}']
)
def test_what_is_no_line_of_an_output_is_another_file(text: bytes) -> None:
    """An input file of a batch is one of them."""
    with pytest.raises(OtherFileError):
        read_line(text)
