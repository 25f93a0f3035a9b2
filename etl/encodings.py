"""The tokenizers of the recount, from rank files that setup put there and that are checked before tiktoken sees them.

tiktoken by itself fetches its ranks at first use, and deletes a cached file whose hash differs and fetches it again.
Here neither may happen: a month must be counted the same way without a network, and a damaged file is a fault to be
told, not mended behind the reader's back.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tiktoken

from schemas.errors import LedgerError


@dataclass(frozen=True, slots=True)
class RankFile:
    """One file of merge ranks under the name that tiktoken's cache gives it (the SHA-1 of its address)."""

    name: str
    sha256: str


O200K = RankFile("fb374d419588a4632f3f557e76b4b70aebbca790", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")
CL100K = RankFile("9b5ad71b2ce5302211f9c61530b329a4922fc6a4", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")
P50K = RankFile("ec7223a39ce59f226a68acc30dc1af2788490e15", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069")
R50K = RankFile("0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930")

RANKS: dict[str, RankFile] = {
    "o200k_base": O200K,
    "o200k_harmony": O200K,
    "cl100k_base": CL100K,
    "p50k_base": P50K,
    "r50k_base": R50K,
}


class UnknownEncoding(LedgerError):
    """No encoding of this name: its ranks are not among those that setup installs."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no token encoding {name!r}", f"use one of {', '.join(RANKS)}")


class RanksMissing(LedgerError):
    """The rank file of an encoding is not where setup puts it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"token ranks are missing: {path}", "make setup")


class RanksDamaged(LedgerError):
    """The rank file is there and is not the published one."""

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(f"token ranks are damaged: {path} has SHA-256 {found}, not {expected}", f"rm {path} && make setup")


def ranks_folder() -> Path:
    """Where setup puts the ranks: inside the environment that runs us, so that they come and go with it."""
    return Path(sys.prefix) / "share" / "tokenledger" / "ranks"


def check_ranks(ranks: RankFile, folder: Path) -> None:
    """Raise RanksMissing or RanksDamaged unless the file in `folder` is the published one, byte for byte."""
    path = folder / ranks.name
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise RanksMissing(path) from None
    if found != ranks.sha256:
        raise RanksDamaged(path, ranks.sha256, found)


@cache
def encoding(name: str) -> tiktoken.Encoding:
    """The encoding of that name, loaded once per process from checked files and never from the network.

    Raises UnknownEncoding, RanksMissing or RanksDamaged.
    """
    if name not in RANKS:
        raise UnknownEncoding(name)
    folder = ranks_folder()
    check_ranks(RANKS[name], folder)
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)  # the only way to tell tiktoken where to read
    return tiktoken.get_encoding(name)
