"""The door's clock: wall time that cannot step back, because it is read once and then carried by the monotonic clock."""

from __future__ import annotations

import time

from schemas.records import Instant


class Clock:
    """Microseconds since 1970 in UTC, monotonic between two calls of `resync`."""

    def __init__(self) -> None:
        self._anchor = time.time_ns() - time.monotonic_ns()

    def now(self) -> Instant:
        """The present instant."""
        return Instant((self._anchor + time.monotonic_ns()) // 1000)

    def resync(self) -> int:
        """Take the wall clock's word again; by how many microseconds it had stepped or drifted."""
        anchor = time.time_ns() - time.monotonic_ns()
        stepped = (anchor - self._anchor) // 1000
        self._anchor = anchor
        return stepped
