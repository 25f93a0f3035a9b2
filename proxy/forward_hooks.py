"""How mitmproxy's hooks reach their handlers: looked up once by name, and called.

mitmproxy asks every addon at every hook, twice where a flow is concerned, writes on every task whose it is, and checks the types
of its own messages: a fifth of what a request took of the processor at the forward door, for the eyes of nobody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from inspect import isawaitable
from types import SimpleNamespace
from typing import Any

import mitmproxy.proxy.server as mitm_server
from mitmproxy.http import MessageData
from mitmproxy.proxy.commands import StartHook
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler

_log = logging.getLogger(__name__)
Handler = Callable[[Any], Awaitable[None] | None]


def call_straight(addons: Sequence[object]) -> None:
    """Take the place of mitmproxy's way to a door's addons, in their order. One that fails is told of, and the others are still asked."""
    known: dict[str, tuple[str, list[Handler]]] = {}  # by a hook's name: the name of what it tells, and whom

    async def handle_hook(_: ProxyConnectionHandler, hook: StartHook) -> None:
        if hook.name not in known:
            (field,) = dataclasses.fields(hook)  # type: ignore[arg-type]  # each is a dataclass of one
            found = (getattr(addon, hook.name, None) for addon in addons)
            known[hook.name] = field.name, [handler for handler in found if handler is not None]
        argument, handlers = known[hook.name]
        for handler in handlers:
            try:
                answer = handler(getattr(hook, argument))
                if answer is not None and isawaitable(answer):
                    await answer
            except Exception:  # noqa: BLE001 - whatever it is, the other handlers are asked, and the connection goes on
                _log.exception("the hook %s failed", hook.name)

    ProxyConnectionHandler.handle_hook = handle_hook  # type: ignore[method-assign, assignment]
    mitm_server.asyncio_utils = SimpleNamespace(create_task=_create_task, set_current_task_debug_info=_say_nothing)  # type: ignore[assignment, attr-defined]
    MessageData.__post_init__ = _unchecked  # type: ignore[method-assign]


def _create_task(coro: Coroutine[Any, Any, None], **_: object) -> asyncio.Task[None]:
    return asyncio.create_task(coro)


def _say_nothing(**_: object) -> None:
    pass


def _unchecked(_: MessageData) -> None:
    """A check of mitmproxy's own types, which it leaves out under `python -O`."""
