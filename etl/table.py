"""Rows as text for a person (aligned, numbers right) and as values for JSON; nothing is rounded on the way."""

from __future__ import annotations

import datetime as dt
import json
import operator
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

UNKNOWN = "unknown"


def instant(value: dt.datetime) -> str:
    """An instant in UTC, ISO 8601 with microseconds and Z."""
    if value.tzinfo is not None:
        value = value.astimezone(dt.UTC)
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def jsonable(value: Any) -> Any:
    """A cell as JSON can carry it: decimals and instants as texts, so that no reader bends them."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has no NaN and no infinity
    if isinstance(value, dt.datetime):
        return instant(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): jsonable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(member) for member in value]
    return str(value)


def cell(value: Any, unknown: str = UNKNOWN) -> str:
    """A cell as one line of text; what a terminal would obey instead of show is escaped."""
    if isinstance(value, str):
        text = value
    elif value is None:
        return unknown
    elif isinstance(value, bool):
        return "yes" if value else "no"
    elif isinstance(value, int):
        return str(value)
    else:
        flat = jsonable(value)
        text = flat if isinstance(flat, str) else json.dumps(flat, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """Columns that a terminal gives `text`."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def render(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, unknown: str = UNKNOWN, indent: str = "") -> str:
    """A head, a rule and the rows; a column whose values are all numbers stands right. Ends without a newline."""
    rows = [tuple(row) for row in rows]
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    padded = []
    for name, column, is_right in zip(columns, values, numeric(len(columns), rows), strict=True):
        texts = [name, *_texts(column, unknown)]
        widths = list(map(len if all(map(str.isascii, texts)) else width, texts))
        wide = max(widths)
        spaces = [" " * (wide - taken) for taken in widths]
        shown = list(map(operator.add, spaces, texts) if is_right else map(operator.add, texts, spaces))
        padded.append([shown[0], "-" * wide, *shown[1:]])
    return "\n".join(indent + "  ".join(line).rstrip() for line in zip(*padded, strict=True))


def _texts(column: Sequence[Any], unknown: str) -> Iterable[str]:
    """The cells of a column. Most columns hold one type, and then one look at all of them does for each."""
    kinds = set(map(type, column))
    if kinds == {int}:
        return map(str, column)
    if kinds == {str} and all(map(str.isprintable, column)):
        return column
    return [cell(value, unknown) for value in column]


def numeric(count: int, rows: Sequence[Sequence[Any]]) -> list[bool]:
    """Of each of `count` columns, whether all that is known in it are numbers, which stand right."""
    kinds = [{type(row[i]) for row in rows} - {type(None)} for i in range(count)]
    return [bool(found) and found <= {int, float, Decimal} for found in kinds]
