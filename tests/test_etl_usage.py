"""What golden journeys cannot send: the turns of a WebSocket as the ledger reads them, and the tables that say how usage is read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, get_args

import brotli  # type: ignore[import-untyped]  # it ships no types
import duckdb
import orjson
import pytest

from etl.build import build
from etl.lookup import FOLDER, AuditTableError, lookup_tables
from etl.reread import read
from etl.unbrotli import BrotliError, Unbrotli
from proxy.exchange import AttemptCapture
from schemas.home import Home
from schemas.records import Instant, Record, Response, UsageSeen
from schemas.registry import UsageDialect
from tests.journey import Case, cases
from tests.rawdata import attempt, request, response, spool, write_book

RATES = """+official,gpt-realtime,input,4,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-realtime,cached_input,0.4,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-realtime,audio_input,32,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-realtime,cached_audio_input,0.8,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-realtime,output,16,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-realtime,audio_output,64,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,whisper-1,second,100,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
"""


def turn(request_id: str, path: str, model: str, place: str, usage: object, terminal: str) -> list[Record]:
    """One turn of a WebSocket as a door records it."""
    facts: dict[str, Any] = {"method": "WS", "path": path, "api_model": model, "match_sha256": f"{request_id:m<64}"[:64]}
    seen = (UsageSeen(place, orjson.dumps(usage).decode(), 1),)
    return [
        request(request_id, retry=None, **facts),
        attempt(request_id, sent_model=model),
        response(request_id, http_status=101, streamed=True, terminal=terminal, usage=seen, served_model=model),
    ]


def lines(home: Home, request_id: str) -> dict[str, str]:
    """Meter to quantity and amount."""
    with duckdb.connect(str(home.ledger_file), read_only=True) as ledger:
        found = ledger.execute("select meter, quantity, amount from charges where request_id = ?", [request_id]).fetchall()
    return {meter: f"{quantity} {amount.normalize():f}" for meter, quantity, amount in found}


def test_turns_of_a_websocket_are_read_by_what_they_report(tmp_path: Path) -> None:
    """A realtime response partitions text, audio and their cached parts; a transcription has its own model and seconds; a response turn is a response."""
    home = Home(tmp_path)
    write_book(home, rates=RATES)
    spoken = {
        "total_tokens": 250,
        "input_tokens": 150,
        "output_tokens": 100,
        "input_token_details": {
            "text_tokens": 50,
            "audio_tokens": 100,
            "cached_tokens": 70,
            "cached_tokens_details": {"text_tokens": 30, "audio_tokens": 40},
        },
        "output_token_details": {"text_tokens": 20, "audio_tokens": 80},
    }
    heard = {"type": "duration", "seconds": 3.2}
    written = {"input_tokens": 20, "input_tokens_details": {"cached_tokens": 8}, "output_tokens": 10, "total_tokens": 30}
    spool(
        home,
        [
            *turn("spoken", "/v1/realtime", "gpt-realtime", "response.usage", spoken, "response.done"),
            *turn("heard", "/v1/realtime", "whisper-1", "usage", heard, "conversation.item.input_audio_transcription.completed"),
            *turn("written", "/v1/responses", "gpt-4o-mini", "response.usage", written, "response.completed"),
        ],
    )
    build(home)
    # text 20 x 4, cached text 30 x 0.4, audio 60 x 32, cached audio 40 x 0.8, text out 20 x 16, audio out 80 x 64, a million
    assert lines(home, "spoken") == {
        "input": "20 0.00008",
        "cached_input": "30 0.000012",
        "audio_input": "60 0.00192",
        "cached_audio_input": "40 0.000032",
        "output": "20 0.00032",
        "audio_output": "80 0.00512",
    }
    assert lines(home, "heard") == {"second": "4 0.0004"}
    # 12 x 0.15 + 8 x 0.075 + 10 x 0.60, a million
    assert lines(home, "written") == {"input": "12 0.0000018", "cached_input": "8 0.0000006", "output": "10 0.000006"}


PAGES = [
    ("/v1/chat/completions", None, None, "error_before_output"),
    ("/v1/chat/completions", "text/html", "gzip", "error_before_output"),
    ("/v1/images/generations", "text/html", None, "error_before_output"),
    ("/v1/chat/completions", "text/html", "compress", "ok"),  # nobody could look inside
    ("/v1/chat/completions", "application/x-own", None, "ok"),
    ("/v1/audio/transcriptions", "text/plain", None, "ok"),
    ("/v1/rerank", "text/plain", None, "ok"),
    ("/v1/models", "text/html", None, "ok"),
]


@pytest.mark.parametrize(("path", "content_type", "content_encoding", "outcome"), PAGES)
def test_words_where_counts_are_owed_are_no_reply(
    tmp_path: Path, path: str, content_type: str | None, content_encoding: str | None, outcome: str
) -> None:
    """Text that says so or says nothing of itself, where an endpoint owes counts; a web page wherever usage is charged; nothing else."""
    home = Home(tmp_path)
    write_book(home)
    page: dict[str, Any] = {"content_type": content_type, "content_encoding": content_encoding, "body_state": "opaque", "body_bytes": 90}
    method = "GET" if path.endswith("models") else "POST"
    spool(home, [request("page", path=path, method=method), attempt("page"), response("page", **page)])
    build(home)
    with duckdb.connect(str(home.ledger_file), read_only=True) as ledger:
        assert ledger.execute("select outcome from ledger").fetchall() == [(outcome,)]


def test_every_dialect_is_read_somewhere_and_every_reading_is_described() -> None:
    """No row of dialects.csv is dead, and no place of usage_places.csv is read as something nobody described."""
    with (FOLDER / "dialects.csv").open() as described, (FOLDER / "usage_places.csv").open() as placed:
        assert {row["dialect"] for row in csv.DictReader(described)} == {row["dialect"] for row in csv.DictReader(placed)}


def test_the_book_knows_the_dialects_that_the_table_names() -> None:
    """A word of channels.toml is one that a row of usage_places.csv waits for, and the other way round."""
    assert set(get_args(UsageDialect)) == set(lookup_tables()["table_usage_places"]["vendor"].to_pylist()) - {None}


def test_a_rule_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A slip in a dialect's row is found before anything is built."""
    for file in FOLDER.glob("*.csv"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "dialects.csv").write_text((FOLDER / "dialects.csv").read_text().replace("chat,total,", "chat,totals,"))
    with pytest.raises(AuditTableError, match="no rule totals"):
        lookup_tables(tmp_path)


def test_brotli_is_decoded_apart_and_within_bounds() -> None:
    """A stream cut short gives what came; what is no brotli and what unpacks to too much is refused; the next body is read all the same."""
    decoder = Unbrotli(limit=1 << 16)
    compressor = brotli.Compressor()
    try:
        assert decoder.decode(compressor.process(b"data: 1\n\n") + compressor.flush()) == b"data: 1\n\n"
        for bad in (b"this is no brotli", brotli.compress(bytes(1 << 20))):
            with pytest.raises(BrotliError):
                decoder.decode(bad)
        assert decoder.decode(brotli.compress(b"{}")) == b"{}"
    finally:
        decoder.close()


def _media_type(case: Case) -> str | None:
    return case.response["headers"].get("content-type", "").partition(";")[0] or None


def _is_text(case: Case) -> bool:
    """Whether its reply has bytes that are text as they stand, and could have come in brotli."""
    coded = "content-encoding" in case.response["headers"] or _media_type(case) == "application/vnd.amazon.eventstream"
    return bool(case.response.get("body")) and not coded


@pytest.mark.parametrize("case", [case for case in cases() if _is_text(case)], ids=lambda case: case.name)
def test_a_second_reading_finds_what_the_first_would_have(case: Case) -> None:
    """Every golden reply, had it come in brotli: its usage, ids, reasons, errors, facts, output, end and how far it could be read."""
    headers = tuple((name, value) for name, value in case.response["headers"].items())
    capture = AttemptCapture(attempt("r"), None, ())
    capture.head(case.response.get("status", 200), headers, Instant(1))
    capture.chunk(case.answered_bytes("gateway"), Instant(2))
    (first,) = capture.close("complete", Instant(3), relayed=True)
    assert isinstance(first, Response)
    second = read(_media_type(case), case.answered_bytes("gateway"))
    names = "response_id served_model service_tier error error_object body_state streamed facts".split()
    assert {name: second[name] for name in names} == {name: getattr(first, name) for name in names}
    assert [UsageSeen(**seen) for seen in second["usage"]] == list(first.usage)
    assert second["finish_reasons"].split() == list(first.finish_reasons)
    assert second["terminal"] == (None if first.terminal == "body" else first.terminal)
    assert second["output_seen"] == first.output_seen or first.body_state == "opaque"
