"""Sealing: every whole frame once into Parquet, the manifest as the commit point."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from proxy.journal import PROXY_SLOT, Journal
from proxy.seal import seal
from schemas import manifest
from schemas.home import Home
from schemas.manifest import ManifestError, Seal
from schemas.records import ARROW, Attempt, Event, Instant, Record
from schemas.spool import unsealed

NOW = Instant(1_700_000_000_000_000)
DAY = 86_400_000_000


def event(name: str, at: int = 0) -> Event:
    return Event(event_id=name, at=Instant(at), event="test")


def append(home: Home, *records: Record, segment_bytes: int = 4096) -> None:
    journal = Journal(home, PROXY_SLOT, segment_bytes=segment_bytes)
    journal.append_wait(records)
    journal.close()


def sealed_names(home: Home) -> list[str]:
    found = []
    for line in manifest.read(home.manifest):
        for file in line.files:
            if file.kind == "event":
                found += pq.ParquetFile(home.raw / file.path).read().column("event_id").to_pylist()
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_frames_become_files_by_kind_and_utc_date(home: Home) -> None:
    """Two days of events and an attempt make three files with the schema of the records, each hashed in the manifest."""
    attempt = Attempt(
        request_id="r", ordinal=1, channel="c", role="primary", reason="first", url="u", modified=("model",), opened_at=Instant(5)
    )
    append(home, event("a", 0), event("b", DAY), attempt)
    result = seal(home, NOW)
    assert (result.rows["event"], result.rows["attempt"], result.files, result.missing) == (2, 1, 3, 0)
    (line,) = manifest.read(home.manifest)
    assert sorted(file.path.rpartition("/")[0] for file in line.files) == [
        "attempt/date=1970-01-01",
        "event/date=1970-01-01",
        "event/date=1970-01-02",
    ]
    for file in line.files:
        data = (home.raw / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        assert pq.read_schema(home.raw / file.path).equals(ARROW[file.kind])


def test_a_frame_is_sealed_once_however_often_it_is_tried(home: Home) -> None:
    """Sealing beside a living journal, again and again, gives each record once."""
    journal = Journal(home, PROXY_SLOT)
    for number in range(5):
        journal.append_wait([event(f"e{number}")])
        seal(home, NOW)
        seal(home, NOW)
    journal.close()
    assert sealed_names(home) == [f"e{number}" for number in range(5)]
    assert list(unsealed(home, manifest.sealed_up_to(manifest.read(home.manifest)))) == []


def test_finished_segments_go_when_they_are_sealed(home: Home) -> None:
    """The spool does not grow: only the newest segment stays."""
    for number in range(3):
        append(home, event(f"e{number}"))
    seal(home, NOW)
    assert len(list((home.spool / PROXY_SLOT).glob("*.seg"))) == 1
    assert sealed_names(home) == ["e0", "e1", "e2"]


@pytest.mark.parametrize("broken_at", ["write_table", "replace_file", "line"])
def test_a_crash_anywhere_before_the_line_changes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch, broken_at: str) -> None:
    """Files that no line names do not count; the next seal writes them again."""
    append(home, event("a"), event("b", DAY))

    class CrashError(Exception):
        pass

    def crash(*_: object, **__: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        if broken_at == "write_table":
            patch.setattr(pq, "write_table", crash)
        elif broken_at == "replace_file":
            patch.setattr(os, "replace", crash)
        else:
            patch.setattr(Seal, "line", crash)
        with pytest.raises(CrashError):
            seal(home, NOW)
    assert manifest.read(home.manifest) == []
    append(home, event("c"))
    seal(home, NOW)
    assert sorted(sealed_names(home)) == ["a", "b", "c"]


def test_half_a_manifest_line_is_a_seal_that_did_not_happen(home: Home) -> None:
    """A torn last line is ignored by readers and cut off by the next seal."""
    append(home, event("a"))
    seal(home, NOW)
    whole = home.manifest.read_bytes()
    append(home, event("b"))
    seal(home, NOW)
    home.manifest.write_bytes(home.manifest.read_bytes()[:-20])
    assert len(manifest.read(home.manifest)) == 1
    append(home, event("c"))
    seal(home, NOW)
    assert home.manifest.read_bytes().startswith(whole)
    assert "c" in sealed_names(home)


def test_a_changed_line_breaks_the_chain_by_name(home: Home) -> None:
    """Whoever edits the manifest is found out at the line."""
    for name in ("a", "b"):
        append(home, event(name))
        seal(home, NOW)
    lines = home.manifest.read_bytes().splitlines()
    facts = json.loads(lines[0])
    facts["files"][0]["rows"] = 7
    home.manifest.write_bytes(json.dumps(facts).encode() + b"\n" + lines[1] + b"\n")
    with pytest.raises(ManifestError, match="line 1 breaks the hash chain"):
        manifest.read(home.manifest)


def test_a_damaged_frame_is_a_gap_in_the_manifest_and_its_segment_is_kept(home: Home) -> None:
    """The loss is named by its numbers; the segment stays beside as evidence."""
    append(home, event("a"), event("b"), event("c"))
    (segment,) = (home.spool / PROXY_SLOT).glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"b"')] ^= 1
    segment.write_bytes(bytes(data))
    append(home, event("d"))
    result = seal(home, NOW)
    assert result.missing == 1
    assert manifest.read(home.manifest)[0].missing == ((2, 2),)
    assert sealed_names(home) == ["a", "c", "d"]
    assert len(list((home.spool / PROXY_SLOT).glob("*.damaged"))) == 1


@pytest.mark.parametrize("copied", [True, False], ids=["copy made", "copy failed too"])
def test_a_manifest_whose_fsync_failed_is_copied_and_never_synced_again(home: Home, monkeypatch: pytest.MonkeyPatch, copied: bool) -> None:
    """The line is taken back, so that its frames stay in the journal; the next seal writes it into another file."""
    append(home, event("a"))
    seal(home, NOW)
    append(home, event("b"))
    os.link(home.manifest, home.root / "kept")  # so that no other file gets its inode
    doubted = home.manifest.stat().st_ino
    real = os.fsync
    synced: list[int] = []

    def watched(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    def fail(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        if synced[-1] == doubted or (not copied and doubted in synced):
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            seal(home, NOW)
    assert len(manifest.read(home.manifest)) == 1
    synced.clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", watched)
        append(home, event("c"))
        seal(home, NOW)
    assert sealed_names(home) == ["a", "b", "c"]
    assert doubted not in synced


async def test_the_sealer_outlives_a_disk_that_fails(home: Home) -> None:
    """What cannot be sealed is told and tried again, and waits in the journal until then."""
    append(home, event("a"))
    home.raw.write_text("in the way")
    pipe = asyncio.subprocess.PIPE
    sealer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.seal", str(home.root), "0.05", stdin=pipe, stderr=pipe, cwd=Path(__file__).parent.parent
    )
    assert sealer.stdin is not None
    assert sealer.stderr is not None
    assert b"sealing failed, and is tried again" in await sealer.stderr.readline()
    home.raw.unlink()
    sealer.stdin.close()
    await sealer.wait()
    assert sealed_names(home) == ["a"]
