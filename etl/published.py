"""The published ledger, opened so that nothing can be changed through it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import duckdb

from schemas.errors import LedgerError, UsageError
from schemas.home import Home


class NoLedgerError(LedgerError):
    """There is no published ledger to read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no ledger has been published at {path}", "tokenledger ledger")


class LedgerUnreadableError(LedgerError):
    """DuckDB cannot open the published file."""

    def __init__(self, path: Path, error: duckdb.Error) -> None:
        super().__init__(f"{path} cannot be read: {str(error).splitlines()[0]}", "tokenledger ledger  (it can always be made again)")


class PeriodError(UsageError):
    """The period is not one, or the ledger has nothing of it."""


def open_ledger(home: Home, *, limits: Mapping[str, str] | None = None, sealed_off: bool = False) -> duckdb.DuckDBPyConnection:
    """A read-only connection in UTC; `sealed_off` also shuts files, the network and settings for whoever writes the SQL.

    `limits` are settings of DuckDB, such as `memory_limit`.

    Raises NoLedgerError or LedgerUnreadableError. A build renames a new file in, so an open connection keeps reading the old one.
    """
    path = home.ledger_file
    if not path.exists():
        raise NoLedgerError(path)
    try:
        connection = duckdb.connect(str(path), read_only=True)
        connection.execute("SET TimeZone = 'UTC'")
        for name, value in (limits or {}).items():
            connection.execute(f"SET {name} = '{value}'")
    except duckdb.Error as error:
        raise LedgerUnreadableError(path, error) from None
    if sealed_off:
        connection.execute("SET python_enable_replacements = false")  # else a query could name our own variables
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    return connection


PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


def require_month(period: str) -> None:
    """Raise PeriodError unless `period` is written as a month, 2026-10."""
    if not PERIOD.fullmatch(period):
        raise PeriodError(f"{period!r} is no period", "write it as 2026-10")


def require_period(connection: duckdb.DuckDBPyConnection, period: str) -> None:
    """Raise PeriodError unless `period` is a month that the published ledger knows."""
    require_month(period)
    known = [row[0] for row in connection.execute("SELECT period FROM periods ORDER BY period").fetchall()]
    if period not in known:
        raise PeriodError(
            f"the ledger has nothing of {period}", f"choose one of: {', '.join(known) or 'none yet'}; or run tokenledger ledger"
        )
