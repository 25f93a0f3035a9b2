"""The edition: the ledger that a build is making, a file beside the published one until it is whole and renamed over it.

An edition begins empty, or as a copy of the published ledger in which a build puts its rows in the place of those that
changed. Readers see the old ledger or the new one, never a mix. While it is made it is attached as `published`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import duckdb

from etl.kernel import check_shape
from schemas import durable
from schemas.ledger import TABLES, Table

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """Rows of one table: those that the condition `stale` picks go (all of them without one), those of `select` come."""

    table: Table
    select: str
    stale: str | None = None


@dataclass(slots=True)
class Edition:
    """A ledger in the making."""

    connection: duckdb.DuckDBPyConnection
    target: Path
    partial: Path
    goes_on: bool  # it began as a copy of the published ledger
    has_slices: bool = False  # what this build replaces is gone, and rows that it made have come

    def write(self, changes: Iterable[Change]) -> None:
        """Make the changes, all in one transaction: one commit and so one sync for all that is written."""
        self.connection.execute("BEGIN")
        try:
            for change in changes:
                self._write(change)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def _write(self, change: Change) -> None:
        name, columns = change.table.name, ", ".join(f'"{column}"' for column in change.table.column_names)
        order = ", ".join(f'"{column}" NULLS FIRST' for column in change.table.order_by)
        if self.goes_on:
            self.connection.execute(f'DELETE FROM published."{name}" WHERE {change.stale or "true"}')
        if change.select:
            self.connection.execute(f'INSERT INTO published."{name}" ({columns}) SELECT {columns} FROM ({change.select}) ORDER BY {order}')

    def publish(self) -> None:
        """Rename it over the published ledger, synced before and after."""
        self.connection.execute("DETACH published")
        durable.sync(self.partial)
        os.replace(self.partial, self.target)
        durable.sync(self.target.parent)


@contextmanager
def edition(connection: duckdb.DuckDBPyConnection, target: Path, copy_of: str | None = None) -> Iterator[Edition]:
    """A new edition of the ledger at `target`: a copy of it where it has the SHA-256 `copy_of`, else empty tables with their comments.

    Nothing is left of it where it was not published.
    """
    durable.make_folder(target.parent)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        goes_on = copy_of is not None and _copied(target, partial) == copy_of
        if not goes_on:
            with _created(partial) as written:
                written.write(_declared())
        connection.execute(f"ATTACH '{_quoted(str(partial))}' AS published")
        try:
            yield Edition(connection, target, partial, goes_on)
        finally:
            connection.execute("DETACH DATABASE IF EXISTS published")
    finally:
        for left in target.parent.glob(f"{partial.name}*"):
            left.unlink(missing_ok=True)


def _copied(source: Path, copy: Path) -> str:
    """Copy a file; the SHA-256 of what was copied, empty where there is none."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(PIECE_BYTES))  # one for all: a new one each time costs more than hashing it
    try:
        with source.open("rb", buffering=0) as read, _created(copy) as written:
            while size := read.readinto(piece):
                digest.update(piece[:size])
                written.write(piece[:size])
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _created(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


@cache
def _declared() -> bytes:
    """A ledger file with every table and its comments, and no row."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute("BEGIN")
            for table in TABLES:
                types = ", ".join(f'"{column.name}" {column.type}' for column in table.columns)
                connection.execute(f'CREATE TABLE "{table.name}" ({types})')
                connection.execute(f"COMMENT ON TABLE \"{table.name}\" IS '{_quoted(table.doc)}'")
                for column in table.columns:
                    connection.execute(f'COMMENT ON COLUMN "{table.name}"."{column.name}" IS \'{_quoted(column.doc)}\'')
            connection.execute("COMMIT")
        return path.read_bytes()


def own_rows(connection: duckdb.DuckDBPyConnection, table: Table, stale: str | None = None) -> Change:
    """The rows that this build made of a table, its shape held to the contract. Raises ShapeError."""
    check_shape(connection, table)
    return Change(table, f'SELECT * FROM memory."{table.name}"', stale)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
