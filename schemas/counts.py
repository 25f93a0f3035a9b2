"""How a count is told to people, on every surface."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its words, its digits in groups of three: `1 request`, `2,000 requests`; `many` where an s does not make it."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
