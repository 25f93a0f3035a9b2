"""The parts whose older releases have known holes: what a door needs at least, checked before it opens."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from schemas.errors import UsageError


@dataclass(frozen=True, slots=True)
class Least:
    """A distribution, the first release that may stand behind a door, and what was wrong before it."""

    name: str
    version: str
    why: str


LEAST: tuple[Least, ...] = (
    Least("aiohttp", "3.14.4", "earlier releases relay what they should refuse"),
    Least("h2", "4.4.1", "CVE-2025-57804: a header with a line break became a second, unrecorded request"),
    Least("h11", "0.16.0", "CVE-2025-43859: lenient reading of chunked bodies"),
    Least("Brotli", "1.2.1", "CVE-2026-111497: written out of bounds while decoding"),
)
PYTHON = (3, 11, 18)


class OldPartError(UsageError):
    """A part that is too old to stand before a team's traffic."""


def installed() -> dict[str, str]:
    """The installed release of each part; a part that is not installed is left out."""
    found = {}
    for least in LEAST:
        try:
            found[least.name] = metadata.version(least.name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check(versions: Mapping[str, str]) -> None:
    """Raise OldPartError for the first part below its least release."""
    for least in LEAST:
        found = versions.get(least.name)
        if found is not None and _numbers(found) < _numbers(least.version):
            words = f"{least.name} {found} is installed, and {least.version} is the least: {least.why}"
            raise OldPartError(words, "install what the lock names: make setup")


def warnings(python: tuple[int, int, int] = sys.version_info[:3]) -> Iterator[str]:
    """What is said at the start and stops nothing: the interpreter is the machine's, not ours."""
    if python < PYTHON:
        yield f"Python {_text(python)} lacks fixes to ssl; {_text(PYTHON)} or later has them"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _text(python: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in python)
