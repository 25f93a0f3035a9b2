"""The Merkle tree over a month's receipt digests, as RFC 6962 hashes it: leaves and nodes cannot be taken for each other.

A leaf is SHA-256 of a zero byte and the digest's 32 bytes, a node SHA-256 of a one byte and its two children; a last
child without a partner moves up unchanged. All levels lie in one file, leaves first, so that a proof is a few reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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


@dataclass(frozen=True, slots=True)
class Tree:
    """All levels, leaves first, the root last, each as its hashes side by side; of no leaf one level with the hash of nothing."""

    leaves: int
    levels: tuple[bytes, ...]

    @property
    def root(self) -> str:
        """The hash that covers every leaf, in hex."""
        return self.levels[-1].hex()

    def write(self, path: Path) -> None:
        """All levels, one after the other."""
        with path.open("wb") as file:
            file.writelines(self.levels)

    def is_in(self, path: Path) -> bool:
        """Whether the file holds this tree and nothing else."""
        with path.open("rb") as file:
            return all(file.read(len(level)) == level for level in self.levels) and not file.read(1)


def grow(digests: Iterable[str]) -> Tree:
    """The tree over receipt digests (hex) in their order."""
    level = bytearray()
    for digest in digests:
        level += leaf(digest)
    leaves = len(level) // SIZE
    found = [bytes(level or hashlib.sha256().digest())]
    while len(level) > SIZE:
        above = bytearray()
        for begin in range(0, len(level) - SIZE, 2 * SIZE):
            above += hashlib.sha256(b"\1" + level[begin : begin + 2 * SIZE]).digest()
        if len(level) // SIZE % 2:
            above += level[-SIZE:]
        level = above
        found.append(bytes(level))
    return Tree(leaves, tuple(found))


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
