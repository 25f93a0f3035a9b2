"""One build: everything recorded, through the models, published whole, going on from the ledger before where it can (etl/carried.py),
in slices where it is much (etl/slices.py); and the preview, the same over what came since.

Both run the same models on the same tables. A build replaces the published ledger or leaves it as it was; a preview
publishes nothing, so that a receipt can be shown a second after its call.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cache, partial
from pathlib import Path

import duckdb
import pyarrow as pa

from etl import kernel
from etl.audit import chain_audit_trail
from etl.batch_output import batch_output
from etl.carried import (
    BASIS_FILE,
    FRESH,
    NEW,
    SOURCE_AFTER,
    check_none_lost,
    finish,
    hangs_together,
    read_basis,
    register_alone,
    register_scope,
    reopened_seals,
    settle,
    settle_slice,
    show_entries,
    write_basis,
)
from etl.closed import Closed, charged_before, check_closed, prior_allowance_use, read_closed, register_settled, settled_tries
from etl.edition import Edition, edition
from etl.kernel import Model, Progress, Report, Run, Step
from etl.lookup import check_endpoints, lookup_tables
from etl.lots import make_lots
from etl.published import open_ledger
from etl.reconcile.step import reconcile_bills
from etl.recount import recount
from etl.reread import reread
from etl.seals import read_seals, sha256_of
from etl.slices import Slice, part, show, what_came, whole_months
from etl.sources import OF_A_REQUEST, ROW_KINDS, Sources, read_sources, register, register_book, table, with_event
from etl.spending import spending
from schemas import durable, manifest, spend
from schemas.book import Book, load_book
from schemas.errors import LedgerError
from schemas.home import Home
from schemas.records import Event

LOCK_FILE = "build.lock"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DIGEST_FILE = "ledger.duckdb.sha256"
RECOUNT = "33"  # the last step that reads bodies
REPORTED = "31"  # the step with what vendors reported, faults included
SLICE_RECORDS = 1_000_000  # of a third of a million requests: 2.4 GB of memory; twice as many save a twentieth of the time
ASKED_AFTERWARDS = frozenset({"requests_created", "admin_events", "reversals"})  # of what is not published
ROW_GROUP = 122_880  # rows that DuckDB gives one thread: with fewer records, a second one is only waited for (a fifth more CPU)
CONTEXT_DAYS = 3  # how far back a preview looks for what a new record belongs to; an SDK's retries come within one


class BuildRunningError(LedgerError):
    """Another build of this home is under way."""

    def __init__(self, home: Home) -> None:
        super().__init__(f"another build of {home.root} is running", "wait until it is done, then run `tokenledger ledger` again")


class NotWrittenError(LedgerError):
    """The disk did not take what was written."""

    def __init__(self, home: Home, words: str) -> None:
        cure = "make room there (or allow more open files, if it is those), or mend the disk, and run `tokenledger ledger` again; what was published and sealed before is unchanged"
        super().__init__(f"{home.ledger} could not be written: {words.splitlines()[0]}", cure)


class NoMemoryError(LedgerError):
    """The memory did not suffice."""

    def __init__(self, words: str) -> None:
        cure = (
            f"give it more memory (it takes {kernel.MOST_MEMORY >> 30} GB and no more) or build on a cluster (README, Past one machine), "
            "and run `tokenledger ledger` again; what was published and sealed before is unchanged"
        )
        super().__init__(f"memory ran out: {words.splitlines()[0]}", cure)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build published."""

    path: Path
    requests: int
    made: int  # of them, those that this build made; the others stand as they were published before
    attempts: int
    charged: Decimal  # the sum of all known charges
    currency: str
    unpriced: int  # rows of `unpriced`
    blockers: int  # rows of `data_quality` that keep a month from closing
    periods: tuple[str, ...]
    seconds: float
    sources: Sources = field(repr=False)
    book: Book = field(repr=False)


def silent(progress: Progress) -> None:
    """Report nothing."""


def build(
    home: Home,
    *,
    as_of: int | None = None,
    progress: Report = silent,
    threads: int | None = None,
    engine: Run = kernel.run,
) -> BuildResult:
    """Build everything recorded and publish it; the old ledger stays on any failure. `as_of` stands for the clock (register_book).

    Raises BookError, ManifestError, SealBroken, BuildRunningError, NotWrittenError, NoMemoryError or CheckFailed.
    """
    with lock(home) as spill_to:
        return build_locked(home, spill_to, as_of=as_of, progress=progress, threads=threads, engine=engine)


def build_locked(
    home: Home,
    spill_to: Path,
    *,
    as_of: int | None = None,
    progress: Report = silent,
    threads: int | None = None,
    engine: Run = kernel.run,
) -> BuildResult:
    """The same, for who holds the lock."""
    began = time.perf_counter()
    book = load_book(home.book)
    closed = read_closed(home, book)
    sources = read_sources(home, after_line=closed.manifest_lines, since=closed.since)
    threads = threads or (1 if sources.records <= ROW_GROUP else None)
    with kernel.open_engine(threads=threads, spill_to=spill_to) as connection:
        register(connection, sources)
        check_none_lost(home, closed.seals, reopened_seals(connection))
        basis = read_basis(home)
        with edition(connection, home.ledger_file, basis.sha256 if basis and basis.carries(closed) else None) as issue:
            closed = replace(closed, in_edition=issue.goes_on)
            check_closed(closed)
            _lend_tables(connection, book)
            is_all = register_scope(connection, closed, sources, book, basis)
            register_book(connection, book, closed.until, as_of)
            slices: Sequence[Slice] = ()
            if engine is kernel.run and not hangs_together(book):
                slices = whole_months(sources, closed.less, SLICE_RECORDS) if is_all else what_came(connection, SLICE_RECORDS)
            made = _build_slices(connection, sources, issue, closed, slices, progress) if len(slices) > 1 else 0
            together = (
                Step(kernel.OF_ALL, "requests_written", partial(settle, edition=issue, closed=closed), frozenset({"wallet_legs"})),
                Step("97", "wallet_lots", partial(make_lots, closed=closed), frozenset({"topup_lots"})),
                Step("98", "audit_chain", partial(chain_audit_trail, closed=closed)),
                Step("99", "bills", partial(reconcile_bills, home=home, book=book)),
                Step("99", "sums_written", partial(finish, edition=issue, closed=closed), frozenset({"touched", "snapshot_figures"})),
            )
            engine(connection, [*_steps(sources), *together], progress, ASKED_AFTERWARDS)
            issue.publish()
        made += _made(connection)
        digest = sha256_of(home.ledger_file)
        basis_digest = write_basis(home, digest, book, closed, sources)
        durable.replace(home.ledger / DIGEST_FILE, digest_lines(home, digest, basis_digest))
        with open_ledger(home) as published:
            spend.write(home.spend_file, spending(published))
            return _result(published, home.ledger_file, book, sources, made, time.perf_counter() - began)


def digest_lines(home: Home, ledger: str, basis: str) -> bytes:
    """What stands beside the published ledger and its basis, as `sha256sum` writes it."""
    return f"{ledger}  {home.ledger_file.name}\n{basis}  {BASIS_FILE}\n".encode()


def _lend_tables(connection: duckdb.DuckDBPyConnection, book: Book) -> None:
    """Make the tables that came with the code visible. Raises LookupTableError where the book names an endpoint they do not know."""
    check_endpoints(book.rates)
    for name, rows in lookup_tables().items():
        table(connection, name, rows)


def _build_slices(
    connection: duckdb.DuckDBPyConnection, sources: Sources, issue: Edition, closed: Closed, slices: Sequence[Slice], progress: Report
) -> int:
    """Make and write the single requests of all slices but the last, which is shown then; how many requests."""
    written = Step(kernel.OF_ALL, "slice_written", partial(settle_slice, edition=issue, closed=closed), frozenset({"wallet_legs"}))
    steps = [step for step in (*_steps(sources), written) if step.number <= kernel.OF_ALL]
    part(connection, sources, slices)
    made = 0
    connection.execute("CREATE OR REPLACE VIEW raw_event AS SELECT * FROM all_event WHERE false")
    for number, of in enumerate(slices[:-1], 1):
        began = time.perf_counter()
        before = _tables(connection) | {"earlier_leg"}
        show(connection, of, is_last=False)
        kernel.run(connection, steps, silent, ASKED_AFTERWARDS)
        requests = _made(connection)
        for name in _tables(connection) - before:
            connection.execute(f'DROP TABLE "{name}"')
        made += requests
        progress(Progress(number, len(slices), "slice", requests, time.perf_counter() - began))
    show(connection, slices[-1], is_last=True)
    show_entries(connection, closed)
    return made


def _tables(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'memory'").fetchall()}


def _made(connection: duckdb.DuckDBPyConnection) -> int:
    ((requests,),) = connection.execute("SELECT count(*) FROM requests_created").fetchall()
    return int(requests)


def _steps(sources: Sources) -> list[Model | Step]:
    """The models, and the steps between them that read bodies."""
    return [
        *_models(),
        Step("09", "reread", partial(reread, sources=sources)),
        Step("28", "batch_output", partial(batch_output, sources=sources), frozenset({"steps"})),
        Step(RECOUNT, "recount", partial(recount, sources=sources), frozenset({"usage_verdicts"})),
    ]


@cache
def _models() -> tuple[Model, ...]:
    return kernel.read_models()


def _result(published: duckdb.DuckDBPyConnection, path: Path, book: Book, sources: Sources, made: int, seconds: float) -> BuildResult:
    ((requests, attempts, charged, unpriced, blockers),) = published.execute(
        """
        SELECT (SELECT count(*) FROM ledger), (SELECT count(*) FROM attempts),
            (SELECT coalesce(sum(charged), 0)::DECIMAL(38,12) FROM periods),
            (SELECT count(*) FROM unpriced), (SELECT count(*) FROM data_quality WHERE blocks_close)
        """
    ).fetchall()
    periods = published.execute("SELECT period FROM periods ORDER BY period").fetchall()
    return BuildResult(
        path=path,
        requests=requests,
        made=made,
        attempts=attempts,
        charged=charged,
        currency=book.settings.currency,
        unpriced=unpriced,
        blockers=blockers,
        periods=tuple(found for (found,) in periods),
        seconds=seconds,
        sources=sources,
        book=book,
    )


@contextmanager
def lock(home: Home) -> Iterator[Path]:
    """Hold the home's build lock; gives a folder to spill into, gone afterwards. Raises BuildRunningError, NotWrittenError and NoMemoryError."""
    durable.make_folder(home.ledger)
    spill_to = home.ledger / ".spill"
    descriptor = os.open(home.ledger / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildRunningError(home) from None
        for left in home.ledger.glob(f".{home.ledger_file.name}.*"):  # of a build that was killed
            left.unlink()
        yield spill_to
        shutil.rmtree(spill_to, ignore_errors=True)
    except duckdb.IOException as error:
        raise NotWrittenError(home, str(error)) from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise NotWrittenError(home, str(error)) from None
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise NoMemoryError(str(error) or "nothing is left") from None
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise NoMemoryError(str(error)) from None  # which is how Python tells of it
    finally:
        os.close(descriptor)


@contextmanager
def as_read(home: Home, since: str, up_to: str = RECOUNT, only: Collection[str] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Everything recorded from a UTC date (YYYY-MM-DD) on, in memory, through the models as far as bodies are read; closed months too.

    `up_to` is the number of the last step. `only` names the raw requests that are wanted, where they are not all.
    """
    with kernel.open_engine() as connection:
        sources = read_sources(home, after_line=len(manifest.read(home.manifest)), since=since)
        book = load_book(home.book)
        register(connection, sources)
        _lend_tables(connection, book)
        register_scope(connection, Closed(home), sources, book, None)
        if only is not None:
            table(connection, "needed", pa.table({"raw_id": pa.array(only, pa.string())}))
            for kind in OF_A_REQUEST:
                mine = f"SELECT * FROM all_{kind} WHERE request_id IN (SELECT raw_id FROM needed)"
                connection.execute(f"CREATE OR REPLACE VIEW raw_{kind} AS {mine}")
        register_book(connection, book)
        until_read = [step for step in _steps(sources) if step.number <= up_to]
        kernel.run(connection, until_read, silent, ASKED_AFTERWARDS | {"members", "twins", "usage_reported"})
        yield connection


# ---- the preview ----


def preview(home: Home, asked: str = "", proposed: Event | None = None) -> duckdb.DuckDBPyConnection:
    """The contract tables in memory, over what the published ledger has not read yet and over the request `asked` names.

    A request that a new record belongs to (a late end, an SDK's retry) comes in whole, as far back as CONTEXT_DAYS. Wallet
    balances go on from the published ones. An event that is proposed counts as if it were recorded. The caller closes the connection.
    Raises BookError, ManifestError or SealBroken.
    """
    book = load_book(home.book)
    connection = kernel.open_engine()
    try:
        _lend_tables(connection, book)
        if home.ledger_file.exists():
            connection.execute(f"ATTACH '{str(home.ledger_file).replace(chr(39), chr(39) * 2)}' AS published (READ_ONLY)")
            sources = _narrow(connection, home, asked, proposed)
            connection.execute("DETACH published")
            connection.execute("SET threads = 1")  # what is left is few
        else:
            sources = read_sources(home)
            register(connection, with_event(sources, proposed) if proposed else sources)
            register_scope(connection, Closed(home), sources, book, None)
        register_alone(connection)
        closed = read_seals(home)
        check_none_lost(home, closed, reopened_seals(connection))
        register_book(connection, book, closed[-1].end if closed else None)
        kernel.run(connection, _steps(sources), silent, ASKED_AFTERWARDS)
    except BaseException:
        connection.close()
        raise
    return connection


def _narrow(connection: duckdb.DuckDBPyConnection, home: Home, asked: str, proposed: Event | None) -> Sources:
    """Register only what is new since the published ledger and what that belongs to; opening balances without the latter."""
    after: dict[str, int] = dict(connection.execute("SELECT writer, last_seq FROM published.build_inputs").fetchall())
    ((newest,),) = connection.execute("SELECT strftime(max(created_at), '%Y-%m-%d') FROM published.ledger").fetchall()
    since = str(date.fromisoformat(newest) - timedelta(days=CONTEXT_DAYS)) if newest else ""
    sources = read_sources(home, after=after, since=since)
    register(connection, with_event(sources, proposed) if proposed else sources)
    connection.execute(SOURCE_AFTER)
    connection.execute(f"CREATE TABLE needed AS {_NEEDED}", {"asked": asked})
    for kind in ROW_KINDS:
        mine = NEW if kind == "event" else "r.request_id IN (SELECT raw_id FROM needed)"
        connection.execute(
            f"CREATE TABLE raw_{kind} AS SELECT r.* FROM all_{kind} r LEFT JOIN source_after a ON r.writer = a.writer WHERE {mine}"
        )
    connection.execute(f"CREATE TABLE opening AS {_OPENING}")
    connection.execute("CREATE TABLE first_opening AS FROM opening")
    connection.execute("CREATE TABLE replaced_request (period VARCHAR, created_at TIMESTAMP, run_id VARCHAR)")
    connection.execute(f"CREATE TABLE known_request AS {_SETTLED}")
    others = "(SELECT * FROM published.attempts WHERE raw_request_id NOT IN (SELECT raw_id FROM needed))"
    connection.execute(f"CREATE TABLE settled_try AS {settled_tries(others, 'published.request_ids')}")
    connection.execute(f"CREATE TABLE closed_charge AS {charged_before('published.wallet_statement', 'known_request')}")
    connection.execute(f"CREATE TABLE prior_allowance_use AS {prior_allowance_use(_USED_ELSEWHERE, 'is_closed')}")
    register_settled(connection, "published.journal", "published.wallet_statement", "published.wallet_holds")
    connection.execute("CREATE TABLE closed_finding AS SELECT kind, subject FROM published.data_quality WHERE false")
    return sources


# Raw requests that are new, that have a new attempt or end, or that is asked for; then those of the same call (an SDK
# sends it again with an equal body, another door saw the same answer); then all that the published ledger counts to the same logical requests.
_NEEDED = f"""
    WITH fresh AS (
        {FRESH}
        UNION SELECT d.raw_request_id FROM published.dispositions d
            WHERE d.request_id IN (SELECT request_id FROM published.request_ids WHERE id = $asked)
    ),
    retried AS (
        SELECT DISTINCT credential, path, match_sha256 FROM all_request
        WHERE request_id IN (SELECT request_id FROM fresh) AND (headers LIKE '%idempotency-key%' OR headers LIKE '%x-stainless-retry-count%'
            AND try_cast(json_extract_string(headers, '$."x-stainless-retry-count"') AS INTEGER) > 0)
    ),
    related AS (
        SELECT request_id FROM fresh
        UNION
        SELECT b.request_id FROM all_response a JOIN all_response b ON a.response_id = b.response_id
        WHERE a.request_id IN (SELECT request_id FROM fresh) AND a.response_id <> ''
        UNION
        SELECT r.request_id FROM all_request r JOIN retried t
            ON r.credential IS NOT DISTINCT FROM t.credential AND r.path = t.path AND r.match_sha256 IS NOT DISTINCT FROM t.match_sha256
    )
    SELECT request_id AS raw_id FROM related
    UNION
    SELECT b.raw_request_id FROM published.dispositions a JOIN published.dispositions b ON a.request_id = b.request_id
    WHERE a.raw_request_id IN (SELECT request_id FROM related)
    EXCEPT
    SELECT d.raw_request_id FROM published.dispositions d JOIN published.periods p ON d.period = p.period WHERE p.status = 'closed'
"""

# Requests that the preview takes as they were published; an entry may name one of them.
_SETTLED = """
    SELECT raw_request_id AS raw_id, request_id, period FROM published.dispositions
    WHERE raw_request_id NOT IN (SELECT raw_id FROM needed)
"""

# Free units that others had; those of closed months first.
_USED_ELSEWHERE = """(
    SELECT u.*, p.status = 'closed' AS is_closed
    FROM published.allowance_use u
    JOIN published.ledger l ON u.request_id = l.request_id
    JOIN published.periods p ON l.period = p.period
    WHERE u.raw_request_id NOT IN (SELECT raw_id FROM needed)
)"""

# Balances as published, less what the preview will post again.
_OPENING = """
    WITH again AS (
        SELECT DISTINCT request_id FROM published.dispositions WHERE raw_request_id IN (SELECT raw_id FROM needed)
    ),
    movements AS (
        SELECT wallet, bucket, currency, balance AS amount FROM published.wallet_balances
        UNION ALL
        SELECT s.wallet, s.bucket, j.currency, -s.amount
        FROM published.wallet_statement s JOIN published.journal j ON s.entry_id = j.entry_id
        WHERE s.kind IN ('charge', 'suspense') AND s.request_id IN (SELECT request_id FROM again)
    )
    SELECT wallet, bucket, currency, CAST(sum(amount) AS DECIMAL(38,12)) AS balance FROM movements GROUP BY ALL
"""
