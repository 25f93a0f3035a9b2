"""The seal of a closed month: what went in, what came out, and a signature; each seal names the one before it.

`seal.json` holds SHA-256 hashes of the inputs (the manifest's chain, the files read, the book), of every output, of the
previous seal, and the root of a Merkle tree over the month's receipt digests. Its own hash is SHA-256 over its JSON with
sorted keys and no spaces, without `hash` and `signature`; the signature is Ed25519 over that hash in hexadecimal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from schemas import durable
from schemas.errors import LedgerError
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.manifest import GENESIS

VERSION = 1
SEAL_FILE = "seal.json"
ASIDE = "seal-[0-9]*"  # what reopenings put aside: seals as seal-<n>.json, damaged ones as seal-<n>.damaged, one count over both
DAMAGED = ".damaged"
KEY_FILE = "seal.key"
TABLES_FOLDER = "tables"
MONTHS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]"
REOPENED = "month_reopened"  # the event that records who opens a closed month, named by its seal, and why


class SealBroken(LedgerError):
    """A seal, or something that it covers, is not what was sealed."""

    def __init__(self, period: str, subject: str, what: str) -> None:
        super().__init__(
            f"{subject}: {what}",
            f"restore it from a copy, or reopen the month: tokenledger ledger --reopen {period} --by WHO --reason TEXT",
        )
        self.subject = subject


class SealKeyError(LedgerError):
    """The file of the signing key holds none."""


@dataclass(frozen=True, slots=True)
class MonthSeal:
    """One closed month. Paths are relative: of inputs to raw/, of outputs to the month's folder."""

    version: int
    number: int
    period: str
    starts_at: str
    ends_at: str
    timezone: str
    currency: str
    as_of: str  # the clock it was closed by
    previous: str
    supersedes: str | None  # the hash of the seal that a reopening put aside
    manifest: dict[str, Any]  # lines read, and the hash of the last
    positions: dict[str, int]  # how far each journal was read
    files: dict[str, str]
    book: dict[str, Any]  # digest, and the hash of each file
    outputs: dict[str, dict[str, Any]]  # bytes and sha256
    receipts: dict[str, Any]  # count, and the root of their Merkle tree
    public_key: str
    hash: str = ""
    signature: str = ""

    def digest(self) -> str:
        """What `hash` must be."""
        facts = asdict(self)
        del facts["hash"], facts["signature"]
        return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def signed(self, key: Ed25519PrivateKey) -> MonthSeal:
        """This seal with its public key, hash and signature filled in."""
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        named = replace(self, public_key=public)
        digest = named.digest()
        return replace(named, hash=digest, signature=key.sign(digest.encode()).hex())

    def is_signed(self) -> bool:
        """Whether the signature is that of the public key over the hash."""
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key)).verify(bytes.fromhex(self.signature), self.hash.encode())
        except (InvalidSignature, ValueError):
            return False
        return True

    def as_bytes(self) -> bytes:
        """The file."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)

    @property
    def end(self) -> int:
        """The first instant after the month, in microseconds."""
        return parse_instant(self.ends_at)


def folder(home: Home, period: str) -> Path:
    """Where a month's outputs and its seal lie."""
    return home.ledger / period


def load(path: Path) -> MonthSeal:
    """One seal, its hash, signature and place checked; raises SealBroken."""
    period = path.parent.name
    subject = f"ledger/{period}/{path.name}"
    content = path.read_bytes()
    try:
        seal = MonthSeal(**orjson.loads(content))
        seal.end  # noqa: B018  raises where it is no instant
    except (ValueError, TypeError, LedgerError) as error:
        raise SealBroken(period, subject, f"is unreadable ({error})") from None
    if seal.as_bytes() != content or seal.digest() != seal.hash:
        raise SealBroken(period, subject, "its hash does not cover what it says")
    if not seal.is_signed():
        raise SealBroken(period, subject, "its signature does not hold")
    if seal.period != period:  # whichever month it should lie in: what opens the earlier one opens the later one too
        raise SealBroken(min(seal.period, period), subject, f"is that of {seal.period}, and lies in another month's folder")
    return seal


def whole(paths: Iterable[Path]) -> dict[Path, MonthSeal]:
    """Of these files the seals, less those that are damaged."""
    found = {}
    for path in paths:
        with suppress(SealBroken):
            found[path] = load(path)
    return found


def read_seals(home: Home, before: str | None = None) -> tuple[MonthSeal, ...]:
    """The seals of all closed months in order, or of those before one, each checked and chained to the one before; raises SealBroken.

    A chain does not tell that its last links are gone: etl.carried.check_none_lost does.
    """
    paths = sorted(home.ledger.glob(f"{MONTHS}/{SEAL_FILE}"))
    found = tuple(load(path) for path in paths if before is None or path.parent.name < before)
    previous = GENESIS
    for number, seal in enumerate(found, 1):
        if seal.number != number or seal.previous != previous:
            raise SealBroken(seal.period, f"ledger/{seal.period}/{SEAL_FILE}", "does not follow the seal before it")
        previous = seal.hash
    return found


def aside(home: Home, period: str) -> list[Path]:
    """What reopenings put aside of a month, oldest first: no close removes it, and no seal covers it."""
    return sorted(folder(home, period).glob(ASIDE), key=_number)


def superseded(home: Home, period: str) -> list[Path]:
    """The seals among what reopenings put aside, oldest first."""
    return [path for path in aside(home, period) if path.suffix == ".json"]


def every_seal(home: Home) -> list[Path]:
    """The files of all seals, those that reopenings put aside too."""
    return sorted(path for path in home.ledger.glob(f"{MONTHS}/seal*.json") if path.name == SEAL_FILE or path.match(ASIDE))


def put_aside(home: Home, period: str) -> None:
    """Move a month's seal out of the way, and what is damaged of those before it, each under a name that nothing has."""
    for path in superseded(home, period):
        if not whole([path]):
            os.replace(path, path.with_suffix(DAMAGED))
    path = folder(home, period) / SEAL_FILE
    if path.exists():
        number = 1 + max(map(_number, aside(home, period)), default=0)
        os.replace(path, path.with_name(f"seal-{number}").with_suffix(path.suffix if whole([path]) else DAMAGED))
    if path.parent.exists():
        durable.sync(path.parent)


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem))


def check_outputs(home: Home, seal: MonthSeal, below: str = "") -> int:
    """Hash every output of a closed month, or those below a folder of it; how many. Raises SealBroken at the first that differs."""
    count = 0
    for name, facts in sorted(seal.outputs.items()):
        if name.startswith(below):
            path = folder(home, seal.period) / name
            if not path.is_file():
                raise SealBroken(seal.period, f"ledger/{seal.period}/{name}", "is missing")
            if sha256_of(path) != facts["sha256"]:
                raise SealBroken(seal.period, f"ledger/{seal.period}/{name}", "is not what was sealed (SHA-256 differs)")
            count += 1
    return count


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(home: Home) -> Ed25519PrivateKey:
    """The key that signs this home's seals; made at the first close, readable by its owner alone. Raises SealKeyError."""
    path = home.secrets / KEY_FILE
    if path.exists():
        try:
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_bytes().decode().strip()))
        except ValueError:
            raise SealKeyError(f"{path} is not the signing key that was written there", "restore it from a copy") from None
    durable.make_folder(home.secrets)
    key = Ed25519PrivateKey.generate()
    durable.replace(path, (key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()).hex() + "\n").encode())
    return key


def public_key_of(home: Home) -> str | None:
    """The public half of this home's key, null where the key does not lie here."""
    if not (home.secrets / KEY_FILE).exists():
        return None
    return key_of(home).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
