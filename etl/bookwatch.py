"""What changed in the book since it was last seen: each version is kept by its digest, and a change is a fact for the audit trail.

Nobody announces an edit of a file: the first `tokenledger ledger` after it sees it, and may be told by whom it was made. Beside
that stands what the file system knows: whose the file is, and when it was last written.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from schemas import durable
from schemas.book import digest_of, read_files
from schemas.home import Home
from schemas.instants import write_instant

FOLDER = "books"
POINTER = "seen"
CHANGED = "book_changed"


@dataclass(frozen=True, slots=True)
class Change:
    """One file of the book, before and after: SHA-256, and the lines that went and came; the first time it is only noted."""

    file: str
    before: str | None
    after: str | None
    removed: tuple[str, ...]
    added: tuple[str, ...]
    digest: str  # of the whole book as it is now
    owner: str | None = None  # of the file, null where it is gone
    written_at: str | None = None  # when it last was

    def facts(self) -> dict[str, Any]:
        """As the event's facts."""
        return asdict(self)


def changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[Change, ...]:
    """Every file that is not what it was, in name order."""
    digest = digest_of(after)
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        lines = list(difflib.ndiff(_lines(old), _lines(new))) if old is not None else []
        removed = tuple(line[2:] for line in lines if line.startswith("- "))
        added = tuple(line[2:] for line in lines if line.startswith("+ "))
        found.append(Change(name, _sha(old), _sha(new), removed, added, digest))
    return tuple(found)


def _lines(content: bytes | None) -> list[str]:
    return (content or b"").decode(errors="replace").splitlines()


def _sha(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def seen_digest(home: Home) -> str | None:
    """The digest of the book as the last build saw it, null before the first."""
    pointer = home.ledger / FOLDER / POINTER
    return pointer.read_bytes().decode(errors="replace").strip() if pointer.exists() else None


def kept(home: Home, digest: str) -> Path:
    """Where a version of the book is kept."""
    return home.ledger / FOLDER / digest


def unseen(home: Home) -> tuple[Change, ...]:
    """What changed since the book was last seen; all of it the first time, or where the version seen then is gone."""
    digest = seen_digest(home)
    place = kept(home, digest) if digest else None
    before = {path.name: path.read_bytes() for path in sorted(place.iterdir())} if place and place.is_dir() else {}
    return tuple(_witnessed(change, home.book / change.file) for change in changes(before, read_files(home.book)))


def _witnessed(change: Change, path: Path) -> Change:
    if change.after is None:
        return change
    try:
        owner = path.owner()
    except KeyError:  # a user whom this machine has no name for
        owner = str(path.stat().st_uid)
    return replace(change, owner=owner, written_at=write_instant(path.stat().st_mtime_ns // 1000))


def remember(home: Home) -> None:
    """Keep the book as it is now; the next comparison is against it."""
    files = read_files(home.book)
    digest = digest_of(files)
    place = kept(home, digest)
    durable.make_folder(place)
    for name, content in files.items():
        durable.replace(place / name, content)
    durable.replace(place.parent / POINTER, f"{digest}\n".encode())
