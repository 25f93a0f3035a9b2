"""JSON Lines: one object a row; amounts are texts with 12 places, counts are integers, instants ISO 8601 with Z, unknown is null."""

from __future__ import annotations

from pathlib import Path

from etl.export.csv import expression
from etl.export.source import Source, Written, literal, quoted

# JSON has one kind of number, which most readers take for a double: what is exact beyond it goes as text.
_AS_THEY_ARE = ("INTEGER", "BIGINT", "BOOLEAN", "VARCHAR")


def write(source: Source, path: Path) -> Written:
    """Write every row of `source` to `path`."""
    members = ", ".join(
        f"{literal(name)}, {quoted(name) if kind in _AS_THEY_ARE else expression(name, kind)}" for name, kind in source.columns
    )
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in source.ledger_rows(f"json_object({members})::VARCHAR AS line"):
            file.write(row["line"] + "\n")
            count += 1
    return source.written(count)
