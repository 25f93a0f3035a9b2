"""What a key may do: the gateway's answer to a request that the book does not allow, decided before anything is sent.

What a key has spent is what the last build knew: requests since then are not in it, so a key can pass its limit by what
it spends between two builds.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.routing import Target
from schemas.book import Book, Key
from schemas.records import Instant
from schemas.spend import Spend, month_of


@dataclass(frozen=True, slots=True)
class Refusal:
    """An OpenAI-shaped refusal."""

    status: int
    code: str
    words: str


class Permissions:
    """The key registry, looked up by fingerprint."""

    def __init__(self, book: Book) -> None:
        self.spend: Spend = {}
        self.renew(book)

    def renew(self, book: Book) -> None:
        """Take the registry of this book from now on."""
        self._book = book
        self._fingerprints = {key.fingerprint for key in book.keys}
        self._enforced = {key.fingerprint for key in book.keys if key.enforce}

    def ways(
        self, fingerprint: str | None, model: str | None, ways: tuple[Target, ...], at: Instant, *, bare: bool = False
    ) -> tuple[Target, ...] | Refusal:
        """The ways that are open to this credential, or why there are none. Keys without `enforce` are refused only where strangers are.

        `bare`: the request has no body, so it asks no model for anything (a list, a poll, a deletion).
        """
        if self._book.settings.unknown_keys != "refuse" and fingerprint not in self._enforced:
            return ways
        key = self._book.key(fingerprint, at) if fingerprint is not None else None
        if key is None:
            what = "has been revoked" if fingerprint in self._fingerprints else "is not registered here"
            return Refusal(401, "invalid_api_key", f"this API key {what}")
        if not key.enforce:
            return ways
        spent = self.spend.get((key.id, month_of(at, self._book.settings.timezone)))
        if key.monthly_limit is not None and spent is not None and spent >= key.monthly_limit:
            # not 429: an SDK would try again, and the month lasts longer than its patience
            return Refusal(402, "insufficient_quota", f"the key {key.label!r} has spent its limit of this month")
        return _allowed(key, model, ways, at, bare=bare)


def _allowed(key: Key, model: str | None, ways: tuple[Target, ...], at: Instant, *, bare: bool) -> tuple[Target, ...] | Refusal:
    if key.expires is not None and at >= key.expires:
        return Refusal(401, "expired_api_key", f"the key {key.label!r} has expired")
    if key.models is not None and model not in key.models and not (bare and model is None):
        asked = "a request whose body names no model" if model is None else f"the model {model!r}"
        return Refusal(403, "model_not_allowed", f"the key {key.label!r} may not use {asked}")
    if key.routes is not None:
        ways = tuple(way for way in ways if way.channel.route in key.routes)
        if not ways:
            return Refusal(403, "route_not_allowed", f"the key {key.label!r} may use no route that leads to {model!r}")
    return ways
