"""CSV: RFC 4180 with line feeds, decimals with 12 places, instants in ISO 8601 with Z, NULL as an empty unquoted field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from etl.export.source import Source, Written, quoted
from etl.export.texts import harmless_sql, is_harmful_sql

INSTANT = "%Y-%m-%dT%H:%M:%S.%fZ"


def expression(name: str, kind: str) -> str:
    """A column of DuckDB type `kind` as exact text."""
    column = quoted(name)
    if kind == "TIMESTAMP":
        return f"strftime({column}, '{INSTANT}')"
    if kind.startswith(("MAP", "STRUCT")) or kind.endswith("]"):
        return f"to_json({column})::VARCHAR"
    return f"{column}::VARCHAR"


def write(source: Source, path: Path) -> Written:
    """Write every row of `source` to `path`."""
    return source.written(source.write_csv(_selects(source), path))


def _selects(source: Source) -> Iterator[str]:
    """The rows of each piece. Almost no text is harmful, and asking that of a whole column is cheap: only such columns are made harmless."""
    names = [name for name, kind in source.columns if kind == "VARCHAR"]
    asked = ", ".join(f"coalesce(bool_or({is_harmful_sql(quoted(name))}), false)" for name in names)
    for piece in source.pieces():
        harmful = dict(zip(names, source.one(f"SELECT {asked} FROM ledger WHERE period = $period AND {piece}"), strict=True))
        cells = [
            f"{harmless_sql(quoted(name)) if harmful.get(name) else expression(name, kind)} AS {quoted(name)}"
            for name, kind in source.columns
        ]
        yield source.select(*cells, piece=piece)
