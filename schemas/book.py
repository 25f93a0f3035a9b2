"""The book: what people wrote in the home's book/ folder, read once, checked whole, and frozen."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from schemas.bookfile import BookError, Problem, TomlFile, read_toml
from schemas.booktables import book_tables
from schemas.dated import Row
from schemas.fx import Fx, fx_of, too_large
from schemas.hosts import split_host
from schemas.policies import Policy, policies_of
from schemas.rates import Rate, rates_of
from schemas.registry import (
    Channel,
    Key,
    Model,
    ModelChannel,
    Rounding,
    Settings,
    channel_names,
    channels_of,
    keys_of,
    models_of,
    settings_of,
)
from schemas.terms import Term, inexact, terms_of

__all__ = [
    "Book",
    "BookError",
    "Channel",
    "Fx",
    "Key",
    "Model",
    "ModelChannel",
    "Policy",
    "Problem",
    "Rate",
    "Rounding",
    "Settings",
    "Term",
    "book_of",
    "load_book",
    "read_files",
]

# Each file, and what to do where it must exist and does not.
FILES: dict[str, str | None] = {
    "book.toml": 'write at least currency = "USD" and timezone = "UTC"',
    "channels.toml": "write one [[channel]] for each upstream",
    "models.toml": None,
    "keys.toml": None,
    "fx.csv": None,
    "rates.csv": "write its header, and one row for each price",
    "terms.csv": None,
    "failed_requests.csv": "write its header, and one row for each outcome",
}


@dataclass(frozen=True, slots=True)
class Book:
    """Everything a book folder says, checked and cross-checked."""

    settings: Settings
    channels: tuple[Channel, ...]
    models: tuple[Model, ...]
    keys: tuple[Key, ...]
    rates: tuple[Rate, ...]
    terms: tuple[Term, ...]
    fx: tuple[Fx, ...]
    policies: tuple[Policy, ...]
    digest: str  # SHA-256 over the names and bytes of its files

    def channel(self, name: str) -> Channel | None:
        """The channel of this name."""
        return next((channel for channel in self.channels if channel.name == name), None)

    @property
    def tls_hosts(self) -> tuple[str, ...]:
        """The hosts of all channels that are reached over TLS, without ports."""
        channels = [channel for channel in self.channels if channel.base_url.startswith("https:")]
        bases = (str(urlsplit(channel.base_url).hostname) for channel in channels)
        more = (split_host(host)[0] for channel in channels for host in channel.hosts)
        return tuple(dict.fromkeys([*bases, *more]))

    @property
    def currencies(self) -> tuple[str, ...]:
        """The currency of the book, then those that fx.csv converts into it."""
        return (self.settings.currency, *sorted({row.currency for row in self.fx}))

    @property
    def default_channel(self) -> Channel | None:
        """Where models that are not listed go."""
        return next((channel for channel in self.channels if channel.default), None)

    def model(self, api: str) -> Model | None:
        """The model that clients ask for by this id."""
        return next((model for model in self.models if model.api == api), None)

    def key(self, fingerprint: str, at: int) -> Key | None:
        """What was registered of a credential at an instant (microseconds)."""
        rows = (key for key in self.keys if key.fingerprint == fingerprint)
        return next((key for key in rows if (key.valid_from or 0) <= at and (key.valid_to is None or at < key.valid_to)), None)

    def tables(self) -> dict[str, pa.Table]:
        """The book as the ETL's source tables, in file order; see schemas/booktables.py."""
        return book_tables(self.channels, self.models, self.keys, self.rates, self.terms, self.fx, self.policies)


def load_book(folder: Path) -> Book:
    """Read and check a book folder; raises BookError with everything that is wrong."""
    return book_of(folder.name, read_files(folder))


def read_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the book's files, those that exist; raises BookError where one cannot be read."""
    if not folder.is_dir():
        above, here = shlex.quote(str(folder.parent)), shlex.quote(str(folder))
        cure = f"copy the example: mkdir -p {above} && cp -r data/book {here}"
        raise BookError([Problem(str(folder), 1, "folder", None, "there is no book here", cure)])
    files = {}
    for name in FILES:
        try:
            files[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BookError(
                [Problem(f"{folder.name}/{name}", 1, "file", None, f"cannot be read ({error.strerror})", "make it a readable file")]
            ) from None
    return files


def book_of(folder: str, files: Mapping[str, bytes]) -> Book:
    """Check the book's files, given as bytes by name; raises BookError with everything that is wrong."""
    problems = [
        Problem(f"{folder}/{name}", 1, "file", None, "is missing", cure) for name, cure in FILES.items() if cure and name not in files
    ]
    tomls = {name: _toml(f"{folder}/{name}", files[name], problems) for name in FILES if name.endswith(".toml") and name in files}
    none = TomlFile("", {}, {})

    settings = settings_of(tomls.get("book.toml") or none, problems)
    source = tomls.get("channels.toml")
    channels = channels_of(source, problems) if source else ()
    names = channel_names(source) if source else frozenset()
    models = models_of(tomls.get("models.toml") or none, names, problems)
    keys = keys_of(tomls.get("keys.toml") or none, problems)
    at = {name: f"{folder}/{name}" for name in FILES}
    fx = _csv(at["fx.csv"], files.get("fx.csv"), problems, lambda file, text: fx_of(file, text, settings.currency, problems))
    currencies = (settings.currency, *sorted({row.currency for row in fx}))
    rates = _csv(at["rates.csv"], files.get("rates.csv"), problems, lambda file, text: rates_of(file, text, names, currencies, problems))
    terms = _csv(at["terms.csv"], files.get("terms.csv"), problems, lambda file, text: terms_of(file, text, names, problems))
    policies = _csv(
        at["failed_requests.csv"],
        files.get("failed_requests.csv"),
        problems,
        lambda file, text: policies_of(file, text, names, problems),
    )
    problems.extend(inexact(at["terms.csv"], terms, at["rates.csv"], rates))
    largest = max((term.value for term in terms if term.term == "multiplier"), default=Decimal(1))
    problems.extend(too_large(at["fx.csv"], fx, at["rates.csv"], rates, max(largest, Decimal(1))))
    if problems:
        raise BookError(problems)
    return Book(settings, channels, models, keys, rates, terms, fx, policies, digest_of(files))


def _csv(file: str, content: bytes | None, problems: list[Problem], read: Callable[[str, bytes], tuple[Row, ...]]) -> tuple[Row, ...]:
    """The rows of one file; none where it is not there or cannot be read, which is then a problem."""
    if content is None:
        return ()
    try:
        return read(file, content)
    except BookError as error:
        problems.extend(error.problems)
        return ()


def _toml(file: str, content: bytes, problems: list[Problem]) -> TomlFile | None:
    try:
        return read_toml(file, content)
    except BookError as error:
        problems.extend(error.problems)
        return None


def digest_of(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the files in name order: each name and length, then its bytes."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()
