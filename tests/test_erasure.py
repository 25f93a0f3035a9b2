"""Erasure of bodies: what goes, what stays as it was, and what a missing file is without it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]  # it ships no types
import msgspec
import pytest

import tokenledger
from etl.build import build
from etl.close import reopen
from etl.verify import verify
from proxy.journal import PROXY_SLOT, Journal
from proxy.seal import seal
from schemas import rawfile
from schemas.bodykeys import BodyKeys
from schemas.errors import LedgerError
from schemas.frames import Frame, decode, emptied, encode
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Body, Instant, Record
from tests.rawdata import DAY, NOON, Archive, attempt, body, broken, call, request, response, rows, write_book
from tests.sidecar import recorded
from tests.test_etl_batches import RATES, asked, download, poll

LATE = NOON + 10 * DAY
NOVEMBER = parse_instant("2026-11-10T12:00:00Z")
ASKED = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Tell me of the ledger"}]}'
SAID = b'data: {"choices":[{"delta":{"content":"Once upon a time"}}]}\n\n'


@pytest.fixture
def closed(tmp_path: Path) -> Home:
    """October closed, with a reply whose tokens were counted from its body; November open, with a body too."""
    home = Home(tmp_path / "home")
    write_book(home)
    cut: list[Record] = [
        request("r2", LATE, match_sha256="c" * 64, api_model="gpt-4o-mini"),
        attempt("r2", at=LATE, sent_model="gpt-4o-mini"),
    ]
    told: list[Record] = [broken("r2", at=LATE, output_seen=True), body("r2", 0, ASKED, LATE), body("r2", 1, SAID, LATE)]
    Archive(home).seal([*call("r1"), *cut, *told, *call("n1", NOVEMBER), body("n1", 0, ASKED, NOVEMBER)])
    assert ledger(home, "2026-11-12T00:00:00Z") == 0
    assert rows(home, "SELECT period FROM periods WHERE status = 'closed'") == [{"period": "2026-10"}]
    return home


def ledger(home: Home, as_of: str, *options: str) -> int:
    return tokenledger.run(["--home", str(home.root), "ledger", "--as-of", as_of, *options])


def bodies(home: Home) -> list[Path]:
    return sorted((home.raw / "body").rglob("*.parquet"))


def sealed(home: Home) -> dict[str, str]:
    folder = home.ledger / "2026-10"
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


MONEY = "SELECT request_id, period, final_charge, input_tokens, output_tokens, receipt_digest FROM ledger ORDER BY ALL"


def test_bodies_go_after_their_days_and_nothing_else_changes(closed: Home) -> None:
    """A body of the closed month stays its 30 days and then goes; that of the open one stays; money, seals and manifest do not move."""
    before, money, manifest = sealed(closed), rows(closed, MONEY), closed.manifest.read_bytes()
    old, new = bodies(closed)
    digest = hashlib.sha256(old.read_bytes()).hexdigest()
    assert ledger(closed, "2026-11-14T00:00:00Z") == 0
    assert bodies(closed) == [old, new]
    assert ledger(closed, "2026-11-30T23:00:00Z") == 0
    assert bodies(closed) == [new]
    (event,) = rows(closed, "SELECT actor, reason, facts FROM audit_trail WHERE event = 'bodies_erased'")
    assert (event["actor"], event["reason"]) == ("tokenledger ledger", "[capture] body_days = 30")
    assert json.loads(event["facts"]) == {"files": [{"path": str(old.relative_to(closed.root)), "sha256": digest}]}
    assert (sealed(closed), rows(closed, MONEY)) == (before, money)
    assert closed.manifest.read_bytes().startswith(manifest)
    verify(closed)
    verify(closed, "2026-10")
    assert ledger(closed, "2026-11-30T23:30:00Z") == 0
    assert len(rows(closed, "FROM audit_trail WHERE event = 'bodies_erased'")) == 1


def test_a_person_erases_what_is_closed_and_never_what_is_open(closed: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The command takes the closed month's body at once, by name and reason; the open month's stays though it is before the day too."""
    old, new = bodies(closed)
    words = ["erase", "--before", "2027-01-01", "--by", "ann", "--reason", "a person asked"]
    capsys.readouterr()
    assert tokenledger.run(["--home", str(closed.root), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files_erased": 1}
    assert tokenledger.run(["--home", str(closed.root), *words]) == 0
    assert capsys.readouterr().out == "0 files erased\n"
    assert bodies(closed) == [new]
    verify(closed)
    build(closed)
    (event,) = rows(closed, "SELECT actor, reason FROM audit_trail WHERE event = 'bodies_erased'")
    assert event == {"actor": "ann", "reason": "a person asked"}
    assert not old.exists()


def test_a_file_that_is_missing_without_an_event_is_a_loss(closed: Home) -> None:
    """Nobody erased it, so verification names it; and one that was erased and lies there again in other bytes is named too."""
    old, new = bodies(closed)
    new.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        verify(closed)
    tokenledger.run(["--home", str(closed.root), "erase", "--before", "2026-11-01", "--by", "ann", "--reason", "asked"])
    with pytest.raises(LedgerError, match=new.name):
        verify(closed)
    old.write_bytes(b"another")
    with pytest.raises(LedgerError, match=old.name):
        verify(closed)


def test_a_reopened_month_says_what_it_cannot_count_again(closed: Home) -> None:
    """Its body was erased, so the count is unknown and said to be, and the file is no loss; a missing one blocks the close."""
    tokenledger.run(["--home", str(closed.root), "erase", "--before", "2026-11-01", "--by", "ann", "--reason", "asked"])
    reopen(closed, "2026-10")
    build(closed)
    found = rows(closed, "SELECT kind, detail FROM data_quality WHERE kind IN ('not_recounted', 'quarantined_file')")
    assert [row["kind"] for row in found] == ["not_recounted"]
    assert "was not kept" in found[0]["detail"]
    assert rows(closed, "SELECT final_charge FROM ledger WHERE request_id = 'r1'")[0]["final_charge"] is not None


def test_a_body_that_only_disappeared_keeps_its_month_open(tmp_path: Path) -> None:
    """What is needed for the count and is missing without an event is quarantined, and blocks the close."""
    home = Home(tmp_path / "home")
    write_book(home)
    cut: list[Record] = [request("r2", match_sha256="c" * 64, api_model="gpt-4o-mini"), attempt("r2", sent_model="gpt-4o-mini")]
    Archive(home).seal([*cut, broken("r2", output_seen=True), body("r2", 0, ASKED)])
    bodies(home)[0].unlink()
    build(home)
    assert rows(home, "SELECT blocks_close FROM data_quality WHERE kind = 'quarantined_file'") == [{"blocks_close": True}]


# ---- single messages ----

ANSWER = {"id": "chatcmpl-br", "model": "gpt-4o-mini", "choices": [{"message": {"content": "Once upon a time"}, "finish_reason": "stop"}]}
REPLY = brotli.compress(json.dumps(ANSWER | {"usage": {"prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100}}).encode())
EVERYTHING = ("ledger", "charges", "journal", "data_quality", "attempts")


def read_from_bodies() -> list[Record]:
    """A cut stream that is counted, a reply in brotli that is read, and a batch that is charged by its output's lines."""
    cut: list[Record] = [request("cut", match_sha256="c" * 64, api_model="gpt-4o-mini"), attempt("cut", sent_model="gpt-4o-mini")]
    cut += [broken("cut", output_seen=True), body("cut", 0, ASKED, subject="user:ada"), body("cut", 1, SAID, subject="user:ada")]
    coded: list[Record] = [request("br", match_sha256="d" * 64, api_model="gpt-4o-mini"), attempt("br", sent_model="gpt-4o-mini")]
    unread: dict[str, Any] = {
        "body_state": "opaque",
        "content_encoding": "br",
        "body_bytes": len(REPLY),
        "response_id": None,
        "served_model": None,
    }
    coded += [response("br", **unread), body("br", 1, REPLY, subject="user:bob", content_encoding="br")]
    return [*cut, *coded, *asked(), *poll(), *download()]


def erased(home: Home, *words: str) -> int:
    return tokenledger.run(["--home", str(home.root), "erase", *words, "--by", "ann", "--reason", "a person asked"])


def published(home: Home) -> dict[str, list[dict[str, object]]]:
    return {table: rows(home, f"FROM {table} ORDER BY ALL") for table in EVERYTHING}


@pytest.fixture
def open_month(tmp_path: Path) -> Home:
    """October, not closed, with all that is read from bodies; its records are in a journal that its proxy still holds."""
    home = Home(tmp_path / "home")
    write_book(home, rates=RATES)
    return home


def test_a_message_of_an_open_month_goes_and_its_charge_stays(open_month: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever was read from it; the proxy's own segment loses the bytes too, and goes on; the month closes and opens as it would have."""
    home = open_month
    journal = Journal(home, PROXY_SLOT, segment_bytes=1 << 16)
    journal.append_wait(read_from_bodies())
    seal(home, Instant(NOON + DAY))
    build(home)
    before = published(home)
    assert {row["request_id"] for row in before["ledger"] if row["final_charge"]} == {"cut", "br", "down"}
    assert erased(home, "--request", "chatcmpl-cut-1", "--subject", "user:bob", "--request", "down") == 0
    assert capsys.readouterr().out == "4 messages erased\n"
    journal.append_wait(call("next", NOON + DAY))
    for path in [path for path in home.root.rglob("*") if path.is_file()]:
        assert all(words not in path.read_bytes() for words in (b"Tell me of", b"Once upon", REPLY)), path
    assert [len(row["content"]) for row in recorded(home, "body")] == [0] * 4
    verify(home)
    build(home)
    after = published(home)
    assert {row["request_id"] for row in after["ledger"]} - {row["request_id"] for row in before["ledger"]} == {"next"}
    for table in ("ledger", "charges", "attempts"):
        assert [row for row in after[table] if row["request_id"] != "next"] == before[table]
    assert after["data_quality"] == before["data_quality"]
    journal.close()
    assert ledger(home, "2026-11-12T00:00:00Z") == 0
    verify(home)
    sealed_money = rows(home, MONEY)
    (event,) = rows(home, "SELECT actor, reason, facts FROM audit_trail WHERE event = 'bodies_erased'")
    assert (event["actor"], event["reason"]) == ("ann", "a person asked")
    assert {"cut", "down"} <= set(json.loads(event["facts"])["requests"])
    assert json.loads(event["facts"])["subjects"] == ["user:bob"]
    reopen(home, "2026-10")
    build(home)
    assert rows(home, MONEY) == sealed_money


def test_a_message_of_a_closed_month_goes_and_its_seal_holds(closed: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Seals, money and manifest stay; of one file only this request's bytes go; the month can be opened and counts the same."""
    before, money, manifest = sealed(closed), rows(closed, MONEY), closed.manifest.read_bytes()
    capsys.readouterr()
    assert erased(closed, "--request", "r2", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"messages_erased": 2}
    assert [len(row["content"]) for row in recorded(closed, "body")] == [0, 0, len(ASKED)]
    verify(closed)
    verify(closed, "2026-10")
    build(closed)
    assert (sealed(closed), rows(closed, MONEY)) == (before, money)
    assert closed.manifest.read_bytes().startswith(manifest)
    assert erased(closed, "--request", "r2") == 0
    assert len([row for row in recorded(closed, "event") if row["event"] == "bodies_erased"]) == 1
    reopen(closed, "2026-10")
    build(closed)
    assert rows(closed, MONEY) == money


def test_a_subject_goes_with_its_key(open_month: Home) -> None:
    """Ada's messages and her key go, also what was encrypted under it elsewhere; Bob's can be read; what comes next has another key."""
    keys, home = BodyKeys(open_month), open_month
    records = [keys.encrypted(record) if isinstance(record, Body) and record.subject else record for record in read_from_bodies()]
    Archive(home).seal(records)
    build(home)
    before = published(home)
    assert erased(home, "--subject", "user:ada") == 0
    assert [key.subject for key in BodyKeys(home).by_id().values()] == ["user:bob"]
    assert {row["subject"]: bool(row["content"]) for row in recorded(home, "body") if row["subject"]} == {
        "user:ada": False,
        "user:bob": True,
    }
    verify(home)
    build(home)
    assert published(home) == before
    again = keys.encrypted(msgspec.structs.replace(body("new", 0, ASKED), subject="user:ada"))
    assert again.key not in {record.key for record in records if isinstance(record, Body)}


def test_what_a_crash_left_is_named_and_the_same_command_ends_it(open_month: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event is on the disk and the bytes still lie there: verify says so, the ledger stands, and a second run is whole."""
    home = open_month
    Archive(home).seal(read_from_bodies())
    build(home)
    before = published(home)
    with monkeypatch.context() as cut:
        cut.setattr(rawfile, "take_place", lambda path: (_ for _ in ()).throw(OSError(5, "power")))
        assert erased(home, "--request", "cut") == 2
    with pytest.raises(LedgerError, match="was erased, as an event says, and lies there"):
        verify(home)
    build(home)
    assert published(home) == before
    assert erased(home, "--request", "cut") == 0
    verify(home)
    build(home)
    assert published(home) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--request", "nobody"], 1, "no message is kept of nobody"),
        (["--subject", "ada"], 1, "user:NAME"),
        (["--before", "2026-11-01", "--request", "cut"], 2, "name what to erase"),
        ([], 2, "name what to erase"),
    ],
)
def test_what_is_not_there_is_said(open_month: Home, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped name erases nothing and is no success; nothing is recorded of it."""
    Archive(open_month).seal(read_from_bodies())
    assert erased(open_month, *words) == code
    assert said in capsys.readouterr().err
    assert recorded(open_month, "event") == []


def test_a_frame_without_its_bytes_is_whole_at_every_moment() -> None:
    """Its new head alone, as a crash would leave it, and its zeroed bytes read the same: the record, no bytes; every flipped bit is found."""
    data = bytearray(encode(body("r1", 0, ASKED), 7) + encode(body("r2", 0, SAID), 8))
    first, second = decode(bytes(data))
    assert isinstance(first, Frame)
    head, start = emptied(bytes(data), first)
    data[: len(head)] = head
    (between, _) = decode(bytes(data))
    data[start : first.end] = bytes(first.end - start)
    (after, rest) = decode(bytes(data))
    assert between == after == msgspec.structs.replace(first, content=b"")
    assert rest == second
    for bit in range(start * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert next(decode(bytes(flipped))) != after
