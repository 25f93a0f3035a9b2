"""raw/manifest.jsonl: the list of sealed files, one hash-chained line a seal. The line is the commit point.

A Parquet file that no line names does not exist for a reader. A last line without its newline is a seal that did not
finish and is not there either. Each line's `hash` is SHA-256 over the previous hash and the line's own canonical JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from schemas.errors import LedgerError
from schemas.records import Instant

GENESIS = "0" * 64


class ManifestError(LedgerError):
    """The chain does not hold at one line."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One Parquet file of one kind, below raw/."""

    path: str
    kind: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """One line: frames `first_seq` to `last_seq` of one writer, less `missing`, are in `files`."""

    number: int
    previous: str
    writer: str
    first_seq: int
    last_seq: int
    missing: tuple[tuple[int, int], ...]  # inclusive ranges of sequence numbers that were damaged or never written
    sealed_at: Instant
    files: tuple[SealedFile, ...]
    hash: str = ""

    def chained(self) -> Seal:
        """This seal with its hash filled in."""
        facts = asdict(self)
        del facts["hash"]
        text = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
        return replace(self, hash=hashlib.sha256(self.previous.encode() + text).hexdigest())

    def after(self, chain: Sequence[Seal]) -> Seal:
        """This seal as the next one of a chain."""
        return replace(self, number=len(chain) + 1, previous=chain[-1].hash if chain else GENESIS).chained()

    def line(self) -> bytes:
        """The manifest line, newline included."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS) + b"\n"


def read(path: Path) -> list[Seal]:
    """Every finished line in order, chain checked; an absent manifest is an empty one. Raises ManifestError."""
    if not path.exists():
        return []
    seals: list[Seal] = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        seals.append(next_line(line, seals, f"{path} line {len(seals) + 1}"))
    return seals


def next_line(line: bytes, chain: Sequence[Seal], where: str) -> Seal:
    """The seal that a line is, where it goes on a chain. Raises ManifestError, which names `where` it stands."""
    try:
        seal = _seal(orjson.loads(line))
    except (ValueError, TypeError, KeyError) as error:
        raise ManifestError(f"{where} is unreadable: {error}", "restore the manifest from a copy") from None
    if seal != seal.after(chain):
        raise ManifestError(f"{where} breaks the hash chain", "restore the manifest from a copy")
    return seal


def _seal(facts: dict[str, Any]) -> Seal:
    files = tuple(SealedFile(**file) for file in facts.pop("files"))
    missing = tuple((first, last) for first, last in facts.pop("missing"))
    return Seal(files=files, missing=missing, **facts)


def sealed_up_to(seals: Iterable[Seal]) -> dict[str, int]:
    """The last sealed sequence number of each writer."""
    last: dict[str, int] = {}
    for seal in seals:
        last[seal.writer] = max(last.get(seal.writer, 0), seal.last_seq)
    return last
