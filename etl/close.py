"""The monthly close: in order, each month that is over and against which nothing stands is sealed, and never changes again.

A refusal is a value: all reasons are told at once, each with the command that cures it. The build is published either
way. What a close writes lies in ledger/<period>/; `seal.json` comes last, and without it the month is open.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb

from etl import kernel, merkle
from etl.audit import read_rows
from etl.build import BuildResult, build_locked, lock, silent
from etl.carried import check_none_lost, lost
from etl.closed import bounds, owned_by_month
from etl.cures import ACKNOWLEDGE
from etl.export.month import SEALED, export
from etl.kernel import Report, Run
from etl.published import open_ledger
from etl.seals import (
    SEAL_FILE,
    TABLES_FOLDER,
    VERSION,
    MonthSeal,
    aside,
    check_outputs,
    every_seal,
    folder,
    key_of,
    load,
    put_aside,
    read_seals,
    sha256_of,
    superseded,
    whole,
)
from etl.statement import statement
from etl.statement_page import statement_page
from schemas import durable, manifest
from schemas.counts import counted
from schemas.errors import UsageError
from schemas.frames import Frame
from schemas.home import Home
from schemas.instants import write_instant
from schemas.ledger import TABLES
from schemas.manifest import GENESIS
from schemas.meters import METERS
from schemas.records import KINDS
from schemas.spool import unsealed

HOUR_US = 3_600_000_000
STATEMENT_FILE = "statement.html"
BOOK_FOLDER = "book"


class NotClosedError(UsageError):
    """A month that cannot be reopened, because it is not closed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that stands against closing a month, and the cure: who shows it to a person names the home in its command (Home.typed)."""

    period: str
    reason: str
    cure: str

    def __str__(self) -> str:
        return f"refused: {self.period}: {self.reason}; cure: {self.cure}"


@dataclass(frozen=True, slots=True)
class Closing:
    """What one run of the monthly close did."""

    built: BuildResult
    closed: tuple[str, ...]
    verified: tuple[str, ...]  # closed before, and still what was sealed
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Law:
    """A question whose every answer is a refusal; the select gives reason and subject, the cure may name the subject.

    Where it gives a number before them, that many requests are what the reason goes on about.
    """

    select: str
    cure: str
    wants_row: bool = False  # the subject is a row for the book, to be completed, and not a word of a command
    adds_up: bool = False  # goes through the whole journal, which a page has no time for: each build holds it already


_TOKENS = ", ".join(f"'{meter.name}'" for meter in METERS if meter.unit == "token")
_SINCE = "strftime(min(l.created_at), '%Y-%m-%dT%H:%M:%SZ')"
_WITHOUT = "FROM unpriced u JOIN ledger l ON u.request_id = l.request_id WHERE u.period = $period AND u.meter IS NOT NULL AND"

# Each is asked of the published ledger, with the month as $period.
LAWS: tuple[Law, ...] = (
    Law(
        "SELECT count(DISTINCT u.request_id), ' without a price for ' || u.meter || ' of ' "
        "|| coalesce(u.upstream_model, '(no model)') || ' on ' || coalesce(u.channel, '(no channel)'), "
        "concat_ws(',', coalesce(u.channel, '*'), coalesce(u.upstream_model, '*'), u.meter, 'PRICE', "
        f"CASE WHEN u.meter IN ({_TOKENS}) THEN '1000000' ELSE '1' END, min(l.currency), {_SINCE}, ',charge,,,,,SOURCE,NOTE') "
        f"{_WITHOUT} NOT starts_with(u.reason, 'no exchange rate') GROUP BY u.channel, u.upstream_model, u.meter ORDER BY ALL",
        "add the row to book/rates.csv: SUBJECT; then tokenledger rates check",
        wants_row=True,
    ),
    Law(
        "SELECT count(DISTINCT u.request_id), ': ' || u.reason, "
        f"concat_ws(',', regexp_extract(u.reason, '^no exchange rate for ([^:]+)', 1), 'RATE', {_SINCE}, ',SOURCE,NOTE') "
        f"{_WITHOUT} starts_with(u.reason, 'no exchange rate') GROUP BY u.reason ORDER BY ALL",
        "add the row to book/fx.csv: SUBJECT; then tokenledger rates check",
        wants_row=True,
    ),
    Law(
        "SELECT 'suspense is not empty: ' || raw || ', ' || reason, raw FROM ("
        "SELECT DISTINCT t.raw_request_id || '/' || t.raw_ordinal AS raw, u.reason FROM unpriced u "
        "JOIN attempts t ON u.request_id = t.request_id AND u.attempt_ordinal = t.ordinal "
        "WHERE u.period = $period AND u.meter IS NULL "
        "AND t.raw_request_id || '/' || t.raw_ordinal NOT IN (SELECT json_extract_string(facts, '$.subject') FROM audit_trail "
        "WHERE event IN ('acknowledged', 'loss_acknowledged') AND json_extract_string(facts, '$.subject') IS NOT NULL)) ORDER BY raw",
        ACKNOWLEDGE,
    ),
    Law(
        "SELECT 'transaction ' || transaction_id || ' sums to ' || sum(amount) || ' ' || currency, '' FROM journal WHERE period = $period "
        "GROUP BY transaction_id, currency HAVING sum(amount) IS DISTINCT FROM 0 ORDER BY 1",
        "tokenledger ledger",
        adds_up=True,
    ),
    Law(
        "SELECT 'quarantined file ' || subject || ': ' || detail, subject FROM data_quality "
        "WHERE blocks_close AND kind = 'quarantined_file' AND (period = $period OR period IS NULL) ORDER BY subject",
        "restore it from a copy and run tokenledger ledger again, or give it up: " + ACKNOWLEDGE,
    ),
    Law(
        "SELECT kind || ' ' || subject || ': ' || detail, subject FROM data_quality "
        "WHERE blocks_close AND kind NOT IN ('unpriced', 'open_hold', 'quarantined_file') AND (period = $period OR period IS NULL) "
        "ORDER BY kind, subject",
        ACKNOWLEDGE,
    ),
    Law(
        "SELECT 'open hold ' || subject || ': ' || detail, subject FROM data_quality "
        "WHERE blocks_close AND kind = 'open_hold' AND period = $period ORDER BY subject",
        ACKNOWLEDGE,
    ),
)


def standing(connection: duckdb.DuckDBPyConnection, period: str, laws: Sequence[Law]) -> Iterator[Refusal]:
    """What these laws have against a month of the published ledger."""
    for law in laws:
        for *requests, said, subject in connection.execute(law.select, {"period": period}).fetchall():
            reason = "".join([*(counted(number, "request") for number in requests), said])
            yield Refusal(period, " ".join(reason.split()), law.cure.replace("SUBJECT", subject if law.wants_row else shlex.quote(subject)))


def refusals(connection: duckdb.DuckDBPyConnection, home: Home, period: str, starts_at: int, ends_at: int) -> tuple[Refusal, ...]:
    """Everything that stands against closing a month of the published ledger; empty where nothing does."""
    found = list(standing(connection, period, LAWS))
    waiting = _unsealed(home, starts_at, ends_at)
    if waiting:
        found.append(Refusal(period, f"{counted(waiting, 'record of it is', 'records of it are')} not sealed yet", "tokenledger ledger"))
    return tuple(found)


def _unsealed(home: Home, starts_at: int, ends_at: int) -> int:
    sealed = manifest.sealed_up_to(manifest.read(home.manifest))
    frames = (found for _, found, _ in unsealed(home, sealed) if isinstance(found, Frame))
    return sum(starts_at <= frame.fields[KINDS[frame.kind].instant] < ends_at for frame in frames)


def close(
    home: Home,
    as_of: int,
    *,
    period: str | None = None,
    closes: bool = True,
    progress: Report = silent,
    threads: int | None = None,
    engine: Run = kernel.run,
) -> Closing:
    """Build, publish, and close what can be closed; `as_of` (microseconds) stands for the clock, `period` limits it to one month.

    Months are closed in order until one is refused. Raises what a build raises, and SealBroken where a closed month is not
    what was sealed.
    """
    with lock(home) as spill_to:
        built = build_locked(home, spill_to, as_of=as_of, progress=progress, threads=threads, engine=engine)
        if not closes:
            return Closing(built, (), (), ())
        closed: list[str] = []
        refused: list[Refusal] = []
        sealed = read_seals(home)
        verified = [seal for seal in sealed if period in (None, seal.period)]
        for seal in verified:
            check_outputs(home, seal)
        done = {seal.period for seal in sealed}
        for month in _candidates(built, as_of, period, done):
            reasons = _try(home, spill_to, built, month, as_of, earlier=[p for p in built.periods if p < month and p not in done])
            if reasons:
                refused.extend(reasons)
            else:
                closed.append(month)
                done.add(month)
        if closed:
            built = build_locked(home, spill_to, as_of=as_of, progress=progress, threads=threads, engine=engine)
    return Closing(built, tuple(closed), tuple(seal.period for seal in verified), tuple(refused))


def _candidates(built: BuildResult, as_of: int, period: str | None, done: set[str]) -> Iterator[str]:
    settings = built.book.settings
    for month in built.periods:
        if month in done or period not in (None, month):
            continue
        _, ends_at = bounds(settings.timezone, month)
        if period is not None or ends_at + settings.close_after_h * HOUR_US <= as_of:
            yield month


def _try(home: Home, spill_to: Path, built: BuildResult, month: str, as_of: int, earlier: Sequence[str]) -> tuple[Refusal, ...]:
    """Seal one month, or say why not."""
    starts_at, ends_at = bounds(built.book.settings.timezone, month)
    found = []
    if ends_at > as_of:
        found.append(Refusal(month, f"it ends at {write_instant(ends_at)}", f"after that: tokenledger ledger --period {month}"))
    if earlier:
        found.append(Refusal(month, f"{earlier[0]} is still open", f"tokenledger ledger --period {earlier[0]}"))
    with open_ledger(home) as connection:
        kernel.limit(connection, spill_to=spill_to)
        found.extend(refusals(connection, home, month, starts_at, ends_at))
        if not found:
            _seal(home, connection, built, month, as_of)
    return tuple(found)


def _seal(home: Home, connection: duckdb.DuckDBPyConnection, built: BuildResult, period: str, as_of: int) -> None:
    """Write everything that a closed month consists of, `seal.json` last."""
    target = folder(home, period)
    kept = aside(home, period)
    target.mkdir(mode=0o700, exist_ok=True)
    for left in target.iterdir():  # of a close that did not come to its end, or that was reopened
        if left not in kept:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    _write_book(home, target)
    _write_tables(connection, target, period)
    # an export writes piece after piece on one core; what else there is to write goes beside the first
    with ThreadPoolExecutor() as pool:
        exports = [pool.submit(export, home, form, period, target / f"ledger.{form}", closing=True) for form in SEALED]
        _write_statement(connection, target, period)
        tree = merkle.grow(row["receipt_digest"] for row in read_rows(connection, _DIGESTS.replace("$period", repr(period))))
        tree.write(target / merkle.MERKLE_FILE)
        for export_done in exports:
            export_done.result()
    for path in _files(target, kept):
        os.chmod(path, 0o600)
        durable.sync(path)
    for place in (target / TABLES_FOLDER, target / BOOK_FOLDER, target, home.ledger):
        durable.sync(place)
    seals, old = read_seals(home), superseded(home, period)
    starts_at, ends_at = bounds(built.book.settings.timezone, period)
    lines = built.sources.seals
    seal = MonthSeal(
        version=VERSION,
        number=len(seals) + 1,
        period=period,
        starts_at=write_instant(starts_at),
        ends_at=write_instant(ends_at),
        timezone=built.book.settings.timezone,
        currency=built.book.settings.currency,
        as_of=write_instant(as_of),
        previous=seals[-1].hash if seals else GENESIS,
        supersedes=load(old[-1]).hash if old else None,
        manifest={"lines": len(lines), "hash": lines[-1].hash if lines else GENESIS},
        positions=dict(sorted(built.sources.positions.items())),
        files={file.path: file.sha256 for file in sorted(built.sources.named, key=lambda file: file.path)},
        book={"digest": built.book.digest, "files": {path.name: sha256_of(path) for path in sorted((target / BOOK_FOLDER).iterdir())}},
        outputs={str(path.relative_to(target)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in _files(target, kept)},
        receipts={"count": tree.leaves, "root": tree.root},
        public_key="",
    ).signed(key_of(home))
    durable.replace(target / SEAL_FILE, seal.as_bytes())


_DIGESTS = "SELECT receipt_digest FROM ledger WHERE period = $period ORDER BY request_id"


def _write_tables(connection: duckdb.DuckDBPyConnection, target: Path, period: str) -> None:
    tables = target / TABLES_FOLDER
    tables.mkdir(mode=0o700)
    for table in TABLES:
        condition = owned_by_month(table)
        if condition is not None:
            path = str(tables / f"{table.name}.parquet").replace("'", "''")
            order = ", ".join(f'"{name}" NULLS FIRST' for name in table.order_by)
            select = f'SELECT * FROM "{table.name}" WHERE {condition.replace("$period", repr(period))} ORDER BY {order}'
            connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)")


def _write_statement(connection: duckdb.DuckDBPyConnection, target: Path, period: str) -> None:
    """The page that `tokenledger statement` shows of the month from now on, byte for byte."""
    (target / STATEMENT_FILE).write_text(statement_page(statement(connection, period, closing=True)), encoding="utf-8")


def _write_book(home: Home, target: Path) -> None:
    kept = target / BOOK_FOLDER
    kept.mkdir(mode=0o700)
    for path in sorted(home.book.iterdir()):
        if path.is_file() and path.suffix in (".toml", ".csv"):
            (kept / path.name).write_bytes(path.read_bytes())


def _files(target: Path, kept: Sequence[Path]) -> list[Path]:
    return sorted(path for path in target.rglob("*") if path.is_file() and path not in kept and path.name != SEAL_FILE)


def reopening(home: Home, period: str) -> dict[str, str | None]:
    """The closed months that reopening `period` opens, oldest first, each with its seal's hash, null where nobody knows it: itself and
    every later one, those whose seal is lost or damaged too. Raises NotClosedError, and SealBroken for the months that stay closed.
    """
    read_seals(home, before=period)
    read = whole(every_seal(home))
    seals = {path.parent.name: seal for path, seal in read.items() if path.name == SEAL_FILE}
    gone = lost(home, [seal.hash for seal in seals.values()])
    check_none_lost(home, seals.values(), [seal for month, seal in gone.items() if month >= period])
    # one that was put aside and is damaged stands against the month's next close
    damaged: dict[str, str | None] = {path.parent.name: None for path in every_seal(home) if path not in read}
    closed = damaged | gone | {month: seal.hash for month, seal in seals.items()}
    if period not in closed:
        raise NotClosedError(f"{period} is not closed", f"closed months: {', '.join(sorted(closed)) or 'none is'}")
    return {month: closed[month] for month in sorted(closed) if month >= period}


def reopen(home: Home, period: str) -> tuple[str, ...]:
    """Open a closed month and every later one again, newest first; each seal is kept as seal-<n>.json, or .damaged. The months opened.

    A month whose seal is lost or damaged is opened by the recorded event that names the seal.
    """
    with lock(home):
        opened = tuple(reopening(home, period))
        for month in reversed(opened):
            put_aside(home, month)
    return opened
