"""The audit trail as a chain: each row's hash covers what the row says and the hash of the row before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from etl.closed import Closed
from etl.sources import table
from etl.table import jsonable
from schemas.manifest import GENESIS

COVERED = ("event_id", "at", "event", "actor", "reason", "reference", "request_id", "facts")
_CHAIN = pa.schema([("event_id", pa.string()), ("number", pa.int64()), ("prev_hash", pa.string()), ("hash", pa.string())])


def hash_of(previous: str, row: Mapping[str, Any]) -> str:
    """The hash of a row of audit_trail, as the column's comment defines it."""
    lines = [previous, *(name if row[name] is None else f"{name}={jsonable(row[name])}" for name in COVERED)]
    return hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()


def chained(rows: Iterable[Mapping[str, Any]], number: int, previous: str) -> Iterator[dict[str, Any]]:
    """The places and hashes of rows in order, after row `number` whose hash is `previous`."""
    for row in rows:
        number += 1
        digest = hash_of(previous, row)
        yield {"event_id": row["event_id"], "number": number, "prev_hash": previous, "hash": digest}
        previous = digest


def read_rows(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[dict[str, Any]]:
    """The rows of a query, one at a time."""
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description or ()]
    while batch := cursor.fetchmany(10_000):
        for row in batch:
            yield dict(zip(names, row, strict=True))


def chain_audit_trail(connection: duckdb.DuckDBPyConnection, closed: Closed) -> int:
    """Number and hash the rows of audit_trail that no seal has fixed, on from those that one has; how many."""
    last = connection.execute(
        f"SELECT number, hash FROM published.audit_trail WHERE NOT ({closed.is_open}) ORDER BY number DESC LIMIT 1"
    ).fetchone()
    fresh = list(read_rows(connection, 'SELECT * FROM audit_trail ORDER BY "at", event_id'))
    links = list(chained(fresh, *(last or (0, GENESIS))))
    table(connection, "audit_chain", pa.Table.from_pylist(links, _CHAIN))
    connection.execute(
        "UPDATE audit_trail SET number = c.number, prev_hash = c.prev_hash, hash = c.hash FROM audit_chain c "
        "WHERE audit_trail.event_id = c.event_id"
    )
    return len(links)
