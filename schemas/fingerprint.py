"""Credentials are known by a keyed hash only: useless without this home's key, stable within it."""

from __future__ import annotations

import hmac
import secrets
from functools import lru_cache

from schemas import durable
from schemas.errors import LedgerError
from schemas.home import Home

PREFIX = "fp_"
KEY_BYTES = 32


class BrokenKeyError(LedgerError):
    """A key file that holds no key."""


def fingerprint(key: bytes, credential: str) -> str:
    """`fp_` and 32 hex digits: the first 128 bits of HMAC-SHA256 over the bare credential (no `Bearer `)."""
    keyed = _keyed(key).copy()
    keyed.update(credential.encode("utf-8", "surrogateescape"))
    return PREFIX + keyed.hexdigest()[:32]


@lru_cache(maxsize=4)
def _keyed(key: bytes) -> hmac.HMAC:
    """The start of every fingerprint under a key: making it anew took a tenth of what a request costs at the gateway."""
    return hmac.new(key, digestmod="sha256")


def home_key(home: Home) -> bytes:
    """This home's fingerprint key (32 bytes), made with mode 0600 at first use, whole or not at all. Raises BrokenKeyError."""
    path = home.fingerprint_key
    durable.make_folder(home.secrets)
    if not path.exists():
        durable.create(path, f"{secrets.token_hex(KEY_BYTES)}\n".encode())
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise BrokenKeyError(
            f"{path} is not a key of {KEY_BYTES} bytes in hexadecimal", "restore it from a copy: no other key knows the same callers"
        )
    return key
