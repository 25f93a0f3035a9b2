"""The book: what people wrote in the home's book/ folder, read once, checked whole, and frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from schemas.bookfile import BookError, Problem, TomlFile, read_toml
from schemas.booktables import book_tables
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

__all__ = [
    "Book",
    "BookError",
    "Channel",
    "Key",
    "Model",
    "ModelChannel",
    "Policy",
    "Problem",
    "Rate",
    "Rounding",
    "Settings",
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
    "rates.csv": "write its header, and one row for each price",
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
    policies: tuple[Policy, ...]
    digest: str  # SHA-256 over the names and bytes of its files

    def channel(self, name: str) -> Channel | None:
        """The channel of this name."""
        return next((channel for channel in self.channels if channel.name == name), None)

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
        return book_tables(self.channels, self.models, self.keys, self.rates, self.policies)


def load_book(folder: Path) -> Book:
    """Read and check a book folder; raises BookError with everything that is wrong."""
    return book_of(folder.name, read_files(folder))


def read_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the book's files, those that exist; raises BookError where one cannot be read."""
    if not folder.is_dir():
        raise BookError(
            [Problem(str(folder), 1, "folder", None, "there is no book here", "copy the example: cp -r data/book " + str(folder))]
        )
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
    rates: tuple[Rate, ...] = ()
    policies: tuple[Policy, ...] = ()
    try:
        if "rates.csv" in files:
            rates = rates_of(f"{folder}/rates.csv", files["rates.csv"], names, settings.currency, problems)
    except BookError as error:
        problems.extend(error.problems)
    try:
        if "failed_requests.csv" in files:
            policies = policies_of(f"{folder}/failed_requests.csv", files["failed_requests.csv"], names, problems)
    except BookError as error:
        problems.extend(error.problems)
    if problems:
        raise BookError(problems)
    return Book(settings, channels, models, keys, rates, policies, digest_of(files))


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
