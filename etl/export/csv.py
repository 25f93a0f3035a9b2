"""CSV: RFC 4180 with line feeds, decimals with 12 places, instants in ISO 8601 with Z, NULL as an empty unquoted field."""

from __future__ import annotations

from pathlib import Path

from etl.export.source import Source, Written, quoted
from etl.export.texts import harmless_sql

INSTANT = "%Y-%m-%dT%H:%M:%S.%fZ"


def expression(name: str, kind: str) -> str:
    """A column of DuckDB type `kind` as exact text."""
    column = quoted(name)
    if kind == "TIMESTAMP":
        return f"strftime({column}, '{INSTANT}')"
    if kind.startswith(("MAP", "STRUCT")) or kind.endswith("]"):
        return f"to_json({column})::VARCHAR"
    return f"{column}::VARCHAR"


def _cell(name: str, kind: str) -> str:
    value = harmless_sql(quoted(name)) if kind == "VARCHAR" else expression(name, kind)
    return f"{value} AS {quoted(name)}"


def write(source: Source, path: Path) -> Written:
    """Write every row of `source` to `path`."""
    cells = [_cell(name, kind) for name, kind in source.columns]
    return source.written(source.write_csv((source.select(*cells, piece=piece) for piece in source.pieces()), path))
