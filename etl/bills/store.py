"""book/bills/: each bill as it was received, with its hash and the mapping that reads it, so that the ledger can always be made again.

book/bills/<vendor>.toml                        how this vendor's bills are read, where that is not known (people write it)
book/bills/<vendor>/<period>/<account>/         one bill
    bill.json                                   what it is; written last, so that a bill is there whole or not at all
    <sha256, first 16>-<name>                   the file as received; those that a corrected one replaced stay beside it
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from etl.bills.lines import Bill, BillError
from etl.bills.mapping import Mapping, known, read_mapping
from etl.bills.read import Reading, read_bill
from etl.closed import bounds
from schemas.book import Book
from schemas.bookfile import Problem
from schemas.errors import LedgerError, UsageError
from schemas.home import Home

FOLDER = "bills"
FACTS = "bill.json"


class UnknownVendorError(UsageError):
    """No channel has this vendor, and no mapping names it."""


class BillBroken(LedgerError):
    """A stored bill that is not what was received, or that can no longer be read."""

    def __init__(self, subject: str, what: str) -> None:
        super().__init__(
            f"{subject}: {what}", "restore it from a copy, or import it again: tokenledger reconcile BILL --vendor V --period P"
        )
        self.subject = subject


@dataclass(frozen=True, slots=True)
class Vendor:
    """Who sends a bill, the channels it is for, and how it is read where the book says so."""

    name: str
    channels: tuple[str, ...]
    own: Mapping | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A bill that was just taken in."""

    bill: Bill
    folder: Path
    replaced: str | None  # the SHA-256 of the bill that it replaces, if it is not that one again


def slug(text: str) -> str:
    """A vendor's name as a folder has it; names that differ only in case and punctuation are one vendor here."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")[:60] or "vendor"


def _account_folder(account: str) -> str:
    """An account as a folder has it: where something had to be left out, a part of its hash tells it from the others."""
    plain = re.sub(r"[^a-z0-9]+", "-", account.casefold()).strip("-")[:60]
    return plain if plain == account else f"{plain or 'account'}-{hashlib.sha256(account.encode()).hexdigest()[:8]}"


def find_vendor(home: Home, book: Book, name: str) -> Vendor:
    """The vendor of that name, in any spelling: a channel's vendor, a channel, or a mapping in book/bills/. Raises UnknownVendorError."""
    asked = _plain(name)
    vendors = {channel.vendor for channel in book.channels}
    found = next((vendor for vendor in sorted(vendors) if _plain(vendor) == asked), None)
    named = next((channel for channel in book.channels if _plain(channel.name) == asked), None)
    if found is None and named is not None:
        found = named.vendor
    own = _own_mapping(home, [name, *([found] if found else [])])
    if found is None and own is not None:
        found = own.vendor or name
    if found is None:
        raise UnknownVendorError(
            f"no channel of channels.toml has the vendor {name!r}",
            f"{_nearest(asked, vendors)} (else write book/bills/{slug(name)}.toml with vendor and channels)",
        )
    channels = tuple(sorted(channel.name for channel in book.channels if channel.vendor == found))
    if own is not None and own.channels:
        unknown = sorted(set(own.channels) - {channel.name for channel in book.channels})
        if unknown:
            raise UnknownVendorError(f"book/bills/: no channel {', '.join(unknown)} in channels.toml", "name channels of channels.toml")
        channels = tuple(sorted(own.channels))
    if not channels:
        raise UnknownVendorError(f"no channel of channels.toml has the vendor {found!r}", 'write channels = ["..."] into its mapping')
    return Vendor(found, channels, own)


def _nearest(asked: str, vendors: Iterable[str]) -> str:
    spelled = {_plain(vendor): vendor for vendor in vendors}
    near = difflib.get_close_matches(asked, spelled, n=1)
    return f"did you mean '{spelled[near[0]]}'?" if near else f"use one of: {', '.join(sorted(spelled.values()))}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _own_mapping(home: Home, names: list[str]) -> Mapping | None:
    wanted = {_plain(name) for name in names}
    for path in sorted((home.book / FOLDER).glob("*.toml")):
        mapping = read_mapping(f"{home.book.name}/{FOLDER}/{path.name}", path.read_bytes(), path.stem)
        if _plain(path.stem) in wanted or (mapping.vendor is not None and _plain(mapping.vendor) in wanted):
            return mapping
    return None


def take(home: Home, book: Book, path: Path, vendor: Vendor, period: str, account: str | None) -> Stored:
    """Read a bill and keep it; what was there for the same vendor, month and account is replaced. Raises BillError; then nothing changed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BillError([Problem(str(path), 1, "file", None, f"cannot be read ({error.strerror})", "name a readable file")]) from None
    reading = read_bill(path.name, content, vendor.own, book.settings.currency, bounds(_zone_of(book, vendor), period))
    bill = _bill(
        reading, vendor.name, period, account or reading.account or "default", path.name, content, vendor.channels, _zone_of(book, vendor)
    )
    folder = home.book / FOLDER / slug(vendor.name) / period / _account_folder(bill.account)
    before = _facts(folder) if (folder / FACTS).exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _raw_name(bill.sha256, bill.file), content)
    own = vendor.own
    facts = {
        "vendor": bill.vendor,
        "period": period,
        "account": bill.account,
        "file": bill.file,
        "sha256": bill.sha256,
        "bytes": len(content),
        "mapping": reading.mapping.name,
        "own_mapping": own.name if own is not None else None,
        "channels": list(bill.channels),
        "lines": len(bill.lines),
        "replaces": before["sha256"] if before and before["sha256"] != bill.sha256 else before and before.get("replaces"),
    }
    _write(folder / FACTS, orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    replaced = before["sha256"] if before and before["sha256"] != bill.sha256 else None
    return Stored(bill, folder, replaced)


def _zone_of(book: Book, vendor: Vendor) -> str:
    """The vendor's zone: what its mapping says, else its first channel's, else UTC."""
    if vendor.own is not None and vendor.own.zone != "UTC":
        return vendor.own.zone
    return next((channel.timezone for channel in book.channels if channel.name in vendor.channels and channel.timezone), None) or "UTC"


def _bill(
    reading: Reading, vendor: str, period: str, account: str, file: str, content: bytes, channels: tuple[str, ...], zone: str
) -> Bill:
    return Bill(
        vendor=vendor,
        period=period,
        account=account,
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        mapping=reading.mapping.name,
        zone=zone,
        channels=channels,
        quantum=reading.quantum,
        counts_units=reading.mapping.unit != 1,
        lines=reading.lines,
    )


def _raw_name(sha256: str, file: str) -> str:
    return f"{sha256[:16]}-{re.sub(r'[^A-Za-z0-9._-]+', '_', file)[-80:]}"


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.part")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _facts(folder: Path) -> Map[str, Any]:
    try:
        facts = orjson.loads((folder / FACTS).read_bytes())
    except (OSError, ValueError) as error:
        raise BillBroken(str(folder.name), f"{FACTS} is unreadable ({error})") from None
    if not isinstance(facts, dict) or not {"vendor", "period", "account", "file", "sha256", "mapping", "channels"} <= facts.keys():
        raise BillBroken(str(folder.name), f"{FACTS} does not say what the bill is")
    return facts


def stored(home: Home, book: Book) -> Iterator[Bill | BillBroken]:
    """Every bill that is kept, in the order of its folder; one that is not what was received comes as the reason."""
    root = home.book / FOLDER
    for path in sorted(root.glob(f"*/*/*/{FACTS}")):
        subject = str(path.parent.relative_to(home.book))
        try:
            yield _stored(home, book, path.parent, subject)
        except BillBroken as error:
            yield BillBroken(subject, error.what)
        except LedgerError as error:
            yield BillBroken(subject, error.what)


def _stored(home: Home, book: Book, folder: Path, subject: str) -> Bill:
    facts = _facts(folder)
    try:
        content = (folder / _raw_name(facts["sha256"], facts["file"])).read_bytes()
    except OSError as error:
        raise BillBroken(subject, f"the file as received is missing ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise BillBroken(subject, "is not what was received (SHA-256 differs)")
    own = _own_mapping(home, [facts["own_mapping"] or facts["vendor"], facts["vendor"]])
    vendor = Vendor(facts["vendor"], tuple(facts["channels"]), own if own is not None else known().get(facts["mapping"]))
    zone = _zone_of(book, vendor)
    reading = read_bill(facts["file"], content, vendor.own, book.settings.currency, bounds(zone, facts["period"]))
    return _bill(reading, facts["vendor"], facts["period"], facts["account"], facts["file"], content, vendor.channels, zone)
