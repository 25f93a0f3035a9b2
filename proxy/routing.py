"""Which channel next: pure decisions from the book's rules and what has happened so far."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from schemas.book import Book, Channel

Failure = int | Literal["connect", "timeout"]

# An SDK waits 0.5 s before its first retry and at most 8 s; a gateway in front of it should be quicker than that.
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 4.0
# A vendor that asks for more patience than this is better answered by the next channel, or by the client.
MAX_RETRY_AFTER_S = 20.0


class Target(msgspec.Struct, frozen=True):
    """One channel of a route and the model id it is sent."""

    channel: Channel
    role: str  # primary | backup
    sent_model: str | None


class Next(msgspec.Struct, frozen=True):
    """The next try: where, why, and after how long."""

    target: Target
    reason: str  # first | retry | fallback
    delay_s: float


class NoRouteError(Exception):
    """No channel takes this model, and none is the default."""


class Plans:
    """The routes of a book, looked up by the model id that a client sends."""

    def __init__(self, book: Book) -> None:
        channels = {channel.name: channel for channel in book.channels}
        self._default = book.default_channel
        self._by_model = {
            model.api: tuple(
                Target(channels[way.name], "backup" if place else "primary", way.upstream) for place, way in enumerate(model.channel)
            )
            for model in book.models
        }

    def of(self, api_model: str | None) -> tuple[Target, ...]:
        """The ways to a model in order: its own list, else the default channel, unchanged. Raises NoRouteError."""
        ways = self._by_model.get(api_model) if api_model is not None else None
        if ways is not None:
            return ways
        if self._default is None:
            raise NoRouteError(api_model)
        return (Target(self._default, "primary", api_model),)


class Route:
    """Where one request stands on its way through a plan."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._place = 0
        self._tries = 0

    def first(self) -> Next:
        """The first try."""
        self._tries = 1
        return Next(self._targets[0], "first", 0.0)

    def after(self, failure: Failure, headers: Mapping[str, str], now_s: float) -> Next | None:
        """The next try after a failure before any byte went to the client; None: this failure is the answer.

        The same channel again while its rules and its own words (x-should-retry, Retry-After) allow it, else the next.
        """
        target = self._targets[self._place]
        channel = target.channel
        wait_s = retry_after_s(headers, now_s)
        may_retry = failure in channel.retry_on and headers.get("x-should-retry") != "false"
        if may_retry and self._tries <= channel.max_retries and (wait_s is None or wait_s <= MAX_RETRY_AFTER_S):
            backoff_s = min(FIRST_DELAY_S * 2.0 ** (self._tries - 1), MAX_DELAY_S)
            self._tries += 1
            return Next(target, "retry", backoff_s if wait_s is None else wait_s)
        if failure in channel.fallback_on and self._place + 1 < len(self._targets):
            self._place += 1
            self._tries = 1
            return Next(self._targets[self._place], "fallback", 0.0)
        return None


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """How long the vendor asks to wait, in seconds: retry-after-ms first, as the SDKs do; None if it does not say.

    `headers` has lower-case names; Retry-After is seconds or an HTTP date (RFC 9110 10.2.3).
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < 1e9:
            return seconds
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    try:
        return max(0.0, email.utils.mktime_tz(date) - now_s) if date else None
    except (ValueError, OverflowError):  # a year that no calendar has
        return None
