"""The journal: acknowledged means on the disk, through crashes, torn tails and full disks."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proxy.journal import ADMIN_SLOT, PROXY_SLOT, Journal, JournalBusyError, JournalError, JournalUnusableError, append_once
from schemas.frames import Damage, Frame
from schemas.home import Home
from schemas.records import Event, Instant
from schemas.spool import is_live, read_segment, unsealed


def event(name: str) -> Event:
    return Event(event_id=name, at=Instant(1), event="test")


def names(home: Home) -> list[str]:
    return [found.fields["event_id"] for _, found, _ in unsealed(home, {}) if isinstance(found, Frame)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_what_is_appended_is_read_back_in_order(home: Home) -> None:
    """Numbers run on across a restart, and a closed segment has no unused part."""
    for part in ("a", "b"):
        journal = Journal(home, PROXY_SLOT)
        journal.append_wait([event(f"{part}1"), event(f"{part}2")])
        journal.close()
    assert names(home) == ["a1", "a2", "b1", "b2"]
    assert [found.seq for _, found, _ in unsealed(home, {}) if isinstance(found, Frame)] == [1, 2, 3, 4]


async def test_a_hundred_writers_are_acknowledged_after_their_records_lie_on_the_disk(home: Home) -> None:
    """Each acknowledgement is checked against the file at that moment."""
    journal = Journal(home, PROXY_SLOT)

    async def write(name: str) -> None:
        await journal.append([event(name)])
        assert name.encode() in b"".join(path.read_bytes() for path in journal.folder.glob("*.seg"))

    await asyncio.gather(*(write(f"w{number:03d}") for number in range(100)))
    journal.close()
    assert sorted(names(home)) == [f"w{number:03d}" for number in range(100)]


def test_a_second_process_is_told_that_the_journal_is_taken(home: Home) -> None:
    """One line with the cure, exit code 2."""
    journal = Journal(home, PROXY_SLOT)
    with pytest.raises(JournalBusyError, match="another process is writing") as refused:
        Journal(home, PROXY_SLOT)
    assert refused.value.exit_code == 2
    journal.close()
    append_once(home, ADMIN_SLOT, [event("admin")])
    assert names(home) == ["admin"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A file stands where the spool should be."""
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(JournalUnusableError, match="spool") as refused:
        Journal(Home(tmp_path), PROXY_SLOT)
    assert "--home" in str(refused.value)


def test_a_torn_tail_is_cut_off_kept_aside_and_written_over_by_nobody(home: Home) -> None:
    """Half a frame was acknowledged to nobody: it is evidence, not a record, and numbering goes on after the last whole one."""
    journal = Journal(home, PROXY_SLOT)
    journal.append_wait([event("whole"), event("torn")])
    journal.close()
    (segment,) = journal.folder.glob("*.seg")
    segment.write_bytes(segment.read_bytes()[:-7])

    again = Journal(home, PROXY_SLOT)
    assert again.truncated_bytes > 0
    again.append_wait([event("next")])
    again.close()
    assert names(home) == ["whole", "next"]
    assert not [found for _, found, _ in unsealed(home, {}) if isinstance(found, Damage)]
    assert len(list(journal.folder.glob("*.torn"))) == 1


def test_a_flipped_bit_loses_one_frame_and_is_seen(home: Home) -> None:
    """Damage stays local: the frames before and after are read, the damaged stretch is reported."""
    journal = Journal(home, PROXY_SLOT)
    for name in ("a", "b", "c"):
        journal.append_wait([event(name)])
    journal.close()
    (segment,) = journal.folder.glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"b"')] ^= 1
    segment.write_bytes(bytes(data))
    assert names(home) == ["a", "c"]
    assert len([found for _, found, _ in unsealed(home, {}) if isinstance(found, Damage)]) == 1


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
def test_a_file_that_failed_once_is_never_written_again(home: Home, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """After EIO the batch goes to a fresh segment, and both copies of a frame have the same number."""
    journal = Journal(home, PROXY_SLOT)
    journal.append_wait([event("a")])
    real = getattr(os, call)
    failed: list[int] = []

    def fail_once(fd: int, *rest: object) -> object:
        if not failed:
            failed.append(fd)
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, *rest)

    monkeypatch.setattr(os, call, fail_once)
    journal.append_wait([event("b")])
    journal.append_wait([event("c")])
    journal.close()
    assert len(list(journal.folder.glob("*.seg"))) == 2
    by_seq = {found.seq: found.fields["event_id"] for _, found, _ in unsealed(home, {}) if isinstance(found, Frame)}
    assert by_seq == {1: "a", 2: "b", 3: "c"}


def test_a_disk_that_stays_full_is_told_to_everybody_and_heals(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that a record is safe when it is not; once there is room, appending works again."""
    journal = Journal(home, PROXY_SLOT)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(JournalError, match="No space left"):
            journal.append_wait([event("lost")])
    journal.append_wait([event("kept")])
    journal.close()
    assert names(home) == ["kept"]


def test_short_writes_are_finished(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes a few bytes at a time still gets all of them."""
    journal = Journal(home, PROXY_SLOT)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data[:13]), offset))
    journal.append_wait([event("whole")])
    journal.close()
    assert names(home) == ["whole"]


WRITER = """
import sys
import threading
from pathlib import Path
from proxy.journal import PROXY_SLOT, Journal
from schemas.home import Home
from schemas.records import Event, Instant
journal = Journal(Home(Path(sys.argv[1])), PROXY_SLOT, segment_bytes=4096)
number = 0
while True:
    journal.append_wait([Event(event_id=f"k{number}-{part}", at=Instant(1), event="test") for part in "ab"])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 60, 200])
def test_kill_9_loses_nothing_that_was_acknowledged(home: Home, acknowledged: int) -> None:
    """Killed at an arbitrary moment after some acknowledgements, every acknowledged record is there, and numbering goes on."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(home.root)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    seen = [int(writer.stdout.readline()) for _ in range(acknowledged)]
    writer.send_signal(signal.SIGKILL)
    seen += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    journal = Journal(home, PROXY_SLOT)
    journal.append_wait([event("after")])
    journal.close()
    found = names(home)
    assert {f"k{number}-{part}" for number in seen for part in "ab"} <= set(found)
    assert len(found) == len(set(found))
    assert found[-1] == "after"


def test_a_text_that_is_no_unicode_fails_alone(home: Home) -> None:
    """The record that cannot be written is refused to who hands it in; the writer goes on for everybody else."""
    journal = Journal(home, PROXY_SLOT)
    with pytest.raises(JournalError, match="cannot be written"):
        journal.append_wait([event("whole"), event("\ud800")])
    journal.append_wait([event("next")])
    journal.close()
    assert names(home) == ["next"]


def test_a_closed_journal_takes_nothing(home: Home) -> None:
    """What comes after the close is refused at once, and nothing of it is written."""
    journal = Journal(home, PROXY_SLOT)
    journal.append_wait([event("a")])
    journal.close()
    with pytest.raises(JournalError, match="the journal is closed"):
        journal.append_wait([event("b")])
    assert journal.queued == 0
    assert names(home) == ["a"]


@pytest.mark.parametrize("broken", ["a segment is a folder", "no room for a segment"])
def test_a_journal_that_cannot_begin_gives_its_slot_back(home: Home, broken: str) -> None:
    """What is in the way is told with a cure; once it is gone the slot can be taken."""
    begun = Journal(home, PROXY_SLOT)
    begun.close()
    stone = begun.folder / f"{9:020d}.seg"
    if broken == "a segment is a folder":
        stone.mkdir()
    with pytest.raises(JournalUnusableError) as refused:
        Journal(home, PROXY_SLOT, segment_bytes=1 << 62)
    assert "free space there" in refused.value.cure
    if stone.exists():
        stone.rmdir()
    append_once(home, PROXY_SLOT, [event("a")])
    assert names(home) == ["a"]


async def test_who_stopped_waiting_stops_nobody_else(home: Home) -> None:
    """A cancelled wait, and one whose loop is gone: both records are written, and the next writer is told so."""
    journal = Journal(home, PROXY_SLOT)
    journal.append([event("a")]).cancel()

    async def leave() -> None:
        journal.append([event("b")])

    await asyncio.to_thread(asyncio.run, leave())
    await journal.append([event("c")])
    journal.close()
    assert sorted(names(home)) == ["a", "b", "c"]


async def test_a_disk_that_is_gone_is_told_to_who_waits(home: Home) -> None:
    """Without its folder the journal can open no fresh segment: the waiter hears it, and the close still ends."""
    journal = Journal(home, PROXY_SLOT)
    os.close(journal._fd)
    shutil.rmtree(journal.folder)
    with pytest.raises(JournalError, match="No such file or directory"):
        await journal.append([event("a")])
    journal.close()


def test_a_slot_is_waited_for_as_long_as_was_said(home: Home) -> None:
    """The one that holds it lets go meanwhile, and both records are there."""
    first = Journal(home, PROXY_SLOT)
    first.append_wait([event("a")])
    waiting = threading.Thread(target=append_once, args=(home, PROXY_SLOT, [event("b")]))
    waiting.start()
    first.close()
    waiting.join()
    assert names(home) == ["a", "b"]


def test_a_segment_is_live_while_its_journal_holds_it(home: Home) -> None:
    """The sealer leaves such a one; one that it took away meanwhile holds nothing for whoever reads."""
    journal = Journal(home, PROXY_SLOT)
    (segment,) = journal.folder.glob("*.seg")
    assert is_live(segment)
    journal.close()
    assert not is_live(segment)
    segment.unlink()
    assert read_segment(segment) == b""
