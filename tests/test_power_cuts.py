"""The power fails after any sync: acknowledged records are there exactly once, and the ledger is the old one or the new one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from etl.build import build
from etl.close import close
from etl.seals import check_outputs, read_seals
from etl.sources import read_sources
from etl.verify import verify
from proxy.journal import PROXY_SLOT, Journal
from proxy.seal import seal
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Event, Instant
from tests.campaign import events
from tests.faults import power
from tests.rawdata import call, event, rows, topup, write_book

AFTER = parse_instant("2026-11-03T00:00:00Z")


def note(name: str) -> Event:
    return event(name, "test")


def test_what_was_acknowledged_outlives_the_power(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Two journals, two seals and a restart; after each cut the proxy starts, seals, and has every acknowledged record once."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    acknowledged: list[str] = []
    with power(home.root, lambda: tuple(acknowledged)) as watch:
        for part in ("a", "b"):
            journal = Journal(home, PROXY_SLOT, segment_bytes=4096)
            for number in range(14):
                names = [f"{part}{number}-{place}" for place in range(3)]
                journal.append_wait([note(name) for name in names])
                acknowledged += names
                if number == 9:
                    seal(home, Instant(AFTER))
            journal.close()
        seal(home, Instant(AFTER))
    assert len(watch.cuts) > 60
    for disk, known in watch.cuts:
        left = Home(tmp_path / "left")
        disk.write(left.root)
        journal = Journal(left, PROXY_SLOT, segment_bytes=4096)
        journal.append_wait([note("next")])
        journal.close()
        seal(left, Instant(AFTER))
        found = events(left)
        assert set(found.values()) == {1}
        assert not set(known) - set(found)
        assert "next" in found
        assert read_sources(left).findings == ()
    record_property("trust: power cuts survived", len(watch.cuts))


@pytest.mark.parametrize("again", [pytest.param(False, id="first close"), pytest.param(True, id="second build", marks=pytest.mark.soak)])
def test_the_ledger_is_the_old_one_or_the_new_one(tmp_path: Path, again: bool, record_property: Callable[[str, object], None]) -> None:
    """Power cut during build, publication and close: what is published can be read, a closed month is whole, and a rerun ends it."""
    home = Home(tmp_path / "home")
    write_book(home)
    journal = Journal(home, PROXY_SLOT, segment_bytes=4096)
    journal.append_wait([topup("t1", "100"), *call("n1")])
    journal.close()
    seal(home, Instant(AFTER))
    if again:
        build(home)
        journal = Journal(home, PROXY_SLOT, segment_bytes=4096)
        journal.append_wait(call("n2"))
        journal.close()
        seal(home, Instant(AFTER))
    with power(home.root, lambda: None) as watch:
        if again:
            build(home)
        else:
            assert close(home, AFTER).closed == ("2026-10",)
    seen = set()
    tried = watch.cuts[:: 1 if again else 4]
    for disk, _ in tried:
        left = Home(tmp_path / "left")
        disk.write(left.root)
        if left.ledger_file.exists():
            seen.add(tuple(row["request_id"] for row in rows(left, "SELECT request_id FROM ledger ORDER BY 1")))
        for month in read_seals(left):
            check_outputs(left, month)
    assert close(left, AFTER).refusals == ()
    verify(left)
    assert seen == ({("n1",), ("n1", "n2")} if again else {("n1",)})
    record_property("trust: power cuts survived", len(tried))
