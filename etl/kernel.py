"""The kernel: runs the models in name order on one connection and holds each to the laws in its header.

A model is one file `NN_name.sql` with one select in it; it becomes the table `name`. Its header, the comment lines at
the top, says what one row means and then names its laws, each after `check:`. A law is a condition that every row fulfils
(a null does not fulfil it), `unique` with columns that no two rows share (and `where`, for some rows only), or a select that
must return nothing. Steps that are not SQL, such as the
recount, are named in the same way and take their place in the same order.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from schemas.counts import counted
from schemas.errors import LedgerError
from schemas.ledger import BY_NAME, Table

MODELS = Path(__file__).parent / "models"
SAMPLE_ROWS = 3
MOST_MEMORY = 5 << 30  # bytes
OF_ALL = "80"  # from this number on models read what is made of all requests, as it is written of the edition

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_READ = re.compile(r"\b(?:from|join)\s+(\w+)", re.IGNORECASE)
_UNIQUE = re.compile(r"unique (?P<columns>\w+(?:, \w+)*)(?: where (?P<condition>.+))?", re.IGNORECASE)
_FILE_NAME = re.compile(r"(\d\d)_([a-z][a-z_]*)")


class ModelError(LedgerError):
    """A model file that breaks the rules of the kernel; found before anything runs."""

    def __init__(self, file: str, what: str) -> None:
        super().__init__(f"etl/models/{file}: {what}", "mend the model; the head of etl/kernel.py has the rules")


class CheckFailed(LedgerError):
    """Rows that break a law of a model; nothing was published."""

    def __init__(self, model: str, law: str, count: int, columns: Sequence[str], sample: Sequence[tuple[Any, ...]]) -> None:
        rows = "\n".join("  " + ", ".join(f"{name}={value}" for name, value in zip(columns, row, strict=True)) for row in sample)
        super().__init__(
            f"{model}: {counted(count, 'row breaks', 'rows break')} the law `{law}`\n{rows}",
            "the published ledger is unchanged; mend the model or the records it reads and run `tokenledger ledger` again",
        )
        self.model = model
        self.law = law
        self.count = count
        self.sample = tuple(sample)


class ShapeError(LedgerError):
    """A contract table whose columns or types are not those of schemas/ledger.py."""

    def __init__(self, table: str, what: str) -> None:
        super().__init__(f"{table} cannot be published: {what}", "bring the model and schemas/ledger.py together")


@dataclass(frozen=True, slots=True)
class Progress:
    """One step done: its place among all steps, its name, the rows it made and how long it took."""

    place: int
    of: int
    name: str
    rows: int
    seconds: float

    def __str__(self) -> str:
        return f"[{self.place}/{self.of}] {self.name} {counted(self.rows, 'row')} {self.seconds:.2f} s"


Report = Callable[[Progress], None]
Run = Callable[
    [duckdb.DuckDBPyConnection, Sequence["Model | Step"], Report, frozenset[str]], None
]  # what runs the steps of a build: `run` below, or a cluster


@dataclass(frozen=True, slots=True)
class Probe:
    """One quick question for some laws: where it gives no row, all of them hold; where it gives one, each must be asked for itself."""

    statement: duckdb.Statement
    laws: tuple[str, ...]
    looks_elsewhere: bool  # so that a table without a row may break them too


@dataclass(frozen=True)
class Model:
    """One select: the table it makes, what one row of it means, and its laws. Its statements are parsed once for all builds."""

    number: str
    name: str
    doc: str
    laws: tuple[str, ...]
    select: str
    creation: duckdb.Statement = field(repr=False)
    probes: tuple[Probe, ...] = field(repr=False)

    @cached_property
    def reads(self) -> frozenset[str]:
        """What stands after FROM or JOIN in its select and its laws: every table that it reads, and its own expressions' names."""
        return frozenset(_READ.findall(" ".join((self.select, *self.laws))))

    def run(self, connection: duckdb.DuckDBPyConnection) -> int:
        """Build the table and hold it to its laws; the number of its rows. Raises CheckFailed."""
        ((rows,),) = connection.execute(self.creation).fetchall()
        for probe in self.probes:
            if (rows or probe.looks_elsewhere) and connection.execute(probe.statement).fetchall():
                for law in probe.laws:
                    hold(connection, self.name, law)
        return int(rows)


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is not SQL: it makes the tables it is registered for and tells how many rows."""

    number: str
    name: str
    action: Callable[[duckdb.DuckDBPyConnection], int]
    reads: frozenset[str] = frozenset()  # models' tables that it needs

    def run(self, connection: duckdb.DuckDBPyConnection) -> int:
        """Act; the number of rows made."""
        return self.action(connection)


def _is_select(law: str) -> bool:
    return law.split(None, 1)[0].lower() in ("select", "with")


def _is_unique(law: str) -> bool:
    return law.split(None, 1)[0].lower() == "unique"


def _key(law: str) -> tuple[str, str]:
    """The columns of a law of uniqueness, and the rows that it is about as a WHERE clause. Raises ValueError."""
    found = _UNIQUE.fullmatch(law)
    if found is None:
        raise ValueError("a law of uniqueness is `unique COLUMN, COLUMN where CONDITION`")
    return found["columns"], f" WHERE {found['condition']}" if found["condition"] else ""


def _alike(model: str, law: str) -> str:
    """A row where two keys have one hash: where there is none, no two keys are equal, and a hash takes less room than a key."""
    columns, where = _key(law)
    return f'SELECT 1 FROM (SELECT hash({columns}) AS h FROM "{model}"{where}) GROUP BY h HAVING count(*) > 1 LIMIT 1'


def hold(connection: duckdb.DuckDBPyConnection, model: str, law: str) -> None:
    """Raise CheckFailed unless the law holds of the table."""
    offending = offending_rows(model, law)
    cursor = connection.execute(f"SELECT * FROM ({offending}) LIMIT {SAMPLE_ROWS}")
    columns = [column[0] for column in cursor.description or ()]
    sample = cursor.fetchall()
    if sample:
        ((count,),) = connection.execute(f"SELECT count(*) FROM ({offending})").fetchall()
        raise CheckFailed(model, law, count, columns, sample)


def offending_rows(model: str, law: str) -> str:
    """The select of the rows that break a law; of one of uniqueness, of the keys that several rows have."""
    if _is_unique(law):
        columns, where = _key(law)
        return f'SELECT {columns}, count(*) AS rows FROM "{model}"{where} GROUP BY {columns} HAVING count(*) > 1'
    return law if _is_select(law) else _offending(model, law)


def _offending(table: str, *conditions: str) -> str:
    broken = " OR ".join(f"({condition}) IS DISTINCT FROM true" for condition in conditions)
    return f'SELECT * FROM "{table}" WHERE {broken}'


def read_models(folder: Path = MODELS) -> tuple[Model, ...]:
    """Every model of a folder in name order, headers and statements checked; raises ModelError."""
    models = tuple(_model(path) for path in sorted(folder.glob("*.sql")))
    for kind in ("number", "name"):
        seen: set[str] = set()
        for model in models:
            if getattr(model, kind) in seen:
                raise ModelError(f"{model.number}_{model.name}.sql", f"another model has the {kind} {getattr(model, kind)}")
            seen.add(getattr(model, kind))
    return models


def _model(path: Path) -> Model:
    named = _FILE_NAME.fullmatch(path.stem)
    if named is None:
        raise ModelError(path.name, "its name is not two digits, _ and small letters")
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    head = [line[2:].strip() for line in lines[: next((n for n, line in enumerate(lines) if not line.startswith("--")), len(lines))]]
    doc, *laws = [part.strip() for part in " ".join(head).split("check:")]
    if not doc:
        raise ModelError(path.name, "its header does not say what one row means")
    if not laws or not all(laws):
        raise ModelError(path.name, "its header names no check, or an empty one")
    select = "\n".join(lines[len(head) :])
    name = named[2]
    creation = _parsed(path.name, f'CREATE TABLE "{name}" AS {select}', duckdb.StatementType.CREATE)
    try:
        probes = tuple(_probes(path.name, name, laws))
    except ValueError as error:
        raise ModelError(path.name, str(error)) from None
    return Model(named[1], name, doc, tuple(laws), select, creation, probes)


def _probes(file: str, model: str, laws: Sequence[str]) -> Iterator[Probe]:
    """What a model's laws are asked with; its conditions all in one reading. Raises ModelError, and ValueError for a law of uniqueness."""
    conditions = tuple(law for law in laws if not _is_select(law) and not _is_unique(law))
    if conditions:
        for law in conditions:  # each for itself, so that none leans on its neighbour's brackets
            _parsed(file, _offending(model, law))
        yield Probe(_parsed(file, _first_of(_offending(model, *conditions))), conditions, looks_elsewhere=False)
    for law in laws:
        if _is_select(law):
            yield Probe(_parsed(file, _first_of(law)), (law,), looks_elsewhere=True)
        elif _is_unique(law):
            yield Probe(_parsed(file, _alike(model, law)), (law,), looks_elsewhere=False)


def _first_of(select: str) -> str:
    return f"SELECT 1 FROM ({select}) LIMIT 1"


def _parsed(file: str, sql: str, kind: duckdb.StatementType = duckdb.StatementType.SELECT) -> duckdb.Statement:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.ParserException as error:
        raise ModelError(file, f"does not parse: {str(error).splitlines()[0]}") from None
    if len(statements) != 1 or statements[0].type != kind:
        raise ModelError(file, "holds something other than one select")
    return statements[0]


def in_order(steps: Sequence[Model | Step]) -> list[Model | Step]:
    """Steps in the order in which they run."""
    return sorted(steps, key=lambda step: (step.number, step.name))


def run(connection: duckdb.DuckDBPyConnection, steps: Sequence[Model | Step], report: Report, keep: frozenset[str]) -> None:
    """Run models and steps in name order; raises CheckFailed at the first law that does not hold.

    A model's table goes when its last reader is done, but for those of the contract and `keep`: a month needs the memory of its
    widest place, not that of all its tables.
    """
    ordered = in_order(steps)
    last_reader = {name: place for place, step in enumerate(ordered) for name in (step.name, *step.reads)}
    passing = [step.name for step in ordered if isinstance(step, Model) and step.name not in keep | BY_NAME.keys()]
    goes_after = {place: [name for name in passing if last_reader[name] == place] for place in range(len(ordered))}
    for place, step in enumerate(ordered):
        began = time.perf_counter()
        rows = step.run(connection)
        report(Progress(place + 1, len(ordered), step.name, rows, time.perf_counter() - began))
        for name in goes_after[place]:
            connection.execute(f'DROP TABLE "{name}"')


def open_engine(*, memory_limit: str | None = None, threads: int | None = None, spill_to: Path | None = None) -> duckdb.DuckDBPyConnection:
    """A private in-memory DuckDB in UTC that spills to `spill_to` and relies on no row order."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET parquet_metadata_cache = true")  # several models read the same sealed files, which never change
    if threads:
        connection.execute(f"SET threads = {int(threads)}")
    limit(connection, memory_limit, spill_to)
    return connection


def limit(connection: duckdb.DuckDBPyConnection, memory: str | None = None, spill_to: Path | None = None) -> None:
    """Bound what a connection takes; what is more spills to `spill_to`.

    Without `memory` it takes what DuckDB would (80 % of the machine's or the container's memory), and MOST_MEMORY at most:
    beyond that a build spills, at a tenth more of CPU, and leaves room for whatever else the machine does.
    """
    if memory is None:
        ((own,),) = connection.execute("SELECT current_setting('memory_limit')").fetchall()
        size, unit = own.split()
        memory = f"{min(float(size) * _UNITS[unit], MOST_MEMORY):.0f}B"
    connection.execute("SET memory_limit = ?", [memory])
    if spill_to:
        connection.execute("SET temp_directory = ?", [str(spill_to)])


def check_shape(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Raise ShapeError unless the built table has the contract's columns with exactly its types; it may have more."""
    found = {row[0]: row[1] for row in connection.execute(f'DESCRIBE "{table.name}"').fetchall()}
    for column in table.columns:
        if found.get(column.name) != column.type:
            raise ShapeError(table.name, f"column {column.name} is {found.get(column.name, 'absent')}, not {column.type}")
