"""Erasing of single messages: those of a request, or all of a subject's. The row stays, its bytes go, and the subject's key if there is one.

What was read from the messages before (counted tokens, usage in brotli, lines of batches) is kept in the event that names what was
erased, by whom and why, so that every charge stays what it was, in open and closed months. The event comes first: a crash after
it leaves messages that are named as erased and still there, which `verify` tells, and the same command ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from etl.build import CONTEXT_DAYS, as_read
from etl.erasure import READINGS, erased
from etl.published import open_ledger
from etl.sources import date_of, sha256_in
from schemas import manifest, rawfile, sharedkeys
from schemas.bodykeys import BodyKeys
from schemas.errors import LedgerError
from schemas.home import Home
from schemas.manifest import SealedFile
from schemas.rawstore import RawStore


class NothingKeptError(LedgerError):
    """No message is kept of what was named."""


class NotWholeError(LedgerError):
    """A file in which messages may lie is damaged or missing."""


@dataclass(frozen=True, slots=True)
class Named:
    """Whose messages are meant: requests as recorded, and subjects."""

    raw_ids: frozenset[str]
    subjects: frozenset[str]

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """Which rows of bodies are theirs."""
        mine = pc.is_in(rows["request_id"], pa.array(sorted(self.raw_ids), pa.string()))
        if "subject" not in rows.column_names:  # sealed before bodies had one
            return mine
        return pc.or_(mine, pc.is_in(rows["subject"], pa.array(sorted(self.subjects), pa.string())))


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is to be erased: found, and not yet done."""

    named: Named
    keys: tuple[str, ...]  # ids of the subjects' keys
    files: tuple[tuple[SealedFile, str], ...]  # in which messages of theirs lie, with the SHA-256 they have
    readings: dict[str, list[dict[str, Any]]]


def find(home: Home, requests: Sequence[str], subjects: Sequence[str]) -> Erasure:
    """What is kept of these requests, told by any of their ids, and of these subjects; what was recorded must be sealed already.

    Raises NothingKeptError, NotWholeError and ManifestError.
    """
    named = Named(_raw_ids(home, requests), frozenset(subjects))
    here = list(_files(home))
    files = [(file, ids) for file, _ in here if (ids := _ids(home, file, named))]
    keys = tuple(key.id for key in BodyKeys(home).by_id().values() if key.subject in named.subjects)
    if not files and not keys:
        cure = (
            "ids of clients and vendors are known once `tokenledger ledger --no-close` has run; "
            "a subject is user:NAME, key:FINGERPRINT or unknown, as it was when it was recorded"
        )
        raise NothingKeptError(f"no message is kept of {', '.join([*requests, *subjects])}", cure)
    readings: dict[str, list[dict[str, Any]]] = {}
    if files:
        since = date.fromisoformat(min(date_of(file) for file, _ in files)) - timedelta(days=CONTEXT_DAYS)
        with as_read(home, since.isoformat()) as connection:
            more = _same_call(connection, named.raw_ids)
            named = Named(named.raw_ids | more, named.subjects)
            mine = sorted(more.union(*(ids for _, ids in files)))
            readings = {name: found for name in READINGS if (found := _rows(connection, name, mine))}
    return Erasure(named, keys, tuple((file, digest) for file, digest in here if _ids(home, file, named)), readings)


def prepare(home: Home, found: Erasure) -> tuple[dict[str, Any], int]:
    """Write aside what is to lie in the place of each file; what the event says of it all, and how many messages go."""
    files, messages = [], 0
    for file, digest in found.files:
        path = home.raw / file.path
        rows = pq.read_table(path, partitioning=None)
        gone = pc.and_(found.named.mask(rows), pc.greater(pc.binary_length(rows["content"]), 0))
        count = pc.sum(gone).as_py() or 0
        if count:
            rows = _without(rows, "content", gone, b"")
            rows = _without(rows, "key", gone, None) if "key" in rows.column_names else rows
            _, left = rawfile.write_aside(path, rows)
            files.append({"path": f"raw/{file.path}", "sha256": digest, "left": left})
            messages += count
    facts = {
        "requests": sorted(found.named.raw_ids),
        "subjects": sorted(found.named.subjects),
        "keys": list(found.keys),
        "files": files,
        "read": found.readings,
    }
    return facts, messages


def carry_out(home: Home, facts: dict[str, Any], store: RawStore | None) -> None:
    """Do what an event says that is on the disk, and in the store: each file's new bytes take their place, and the subjects' keys go.

    Raises RawStoreError: then the same command ends it.
    """
    paths = [home.root / file["path"] for file in facts["files"]]
    if store is not None:
        for path in paths:
            store.replace(str(path.relative_to(home.raw)), rawfile.aside(path).read_bytes())
        sharedkeys.destroy(store, facts["keys"])
    for path in paths:
        rawfile.take_place(path)
    keys = BodyKeys(home)
    for subject in facts["subjects"]:
        keys.destroy(subject)


def _raw_ids(home: Home, asked: Sequence[str]) -> frozenset[str]:
    """Requests as recorded, by any id that the published ledger or a record knows."""
    found = set(asked)
    if asked and home.ledger_file.exists():
        query = (
            "SELECT d.raw_request_id FROM dispositions d JOIN request_ids i ON d.request_id = i.request_id WHERE list_contains($1, i.id)"
        )
        with open_ledger(home) as connection:
            found.update(raw_id for (raw_id,) in connection.execute(query, [list(asked)]).fetchall())
    return frozenset(found)


def _same_call(connection: duckdb.DuckDBPyConnection, raw_ids: frozenset[str]) -> frozenset[str]:
    """The other records of the same logical requests: an SDK's retries, and what the other door saw."""
    query = """
        WITH counted AS (SELECT coalesce(t.kept_id, m.raw_id) AS raw_id FROM members m LEFT JOIN twins t ON m.raw_id = t.twin_id WHERE list_contains($1, m.raw_id)
            UNION SELECT kept_id FROM twins WHERE list_contains($1, twin_id)),
        mine AS (SELECT raw_id FROM members WHERE request_id IN (SELECT request_id FROM members WHERE raw_id IN (SELECT raw_id FROM counted)))
        SELECT raw_id FROM mine UNION SELECT twin_id FROM twins WHERE kept_id IN (SELECT raw_id FROM mine)
    """
    return frozenset(raw_id for (raw_id,) in connection.execute(query, [sorted(raw_ids)]).fetchall())


def _files(home: Home) -> Iterator[tuple[SealedFile, str]]:
    """The body files that lie here, each with its SHA-256. Raises NotWholeError for one that is not what it must be."""
    gone = erased(home)
    for file in (file for seal in manifest.read(home.manifest) for file in seal.files if file.kind == "body"):
        digest = sha256_in(home.raw / file.path)
        if not gone.allows(file, digest):
            raise NotWholeError(f"raw/{file.path} is missing, or not what was sealed", "restore it from a copy, then erase")
        if digest is not None:
            yield file, digest


def _ids(home: Home, file: SealedFile, named: Named) -> frozenset[str]:
    """The requests among those named of which messages lie in a file."""
    with pq.ParquetFile(home.raw / file.path) as opened:
        rows = opened.read(columns=["request_id", "subject"])
    return frozenset(rows["request_id"].filter(named.mask(rows)).to_pylist())


def _rows(connection: duckdb.DuckDBPyConnection, name: str, raw_ids: list[str]) -> list[dict[str, Any]]:
    query = f"SELECT * FROM {name} WHERE list_contains($1, raw_id) ORDER BY ALL"
    cursor = connection.execute(query, [raw_ids])
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _without(rows: pa.Table, column: str, gone: pa.ChunkedArray, value: object) -> pa.Table:
    """The table with this value in a column where something is gone."""
    place = rows.column_names.index(column)
    field = rows.schema.field(place)
    return rows.set_column(place, field, pc.if_else(gone, pa.scalar(value, field.type), rows[column]))
