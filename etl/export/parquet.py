"""Parquet: every column in its own type, decimals as decimals, compressed with zstd; a row group a piece of the month."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from etl.export.source import Source, Written


def write(source: Source, path: Path) -> Written:
    """Write every row of `source` to `path`."""
    rows = 0
    with pq.ParquetWriter(path, source.table(source.select(piece="false")).schema, compression="zstd") as file:
        for piece in source.pieces():
            table = source.table(source.select(piece=piece))
            file.write_table(table)
            rows += table.num_rows
    return source.written(rows)
