"""Erasure of bodies as events tell it: the manifest's line stays, and an event names each file with its hash, who did it and why.

Whole files go where no build reads them any more: those of closed months, which are read from their sealed tables. Single
messages go anywhere (etl/erase.py), and the event keeps what was read from them. No charge, count or receipt changes. The event
comes first, so that a file that is missing or other than it was sealed without one is a loss.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq

from etl.seals import read_seals
from etl.sources import Finding, Sources, date_of, date_of_path, instant_of, is_whole, quarantine, sha256_in
from schemas import durable, manifest
from schemas.frames import Frame
from schemas.home import Home
from schemas.instants import to_datetime
from schemas.manifest import SealedFile
from schemas.spool import unsealed

ERASED = "bodies_erased"
READINGS = ("reread", "output_line", "output_note", "recount", "recount_note")  # what steps make of bodies, by try
FILES_A_RECORD = 500


def erasable(home: Home, before: date, *, elsewhere: bool = False) -> tuple[SealedFile, ...]:
    """The body files of closed months that lie here and hold nothing from `before` (UTC) on; or `elsewhere`, where nobody erased them yet.

    Raises SealBroken and ManifestError.
    """
    seals = read_seals(home)
    if not seals:
        return ()
    day = min(before, to_datetime(seals[-1].end).date()).isoformat()
    lines = manifest.read(home.manifest)[: seals[-1].manifest["lines"]]
    bodies = (file for line in lines for file in line.files if file.kind == "body")
    gone = erased(home) if elsewhere else None
    return tuple(
        file
        for file in bodies
        if date_of(file) < day and ((home.raw / file.path).exists() or (gone is not None and not gone.allows(file, None)))
    )


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
        if folder.exists():
            durable.sync(folder)


@dataclass(frozen=True, slots=True)
class Erased:
    """What events name as erased."""

    files: Mapping[str, tuple[tuple[str, str | None], ...]]  # by path below raw/: SHA-256 before and after; null: the file went
    keys: frozenset[str]  # ids of keys of bodies that were destroyed
    messages: tuple[tuple[int, frozenset[str]], ...]  # until when (microseconds), and whose: requests, subjects, UTC dates

    def allows(self, file: SealedFile, digest: str | None) -> bool:
        """Whether what lies there (by its SHA-256, null: nothing) is what was sealed, or what an erasure left of it."""
        return digest == file.sha256 or any(after == digest for _, after in self.files.get(file.path, ()))

    def is_unfinished(self, file: SealedFile, digest: str | None) -> bool:
        """Whether an event says of what lies there that it was erased."""
        return any(before == digest for before, _ in self.files.get(file.path, ()))

    def holds(self, body: Mapping[str, Any]) -> bool:
        """Whether a body, its fields by name, was erased: what came after an erasure is not its."""
        names = (f"request {body['request_id']}", f"subject {body.get('subject')}", f"day {to_datetime(body['at']).date()}")
        return any(body["at"] <= at and not gone.isdisjoint(names) for at, gone in self.messages)


NOTHING = Erased({}, frozenset(), ())


def erased(home: Home) -> Erased:
    """Every body file, key and message that an event names as erased; what is damaged says nothing."""
    seals = manifest.read(home.manifest)
    found: list[tuple[int, dict[str, Any]]] = []
    for file in (file for seal in seals for file in seal.files if file.kind == "event"):
        place = home.raw / file.path
        if is_whole(place, file):
            found.extend((instant_of(row["at"]), orjson.loads(row["facts"])) for row in _rows(place))
    for _, piece, _ in unsealed(home, manifest.sealed_up_to(seals)):
        if isinstance(piece, Frame) and piece.kind == "event" and (fields := piece.fields)["event"] == ERASED:
            found.append((fields["at"], orjson.loads(fields["facts"])))
    files: dict[str, tuple[tuple[str, str | None], ...]] = {}
    for told in (told for _, facts in found for told in facts.get("files", ())):
        path = told["path"].removeprefix("raw/")
        files[path] = (*files.get(path, ()), (told["sha256"], told.get("left")))
    keys = frozenset(key for _, facts in found for key in facts.get("keys", ()))
    return Erased(files, keys, tuple((at, _named(facts)) for at, facts in found))


def _named(facts: Mapping[str, Any]) -> frozenset[str]:
    days = {f"day {date_of_path(file['path'])}" for file in facts.get("files", ()) if "left" not in file}
    requests = {f"request {name}" for name in facts.get("requests", ())}
    return frozenset(days | requests | {f"subject {name}" for name in facts.get("subjects", ())})


def remembered(connection: duckdb.DuckDBPyConnection, name: str) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The rows that a step made of each try before its messages were erased; the last erasure of a try speaks for it."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    query = 'SELECT facts FROM all_event WHERE event = $1 ORDER BY "at", event_id'
    for (facts,) in connection.execute(query, [ERASED]).fetchall():
        tries: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in orjson.loads(facts).get("read", {}).get(name, ()):
            tries.setdefault((row["raw_id"], row["raw_ordinal"]), []).append(row)
        found |= tries
    return found


def kept(sources: Sources, dates: Container[str]) -> tuple[list[Path], list[Finding]]:
    """The body files of these UTC dates as they were sealed or as an erasure left them, and a finding for each that is neither."""
    files = [(file, sha256_in(sources.raw / file.path)) for file in sources.body_files if date_of(file) in dates]
    changed = any(digest != file.sha256 for file, digest in files)
    gone = erased(Home(sources.raw.parent)) if changed else NOTHING
    good = [sources.raw / file.path for file, digest in files if digest is not None and gone.allows(file, digest)]
    return good, [quarantine(file) for file, digest in files if not gone.allows(file, digest)]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, columns=["at", "event", "facts"], filters=[("event", "=", ERASED)]).to_pylist()
    return rows
