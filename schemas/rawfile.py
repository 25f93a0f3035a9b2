"""How one sealed Parquet file is written: whole, aside and durable first; then it takes its name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import durable


def write_aside(path: Path, rows: pa.Table) -> tuple[int, str]:
    """Write beside `path` what will lie there (0600); its size and SHA-256."""
    fresh = aside(path)
    pq.write_table(rows, fresh, compression="zstd", compression_level=3, write_page_checksum=True)
    data = fresh.read_bytes()
    durable.sync(fresh)
    os.chmod(fresh, 0o600)
    return len(data), hashlib.sha256(data).hexdigest()


def take_place(path: Path) -> None:
    """Give what was written aside its name, in the place of what has it."""
    os.replace(aside(path), path)
    durable.sync(path.parent)


def aside(path: Path) -> Path:
    """Where it is written first."""
    return path.with_suffix(".partial")
