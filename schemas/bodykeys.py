"""Encrypted bodies: AES-256-GCM under a key for each subject, a file in secrets/bodies/. Where the key is destroyed, its bodies are erased.

A key is on the disk before the first body under it is written. All processes of a home agree on it: of several that make it at
once one succeeds. A destroyed key has a successor of another id, never itself again. A nonce is 96 random bits, good for 2^32
bodies of one key (NIST SP 800-38D, 8.3). What the record says of the body is authenticated with it: bytes that were put beside
another record, and facts that were changed, are found. Hashes and sizes in a record are those of the plain bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas import durable
from schemas.errors import LedgerError
from schemas.fingerprint import KEY_BYTES, BrokenKeyError
from schemas.home import Home
from schemas.records import Body

NONCE_BYTES = 12
KEPT_KEYS = 4096  # in memory
SUFFIX = ".key"
_BOUND = ("request_id", "ordinal", "content_type", "content_encoding", "size", "sha256", "subject", "key")


class NoKeyError(LedgerError):
    """The key of a body is not in this home."""


class AlteredBodyError(LedgerError):
    """What lies there is not what was encrypted for this record."""


@dataclass(frozen=True, slots=True)
class BodyKey:
    """One subject's key, with the id that its bodies name it by."""

    id: str
    subject: str
    cipher: AESGCM
    path: Path  # the file it was read from
    file: tuple[int, int]  # which file that was: inode and time of its making


class BodyKeys:
    """The keys of a home: by subject to encrypt, made at first use; by id to decrypt, as they lay there when first asked for."""

    def __init__(self, home: Home) -> None:
        self._folder = home.body_keys
        self._by_subject: dict[str, BodyKey] = {}
        self._by_id: dict[str, BodyKey] | None = None

    def knows(self, subject: str) -> bool:
        """Whether its key is at hand, without a wait for the disk."""
        return self._at_hand(subject) is not None

    def of(self, subject: str) -> BodyKey:
        """The key of a subject, made if there is none. Raises OSError and BrokenKeyError."""
        known = self._at_hand(subject)
        while known is None:
            path = self._path(subject)
            if not path.exists():
                durable.make_folder(self._folder)
                durable.create(path, orjson.dumps({"key": secrets.token_hex(KEY_BYTES), "subject": subject}) + b"\n")
            known = _read(path)  # destroyed this very moment: then the next one
        if len(self._by_subject) >= KEPT_KEYS:
            self._by_subject.clear()
        self._by_subject[subject] = known
        return known

    def encrypted(self, body: Body) -> Body:
        """The body as it is written. Raises OSError and BrokenKeyError."""
        assert body.subject is not None
        key = self.of(body.subject)
        named = msgspec.structs.replace(body, key=key.id)
        nonce = os.urandom(NONCE_BYTES)
        bound = _bound({name: getattr(named, name) for name in _BOUND})
        return msgspec.structs.replace(named, content=nonce + key.cipher.encrypt(nonce, body.content, bound))

    def content(self, row: Mapping[str, Any]) -> bytes:
        """The plain bytes of a recorded body, its fields by name. Raises NoKeyError and AlteredBodyError."""
        content: bytes = row["content"]
        if row.get("key") is None:
            return content
        key = self.by_id().get(row["key"])
        if key is None:
            raise NoKeyError(f"the key {row['key']} is not in {self._folder}", "restore it from a copy, if it was not destroyed on purpose")
        try:
            return key.cipher.decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], _bound(row))
        except (InvalidTag, ValueError):
            what = f"the body {row['request_id']}/{row['ordinal']} is not what was recorded there"
            raise AlteredBodyError(what, "restore its file from a copy") from None

    def by_id(self) -> Mapping[str, BodyKey]:
        """Every key of the home by its id; a file that holds none is a key that is missing, to whoever needs it."""
        if self._by_id is None:
            self._by_id = {}
            for path in sorted(self._folder.glob(f"[!.]*{SUFFIX}")):
                with contextlib.suppress(BrokenKeyError):
                    if (key := _read(path)) is not None:
                        self._by_id[key.id] = key
        return self._by_id

    def destroy(self, subject: str) -> None:
        """Remove the keys of a subject for good, those of other homes too."""
        for path in {self._path(subject), *(key.path for key in self.by_id().values() if key.subject == subject)}:
            self._remove(path)

    def remove(self, key: BodyKey) -> None:
        """Remove one key for good."""
        self._remove(key.path)

    def _remove(self, path: Path) -> None:
        for left in (path, *self._folder.glob(f".{path.name}.*")):  # these are what a crash left of its making
            left.unlink(missing_ok=True)
        if self._folder.is_dir():
            durable.sync(self._folder)
        self._by_id = None

    def _at_hand(self, subject: str) -> BodyKey | None:
        known = self._by_subject.get(subject)
        try:
            return known if known is not None and _stamp(self._path(subject).stat()) == known.file else None
        except FileNotFoundError:
            return None

    def _path(self, subject: str) -> Path:
        return self._folder / (hashlib.sha256(subject.encode()).hexdigest()[:32] + SUFFIX)


def _bound(fields: Mapping[str, Any]) -> bytes:
    return orjson.dumps([fields.get(name) for name in _BOUND])


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return (found.st_ino, found.st_mtime_ns)


def _read(path: Path) -> BodyKey | None:
    """The key in a file; none where there is no such file. Raises BrokenKeyError."""
    try:
        with path.open("rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            told = orjson.loads(file.read())
        key, subject = bytes.fromhex(told["key"]), str(told["subject"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        key, subject = b"", ""
    if len(key) != KEY_BYTES:
        raise BrokenKeyError(
            f"secrets/{path.parent.name}/{path.name} holds no key", "restore it from a copy: no other one opens its bodies"
        )
    return BodyKey(hashlib.sha256(b"tokenledger body key" + key).hexdigest()[:32], subject, AESGCM(key), path, stamp)
