"""The Merkle tree over a month's receipt digests, as RFC 6962 hashes it: leaves and nodes cannot be taken for each other.

A leaf is SHA-256 of a zero byte and the digest's 32 bytes, a node SHA-256 of a one byte and its two children; a last
child without a partner moves up unchanged. All levels lie in one file, leaves first, so that a proof is a few reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SIZE = 32
MERKLE_FILE = "receipts.merkle"


@dataclass(frozen=True, slots=True)
class Sibling:
    """One step of a proof: the hash to join with, and on which side of ours it stands."""

    side: str  # left | right
    hash: str


def leaf(digest: str) -> bytes:
    """The leaf of a receipt digest (hex)."""
    return hashlib.sha256(b"\0" + bytes.fromhex(digest)).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The parent of two hashes."""
    return hashlib.sha256(b"\1" + left + right).digest()


def levels(digests: Iterable[str]) -> list[list[bytes]]:
    """Every level, leaves first, the root last; of nothing one level with the hash of nothing."""
    level = [leaf(digest) for digest in digests]
    if not level:
        return [[hashlib.sha256().digest()]]
    found = [level]
    while len(level) > 1:
        pairs = [node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
        found.append(level)
    return found


def write(path: Path, tree: Sequence[Sequence[bytes]]) -> None:
    """All levels, one after the other."""
    path.write_bytes(b"".join(b"".join(level) for level in tree))


def proof(path: Path, count: int, index: int) -> tuple[Sibling, ...]:
    """The siblings of leaf `index` of `count`, from the bottom up, read from the file of all levels."""
    found = []
    begin = 0
    with path.open("rb") as file:
        while count > 1:
            beside = index ^ 1
            if beside < count:
                file.seek((begin + beside) * SIZE)
                found.append(Sibling("left" if beside < index else "right", file.read(SIZE).hex()))
            begin += count
            count = (count + 1) // 2
            index //= 2
    return tuple(found)


def climb(digest: str, siblings: Iterable[Sibling]) -> str:
    """The root that a digest and its proof lead to."""
    at = leaf(digest)
    for sibling in siblings:
        other = bytes.fromhex(sibling.hash)
        at = node(other, at) if sibling.side == "left" else node(at, other)
    return at.hex()
