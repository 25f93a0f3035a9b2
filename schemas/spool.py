"""How journals lie in spool/: one folder a slot, with its writer's name and numbered segments."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.frames import Damage, Frame, decode
from schemas.home import Home

WRITER_FILE = "writer"
LOCK_FILE = "lock"
SEGMENT_SUFFIX = ".seg"
_SEGMENT = re.compile(r"\d{20}a*\.seg")


def segment_name(first_seq: int) -> str:
    """A segment's file name: the sequence number its first frame was to have, so that names sort in order."""
    return f"{first_seq:020d}{SEGMENT_SUFFIX}"


def first_seq(segment: Path) -> int:
    """The number in a segment's name; a letter may follow it where a segment of the same number had to be abandoned."""
    return int(segment.stem[:20])


@dataclass(frozen=True, slots=True)
class Slot:
    """One journal's folder. The writer's name is made once and unique over all homes."""

    folder: Path
    writer: str

    def segments(self) -> list[Path]:
        """Segments, oldest first; a file of another name is none."""
        return sorted(path for path in self.folder.glob(f"*{SEGMENT_SUFFIX}") if _SEGMENT.fullmatch(path.name))


def is_live(segment: Path) -> bool:
    """Whether a journal writes to it: it holds the segment's lock as long as it does."""
    with segment.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def slots(home: Home) -> list[Slot]:
    """Every journal under spool/ that has a name."""
    files = sorted(home.spool.glob(f"*/{WRITER_FILE}")) if home.spool.exists() else []
    return [Slot(file.parent, file.read_text().strip()) for file in files]


def read_segment(path: Path) -> bytes:
    """A segment's bytes as far as it was written; none where the sealer took it away meanwhile, which it does only after all of it is sealed.

    What is preallocated and not written yet would read as megabytes of zeros, at every look.
    """
    try:
        with path.open("rb") as file:
            written = _written(file.fileno())
            file.seek(0)
            return file.read(written)
    except FileNotFoundError:
        return b""


def _written(fd: int) -> int:
    """Where the last bytes end that are no hole."""
    end = 0
    while True:
        try:
            end = os.lseek(fd, os.lseek(fd, end, os.SEEK_DATA), os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return end


def unsealed(home: Home, sealed: Mapping[str, int]) -> Iterator[tuple[str, Frame | Damage, Path]]:
    """Every frame past what is sealed of its writer, and all damage, with the writer and the segment it lay in."""
    for slot in slots(home):
        after = sealed.get(slot.writer, 0)
        segments = slot.segments()
        for place, path in enumerate(segments):
            following = segments[place + 1] if place + 1 < len(segments) else None
            if following is not None and first_seq(following) <= after + 1:
                continue  # all of it is sealed; the sealer will remove it
            for found in decode(read_segment(path)):
                if isinstance(found, Damage) or found.seq > after:
                    yield slot.writer, found, path
