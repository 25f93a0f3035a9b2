"""What a build reads, and that bad files, copies, gaps and reading order change nothing they should not change."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from etl import sources
from etl.build import BuildRunningError, NotWrittenError, build
from etl.sources import months, offsets
from proxy.journal import PROXY_SLOT, Journal
from proxy.seal import seal
from schemas.frames import Damage, Frame
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.ledger import TABLES
from schemas.manifest import ManifestError
from schemas.records import Instant, Record
from schemas.spool import unsealed
from tests.rawdata import (
    DAY,
    NOON,
    SECOND,
    Archive,
    attempt,
    body,
    broken,
    built,
    call,
    event,
    failure,
    one,
    request,
    response,
    rows,
    spool,
    topup,
    usage,
    write_book,
)


def traffic(calls: int = 12) -> list[Record]:
    """A mix: plain calls, a fallback, a retry by the SDK, an open hold, an unknown model, and entries."""
    records: list[Record] = [topup("e1", "50"), topup("e2", "5", bucket="routed_balance")]
    for n in range(calls):
        records += call(f"r{n:02}", NOON + n * 60 * SECOND, prompt=1000 + n, completion=n, model="nobody" if n == 5 else "gpt-4o-mini")
    at = NOON + DAY
    records += [
        request("f1", at),
        attempt("f1", 1, at, channel="routed"),
        broken("f1", 1, at + SECOND, usage=usage(100, 10)),
        attempt("f1", 2, at + SECOND, role="backup", reason="fallback"),
        response("f1", 2, at + 3 * SECOND, usage=usage(1000, 500)),
        request("s1", at + 60 * SECOND),
        attempt("s1", at=at + 60 * SECOND),
        failure("s1", at=at + 61 * SECOND),
        request("s2", at + 62 * SECOND, retry=1),
        attempt("s2", at=at + 62 * SECOND),
        response("s2", at=at + 63 * SECOND, usage=usage(7, 3)),
        request("h1", at + 90 * SECOND),
        attempt("h1", at=at + 90 * SECOND),
    ]
    return records


def contents(home: Home, without: tuple[str, ...] = ("build_inputs",)) -> dict[str, list[tuple[object, ...]]]:
    """Every published table, its rows in order."""
    return {
        table.name: [tuple(row.values()) for row in rows(home, f"FROM {table.name} ORDER BY ALL")]
        for table in TABLES
        if table.name not in without
    }


# ---- the same records, however they lie ----


def test_spooled_or_sealed_is_the_same_ledger(tmp_path: Path) -> None:
    """Frames in the journal, sealed files, and half of each give one ledger."""
    spooled, sealed, half = (Home(tmp_path / name) for name in ("spooled", "sealed", "half"))
    records = traffic()
    built(spooled, records)
    Archive(sealed).seal(records)
    built(sealed)
    Archive(half).seal(records[:20])
    spool(half, records)  # sealed frames still lie in the journal until the sealer removes the segment
    built(half)
    assert contents(spooled) == contents(sealed) == contents(half)
    assert rows(half, "FROM build_inputs") == [{"writer": "w1", "last_seq": len(records)}]


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_and_split_files_give_the_same_ledger(tmp_path: Path, seed: int) -> None:
    """Any split into seals, any order of rows in a file, any number of threads."""
    plain, shuffled = Home(tmp_path / "plain"), Home(tmp_path / "shuffled")
    records = traffic()
    built(plain, records)
    order = random.Random(seed)
    frames = list(enumerate(records, 1))
    archive = Archive(shuffled)
    while frames:
        some, frames = frames[: (size := order.randint(1, 12))], frames[size:]
        order.shuffle(some)
        archive.seal_frames(some)
    write_book(shuffled)
    build(shuffled, threads=1 + seed)
    assert contents(shuffled, ("build_inputs", "dispositions")) == contents(plain, ("build_inputs", "dispositions"))


def test_what_is_read_twice_counts_once(tmp_path: Path) -> None:
    """A file listed twice, and a journal copied under another name: the same charges, and the copies are named."""
    once, twice = Home(tmp_path / "once"), Home(tmp_path / "twice")
    records = traffic()
    built(once, records)
    archive = Archive(twice)
    archive.seal(records)
    archive.line("w1", 1, len(records), archive.seals[0].files)
    spool(twice, records[:5], writer="w2")
    built(twice)
    copied = ("build_inputs", "dispositions", "data_quality")
    assert contents(twice, copied) == contents(once, copied)
    requests = sum(1 for record in records if record.kind == "request")
    assert one(twice, "SELECT sum(raw_rows) AS raw_rows, sum(duplicates) AS duplicates FROM dispositions") == {
        "raw_rows": 2 * requests + 1,
        "duplicates": requests + 1,
    }
    assert one(twice, "SELECT sum(rows) AS rows FROM data_quality WHERE kind = 'duplicate'") == {"rows": requests + 1}


# ---- files that are not what was sealed ----


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "one bit": flip,
    "torn": lambda path: os.truncate(path, path.stat().st_size // 2),
    "gone": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_quarantined(home: Home, damage: str) -> None:
    """Its rows are not read, the rest is built, and its month cannot close."""
    archive = Archive(home)
    archive.seal(call("r1"))
    (path,) = [path for path in archive.seal(call("r2", NOON + SECOND)) if "/request/" in str(path)]
    DAMAGES[damage](path)
    built(home)
    assert one(home, "SELECT kind, period, subject, rows, blocks_close FROM data_quality WHERE kind = 'quarantined_file'") == {
        "kind": "quarantined_file",
        "period": "2026-10",
        "subject": f"raw/{path.relative_to(home.raw)}",
        "rows": 1,
        "blocks_close": True,
    }
    # the attempt of the lost request is still there, and so is its money
    assert rows(home, "SELECT request_id, door, wallet, final_charge FROM ledger ORDER BY request_id") == [
        {"request_id": "r1", "door": "gateway", "wallet": "research", "final_charge": Decimal("0.00045")},
        {"request_id": "r2", "door": "unknown", "wallet": "unregistered", "final_charge": Decimal("0.00045")},
    ]


def test_an_end_without_its_beginning_is_in_suspense(home: Home) -> None:
    """Where the attempt's record was lost its channel is not known, and its charge is not guessed."""
    archive = Archive(home)
    (path,) = [path for path in archive.seal(call("r1")) if "/attempt/" in str(path)]
    flip(path)
    built(home)
    assert one(home, "SELECT final_charge, balance_bucket FROM ledger") == {"final_charge": None, "balance_bucket": None}
    assert {row["kind"] for row in rows(home, "FROM data_quality WHERE blocks_close")} == {
        "quarantined_file",
        "lost_attempt_record",
        "unpriced",
    }


def test_a_bad_body_file_costs_only_the_recount(home: Home) -> None:
    """Bodies are read for a recount only; a bad one is quarantined then, and the request is unpriced."""
    archive = Archive(home)
    paths = archive.seal([request("r1"), attempt("r1"), broken("r1"), body("r1", 0, b"{}"), body("r1", 1, b"")])
    flip(next(path for path in paths if "/body/" in str(path)))
    built(home)
    assert one(home, "SELECT usage_source, final_charge FROM ledger") == {"usage_source": "none", "final_charge": None}
    assert one(home, "SELECT rows FROM data_quality WHERE kind = 'quarantined_file'") == {"rows": 2}


def test_a_broken_manifest_stops_the_build(home: Home) -> None:
    """The chain is the evidence that nothing was taken out; without it nothing is built and the old ledger stays."""
    archive = Archive(home)
    archive.seal(call("r1"))
    archive.seal(call("r2", NOON + SECOND))
    built(home)
    before = home.ledger_file.read_bytes()
    lines = home.manifest.read_bytes().splitlines(keepends=True)
    home.manifest.write_bytes(lines[1])
    with pytest.raises(ManifestError):
        build(home)
    assert home.ledger_file.read_bytes() == before


# ---- gaps ----


def test_a_missing_number_is_a_loss(home: Home) -> None:
    """Whether the sealer found it or it shows in the journal; it blocks until somebody acknowledges it."""
    archive = Archive(home)
    archive.seal_frames(list(enumerate(call("r1"), 3)), missing=((1, 2),))
    archive.seal(call("r2", NOON + SECOND))
    spool(home, call("r3", NOON + 2 * SECOND), first_seq=11)
    built(home)
    losses = rows(home, "SELECT subject, rows, blocks_close FROM data_quality WHERE kind = 'loss' ORDER BY subject")
    assert losses == [
        {"subject": "w1 1-2", "rows": 2, "blocks_close": True},
        {"subject": "w1 9-10", "rows": 2, "blocks_close": True},
    ]
    acknowledged = event("a1", "loss_acknowledged", NOON + DAY, actor="ops", reason="disk died", subject="w1 9-10")
    spool(home, [acknowledged], writer="admin")
    build(home)
    assert [row["blocks_close"] for row in rows(home, "FROM data_quality WHERE kind = 'loss' ORDER BY subject")] == [True, False]


def test_a_torn_tail_is_no_loss_and_damage_before_it_is(home: Home) -> None:
    """The last frame may be on its way; a hole in the middle lost what it held, and reading goes on behind it."""
    segment = spool(home, [*call("r1"), *call("r2", NOON + SECOND)])
    data = bytearray(segment.read_bytes())
    segment.write_bytes(data[:-10])
    built(home)
    assert rows(home, "FROM data_quality WHERE kind IN ('loss', 'damage')") == []
    assert one(home, "SELECT count(*) AS n FROM ledger WHERE outcome = 'unknown'") == {"n": 1}
    data[100] ^= 1  # within the first frame
    segment.write_bytes(data)
    build(home)
    assert [row["kind"] for row in rows(home, "FROM data_quality WHERE kind IN ('loss', 'damage') ORDER BY kind")] == ["damage", "loss"]


# ---- building ----


def test_two_builds_at_once_are_refused(home: Home) -> None:
    """The second says so and leaves the first alone."""
    write_book(home)

    def again(_: object) -> None:
        with pytest.raises(BuildRunningError):
            build(home)

    build(home, progress=again)


def test_a_rebuild_changes_nothing(home: Home) -> None:
    """From the same records and book comes the same ledger, to the last id."""
    built(home, traffic())
    before = contents(home)
    build(home)
    assert contents(home) == before
    assert sorted(path.name for path in home.ledger.iterdir()) == [
        *("build.lock", "ledger.basis.json", "ledger.duckdb", "ledger.duckdb.sha256", "spend.json")
    ]


def test_every_table_and_column_has_its_comment(home: Home) -> None:
    """In an empty ledger too, in the contract's order."""
    built(home)
    comments = {row["table_name"]: row["comment"] for row in rows(home, "FROM duckdb_tables()")}
    assert comments == {table.name: table.doc for table in TABLES}
    columns = rows(
        home, "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY table_oid, column_index"
    )
    for table in TABLES:
        found = [(row["column_name"], row["data_type"], row["comment"]) for row in columns if row["table_name"] == table.name]
        assert found == [(column.name, column.type, column.doc) for column in table.columns]


# ---- months ----


def test_months_are_those_of_the_books_zone(home: Home) -> None:
    """In Berlin October 2026 ends at 23:00 UTC, one microsecond decides."""
    end = parse_instant("2026-10-31T23:00:00Z")
    built(home, [*call("last", end - 1), *call("first", end)], book='currency = "USD"\ntimezone = "Europe/Berlin"\n')
    assert [row["period"] for row in rows(home, "FROM ledger ORDER BY created_at")] == ["2026-10", "2026-11"]
    assert rows(home, "SELECT period, requests, status FROM periods ORDER BY period") == [
        {"period": "2026-10", "requests": 1, "status": "open"},
        {"period": "2026-11", "requests": 1, "status": "open"},
    ]


def test_offsets_change_when_the_clocks_do() -> None:
    """Berlin leaves summer time on 2026-10-25 at 01:00 UTC."""
    found = list(offsets("Europe/Berlin", parse_instant("2026-10-20T07:30:00Z"), parse_instant("2026-10-30T00:00:00Z")))
    assert [(row["offset_minutes"], str(row["ends_at"])) for row in found] == [(120, "2026-10-25 01:00:00"), (60, "2026-10-31 07:30:00")]


def test_a_span_within_one_month_has_one_month() -> None:
    """February 2028 has 29 days."""
    low = parse_instant("2028-02-29T12:00:00Z")
    assert [(row["period"], str(row["ends_at"])) for row in months("UTC", low, low)] == [("2028-02", "2028-03-01 00:00:00")]


def test_a_disk_that_takes_no_more_is_told_and_changes_nothing(home: Home) -> None:
    """The command ends with one line and its cure, and readers go on with the ledger that was published before."""
    built(home, call("n1"))
    spool(home, call("n2"), writer="w2")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(NotWrittenError, match="could not be written"):
            build(home)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, kept)
    assert [row["request_id"] for row in rows(home, "SELECT request_id FROM ledger")] == ["n1"]
    assert build(home).requests == 2


def test_a_build_beside_the_sealer_sees_every_record_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading of the manifest and that of the spool, everything is sealed and taken out of the spool."""
    write_book(home)
    for name in ("n1", "n2"):
        journal = Journal(home, PROXY_SLOT, segment_bytes=4096)
        journal.append_wait(call(name))
        journal.close()
    moved: list[int] = []

    def sealed_meanwhile(home: Home, sealed: Mapping[str, int]) -> Iterator[tuple[str, Frame | Damage, Path]]:
        if not moved:
            moved.append(seal(home, Instant(NOON)).files)
        yield from unsealed(home, sealed)

    monkeypatch.setattr(sources, "unsealed", sealed_meanwhile)
    result = build(home)
    assert moved[0] > 0
    assert (result.requests, result.sources.findings) == (2, ())
