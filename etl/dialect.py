"""The models' SQL as Apache Spark says it: parsed as DuckDB's, and written by sqlglot, but for what it would get wrong.

What a JSON text or a pattern means, and what a text is as a number, is DuckDB's affair alone: those functions keep a name of
their own here (FUNCTIONS), and the engine asks DuckDB itself on the worker, so that no second reading of a text can differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from sqlglot import exp, parse_one
from sqlglot.dialects.duckdb import DuckDB

from schemas.errors import LedgerError


@dataclass(frozen=True, slots=True)
class Function:
    """A function that DuckDB answers: its result as Spark names the type, and the expression over $1, $2, ..."""

    returns: str
    expression: str

    @property
    def takes(self) -> int:
        """How many arguments."""
        return max(int(place) for place in re.findall(r"\$(\d)", self.expression))


FUNCTIONS = {
    "json_extract": Function("string", "cast(json_extract($1, $2) as varchar)"),
    "json_extract_string": Function("string", "json_extract_string($1, $2)"),
    "json_type": Function("string", "json_type($1, $2)"),
    "json_keys": Function("array<string>", "json_keys($1)"),
    "json_items": Function("array<string>", "cast(cast(json_extract($1, $2) as json[]) as varchar[])"),
    "json_array_length": Function("bigint", "cast(json_array_length($1, $2) as bigint)"),
    "json_valid": Function("boolean", "json_valid($1)"),
    "to_json": Function("string", "cast(to_json($1) as varchar)"),
    "regexp_extract": Function("string", "regexp_extract($1, $2, 1)"),
    "regexp_replace": Function("string", "regexp_replace($1, $2, $3)"),
    "regexp_replace_all": Function("string", "regexp_replace($1, $2, $3, 'g')"),
    "regexp_matches": Function("boolean", "regexp_matches($1, $2)"),
    "regexp_full_match": Function("boolean", "regexp_full_match($1, $2)"),
    "strftime": Function("string", "strftime($1, '%Y-%m-%dT%H:%M:%S.%fZ')"),
    "strftime_day": Function("string", "strftime($1, '%Y-%m-%d')"),
    "try_int": Function("int", "try_cast($1 as integer)"),
    "try_bigint": Function("bigint", "try_cast($1 as bigint)"),
    "try_timestamp": Function("timestamp_ntz", "try_cast($1 as timestamp)"),
    "try_decimal_25_12": Function("decimal(25,12)", "try_cast($1 as decimal(25,12))"),
    "try_decimal_38_12": Function("decimal(38,12)", "try_cast($1 as decimal(38,12))"),
    "try_decimal_38_18": Function("decimal(38,18)", "try_cast($1 as decimal(38,18))"),
}
PREFIX = "duckdb_"


class NotPortableError(LedgerError):
    """A model asks for something that the table of functions does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a model uses {name}, which is not written for Spark", "add it to FUNCTIONS in etl/dialect.py")


class _Reader(DuckDB.Parser):  # type: ignore[misc, valid-type]  # a dialect's parts are made by its metaclass
    """A parser that leaves those functions as they are called."""

    FUNCTIONS: ClassVar[Any] = {name: build for name, build in DuckDB.Parser.FUNCTIONS.items() if name.lower() not in FUNCTIONS}


class Model(DuckDB):
    """DuckDB's SQL as the models are written in it."""

    Parser = _Reader


@cache
def as_spark(sql: str) -> str:
    """One select of a model, or one law, in Spark's SQL. Raises NotPortableError for what nobody has said how to write there."""
    tree = parse_one(sql, dialect=Model)
    for kind, rule in _RULES:
        for node in reversed(list(tree.find_all(kind))):  # from the innermost outwards
            written = rule(node)
            if node is tree:
                tree = written
            elif written is not node:
                node.replace(written)
    return tree.sql(dialect="spark")


def tables_of(sql: str) -> set[str]:
    """The tables that a select reads, its own common table expressions left out."""
    tree = parse_one(sql, dialect=Model)
    named = {cte.alias for cte in tree.find_all(exp.CTE)}
    return {table.name for table in tree.find_all(exp.Table)} - named


def _qualified(select: exp.Select) -> exp.Expression:
    """QUALIFY as a column of an inner select, which the outer one leaves out again."""
    if select.args.get("qualify") is None:
        return select
    inner = select.copy()
    moved = {name: inner.args.get(name) for name in ("with_", "distinct")}
    for name in (*moved, "qualify"):
        inner.set(name, None)
    inner.append("expressions", exp.alias_(select.args["qualify"].this.copy(), _KEPT))
    outer = exp.select(exp.Star(except_=[exp.to_identifier(_KEPT)])).from_(inner.subquery("qualified")).where(exp.column(_KEPT))
    for name, part in moved.items():
        outer.set(name, part)
    return outer


def _items(cast: exp.Cast) -> exp.Expression:
    """The items of a JSON array, each as its own text."""
    if cast.to.is_type("array<json>") and cast.this.name.lower() == "json_extract":
        return exp.Anonymous(this="json_items", expressions=cast.this.expressions)
    return cast


def _tried(cast: exp.TryCast) -> exp.Expression:
    """A text as a number or an instant, or nothing."""
    name = "try_" + "_".join(re.findall("[a-z0-9]+", cast.to.sql("duckdb").lower()))
    return exp.Anonymous(this=_known(name), expressions=[cast.this])


def _series(series: exp.GenerateSeries) -> exp.Expression:
    """Spark counts down where the end lies before the start; DuckDB gives nothing."""
    start, end = series.args["start"], series.args["end"]
    counted = exp.GenerateSeries(start=start.copy(), end=end.copy(), step=exp.Literal.number(1))
    return exp.If(this=exp.GTE(this=end.copy(), expression=start.copy()), true=counted, false=exp.Array())


def _asked(call: exp.Anonymous) -> exp.Expression:
    """A function that DuckDB answers, under a name that Spark has no function of its own for.

    What DuckDB wants to know before it runs stands in the expression: the group of a pattern (the first), its option, a format.
    """
    name, arguments = call.name.lower(), list(call.expressions)
    if name not in FUNCTIONS:
        return call
    if (name, len(arguments)) in _CONSTANT:
        name = _known(_CONSTANT[name, len(arguments)].get(arguments.pop().name, f"{name} with another constant"))
    return exp.Anonymous(this=PREFIX + name, expressions=arguments)


def _known(name: str) -> str:
    if name not in FUNCTIONS:
        raise NotPortableError(name)
    return name


_KEPT = "_kept"
_CONSTANT = {
    ("regexp_extract", 3): {"1": "regexp_extract"},
    ("regexp_replace", 4): {"g": "regexp_replace_all"},
    ("strftime", 2): {"%Y-%m-%dT%H:%M:%S.%fZ": "strftime", "%Y-%m-%d": "strftime_day"},
}
_RULES: tuple[tuple[type[exp.Expression], Callable[[Any], exp.Expression]], ...] = (
    (exp.Select, _qualified),
    (exp.Cast, _items),
    (exp.TryCast, _tried),
    (exp.GenerateSeries, _series),
    (exp.Anonymous, _asked),
)
