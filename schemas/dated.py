"""Effective-dated rows of the book's CSV files: half-open intervals, each row of a key ending where the next begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from schemas.bookfile import CsvRow, Problem, RefusedError, shown
from schemas.instants import InstantError, parse_instant
from schemas.money import MoneyError, parse_decimal
from schemas.records import Instant

ANY = "*"


class DatedRow(BaseModel):
    """A row in force from `effective_from` until before `effective_to` (None: without end)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    line: int
    effective_from: Instant
    effective_to: Instant | None

    @property
    def key(self) -> tuple[object, ...]:
        """What the row is about: two rows with one key are never in force at once."""
        raise NotImplementedError

    def in_force(self, at: int) -> bool:
        """Whether the row is in force at an instant."""
        return self.effective_from <= at and (self.effective_to is None or at < self.effective_to)


Row = TypeVar("Row", bound=DatedRow)


class Cell(Protocol):
    """Reads one cell; raises RefusedError."""

    def __call__(self, text: str, /) -> Any: ...


def read_cells(file: str, row: CsvRow, cells: dict[str, Cell], problems: list[Problem]) -> dict[str, Any] | None:
    """The row's values by column name, or None when any cell was refused."""
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        try:
            values[name] = cell(row.cells[name])
        except RefusedError as error:
            problems.append(Problem(file, row.line, name, shown(name, row.cells[name]), error.what, error.cure))
    return values if len(values) == len(cells) else None


def row_id(prefix: str, *parts: object) -> str:
    """A short stable name for a row: a hash of what it says, whatever line it stands on and however it is spelled."""
    content = "\x1f".join("" if part is None else str(part) for part in parts)
    return f"{prefix}_{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def required(text: str) -> str:
    """A cell that may not be empty, on one line."""
    if not text or not text.isprintable():
        raise RefusedError("is empty" if not text else "has control characters", "write a value on one line")
    return text


def instant(text: str) -> Instant:
    """An instant cell."""
    try:
        return parse_instant(text)
    except InstantError as error:
        raise RefusedError(error.what, error.cure) from None


def instant_or_none(text: str) -> Instant | None:
    """An instant cell that may be empty."""
    return instant(text) if text else None


def decimal(text: str) -> Decimal:
    """A plain decimal cell of zero or more."""
    try:
        value = parse_decimal(text)
    except MoneyError as error:
        raise RefusedError(error.what, error.cure) from None
    if value < 0:
        raise RefusedError("less than zero", "write a decimal of zero or more")
    return value


def ends_after_it_begins(file: str, row: CsvRow, begin: int, end: int | None, problems: list[Problem]) -> bool:
    """Whether the interval holds any instant; else a problem."""
    if end is None or begin < end:
        return True
    what = "not after effective_from"
    problems.append(Problem(file, row.line, "effective_to", row.cells["effective_to"], what, "write a later instant, or leave it empty"))
    return False


def resolve(file: str, rows: Sequence[Row], lines: Iterable[CsvRow], problems: list[Problem]) -> tuple[Row, ...]:
    """The rows in file order, each open end set to where the next row of the same key begins; `lines` has them as they were written.

    Two rows of one key that begin together, or a written end beyond the next beginning, are problems.
    """
    resolved = {row.line: row for row in rows}
    written = {line.line: line.cells for line in lines}
    for history in grouped(rows, lambda row: row.key):
        history.sort(key=lambda row: (row.effective_from, row.line))
        for row, following in pairwise(history):
            one, other = sorted((row.line, following.line))
            begin = written[following.line]["effective_from"]
            if row.effective_from == following.effective_from:
                what, cure = (
                    f"begins when line {one} does, for the same thing",
                    "remove one of the two, or give the later one its own beginning",
                )
                problems.append(Problem(file, other, "effective_from", written[other]["effective_from"], what, cure))
            elif row.effective_to is None:
                resolved[row.line] = row.model_copy(update={"effective_to": following.effective_from})
            elif row.effective_to > following.effective_from:
                what = (
                    f"overlaps line {one}: line {row.line} ends {written[row.line]['effective_to']}, line {following.line} begins {begin}"
                )
                cure = f"end line {row.line} at {begin} or before, or leave its effective_to empty"
                problems.append(Problem(file, other, "effective_from", written[other]["effective_from"], what, cure))
    return tuple(resolved[row.line] for row in rows)


def grouped(rows: Iterable[Row], by: Callable[[Row], tuple[object, ...]]) -> list[list[Row]]:
    """The rows in lists of equal `by`, in order of first appearance."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    return list(groups.values())


def uncovered(rows: Iterable[DatedRow], begin: int, end: int | None) -> tuple[int, int | None] | None:
    """The first stretch of [begin, end) in which none of the rows is in force, or None."""
    at = begin
    for row in sorted(rows, key=lambda row: row.effective_from):
        if row.effective_from > at:
            break
        if row.effective_to is None:
            return None
        at = max(at, row.effective_to)
    if end is not None and at >= end:
        return None
    later = [row.effective_from for row in rows if row.effective_from > at]
    return at, min([*later, *([end] if end is not None else [])], default=None)
