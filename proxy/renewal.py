"""The key registry and the keys' spending, read again while the proxy runs, when their files have changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.desk import Desk
from proxy.permissions import Permissions
from proxy.subjects import Subjects
from schemas.book import load_book
from schemas.errors import LedgerError
from schemas.home import Home
from schemas.spend import read

KEYS_FILE = "keys.toml"
Stamp = tuple[int, int, int] | None


def _stamp(path: Path) -> Stamp:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


class Renewal:
    """Keeps permissions and subjects as the files have them. A book or a file that cannot be read changes nothing."""

    def __init__(self, home: Home, permissions: Permissions, subjects: Subjects, desk: Desk) -> None:
        self._home = home
        self._permissions = permissions
        self._subjects = subjects
        self._desk = desk
        self._keys = _stamp(home.book / KEYS_FILE)
        self._spend: Stamp = None

    async def check(self) -> None:
        """Look at both files, and read what has changed; each reading, or why there was none, is recorded once."""
        keys, spend = _stamp(self._home.book / KEYS_FILE), _stamp(self._home.spend_file)
        if keys != self._keys:
            self._keys = keys
            try:
                book = await asyncio.to_thread(load_book, self._home.book)
            except LedgerError as error:
                self._desk.record([self._desk.event("keys_not_read", error=error.what)])
            else:
                self._permissions.renew(book)
                self._subjects.renew(book)
                self._desk.record([self._desk.event("keys_read", book=book.digest)])
        if spend != self._spend:
            self._spend = spend
            try:
                self._permissions.spend = read(self._home.spend_file)
            except LedgerError as error:
                self._desk.record([self._desk.event("spend_not_read", error=error.what)])
