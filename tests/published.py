"""Published ledgers: one written by hand, every table of the contract with the rows that a test names; and two compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from schemas.home import Home
from schemas.ledger import TABLES

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def publish(home: Home, rows: Rows) -> None:
    """Write ledger.duckdb with `rows` by table; a column that a row does not name is null."""
    home.ledger.mkdir(parents=True, exist_ok=True)
    home.ledger_file.unlink(missing_ok=True)
    with duckdb.connect(str(home.ledger_file)) as connection:
        for table in TABLES:
            columns = ", ".join(f'"{column.name}" {column.type}' for column in table.columns)
            connection.execute(f"CREATE TABLE {table.name} ({columns})")
            for row in rows.get(table.name, ()):
                assert not set(row) - set(table.column_names), f"{table.name} has no column {set(row) - set(table.column_names)}"
                names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" for _ in row)
                connection.execute(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", list(row.values()))


def differences(one: Path, other: Path) -> dict[str, int]:
    """For each published table the number of rows that only one of the two ledgers has, each counted as often as it stands there."""
    connection = duckdb.connect()
    connection.execute(f"ATTACH '{one}' AS one (READ_ONLY)")
    connection.execute(f"ATTACH '{other}' AS other (READ_ONLY)")
    found = {}
    for table in TABLES:
        sides = [f'SELECT * FROM {side}."{table.name}"' for side in ("one", "other")]
        ((rows,),) = connection.execute(
            f"SELECT (SELECT count(*) FROM ({sides[0]} EXCEPT ALL {sides[1]})) + (SELECT count(*) FROM ({sides[1]} EXCEPT ALL {sides[0]}))"
        ).fetchall()
        found[table.name] = rows
    return {name: rows for name, rows in found.items() if rows}
