"""How long upstream is still waited for once the client has left."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Patience:
    """Blocks of awaiting without a limit, until `wear_out` sets one: what then lasts longer in a block raises TimeoutError.

    What asyncio.timeout does; one of those would be made and entered for each block, and almost no request comes to have a limit.
    """

    __slots__ = ("_limit_s", "_over", "_task", "_timer", "_worn")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._worn = False
        self._over = False  # the limit has passed in this block
        self._task: asyncio.Task[object] | None = None  # that is in a block
        self._timer: asyncio.TimerHandle | None = None

    def wear_out(self) -> None:
        """From now on, no block lasts longer than the limit; one that has begun has all of it before it."""
        self._worn = True
        if self._task is not None:
            self._wind()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._worn:
            self._wind()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._over:
            self._over = False
            if task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:  # else somebody else has cancelled it, too
                raise TimeoutError from error

    def _wind(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._pass)

    def _pass(self) -> None:
        if self._task is not None:
            self._over = True
            self._task.cancel()
