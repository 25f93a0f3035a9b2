"""Damage is found before it is served, and stays local: every byte of a spool, pages of every kind of Parquet, files that are torn, swapped, doubled or foreign."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from etl.sources import Sources, read_sources
from etl.verify import WrongError, verify
from proxy.journal import PROXY_SLOT, Journal
from proxy.seal import seal
from schemas.frames import Damage, Frame, decode, encode, frame, payload
from schemas.home import Home
from schemas.records import KINDS, Instant, Record
from tests.campaign import events
from tests.rawdata import DAY, NOON, body, call, event, write_book

Tell = Callable[[str, object], None]
FLIPS = 200


def journal(home: Home, *parts: Sequence[Record]) -> None:
    """Each part appended by itself, and the journal ended."""
    writer = Journal(home, PROXY_SLOT, segment_bytes=4096)
    for part in parts:
        writer.append_wait(part)
    writer.close()


def found(sources: Sources) -> set[str]:
    """What is told as unreadable."""
    return {finding.subject for finding in sources.findings if finding.blocks_close}


def test_every_bit_of_a_spool_costs_at_most_its_own_record(home: Home, record_property: Tell) -> None:
    """One bit of each byte flipped: no other record changes, none is made up, and the one that is gone leaves a gap in the numbers."""
    journal(home, [event(f"e{number}", "test", note="x" * 20) for number in range(5)])
    (segment,) = (home.spool / PROXY_SLOT).glob("*.seg")
    whole = segment.read_bytes()
    true = {piece.seq: piece.fields for piece in decode(whole) if isinstance(piece, Frame)}
    assert len(true) == 5
    caught = 0
    for at in range(len(whole)):
        pieces = list(decode(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]))
        left = {piece.seq: piece.fields for piece in pieces if isinstance(piece, Frame)}
        assert left.items() <= true.items(), at
        assert len(left) == 4, at
        assert any(isinstance(piece, Damage) for piece in pieces), at
        caught += 1
    record_property("trust: bit flips in a spool found", caught)


def test_what_nobody_of_us_wrote_is_damage_and_no_record() -> None:
    """A whole frame of a kind that there is not, and an end too short for any head; the frames around them are read."""
    first, last = (encode(event(f"e{number}", "test"), number) for number in (1, 3))
    foreign = frame(payload(event("e2", "test")).replace(b'"k":"event"', b'"k":"extra"'), 2)
    kinds = [type(piece) for piece in decode(first + foreign + last + last[:10])]
    assert kinds == [Frame, Damage, Frame, Damage]


@pytest.fixture
def sealed(home: Home) -> Home:
    """A home with one file of each kind and day, all sealed."""
    write_book(home)
    records = [*call("n1"), event("e1", "test"), body("n1", 1, b"the words" * 50)]
    later = [*call("n2", NOON + DAY), event("e2", "test", NOON + DAY), body("n2", 1, b"other words" * 50, NOON + DAY)]
    journal(home, [*records, *later])
    seal(home, Instant(NOON + 2 * DAY))
    return home


def test_a_flipped_bit_in_each_kind_of_parquet_is_named(sealed: Home, record_property: Tell) -> None:
    """200 places in each kind: the file is named before a row of it is read, and every other file is still read."""
    chance = random.Random(7)
    caught = 0
    for kind in KINDS:
        path = min((sealed.raw / kind).rglob("*.parquet"))
        whole = path.read_bytes()
        for at in sorted(chance.sample(range(len(whole)), FLIPS)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            if kind == "body":  # read for a recount only, and checked there
                with pytest.raises(WrongError, match=path.name):
                    verify(sealed)
            else:
                sources = read_sources(sealed)
                assert found(sources) == {f"raw/{path.relative_to(sealed.raw)}"}
                assert path not in sources.files[kind]
                assert len(sources.files[kind]) == 1
            caught += 1
        path.write_bytes(whole)
    assert found(read_sources(sealed)) == set()
    record_property("trust: bit flips in Parquet found", caught)


@pytest.mark.parametrize("damage", ["torn", "empty", "swapped", "gone", "a folder"])
def test_a_file_that_is_not_what_was_sealed_is_named(sealed: Home, damage: str) -> None:
    """And only it: what lies in the other file of its kind is read."""
    path, other = sorted((sealed.raw / "request").rglob("*.parquet"))
    named = {f"raw/{path.relative_to(sealed.raw)}"}
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "swapped":
        aside = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(aside)
        named |= {f"raw/{other.relative_to(sealed.raw)}"}
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    assert found(read_sources(sealed)) == named


@pytest.mark.parametrize("name", ["copy.parquet", "0.parquet", ".hidden.parquet", "notes.txt"])
def test_a_file_that_no_line_names_is_not_read(sealed: Home, tmp_path: Path, name: str) -> None:
    """A doubled or foreign file beside the sealed ones changes nothing."""
    before = read_sources(sealed)
    path = min((sealed.raw / "request").rglob("*.parquet"))
    shutil.copy(path, path.with_name(name))
    after = read_sources(sealed)
    assert (after.files, after.findings) == (before.files, before.findings)


def test_a_doubled_segment_counts_once_and_a_foreign_file_is_no_segment(home: Home) -> None:
    """A copy brings the same numbers again; a file of another name is left alone, and the live journal is not taken for a finished one."""
    writer = Journal(home, PROXY_SLOT, segment_bytes=4096)
    writer.append_wait([event("e1", "test")])
    (segment,) = writer.folder.glob("*.seg")
    shutil.copy(segment, segment.with_name(segment.stem + "a.seg"))
    foreign = segment.with_name("notes.seg")
    foreign.write_bytes(b"not a segment at all")
    seal(home, Instant(NOON))
    writer.append_wait([event("e2", "test")])
    seal(home, Instant(NOON))
    assert read_sources(home).findings == ()
    assert segment.exists()
    writer.close()
    assert events(home) == {"e1": 1, "e2": 1}
