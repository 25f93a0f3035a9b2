"""The same models on Apache Spark, for months that one machine cannot hold.

A model's select and each of its laws run on the cluster; what it makes lies as Parquet in a folder that driver and workers
share. The driver's DuckDB reads those files for the steps that are not SQL, and goes on alone from where single requests are
written, with the sums over all of them. A function that only DuckDB may answer (etl/dialect.py) is answered by DuckDB on the worker.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.functions import arrow_udf

from etl import dialect
from etl.kernel import OF_ALL, SAMPLE_ROWS, CheckFailed, Model, Progress, Report, Step, in_order, offending_rows

_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.ansi.enabled": "true",  # an overflow is an error, and a decimal as text has no exponent
    "spark.sql.decimalOperations.allowPrecisionLoss": "false",
    "spark.sql.autoBroadcastJoinThreshold": "32m",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


@contextmanager
def session(master: str) -> Iterator[SparkSession]:
    """A session on a master (`spark://HOST:7077`, `local[2]`) that counts, rounds and reads time as DuckDB does."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the one place where workers look for it
    builder = SparkSession.builder.master(master).appName("tokenledger")
    for name, value in _SETTINGS.items():
        builder = builder.config(name, value)
    opened = builder.getOrCreate()
    try:
        opened.sparkContext.setLogLevel("ERROR")
        for name, function in dialect.FUNCTIONS.items():
            asks: Any = arrow_udf  # its overloads name each kind of function but this one
            opened.udf.register(dialect.PREFIX + name, asks(_ANSWERED[function.takes](function.expression), function.returns))
        yield opened
    finally:
        opened.stop()


class Engine:
    """One build's models on a session, with their tables below `shared`, which every worker sees at the same path."""

    def __init__(self, session: SparkSession, shared: Path) -> None:
        self._session = session
        self._shared = shared
        self._made: list[str] = []  # by the cluster, in order
        self._lent: set[str] = set()  # tables of the driver that the cluster has a copy of

    def run(self, connection: duckdb.DuckDBPyConnection, steps: Sequence[Model | Step], report: Report, keep: frozenset[str]) -> None:
        """Run models and steps in name order, as kernel.run does, and keep every table. Raises CheckFailed at the first law that does not hold."""
        shutil.rmtree(self._shared, ignore_errors=True)
        self._made.clear()
        self._lent.clear()
        ordered = in_order(steps)
        for place, step in enumerate(ordered, 1):
            began = time.perf_counter()
            if step.number >= OF_ALL:
                self._bring_home(connection)
            if isinstance(step, Model) and step.number < OF_ALL:
                rows = self._make(connection, step)
            else:
                rows = step.run(connection)
                self._lent.clear()
            report(Progress(place, len(ordered), step.name, rows, time.perf_counter() - began))

    def _make(self, connection: duckdb.DuckDBPyConnection, model: Model) -> int:
        self._ask(connection, model.select).write.parquet(str(self._shared / model.name))
        self._show(model.name, self._shared / model.name)
        self._made.append(model.name)
        files = str(self._shared / model.name / "*.parquet").replace("'", "''")
        connection.execute(f"CREATE VIEW \"{model.name}\" AS SELECT * FROM read_parquet('{files}', hive_partitioning = false)")
        for law in model.laws:
            broken = self._ask(connection, offending_rows(model.name, law))
            if sample := broken.limit(SAMPLE_ROWS).collect():
                raise CheckFailed(model.name, law, broken.count(), broken.columns, [tuple(row) for row in sample])
        ((rows,),) = connection.execute(f'SELECT count(*) FROM "{model.name}"').fetchall()
        return int(rows)

    def _ask(self, connection: duckdb.DuckDBPyConnection, select: str) -> Any:
        for name in sorted(dialect.tables_of(select) - {*self._made} - self._lent):
            self._lend(connection, name)
        return self._session.sql(dialect.as_spark(select))

    def _lend(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Give the cluster a copy of a table that the driver has."""
        folder = self._shared / "lent" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        described = connection.execute(f'DESCRIBE "{name}"').fetchall()
        # a HUGEINT would become a floating-point number in Parquet
        columns = ", ".join(f'CAST("{column}" AS {_LENT.get(kind, kind)}) AS "{column}"' for column, kind, *_ in described)
        target = str(folder / "rows.parquet").replace("'", "''")
        connection.execute(f"COPY (SELECT {columns} FROM \"{name}\") TO '{target}' (FORMAT parquet)")
        self._show(name, folder)
        self._lent.add(name)

    def _show(self, name: str, folder: Path) -> None:
        self._session.read.parquet(str(folder)).createOrReplaceTempView(name)

    def _bring_home(self, connection: duckdb.DuckDBPyConnection) -> None:
        for name in self._made:
            connection.execute(f'CREATE TABLE "home of {name}" AS SELECT * FROM "{name}"')
            connection.execute(f'DROP VIEW "{name}"')
            connection.execute(f'ALTER TABLE "home of {name}" RENAME TO "{name}"')
        self._made.clear()


_LENT = {"HUGEINT": "BIGINT", "JSON": "VARCHAR"}


# ---- on a worker ----


def _one(expression: str) -> Callable[[pa.Array], pa.Array]:
    def answered(first: pa.Array) -> pa.Array:
        return _answer(expression, first)

    return answered


def _two(expression: str) -> Callable[[pa.Array, pa.Array], pa.Array]:
    def answered(first: pa.Array, second: pa.Array) -> pa.Array:
        return _answer(expression, first, second)

    return answered


def _three(expression: str) -> Callable[[pa.Array, pa.Array, pa.Array], pa.Array]:
    def answered(first: pa.Array, second: pa.Array, third: pa.Array) -> pa.Array:
        return _answer(expression, first, second, third)

    return answered


_ANSWERED: dict[int, Callable[[str], Callable[..., pa.Array]]] = {
    1: _one,
    2: _two,
    3: _three,
}  # Spark reads the arguments off the signature


def _answer(expression: str, *arguments: pa.Array) -> pa.Array:
    """What DuckDB makes of one batch, in its order."""
    for place in range(len(arguments)):
        expression = expression.replace(f"${place + 1}", f"c{place + 1}")
    connection = _duckdb()
    connection.register("asked", pa.table({f"c{place}": column for place, column in enumerate(arguments, 1)}))
    told: pa.Table = connection.sql(f"SELECT {expression} AS told FROM asked").to_arrow_table()
    return told.column("told").combine_chunks()


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"threads": "1"})
