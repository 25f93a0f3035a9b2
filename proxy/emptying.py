"""Erased messages in spool/: a proxy's live segment holds what was sealed long ago, and there the bytes go too."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxy.seal import lock
from schemas import manifest
from schemas.frames import Frame, decode, emptied
from schemas.home import Home
from schemas.spool import SEGMENT_SUFFIX, Slot, slots

KEPT_ASIDE = ".damaged"  # segments that lie there as evidence


def empty(home: Home, is_erased: Callable[[Mapping[str, Any]], bool]) -> int:
    """Overwrite the bytes of sealed bodies that are erased, in every segment; how many. Safe beside a running proxy, which only appends."""
    count = 0
    with lock(home):
        sealed = manifest.sealed_up_to(manifest.read(home.manifest))
        for slot in slots(home):
            for path in sorted(slot.folder.iterdir()):
                if path.suffix in (SEGMENT_SUFFIX, KEPT_ASIDE):
                    count += _empty(path, slot, sealed, is_erased)
    return count


def _empty(path: Path, slot: Slot, sealed: Mapping[str, int], is_erased: Callable[[Mapping[str, Any]], bool]) -> int:
    data = path.read_bytes()
    count = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for found in decode(data):
            if (
                not isinstance(found, Frame)
                or found.kind != "body"
                or found.seq > sealed.get(slot.writer, 0)
                or not is_erased(found.fields)
            ):
                continue
            head, start = emptied(data, found)
            for place, piece in ((found.offset, head), (start, bytes(found.end - start))):
                os.pwrite(descriptor, piece, place)
                os.fdatasync(descriptor)
            count += 1
    finally:
        os.close(descriptor)
    return count
