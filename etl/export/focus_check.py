"""The FOCUS checker: a CSV file held against the columns and rules of one version, each violation with row, column and rule.

The specification is in two tables beside this module: focus_columns.csv says of each column since and until which version it
is there, how strictly, its type, whether it may be null and its allowed values; focus_rules.csv says what must hold when.
A conditional or recommended column is checked where it is there. An empty cell is null.
"""

from __future__ import annotations

import csv
import decimal
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

from schemas.counts import counted
from schemas.errors import UsageError

VERSIONS = ("1.2", "1.4")
_FOLDER = Path(__file__).parent
_WIDE = decimal.Context(prec=400)  # a product of two cells is never rounded
PLACEHOLDERS = frozenset({"null", "none", "n/a", "nan", "not applicable", "\\n"})

Row = Mapping[str, str | None]


class NotCheckableError(UsageError):
    """A file that is no CSV file with a head line."""


@dataclass(frozen=True, slots=True)
class FocusColumn:
    """One column of the Cost and Usage dataset."""

    name: str
    level: str  # mandatory | conditional | recommended
    type: str  # text | decimal | instant | currency | json
    nulls: bool
    allowed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold of a column in a row where every term of `when` holds."""

    name: str
    column: str
    when: tuple[tuple[str, bool, tuple[str, ...]], ...]  # column, is or is not, values; no value stands for null
    must: str

    def others(self, names: Iterable[str]) -> tuple[str, ...]:
        """The other columns that it is held against."""
        return tuple(word for word in self.must.split() if word in names)

    def is_askable(self, names: Collection[str], head: Collection[str]) -> bool:
        """Whether the file has the columns for it; whether a column is null cannot be asked where it is not there."""
        named = {self.column, *self.others(names), *(column for column, _, values in self.when if not values)}
        return named <= set(head)


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is not as FOCUS wants it; row 0 is the head line, row 1 the first after it."""

    row: int
    column: str
    rule: str
    found: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: {self.rule}; found {self.found}"


@cache
def columns_of(version: str) -> tuple[FocusColumn, ...]:
    """The columns of a version, in the specification's order."""
    with (_FOLDER / "focus_columns.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            FocusColumn(row["column"], row["level"], row["type"], row["nulls"] == "yes", tuple(filter(None, row["allowed"].split("|"))))
            for row in csv.DictReader(file)
            if row["since"] <= version <= (row["until"] or version)
        )


@cache
def rules() -> tuple[Rule, ...]:
    """The rules between columns, the same in both versions."""
    with (_FOLDER / "focus_rules.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Rule(row["rule"], row["column"], tuple(map(_term, row["when"].split(" & "))), row["must"]) for row in csv.DictReader(file)
        )


def _term(text: str) -> tuple[str, bool, tuple[str, ...]]:
    column, sign, values = re.fullmatch(r"(\w+)(!?=)(.*)", text).groups()  # type: ignore[union-attr]  # our own table
    return column, sign == "=", tuple(filter(None, values.split("|")))


def version_of(path: Path) -> str:
    """The version that a file's columns speak for: the oldest where the columns that only it has are there, else the newest."""
    head = set(_head(path))
    return VERSIONS[0] if "ProviderName" in head and "ServiceProviderName" not in head else VERSIONS[-1]


def check(path: Path, version: str) -> Iterator[Violation]:
    """Every violation in the file, in order; raises NotCheckableError."""
    columns = {column.name: column for column in columns_of(version)}
    head = _head(path)
    for name, count in Counter(head).items():
        if count > 1:
            yield Violation(0, name, "a column is there once", f"{count} times")
        if name not in columns and not re.fullmatch(r"x_[A-Z][A-Za-z0-9]*", name):
            yield Violation(0, name, f"is a column of FOCUS {version}, or a custom one as x_PascalCase", "neither")
    for column in columns.values():
        if column.level == "mandatory" and column.name not in head:
            yield Violation(0, column.name, "is mandatory", "no such column")
    held = [rule for rule in rules() if rule.is_askable(columns, head)]
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        for number, cells in enumerate(lines, 1):
            if len(cells) != len(head):
                yield Violation(number, "(row)", f"has {counted(len(head), 'cell')} like the head line", str(len(cells)))
                continue
            row: Row = {name: cell or None for name, cell in zip(head, cells, strict=True)}
            wrong = set()
            for name, value in row.items():
                for violation in _check_cell(number, columns[name], value) if name in columns else ():
                    wrong.add(name)
                    yield violation
            for rule in held:
                others = rule.others(columns)
                # what it is held against is wrong itself, or null, and was told of
                if wrong.isdisjoint((rule.column, *others)) and all(row[name] is not None for name in others) and _applies(rule, row):
                    yield from _check_rule(number, rule, row, [row[name] or "" for name in others])


def _head(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file))
    except (OSError, UnicodeDecodeError, StopIteration) as error:
        raise NotCheckableError(f"{path} cannot be read as CSV: {error or 'it is empty'}", "give --check a CSV file in UTF-8") from None


def _check_cell(number: int, column: FocusColumn, value: str | None) -> Iterator[Violation]:
    if value is None:
        if not column.nulls:
            yield Violation(number, column.name, "must not be null", "null")
    elif value.lower() in PLACEHOLDERS:
        yield Violation(number, column.name, "what is null is written as nothing", repr(value))
    elif not TYPES[column.type](value):
        yield Violation(number, column.name, f"is of type {column.type}", repr(value))
    elif column.allowed and value not in column.allowed:
        yield Violation(number, column.name, f"is one of {', '.join(column.allowed)}", repr(value))


def _is_decimal(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", text) is not None


def _is_instant(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


TYPES: Mapping[str, Callable[[str], bool]] = {
    "text": bool,
    "decimal": _is_decimal,
    "instant": _is_instant,
    "currency": lambda text: re.fullmatch(r"[A-Z]{3}", text) is not None,  # ISO 4217
    "json": _is_object,
}


def _applies(rule: Rule, row: Row) -> bool:
    return all((row.get(name) in (values or (None,))) is wanted for name, wanted, values in rule.when)


def _check_rule(number: int, rule: Rule, row: Row, others: list[str]) -> Iterator[Violation]:
    value = row[rule.column]
    if not _holds(rule.must, value, others):
        when = " and ".join(f"{name} is {'' if wanted else 'not '}{' or '.join(values) or 'null'}" for name, wanted, values in rule.when)
        yield Violation(number, rule.column, f"{rule.name}: must be {rule.must} when {when}", "null" if value is None else repr(value))


def _holds(must: str, value: str | None, others: list[str]) -> bool:
    if must == "null":
        return value is None
    if must == "not null":
        return value is not None
    if value is None:
        return True
    if must == "not negative":
        return Decimal(value) >= 0
    if must.startswith("is "):
        return value == must.removeprefix("is ")
    if must.startswith("not "):
        return value != must.removeprefix("not ")
    if must.startswith("after "):
        return value > others[0]
    product = Decimal(others[0])
    for other in others[1:]:
        product = _WIDE.multiply(product, Decimal(other))
    return Decimal(value) == product
