"""CSV: RFC 4180 with line feeds, decimals with 12 places, instants in ISO 8601 with Z, NULL as an empty unquoted field."""

from __future__ import annotations

from pathlib import Path

from etl.export.source import Source, quoted

# A spreadsheet reads a text that begins with one of these as a formula; an apostrophe before it keeps it a text
# (OWASP's rule against CSV injection). Numbers are left alone: a negative amount is no formula.
FORMULA_STARTS = "'[=+@\\t\\r-]'"


def _expression(name: str, kind: str) -> str:
    column = quoted(name)
    if kind == "VARCHAR":
        return f"CASE WHEN regexp_matches(left({column}, 1), {FORMULA_STARTS}) THEN '''' || {column} ELSE {column} END AS {column}"
    if kind == "TIMESTAMP":
        return f"strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ') AS {column}"
    if kind.startswith(("MAP", "STRUCT")) or kind.endswith("]"):
        return f"to_json({column})::VARCHAR AS {column}"
    return f"{column}::VARCHAR AS {column}"


def write(source: Source, path: Path) -> None:
    """Write every row of `source` to `path`."""
    select = source.select(*(_expression(name, kind) for name, kind in source.columns))
    source.copy(select, path, "FORMAT csv, HEADER true, DELIMITER ',', NULLSTR ''")
