"""Whose message a body is, decided when it is recorded: under this subject's key it is encrypted, and under this name it can be erased.

`user:NAME` is whom the key registry names for the credential, else whom the header x-ledger-user names (of a key that is
trusted, the header first); else `key:FINGERPRINT`, the credential; without one, `unknown`. All that is unknown is one subject.
"""

from __future__ import annotations

import orjson

from proxy.exchange import UNKNOWN
from schemas.book import Book, Key
from schemas.records import Request

HEADER = "x-ledger-user"


class Subjects:
    """The key registry, as it says whose a credential is."""

    def __init__(self, book: Book) -> None:
        self.renew(book)

    def renew(self, book: Book) -> None:
        """Take the registry of this book from now on."""
        self._book = book
        self._fingerprints = {key.fingerprint for key in book.keys}

    def of(self, request: Request) -> str:
        """The subject of a request and of every reply to it."""
        registered = self._book.key(request.credential, request.received_at) if request.credential in self._fingerprints else None
        user = _user(registered, orjson.loads(request.headers).get(HEADER) if HEADER in request.headers else None)
        if user:
            return f"user:{user}"
        return f"key:{request.credential}" if request.credential else UNKNOWN


def _user(registered: Key | None, claimed: str | None) -> str | None:
    if registered is None:
        return claimed
    return (claimed or registered.user) if registered.trusted else (registered.user or claimed)
