"""A door that cannot listen where it was told to."""

from __future__ import annotations

from schemas.errors import UsageError


class PortInUseError(UsageError):
    """The address is taken, or is not this machine's."""
