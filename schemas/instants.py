"""Instants are whole microseconds since 1970 in UTC; people write and read them as ISO 8601 with an offset."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from schemas.errors import UsageError
from schemas.records import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Six decimals and 59 minutes at most: datetime.fromisoformat would cut a seventh decimal and carry a 60th minute in silence.
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:[0-5]\d)")
CURE = "write an ISO 8601 instant with its offset, for example 2026-11-01T00:00:00Z"


class InstantError(UsageError):
    """A text that is not one certain instant."""


def from_datetime(moment: datetime) -> Instant:
    """The instant of an aware datetime; raises InstantError for one without an offset."""
    if moment.tzinfo is None:
        raise InstantError("the time has no offset from UTC", CURE)
    return Instant((moment - _EPOCH) // _MICROSECOND)


def parse_instant(text: str) -> Instant:
    """The instant that `text` writes; raises InstantError for anything but ISO 8601 with an offset."""
    if not _ISO.fullmatch(text):
        raise InstantError("not an ISO 8601 instant with an offset", CURE)
    try:
        return from_datetime(datetime.fromisoformat(text).astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise InstantError(f"no such instant ({error})", CURE) from None


def parse_option(option: str, text: str) -> Instant:
    """The instant that a command's option gives; raises InstantError, which names the option."""
    try:
        return parse_instant(text)
    except InstantError as error:
        raise InstantError(f"{option} {text}: {error.what}", error.cure) from None


def to_datetime(instant: int) -> datetime:
    """The aware datetime of an instant, in UTC."""
    return _EPOCH + instant * _MICROSECOND


def write_instant(instant: int) -> str:
    """ISO 8601 in UTC, ending in Z; decimals only where there are microseconds."""
    return to_datetime(instant).isoformat().replace("+00:00", "Z")
