"""Credentials are known by a keyed hash only: useless without this home's key, stable within it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

from schemas.home import Home

PREFIX = "fp_"


def fingerprint(key: bytes, credential: str) -> str:
    """`fp_` and 32 hex digits: the first 128 bits of HMAC-SHA256 over the bare credential (no `Bearer `)."""
    return PREFIX + hmac.new(key, credential.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:32]


def home_key(home: Home) -> bytes:
    """This home's fingerprint key (32 bytes), made with mode 0600 at first use."""
    path = home.fingerprint_key
    home.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return bytes.fromhex(path.read_text().strip())
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return bytes.fromhex(path.read_text().strip())
