"""Changes to keys.toml: a row is added or ended, never rewritten, and only if the whole book stands afterwards."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from schemas.book import Book, book_of, read_files
from schemas.bookfile import TomlFile, decode, read_toml
from schemas.errors import UsageError
from schemas.instants import write_instant
from schemas.money import plain
from schemas.registry import Key

_ORDER = (
    "id",
    "label",
    "fingerprint",
    "user",
    "project",
    "wallet",
    "models",
    "routes",
    "expires",
    "monthly_limit",
    "enforce",
    "trusted",
    "valid_from",
    "valid_to",
)
_INSTANTS = frozenset({"expires", "valid_from", "valid_to"})


class KeyExistsError(UsageError):
    """The id or the credential is registered already."""


class NoSuchKeyError(UsageError):
    """No row that is in force has this id."""


def append_key(path: Path, key: Key) -> Book:
    """Register a new key in keys.toml and return the book as it then is.

    Raises KeyExistsError for an id or credential that is registered, BookError when the book would not stand.
    """

    def change(text: str, toml: TomlFile, book: Book) -> str:
        for row in book.keys:
            if row.id == key.id:
                where = f"line {_line(toml, row.id)}"
                raise KeyExistsError(
                    f"the key {key.id} is registered already ({where})", f"use another id, or `tokenledger key rotate --id {key.id}`"
                )
            if row.fingerprint == key.fingerprint and row.valid_to is None:
                where = f"line {_line(toml, row.id)}"
                raise KeyExistsError(
                    f"this credential is registered already as {row.id} ({where})", f"revoke {row.id} first, or register another one"
                )
        return _with_row(text, key)

    return _rewrite(path, change)


def rotate_key(path: Path, key_id: str, fingerprint: str, at: int) -> Book:
    """Give an id a new credential from an instant on: a new row with all else the same. The old row ends there.

    Raises NoSuchKeyError for an id without a row in force, BookError when the book would not stand.
    """

    def change(text: str, _: TomlFile, book: Book) -> str:
        old = _open_row(book, key_id)
        if old.fingerprint == fingerprint:
            raise KeyExistsError(f"{key_id} has this credential already", "give the new credential on stdin")
        return _with_row(text, old.model_copy(update={"fingerprint": fingerprint, "valid_from": at, "valid_to": None}))

    return _rewrite(path, change)


def revoke_key(path: Path, key_id: str, at: int) -> Book:
    """End an id's row at an instant, by one `to` line in it.

    Raises NoSuchKeyError for an id without a row in force, BookError when the book would not stand.
    """

    def change(text: str, toml: TomlFile, book: Book) -> str:
        number = book.keys.index(_open_row(book, key_id))
        header = toml.lines.get(("key", number))
        if header is None:
            raise NoSuchKeyError(f"the row of {key_id} is not a [[key]] table of its own", "write its `to` by hand")
        lines = text.split("\n")
        lines.insert(header, f"to = {write_instant(at)}")
        return "\n".join(lines)

    return _rewrite(path, change)


def _open_row(book: Book, key_id: str) -> Key:
    found = next((row for row in book.keys if row.id == key_id and row.valid_to is None), None)
    if found is None:
        raise NoSuchKeyError(f"no row of {key_id} is in force without an end", "see `tokenledger key list`")
    return found


def _line(toml: TomlFile, key_id: str) -> int:
    numbers = (n for n, row in enumerate(toml.data["key"]) if row.get("id") == key_id)
    return toml.line(("key", next(numbers)))


def _with_row(text: str, key: Key) -> str:
    fields = ((name, getattr(key, name)) for name in _ORDER)
    # An absent flag is false, an absent field is unknown or "any".
    lines = [f"{Key.model_fields[name].alias or name} = {_toml(name, value)}" for name, value in fields if value not in (None, False)]
    return "\n".join([text.rstrip("\n"), "", "[[key]]", *lines, ""]).lstrip("\n")


def _toml(name: str, value: Any) -> str:
    if name in _INSTANTS:
        return write_instant(value)
    if isinstance(value, Decimal):
        return '"' + plain(value).rstrip("0").rstrip(".") + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(name, item) for item in value)}]"
    # What JSON writes for a string or a flag is valid TOML.
    return json.dumps(value, ensure_ascii=False)


def _rewrite(path: Path, change: Callable[[str, TomlFile, Book], str]) -> Book:
    """Replace keys.toml whole, at once and durably, if the book stands with the changed text."""
    folder = path.parent
    with _locked(folder):
        files = read_files(folder)
        content = files.get(path.name, b"")
        before = book_of(folder.name, files)
        file = f"{folder.name}/{path.name}"
        new = change(decode(file, content), read_toml(file, content), before).encode()
        after = book_of(folder.name, {**files, path.name: new})
        _replace(path, new)
    return after


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if not folder.is_dir():
        read_files(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
