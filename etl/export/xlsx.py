"""Excel workbook: a cover with totals and hash, then the rows; beside each amount stands its exact text, for a cell is a double.

A sheet holds 1,048,576 rows, and a cell 32,767 characters: further rows go to further sheets, a longer text in parts to a
sheet of its own, and nothing is cut. Texts are made harmless as in CSV.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import xlsxwriter

from etl.export.csv import expression
from etl.export.source import Source, Written, quoted
from etl.export.texts import harmless

SHEET_ROWS = 1_048_576
CELL_UNITS = 32_767  # UTF-16 units
PART_CHARACTERS = 16_000
EXACT_DIGITS = 15  # more digits than these Excel does not keep; a longer whole number is written as text
# A workbook says when it was made; the same ledger shall give the same bytes.
_MADE = dt.datetime(2000, 1, 1, tzinfo=dt.UTC).replace(tzinfo=None)


def write(source: Source, path: Path) -> Written:
    """Write every row of `source` to `path`."""
    parts = path.with_suffix(".sheets")
    parts.mkdir()
    try:
        return _Book(source, path, parts).write()
    finally:
        shutil.rmtree(parts)


class _Digits(float):
    """A double that the writer writes in plain digits; its own way is an exponent from 0.0001 downwards."""

    __slots__ = ()

    def __format__(self, _: str, /) -> str:
        text = repr(self)
        return f"{Decimal(text):f}" if "e" in text else text.removesuffix(".0")


class _Book:
    """One workbook while it is written, row by row, so that its rows are never in memory together."""

    def __init__(self, source: Source, path: Path, parts: Path) -> None:
        self.source = source
        self.book = xlsxwriter.Workbook(str(path), {"constant_memory": True, "tmpdir": str(parts)})
        self.book.use_zip64()
        self.book.set_properties({"title": f"tokenledger {source.period}", "created": _MADE})
        self.bold = self.book.add_format({"bold": True})
        self.amount = self.book.add_format({"num_format": "#,##0.000000000000"})
        self.long: Any = None  # the sheet of long texts, made when the first one comes
        self.long_rows = 0

    def write(self) -> Written:
        written = self.source.written(self.source.control()[0])
        self._cover(written)
        columns = list(self._columns())
        cells = [f"{expression(name, kind)} AS {quoted(name)}" for name, kind in self.source.columns]
        sheet, used, sheets, rows = self._sheet(1, columns), 1, 1, 0
        for row in self.source.ledger_rows(*cells):
            if used == SHEET_ROWS:
                sheets += 1
                sheet, used = self._sheet(sheets, columns), 1
            for place, (name, kind, is_text) in enumerate(columns):
                if row[name] is not None:
                    self._cell(sheet, used, place, name, row[name], "VARCHAR" if is_text else kind)
            used += 1
            rows += 1
        self.book.close()
        return Written(written.table, rows, written.control, tuple(_title(name, exact) for name, _, exact in columns))

    def _columns(self) -> Iterator[tuple[str, str, bool]]:
        """Of each column of the sheet: the ledger's column, its type, and whether this is the exact text of an amount."""
        for name, kind in self.source.columns:
            yield name, kind, False
            if kind.startswith("DECIMAL"):
                yield name, kind, True

    def _sheet(self, number: int, columns: list[tuple[str, str, bool]]) -> Any:
        sheet = self.book.add_worksheet(f"Rows {number}")
        sheet.freeze_panes(1, 1)
        for place, (name, _, exact) in enumerate(columns):
            sheet.write_string(0, place, _title(name, exact), self.bold)
        return sheet

    def _cell(self, sheet: Any, row: int, place: int, name: str, value: str, kind: str) -> None:
        if kind.startswith("DECIMAL"):
            sheet.write_number(row, place, _Digits(value), self.amount)
        elif kind in ("BIGINT", "INTEGER") and len(value.lstrip("-")) <= EXACT_DIGITS:
            sheet.write_number(row, place, int(value))
        elif kind == "BOOLEAN":
            sheet.write_boolean(row, place, value == "true")
        else:
            text = harmless(value) if not kind.startswith(("BIGINT", "INTEGER")) else value
            is_long = len(text) * 2 > CELL_UNITS and len(text.encode("utf-16-le")) // 2 > CELL_UNITS
            sheet.write_string(row, place, self._lengthy(sheet, row, name, text) if is_long else text)

    def _lengthy(self, sheet: Any, row: int, name: str, text: str) -> str:
        """Put a long text on its own sheet, in parts; what stands in its cell instead."""
        if self.long is None:
            self.long = self.book.add_worksheet("Long texts")
            for place, title in enumerate(("sheet", "row", "column", "part", "text")):
                self.long.write_string(0, place, title, self.bold)
        first = self.long_rows + 2
        for part, start in enumerate(range(0, len(text), PART_CHARACTERS), 1):
            self.long_rows += 1
            self.long.write_string(self.long_rows, 0, sheet.get_name())
            self.long.write_number(self.long_rows, 1, row + 1)
            self.long.write_string(self.long_rows, 2, name)
            self.long.write_number(self.long_rows, 3, part)
            self.long.write_string(self.long_rows, 4, harmless(text[start : start + PART_CHARACTERS]))
        return f"({len(text)} characters: sheet Long texts, from row {first} on)"

    def _cover(self, written: Written) -> None:
        sheet = self.book.add_worksheet("Cover")
        sheet.set_column(0, 0, 34)
        sheet.set_column(1, 1, 70)
        lines: list[tuple[str, str]] = [
            ("tokenledger", ""),
            ("period", self.source.period),
            ("filters", f"period = {self.source.period}"),
            ("rows", str(written.rows)),
            ("receipts SHA-256", self.source.receipts_sha256()),
        ]
        for currency, sums in written.control.items():
            lines += [("", ""), (f"totals in {currency}", "")]
            lines += [(name, "unknown" if value is None else str(value)) for name, value in sums.items()]
        lines += [
            ("", ""),
            ("amounts", "a cell keeps 15 digits; the exact amount is the text in the column after it"),
            ("texts", "an apostrophe stands before a text that a spreadsheet would take for a formula"),
            ("receipts SHA-256", "over the receipt digests of all rows in their order, each and a newline"),
        ]
        for row, (name, value) in enumerate(lines):
            sheet.write_string(row, 0, name, self.bold)
            sheet.write_string(row, 1, harmless(value) if not value.startswith("-") else value)


def _title(name: str, exact: bool) -> str:
    return f"{name} (exact)" if exact else name
