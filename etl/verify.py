"""Verification: every hash and every law worked out again from what lies there, and the first thing that is wrong is named.

It goes the way that money goes: book, journals, manifest and files, then the seals of closed months with all that they
cover, then the published ledger. It writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from etl import merkle
from etl.audit import hash_of, read_rows
from etl.bodies import key_ids
from etl.bookwatch import FOLDER, POINTER, kept, seen_digest
from etl.build import DIGEST_FILE
from etl.carried import BASIS_FILE, check_none_lost
from etl.erasure import erased
from etl.published import open_ledger, require_period
from etl.seals import (
    SEAL_FILE,
    TABLES_FOLDER,
    MonthSeal,
    SealBroken,
    check_outputs,
    every_seal,
    folder,
    load,
    public_key_of,
    read_seals,
    sha256_of,
)
from etl.sources import date_of, sha256_in
from etl.spending import spending
from etl.table import jsonable
from schemas import manifest, spend
from schemas.bodykeys import BodyKey, BodyKeys
from schemas.book import digest_of, load_book, read_files
from schemas.counts import counted
from schemas.errors import LedgerError
from schemas.frames import Damage, decode
from schemas.home import Home
from schemas.instants import parse_instant, to_datetime
from schemas.ledger import LEDGER, TABLES
from schemas.manifest import GENESIS
from schemas.money import plain
from schemas.spool import read_segment, slots

REBUILD = "tokenledger ledger  (it can always be made again)"


class WrongError(LedgerError):
    """The first thing that is not what it must be."""

    def __init__(self, subject: str, what: str, cure: str) -> None:
        super().__init__(f"{subject}: {what}", cure)
        self.subject = subject


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found whole."""

    files: int
    frames: int
    requests: int
    entries: int
    months: int
    outputs: int

    def __str__(self) -> str:
        return (
            f"verified: {counted(self.files, 'raw file')}, {counted(self.frames, 'journal frame')}, {counted(self.requests, 'receipt')}, "
            f"{counted(self.entries, 'journal entry', 'journal entries')}, "
            f"{counted(self.months, 'closed month')} with {counted(self.outputs, 'output')}"
        )


def verify(home: Home, period: str | None = None) -> Verified:
    """Everything, or what concerns one month; raises WrongError, SealBroken or ManifestError at the first thing that is wrong.

    Raises PeriodError for a month that the published ledger does not know, BookError where there is no book.
    """
    _check_book(home)
    frames = _check_spool(home)
    seals = read_seals(home)
    chain = _check_manifest(home)
    files = _check_raw(home, chain, next((seal for seal in seals if seal.period == period), None) if period else None)
    own_key = public_key_of(home)
    outputs = 0
    chosen = [seal for seal in seals if period in (None, seal.period)]
    for seal in chosen:
        if own_key is not None and seal.public_key != own_key:
            raise SealBroken(seal.period, f"ledger/{seal.period}/{SEAL_FILE}", "is signed by another key than this home's")
        _check_inputs(seal, chain)
        outputs += check_outputs(home, seal)
        _check_receipts(home, seal)
    for path in every_seal(home):
        load(path)
    requests, entries = _check_ledger(home, seals, period)
    check_none_lost(home, seals)
    return Verified(files, frames, requests, entries, len(chosen), outputs)


# ---- what goes in ----


def _check_book(home: Home) -> None:
    digest = seen_digest(home)
    if digest is None:
        load_book(home.book)  # where nothing was built there may be no home at all, and then nothing is whole
    for version in sorted((home.ledger / FOLDER).glob("[0-9a-f]*")):
        if version.is_dir() and digest_of({path.name: path.read_bytes() for path in version.iterdir()}) != version.name:
            raise WrongError(f"ledger/{FOLDER}/{version.name}", "is not the book that was kept under this digest", "restore it from a copy")
    if digest is not None:
        if not kept(home, digest).is_dir() or (home.ledger / FOLDER / POINTER).read_bytes() != f"{digest}\n".encode():
            raise WrongError(f"ledger/{FOLDER}/{POINTER}", "names a version of the book that is not kept", "tokenledger ledger")
        files = read_files(home.book)
        if digest_of(files) != digest:
            before = {path.name: path.read_bytes() for path in kept(home, digest).iterdir()}
            name = next(name for name in sorted(files.keys() | before.keys()) if files.get(name) != before.get(name))
            raise WrongError(f"book/{name}", "changed since the ledger was built", "if it was meant: tokenledger ledger")


def _check_spool(home: Home) -> int:
    count = 0
    for slot in slots(home):
        for path in slot.segments():
            for found in decode(read_segment(path)):
                if isinstance(found, Damage):
                    where = f"spool/{path.parent.name}/{path.name} bytes {found.offset}-{found.end}"
                    raise WrongError(where, "no whole record lies here (CRC)", "while a proxy is writing, try again; else restore it")
                count += 1
    return count


def _check_manifest(home: Home) -> list[manifest.Seal]:
    chain = manifest.read(home.manifest)
    content = home.manifest.read_bytes() if home.manifest.exists() else b""
    if content != b"".join(seal.line() for seal in chain):
        raise WrongError(f"raw/{home.manifest.name} line {len(chain) + 1}", "is not a finished line", "restore the manifest from a copy")
    return chain


def _check_raw(home: Home, chain: list[manifest.Seal], month: MonthSeal | None) -> int:
    days = None if month is None else (str(_day(month.starts_at)), str(_day(month.ends_at)))
    count = 0
    gone, keys = erased(home), BodyKeys(home).by_id()
    for key_id in sorted(gone.keys & keys.keys()):
        what = "was destroyed, as an event says, and lies there again"
        raise WrongError(
            f"secrets/{home.body_keys.name} key {key_id} of {keys[key_id].subject}", what, "tokenledger erase --subject, again"
        )
    for seal in chain:
        for file in seal.files:
            if days is not None and not days[0] <= date_of(file) <= days[1] and (month is None or file.path not in month.files):
                continue
            digest = sha256_in(home.raw / file.path)
            if not (digest == file.sha256 or (file.kind == "body" and gone.allows(file, digest))):
                raise WrongError(f"raw/{file.path}", "is missing, or not what was sealed (SHA-256 differs)", "restore it from a copy")
            if digest is None:
                continue
            if file.kind == "body":
                if gone.is_unfinished(file, digest):
                    raise WrongError(f"raw/{file.path}", "was erased, as an event says, and lies there", "tokenledger erase, again")
                _check_keys(f"raw/{file.path}", key_ids(home.raw / file.path), keys, gone.keys)
            count += 1
    return count


def _check_keys(subject: str, needed: AbstractSet[str], here: Mapping[str, BodyKey], destroyed: AbstractSet[str]) -> None:
    missing = sorted(needed - here.keys() - destroyed)
    if missing:
        what = f"holds bodies under the key {missing[0]}, which is missing though nobody destroyed it"
        raise WrongError(subject, what, "restore secrets/bodies/ from a copy")


def _day(text: str) -> Any:
    return to_datetime(parse_instant(text)).date()


# ---- closed months ----


def _check_inputs(seal: MonthSeal, chain: list[manifest.Seal]) -> None:
    subject = f"ledger/{seal.period}/{SEAL_FILE}"
    lines = seal.manifest["lines"]
    if lines > len(chain) or (chain[lines - 1].hash if lines else GENESIS) != seal.manifest["hash"]:
        raise SealBroken(seal.period, f"raw/manifest.jsonl line {lines}", f"is not the one that {subject} was made from")
    known = {file.path: file.sha256 for line in chain for file in line.files}
    for path, digest in seal.files.items():
        if known.get(path) != digest:
            raise SealBroken(seal.period, f"raw/{path}", f"is not what {subject} was made from")


def _check_receipts(home: Home, seal: MonthSeal) -> None:
    """The Merkle root over the sealed rows, each row's digest worked out again, and the tree as it lies there."""
    path = folder(home, seal.period) / TABLES_FOLDER / "ledger.parquet"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        quoted = str(path).replace("'", "''")
        tree = merkle.grow(_digests(connection, f"SELECT * FROM read_parquet('{quoted}') ORDER BY request_id", f"ledger/{seal.period}"))
    is_there = tree.is_in(folder(home, seal.period) / merkle.MERKLE_FILE)
    if not is_there or tree.root != seal.receipts["root"] or tree.leaves != seal.receipts["count"]:
        raise SealBroken(seal.period, f"ledger/{seal.period}/{SEAL_FILE}", "its root does not cover the month's receipts")


def digest_of_row(row: Mapping[str, Any]) -> str:
    """A receipt's digest, worked out as the comment on ledger.receipt_digest says and not by the model's SQL."""
    lines = []
    for name in LEDGER.column_names[:-1]:
        value = row[name]
        text = None if value is None else plain(value) if hasattr(value, "as_tuple") else str(jsonable(value))
        lines.append(f"{name}\n" if text is None else f"{name}={text}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digests(connection: duckdb.DuckDBPyConnection, query: str, subject: str) -> Iterator[str]:
    for row in read_rows(connection, query):
        digest = digest_of_row(row)
        if digest != row["receipt_digest"]:
            raise WrongError(f"{subject}: receipt {row['request_id']}", "its digest does not cover what it says", REBUILD)
        yield digest


# ---- what was published ----

# Each gives the rows that break it, by a name; $period is null for all months.
LAWS: tuple[tuple[str, str], ...] = (
    (
        "a transaction does not sum to zero",
        (
            "SELECT transaction_id FROM journal WHERE $period IS NULL OR period = $period GROUP BY transaction_id, currency "
            "HAVING sum(amount) IS DISTINCT FROM 0"
        ),
    ),
    (
        "the trial balance is not zero after an instant",
        (
            "SELECT posted_at FROM (SELECT posted_at, period, sum(sum(amount)) OVER (PARTITION BY currency ORDER BY posted_at) AS trial "
            "FROM journal GROUP BY posted_at, period, currency) WHERE trial <> 0 AND ($period IS NULL OR period = $period) ORDER BY posted_at"
        ),
    ),
    (
        "a balance is not the sum of its entries",
        (
            "SELECT account FROM (SELECT account, currency, sum(amount) AS total FROM journal WHERE account LIKE 'wallet:%' "
            "GROUP BY account, currency) j FULL JOIN (SELECT 'wallet:' || wallet || ':' || bucket AS account, currency, balance "
            "FROM wallet_balances) b USING (account, currency) WHERE j.total IS DISTINCT FROM b.balance"
        ),
    ),
    (
        "a charge is not the sum of its lines",
        (
            "SELECT l.request_id FROM ledger l LEFT JOIN (SELECT request_id, sum(amount) AS total FROM charges GROUP BY request_id) c "
            "ON l.request_id = c.request_id WHERE l.final_charge IS NOT NULL AND l.final_charge IS DISTINCT FROM coalesce(c.total, 0) "
            "AND ($period IS NULL OR l.period = $period)"
        ),
    ),
    (
        "a charge is not what its wallet paid",
        (
            "SELECT l.request_id FROM ledger l LEFT JOIN (SELECT request_id, -sum(amount) AS paid FROM journal "
            "WHERE account LIKE 'wallet:%' AND kind = 'charge' GROUP BY request_id) j ON l.request_id = j.request_id "
            "WHERE l.final_charge IS NOT NULL AND l.final_charge IS DISTINCT FROM coalesce(j.paid, 0) "
            "AND ($period IS NULL OR l.period = $period)"
        ),
    ),
    (
        "a balance after an entry is not the sum up to it",
        (
            "SELECT entry_id FROM (SELECT entry_id, balance_after, sum(amount) OVER (PARTITION BY wallet, bucket ORDER BY posted_at, entry_id "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS total FROM wallet_statement) WHERE total IS DISTINCT FROM balance_after"
        ),
    ),
    (
        "a month's balance proof does not hold",
        (
            "SELECT period || ' ' || wallet || ':' || bucket FROM balance_proof WHERE ($period IS NULL OR period = $period) AND "
            "closing IS DISTINCT FROM opening + topups + bonuses - charges - suspense + adjustments + refunds - expiries + transfers + reversals"
        ),
    ),
    (
        "the lots of a balance hold more than its credit",
        "SELECT lot_id FROM wallet_lots WHERE remaining < 0 OR remaining > credit",
    ),
)


def _check_ledger(home: Home, seals: tuple[MonthSeal, ...], period: str | None) -> tuple[int, int]:
    path = home.ledger_file
    if not path.exists():
        return 0, 0
    noted = home.ledger / DIGEST_FILE
    lines = noted.read_bytes().split(b"\n") if noted.exists() else []
    expected = []
    for published in (path, home.ledger / BASIS_FILE):
        expected.append(f"{sha256_of(published)}  {published.name}".encode() if published.exists() else b"")
        if expected[-1] not in lines:
            raise WrongError(f"ledger/{published.name}", "is not the file that was published (SHA-256 differs)", REBUILD)
    if lines != [*expected, b""]:
        raise WrongError(f"ledger/{noted.name}", "is not what was written", REBUILD)
    with open_ledger(home) as connection:
        if period is not None:
            require_period(connection, period)
        spent = home.spend_file
        if not spent.exists() or spent.read_bytes() != spend.content(spending(connection)):
            raise WrongError(f"ledger/{spent.name}", "is not what the published ledger says that keys have spent", REBUILD)
        return _check_published(home, connection, seals, period)


def _check_published(
    home: Home, connection: duckdb.DuckDBPyConnection, seals: tuple[MonthSeal, ...], period: str | None
) -> tuple[int, int]:
    for what, select in LAWS:
        parameters = {"period": period} if "$period" in select else {}
        found = connection.execute(f"SELECT * FROM ({select}) ORDER BY 1 LIMIT 1", parameters).fetchone()
        if found:
            raise WrongError(f"ledger.duckdb: {found[0]}", what, REBUILD)
    where = "" if period is None else f" WHERE period = '{period}'"
    requests = sum(1 for _ in _digests(connection, f"SELECT * FROM ledger{where} ORDER BY request_id", "ledger.duckdb"))
    _check_audit_trail(connection)
    for seal in seals:
        if period in (None, seal.period):
            _check_same(home, connection, seal)
    ((entries,),) = connection.execute(f"SELECT count(*) FROM journal{where}").fetchall()
    return requests, entries


def _check_audit_trail(connection: duckdb.DuckDBPyConnection) -> None:
    previous = GENESIS
    for row in read_rows(connection, "SELECT * FROM audit_trail ORDER BY number"):
        if row["prev_hash"] != previous or row["hash"] != hash_of(previous, row):
            raise WrongError(f"ledger.duckdb: audit_trail {row['number']}", "breaks the chain of hashes", REBUILD)
        previous = row["hash"]


def _check_same(home: Home, connection: duckdb.DuckDBPyConnection, seal: MonthSeal) -> None:
    """What is published of a closed month's money is what was sealed."""
    for table in TABLES:
        path = folder(home, seal.period) / TABLES_FOLDER / f"{table.name}.parquet"
        if table.name in ("ledger", "charges", "journal", "balance_proof") and path.exists():
            columns = ", ".join(f'"{name}"' for name in table.column_names)
            quoted = _quoted(path)
            if table.name == "charges":
                mine = f"SELECT {columns} FROM charges WHERE request_id IN (SELECT request_id FROM ledger WHERE period = '{seal.period}')"
            else:
                mine = f"SELECT {columns} FROM \"{table.name}\" WHERE period = '{seal.period}'"
            sealed = f"SELECT {columns} FROM read_parquet('{quoted}')"
            differing = f"(({mine}) EXCEPT ALL ({sealed})) UNION ALL (({sealed}) EXCEPT ALL ({mine}))"
            ((count,),) = connection.execute(f"SELECT count(*) FROM ({differing})").fetchall()
            if count:
                raise WrongError(f"ledger.duckdb: {table.name} of {seal.period}", "is not what was sealed", REBUILD)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
