"""How many clients the proxy takes in: as many as its open files and its memory bear, so that those it has taken in come to no harm."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

FILES_ASIDE = 256  # for journals, listeners, the sealer's pipes, and those who are told that there is no room
SURPLUS = 64  # connections beyond the places that are still told so; any more are closed unheard
MEMORY_SHARE = 0.8
RETRY_AFTER_S = 2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def raise_file_limit() -> int:
    """Open files up to what the system allows this process; the limit that then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a kernel's own limit may lie below: then what was stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def places_of(file_limit: int) -> int:
    """A client takes two sockets: its own, and its channel's."""
    return max(1, (file_limit - FILES_ASIDE) // 2)


def memory_limit() -> int:
    """The bytes that this process may come to hold: the machine's, or its control group's where that has fewer."""
    found = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    for name in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max", or not there
            found.append(int(Path(name).read_text()))
    return int(min(found) * MEMORY_SHARE)


class Admission:
    """Places for clients' connections, shared by both doors."""

    def __init__(self, places: int, memory_bytes: int) -> None:
        self.places = places
        self.taken = 0
        self.surplus = 0
        self.leaving = False  # the proxy stops: what is open ends, nothing begins
        self.resident_bytes = 0
        self._memory_bytes = memory_bytes

    def enter(self) -> bool:
        """A client has connected: whether it has a place. Whoever enters must leave."""
        placed = self.taken < self.places
        if placed:
            self.taken += 1
        else:
            self.surplus += 1
        return placed

    def leave(self, placed: bool) -> None:
        """It has gone."""
        if placed:
            self.taken -= 1
        else:
            self.surplus -= 1

    @property
    def overrun(self) -> bool:
        """Whether there are too many to tell them."""
        return self.surplus > SURPLUS

    def refusal(self, placed: bool) -> str | None:
        """Why a request of such a client is not taken; None if it is."""
        if self.leaving:
            return "the proxy stops; ask again in a moment"
        if not placed:
            return f"all {self.places} places are taken; ask again in a moment"
        if self.resident_bytes > self._memory_bytes:
            return "memory is short; ask again in a moment"
        return None

    def look(self) -> None:
        """See how much memory is held now."""
        self.resident_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
