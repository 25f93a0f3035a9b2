"""Keys of encrypted bodies between homes that share a raw store: whoever builds the ledger can read, and whoever erases reaches all.

A key lies in the store under its id, encrypted under a key that is made of the homes' common fingerprint key: the store alone opens
no body. A destroyed key leaves an empty object, so that no home can bring it back, and each removes its own copy when it next seals.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas import durable
from schemas.bodykeys import NONCE_BYTES, SUFFIX, BodyKeys
from schemas.errors import LedgerError
from schemas.fingerprint import home_key
from schemas.home import Home
from schemas.rawstore import RawStore

FOLDER = "keys"


class ForeignKeyError(LedgerError):
    """A key in the store that this home cannot open."""


def publish(home: Home, store: RawStore) -> None:
    """Put the home's keys that the store lacks, and remove those that were destroyed there. Raises RawStoreError."""
    keys = BodyKeys(home)
    if not keys.by_id():
        return
    there = store.sizes(FOLDER)
    for key in keys.by_id().values():
        size = there.get(f"{FOLDER}/{key.id}")
        if size is None:
            nonce = os.urandom(NONCE_BYTES)
            store.create(f"{FOLDER}/{key.id}", nonce + _common(home).encrypt(nonce, key.path.read_bytes(), key.id.encode()))
        elif size == 0:
            keys.remove(key)


def collect(home: Home, store: RawStore) -> None:
    """Bring the keys of other homes, after `publish`. Raises RawStoreError and ForeignKeyError."""
    known = BodyKeys(home).by_id()
    for name, size in store.sizes(FOLDER).items():
        key_id = name.removeprefix(f"{FOLDER}/")
        content = store.get(name) if size and key_id not in known else None
        if not content:
            continue
        try:
            told = _common(home).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], key_id.encode())
            orjson.loads(told)
        except (InvalidTag, ValueError):
            cure = "homes of one store share one secrets/fingerprint.key: copy it from the first"
            raise ForeignKeyError(f"{store.url}/{name} was not made by a home with this fingerprint key", cure) from None
        durable.make_folder(home.body_keys)
        durable.create(home.body_keys / f"{key_id}{SUFFIX}", told)


def destroy(store: RawStore, key_ids: Iterable[str]) -> None:
    """Leave nothing of these keys in the store. Raises RawStoreError."""
    for key_id in key_ids:
        store.replace(f"{FOLDER}/{key_id}", b"")


def _common(home: Home) -> AESGCM:
    return AESGCM(hmac.digest(home_key(home), b"tokenledger body keys", "sha256"))
