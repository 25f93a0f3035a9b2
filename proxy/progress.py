"""Clients that begin a request must get on with it: whoever sends a byte now and then to hold a connection loses it.

Only what a client sends is timed. An upstream may think for as long as its channel's `timeout_s` allows.
"""

from __future__ import annotations

TICK_S = 20.0
BODY_BYTES = 16 << 10  # that much of a body in each tick, or its end
Part = tuple[str, int]  # what is under way: the head or the body, of which request


class Progress:
    """Looked at once a tick: the same head twice, or a body that has hardly grown, is a client that does not get on."""

    def __init__(self) -> None:
        self._bytes = 0
        self._last: Part | None = None

    def received(self, size: int) -> None:
        """So many bytes have come."""
        self._bytes += size

    def stalled(self, pending: Part | None) -> bool:
        """Whether what was pending at the last tick is still, and too little of it has come since. A new body has a tick for itself."""
        same = pending is not None and pending == self._last
        slow = pending is not None and (pending[0] == "head" or self._bytes < BODY_BYTES)
        self._last, self._bytes = pending, 0
        return same and slow
