"""The SQL box's process: what runs too long is ended with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.home import Home
from tests.rawdata import NOON, built, call
from web import sqlbox


async def test_a_recursion_without_an_end_is_ended_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told, and the next question is answered."""
    home = Home(tmp_path)
    built(home, call("one", NOON))
    monkeypatch.setattr(sqlbox, "SECONDS", 2)
    with pytest.raises(sqlbox.BoxError, match="longer than 2 s"):
        await sqlbox.ask(home, "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r")
    monkeypatch.undo()
    assert (await sqlbox.ask(home, "SELECT count(*) FROM ledger")).rows == [["1"]]
