"""Sealing: whole frames out of spool/, Parquet and a manifest line into raw/; run in a process of its own.

A frame is sealed once, because the manifest says of each writer how far it is sealed, and the line is written after
the files it names are safe. A crash before the line leaves files that no line names; the next seal writes them again.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from proxy import log
from schemas import durable, manifest, rawfile, sharedkeys
from schemas.errors import LedgerError
from schemas.frames import Damage, Frame, decode
from schemas.home import Home
from schemas.manifest import Seal, SealedFile
from schemas.rawstore import RawStore
from schemas.records import ARROW, KINDS, Body, Instant, Record, Response
from schemas.spool import Slot, is_live, read_segment, slots

_log = logging.getLogger("proxy.seal")  # also where it is the process's own module


@dataclass(frozen=True, slots=True)
class SealResult:
    """What one run sealed: rows by kind, files written, and sequence numbers found missing."""

    rows: dict[str, int]
    files: int
    missing: int


def seal(home: Home, now: Instant, store: RawStore | None = None) -> SealResult:
    """Seal every whole frame that lies in spool/ and is not sealed yet. Safe beside a running proxy and another sealer.

    With a store the line is committed there, beside those of other homes. Raises what the store raises: then the spool keeps what was not sealed.
    """
    rows = dict.fromkeys(KINDS, 0)
    files = missing = 0
    if not home.spool.exists() and store is None:
        return SealResult(rows, files, missing)
    durable.make_folder(home.raw)
    with lock(home):
        _mend(home.manifest)
        if store is not None:
            sharedkeys.publish(home, store)  # before what is encrypted under them
        seals = manifest.read(home.manifest) if store is None else store.join(home)
        for slot in slots(home):
            segments = slot.segments()
            for path in segments:
                after = manifest.sealed_up_to(seals).get(slot.writer, 0)
                found = list(decode(read_segment(path)))
                done = _seal_frames(home, slot, found, after, seals, now, store)
                if done is not None:
                    seals.append(done)
                    files += len(done.files)
                    missing += sum(last - first + 1 for first, last in done.missing)
                    for file in done.files:
                        rows[file.kind] += file.rows
                if path == segments[-1] or is_live(path):
                    continue  # the journal may still write to it, or open the next one of its name
                if any(isinstance(piece, Damage) for piece in found):
                    path.rename(path.with_suffix(".damaged"))  # evidence for a person; its whole frames are sealed
                else:
                    path.unlink()
    return SealResult(rows, files, missing)


def _seal_frames(
    home: Home, slot: Slot, found: list[Frame | Damage], after: int, seals: list[Seal], now: Instant, store: RawStore | None
) -> Seal | None:
    frames = [frame for frame in found if isinstance(frame, Frame) and frame.seq > after]
    if not frames:
        return None
    frames.sort(key=lambda frame: frame.seq)
    files = tuple(_write(home, slot.writer, kind, day, part) for (kind, day), part in sorted(_grouped(frames).items()))
    sealed = Seal(
        number=0,
        previous="",
        writer=slot.writer,
        first_seq=frames[0].seq,
        last_seq=frames[-1].seq,
        missing=tuple(_gaps(after, [frame.seq for frame in frames])),
        sealed_at=now,
        files=files,
    ).after(seals)
    if store is not None:
        sealed = store.commit(home, seals, sealed)
    _append(home.manifest, sealed.line())
    return sealed


def _append(path: Path, line: bytes) -> None:
    """Commit a line. Where that fails, the file is finished: what was whole in it goes on in a copy, and the error is told."""
    whole = path.stat().st_size if path.exists() else 0
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab", buffering=0) as file:
            while line:
                line = line[file.write(line) or 0 :]
            os.fsync(file.fileno())
        durable.sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, whole)  # nobody may take the line for committed
        with contextlib.suppress(OSError):
            _doubt(path).touch(mode=0o600)
        with contextlib.suppress(OSError):
            _mend(path)
        raise


def _grouped(frames: list[Frame]) -> dict[tuple[str, str], list[tuple[Frame, Record]]]:
    """Frames with what they hold, by kind and UTC date of its own instant."""
    groups: dict[tuple[str, int], list[tuple[Frame, Record]]] = {}
    for frame in frames:
        record: Record = _READ[frame.kind](frame.text)
        day = getattr(record, record.instant) // _DAY_US
        groups.setdefault((frame.kind, day), []).append((frame, record))
    return {(kind, (_EPOCH + timedelta(days=day)).isoformat()): part for (kind, day), part in groups.items()}


_READ = {kind: msgspec.json.Decoder(cls).decode for kind, cls in KINDS.items()}
_EPOCH = date(1970, 1, 1)
_DAY_US = 86_400_000_000


def _write(home: Home, writer: str, kind: str, day: str, found: list[tuple[Frame, Record]]) -> SealedFile:
    folder = home.raw / kind / f"date={day}"
    durable.make_folder(folder)
    path = folder / f"{writer}-{found[0][0].seq:020d}.parquet"
    names = KINDS[kind].__struct_fields__
    rows = map(attrgetter(*names), (record for _, record in found))
    columns: dict[str, Sequence[Any]] = dict(zip(names, zip(*rows, strict=True), strict=True))
    if kind == Body.kind:
        columns["content"] = [frame.content for frame, _ in found]
    if kind == Response.kind:
        columns["usage"] = [[msgspec.structs.asdict(seen) for seen in usage] for usage in columns["usage"]]
    columns |= {"writer": [writer] * len(found), "seq": [frame.seq for frame, _ in found]}
    size, digest = rawfile.write_aside(path, pa.Table.from_pydict(columns, schema=ARROW[kind]))
    rawfile.take_place(path)
    return SealedFile(str(path.relative_to(home.raw)), kind, len(found), size, digest)


def _gaps(after: int, seqs: list[int]) -> Iterator[tuple[int, int]]:
    """Numbers that should lie between what is sealed and these frames, and do not."""
    expected = after + 1
    for seq in seqs:
        if seq > expected:
            yield expected, seq - 1
        expected = seq + 1


def _mend(path: Path) -> None:
    """A last line without its newline is a seal that never happened; a file whose fsync failed is copied, not written again."""
    doubted = _doubt(path).exists()
    if path.exists():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if doubted or whole != data:
            durable.replace(path, whole)
    if doubted:
        _doubt(path).unlink()


def _doubt(path: Path) -> Path:
    """Stands beside a manifest whose write or fsync failed, until a copy has taken its place."""
    return path.with_name(path.name + ".failed")


@contextlib.contextmanager
def lock(home: Home) -> Iterator[None]:
    """Hold what one sealer of a home holds at a time."""
    fd = os.open(home.raw / "seal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def seal_until_eof(home: Home, every_s: float, store: RawStore | None) -> None:
    """Seal now and then until standard input ends, then once more: the sealing process beside a proxy.

    The proxy holds the other end of standard input, so that this process ends with it, however it ends.
    """
    os.nice(10)
    gc.disable()  # a round makes records by the hundred thousand and no cycles; what few there are go after it
    open_ended = True
    while open_ended:
        ready, _, _ = select.select([sys.stdin], [], [], every_s)
        open_ended = not ready
        try:
            seal(home, Instant(time.time_ns() // 1000), store)
            gc.collect()
        except (OSError, LedgerError, MemoryError) as error:
            # a full disk, a broken manifest: the journal keeps all of it until it is mended
            _log.error("sealing failed, and is tried again in %g s: %s", every_s, error)


if __name__ == "__main__":
    log.to_stderr()
    _, root, seconds, *named = sys.argv
    seal_until_eof(Home(Path(root)), float(seconds), RawStore(named[0]) if named else None)
