"""Ad hoc SQL on the published ledger: anything may be asked, nothing can be changed or reached through it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from etl.published import open_ledger
from etl.table import cell, jsonable, render
from schemas.counts import counted
from schemas.errors import UsageError
from schemas.home import Home


class QueryError(UsageError):
    """DuckDB refused the query."""

    def __init__(self, error: duckdb.Error) -> None:
        super().__init__(str(error).strip(), 'see what there is, and DESCRIBE a table for its columns: tokenledger sql "SHOW TABLES"')


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of the last statement."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


def ask(home: Home, query: str) -> Answer:
    """Run `query` and fetch its result; an empty one has no columns. Raises QueryError, NoLedgerError or LedgerUnreadableError."""
    with open_ledger(home, sealed_off=True) as connection:
        try:
            relation = connection.sql(query)
            if relation is None:
                return Answer((), ())
            return Answer(tuple(relation.columns), relation.fetchall())
        except duckdb.Error as error:
            raise QueryError(error) from None


def as_text(answer: Answer) -> str:
    """An aligned table and the count of rows."""
    if not answer.columns:
        return "done"
    return f"{render(answer.columns, answer.rows, unknown='NULL')}\n({counted(len(answer.rows), 'row')})"


def as_json(answer: Answer) -> str:
    """A list of objects; decimals and instants are texts."""
    objects = [dict(zip(answer.columns, map(jsonable, row), strict=True)) for row in answer.rows]
    return json.dumps(objects, indent=2, ensure_ascii=False)


def as_csv(answer: Answer) -> str:
    """RFC 4180 with a head line; NULL is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([cell(value, "") if not isinstance(value, str) else value for value in row] for row in answer.rows)
    return text.getvalue().removesuffix("\n")
