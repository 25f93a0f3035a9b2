"""How a count is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.counts import counted

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("count", "words", "told"),
    [
        (0, ("request",), "0 requests"),
        (1, ("request",), "1 request"),
        (2, ("request",), "2 requests"),
        (12345, ("entry", "entries"), "12,345 entries"),
        (1, ("finding keeps", "findings keep"), "1 finding keeps"),
    ],
)
def test_one_is_told_in_the_singular(count: int, words: tuple[str, ...], told: str) -> None:
    """One thing has its own words, and long counts are told in groups of three."""
    assert counted(count, *words) == told
