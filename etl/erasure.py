"""Erasure of bodies: the file goes, the manifest's line stays, and an event names each file with its hash, who did it and why.

Only what no build reads any more is erased: files of closed months, which are read from their sealed tables, so that no charge,
count or receipt can change. The event comes first, so that a file that is missing without one is a loss.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from etl.seals import read_seals
from etl.sources import Finding, Sources, date_of, is_whole, quarantine
from schemas import durable, manifest
from schemas.frames import Frame
from schemas.home import Home
from schemas.instants import to_datetime
from schemas.manifest import SealedFile
from schemas.spool import unsealed

ERASED = "bodies_erased"
FILES_A_RECORD = 500


def erasable(home: Home, before: date) -> tuple[SealedFile, ...]:
    """The body files of closed months that lie here and hold nothing from `before` (UTC) on. Raises SealBroken and ManifestError."""
    seals = read_seals(home)
    if not seals:
        return ()
    day = min(before, to_datetime(seals[-1].end).date()).isoformat()
    lines = manifest.read(home.manifest)[: seals[-1].manifest["lines"]]
    bodies = (file for line in lines for file in line.files if file.kind == "body")
    return tuple(file for file in bodies if date_of(file) < day and (home.raw / file.path).exists())


def facts_of(files: Sequence[SealedFile]) -> Iterator[dict[str, Any]]:
    """What the events say that record the erasure of these files."""
    for first in range(0, len(files), FILES_A_RECORD):
        named = [{"path": f"raw/{file.path}", "sha256": file.sha256} for file in files[first : first + FILES_A_RECORD]]
        yield {"files": named}


def erase(home: Home, files: Iterable[SealedFile]) -> None:
    """Remove files of which an event on the disk says so already."""
    paths = [home.raw / file.path for file in files]
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in sorted({path.parent for path in paths}):
        durable.sync(folder)


@dataclass(frozen=True, slots=True)
class Erased:
    """What events name as erased."""

    files: frozenset[tuple[str, str]]  # path below raw/ and SHA-256
    keys: frozenset[str]  # ids of keys of bodies that were destroyed


def erased(home: Home) -> Erased:
    """Every body file and key that an event names as erased; what is damaged says nothing."""
    seals = manifest.read(home.manifest)
    found: list[tuple[str, str]] = []
    for file in (file for seal in seals for file in seal.files if file.kind == "event"):
        path = home.raw / file.path
        if is_whole(path, file):
            found.extend((row["event"], row["facts"]) for row in _rows(path))
    for _, piece, _ in unsealed(home, manifest.sealed_up_to(seals)):
        if isinstance(piece, Frame) and piece.kind == "event":
            found.append((piece.fields["event"], piece.fields["facts"]))
    told = [orjson.loads(facts) for event, facts in found if event == ERASED]
    files = (file for facts in told for file in facts.get("files", ()))
    return Erased(
        frozenset((file["path"].removeprefix("raw/"), file["sha256"]) for file in files),
        frozenset(key for facts in told for key in facts.get("keys", ())),
    )


def kept(sources: Sources, dates: Container[str]) -> tuple[list[Path], list[Finding]]:
    """The body files of these UTC dates that are whole, and a finding for each that is not, or is missing though nobody erased it."""
    files = [file for file in sources.body_files if date_of(file) in dates]
    is_good = {file.path: is_whole(sources.raw / file.path, file) for file in files}
    missing = any(not (sources.raw / file.path).exists() for file in files)
    gone = erased(Home(sources.raw.parent)).files if missing else frozenset()
    bad = [
        file for file in files if not is_good[file.path] and ((file.path, file.sha256) not in gone or (sources.raw / file.path).exists())
    ]
    return [sources.raw / file.path for file in files if is_good[file.path]], [quarantine(file) for file in bad]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, columns=["event", "facts"], filters=[("event", "=", ERASED)]).to_pylist()
    return rows
