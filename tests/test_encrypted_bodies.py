"""Bodies encrypted per subject: whose they are, who can read them, and what is left of them without their key."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from etl.build import build
from etl.verify import verify
from proxy.held import HeldBody
from proxy.journal import PROXY_SLOT, Journal
from proxy.subjects import Subjects
from schemas.bodykeys import BodyKeys, NoKeyError
from schemas.book import load_book
from schemas.errors import LedgerError
from schemas.fingerprint import BrokenKeyError
from schemas.home import Home
from schemas.records import Body, JsonText, Record
from tests.faults import power
from tests.rawdata import KEY, OTHER_KEY, Archive, attempt, body, broken, event, request, rows, write_book
from tests.sidecar import recorded

ASKED = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Tell me of the ledger"}]}'
SAID = b'data: {"choices":[{"delta":{"content":"Once upon a time"}}]}\n\n'
COUNTED = "SELECT usage_source, input_tokens, output_tokens, final_charge FROM ledger"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    write_book(found)
    return found


def cut_call(home: Home, name: str = "r1", asked: bytes = ASKED) -> tuple[list[Record], list[Body]]:
    """A reply that broke off, whose tokens must be counted from its bodies; and those, encrypted for Ada."""
    call: list[Record] = [request(name, match_sha256="c" * 64, api_model="gpt-4o-mini"), attempt(name, sent_model="gpt-4o-mini")]
    keys = BodyKeys(home)
    bodies = [keys.encrypted(body(name, place, content, subject="user:ada")) for place, content in enumerate((asked, SAID))]
    return [*call, broken(name, output_seen=True)], bodies


def findings(home: Home) -> list[tuple[str, bool]]:
    return [(row["kind"], row["blocks_close"]) for row in rows(home, "SELECT kind, blocks_close FROM data_quality ORDER BY kind")]


def test_what_is_encrypted_counts_as_what_is_plain(home: Home, tmp_path: Path) -> None:
    """The same call, kept in the clear and encrypted, comes to the same tokens and the same charge; only the key's holder reads it."""
    call, bodies = cut_call(home)
    Archive(home).seal([*call, *bodies])
    build(home)
    plain = Home(tmp_path / "plain")
    write_book(plain)
    Archive(plain).seal([*call, body("r1", 0, ASKED), body("r1", 1, SAID)])
    build(plain)
    (counted,) = rows(home, COUNTED)
    assert counted["usage_source"] == "recounted"
    assert rows(plain, COUNTED) == [counted]
    verify(home)
    files = [path for path in home.root.rglob("*") if path.is_file()]
    assert [path for path in files if b"Tell me of" in path.read_bytes() or b"Once upon" in path.read_bytes()] == []


def test_without_its_key_a_body_is_unknown_and_the_month_waits(home: Home) -> None:
    """A key that only disappeared is named by the build and by verify; its charge is unknown, and never zero."""
    call, bodies = cut_call(home)
    Archive(home).seal([*call, *bodies])
    (key,) = home.body_keys.glob("*.key")
    key.rename(key.with_name("kept"))
    build(home)
    assert rows(home, COUNTED)[0]["final_charge"] is None
    assert ("missing_key", True) in findings(home)
    with pytest.raises(LedgerError, match="missing though nobody destroyed it"):
        verify(home)
    key.with_name("kept").rename(key)
    build(home)
    assert rows(home, COUNTED)[0]["final_charge"] is not None
    verify(home)


def test_a_destroyed_key_erases_its_bodies(home: Home) -> None:
    """An event says so: then nothing is missing and nothing blocks but the unknown charge, and verify holds; a key from a copy is named."""
    call, bodies = cut_call(home)
    Archive(home).seal([*call, *bodies, event("e1", "bodies_erased", actor="ann", reason="asked", keys=[bodies[0].key])])
    (path,) = home.body_keys.glob("*.key")
    copy = path.read_bytes()
    BodyKeys(home).destroy("user:ada")
    build(home)
    (told,) = rows(home, "SELECT detail FROM data_quality WHERE kind = 'not_recounted'")
    assert "its body was erased" in told["detail"]
    assert "missing_key" not in dict(findings(home))
    verify(home)
    path.write_bytes(copy)
    with pytest.raises(LedgerError, match="lies there again"):
        verify(home)


def test_bytes_beside_another_record_are_found(home: Home) -> None:
    """The same key made all, and every file's hash holds: that a body is not its record's own is found, and its charge is unknown."""
    records: list[Record] = []
    for name in ("request", "ordinal", "facts", "bytes", "whole"):
        call, (asked, said) = cut_call(home, name)
        swapped = {
            "request": (replace(asked, content=cut_call(home, "another")[1][0].content), said),
            "ordinal": (replace(asked, ordinal=1), replace(said, ordinal=0)),
            "facts": (replace(asked, content_encoding="identity"), said),
            "bytes": (replace(asked, content=asked.content[:-1] + bytes([asked.content[-1] ^ 1])), said),
        }
        records += [*call, *swapped.get(name, (asked, said))]
    Archive(home).seal(records)
    build(home)
    found = rows(home, "SELECT subject, blocks_close FROM data_quality WHERE kind = 'altered_body' ORDER BY 1")
    altered = ["body bytes/0", "body facts/0", "body ordinal/0", "body ordinal/1", "body request/0"]
    assert found == [{"subject": subject, "blocks_close": True} for subject in altered]
    assert rows(home, "SELECT request_id FROM ledger WHERE final_charge IS NOT NULL") == [{"request_id": "whole"}]


def _ids(root: str, subjects: list[str]) -> list[str]:
    keys = BodyKeys(Home(Path(root)))
    return [keys.of(subject).id for subject in subjects]


def test_processes_that_make_a_key_at_once_agree(home: Home) -> None:
    """Four processes ask for the keys of thirty people nobody has seen: each gets the same thirty, in a folder for its owner alone."""
    subjects = [f"user:{number}" for number in range(30)]
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        told = list(pool.map(_ids, [str(home.root)] * 4, [subjects] * 4))
    assert told == [told[0]] * 4
    assert len(set(told[0])) == 30
    files = list(home.body_keys.iterdir())
    assert len(files) == 30
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert home.body_keys.stat().st_mode & 0o777 == 0o700


def test_a_destroyed_key_has_a_successor_in_a_running_process(home: Home) -> None:
    """A process that has the key in memory sees that it is gone, and never writes under it again."""
    running, other = BodyKeys(home), BodyKeys(home)
    before = running.encrypted(body("r1", 0, ASKED, subject="user:ada"))
    other.destroy("user:ada")
    after = running.encrypted(body("r2", 0, ASKED, subject="user:ada"))
    assert before.key != after.key
    assert other.content({name: getattr(after, name) for name in after.__struct_fields__}) == ASKED
    with pytest.raises(NoKeyError, match="destroyed on purpose"):
        other.content({name: getattr(before, name) for name in before.__struct_fields__})


def test_a_file_that_holds_no_key_is_named(home: Home) -> None:
    """A torn key file encrypts nothing: what cannot be read again is not written."""
    BodyKeys(home).of("user:ada")
    (path,) = home.body_keys.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BrokenKeyError, match=path.name):
        BodyKeys(home).of("user:ada")
    assert BodyKeys(home).by_id() == {}


def test_a_key_is_on_the_disk_before_its_first_body(tmp_path: Path) -> None:
    """Whenever the power fails, each body that is left can be read."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    with power(home.root, lambda: None) as watch:
        journal, keys = Journal(home, PROXY_SLOT, segment_bytes=4096), BodyKeys(home)
        for number in range(4):
            journal.append_wait([keys.encrypted(body(f"r{number}", 0, ASKED, subject=f"user:{number}"))])
        journal.close()
    seen = 0
    for disk, _ in watch.cuts:
        left = Home(tmp_path / "left")
        disk.write(left.root)
        for row in recorded(left, "body"):
            assert BodyKeys(left).content(row) == ASKED
            seen += 1
    assert seen > 4


@pytest.mark.parametrize(
    ("trusted", "credential", "claimed", "subject"),
    [
        (False, KEY, None, "user:ada"),
        (False, KEY, "bob", "user:ada"),
        (True, KEY, "bob", "user:bob"),
        (True, KEY, None, "user:ada"),
        (False, OTHER_KEY, None, f"key:{OTHER_KEY}"),
        (False, OTHER_KEY, "bob", "user:bob"),
        (False, None, "bob", "user:bob"),
        (False, None, None, "unknown"),
    ],
)
def test_whose_a_message_is(home: Home, trusted: bool, credential: str | None, claimed: str | None, subject: str) -> None:
    """The registry first, then the header (of a trusted key the other way round), then the credential; what nobody tells is unknown."""
    if trusted:
        path = home.book / "keys.toml"
        path.write_text(path.read_text() + "trusted = true\n")
    headers = JsonText(json.dumps({"x-ledger-user": claimed} if claimed else {}))
    asked = replace(request("r1"), credential=credential, headers=headers)
    assert Subjects(load_book(home.book)).of(asked) == subject


@pytest.mark.parametrize("at", [0, 1, 15, 16, 17, 4099])
def test_a_large_body_waits_in_a_file_that_tells_nothing(tmp_path: Path, at: int) -> None:
    """It comes out as it went in, from any place on and as often as asked; on the disk it is not what was sent."""
    sent = bytes(range(256)) * 40
    held = HeldBody(tmp_path, memory_bytes=1000)
    for start in range(0, len(sent), 700):
        held.take(sent[start : start + 700])
    assert [b"".join(held.pieces(at)) for _ in range(2)] == [sent[at:]] * 2
    assert b"".join(held.pieces(at, at + 900)) == sent[at : at + 900]
    assert held._file is not None
    held._file.seek(0)
    assert bytes(range(64)) not in held._file.read()
    held.close()
