"""One month to one file: written aside, synced, renamed in, with a manifest beside it that says what must be in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from etl.export import csv, parquet
from etl.export.source import Source, Sums, source
from etl.published import open_ledger
from schemas.errors import UsageError
from schemas.home import Home

FORMATS: Mapping[str, Callable[[Source, Path], None]] = {"csv": csv.write, "parquet": parquet.write}


class OutputError(UsageError):
    """The place to write to cannot be written to."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a reader checks an export against; no clock and no path in it, so that a repeat is byte-identical."""

    file: str
    format: str
    table: str
    period: str
    rows: int
    control: dict[str, Sums]  # by currency
    columns: list[str]
    bytes: int
    sha256: str


def export(home: Home, form: str, period: str, out: Path) -> Manifest:
    """Write `period` to `out` and its manifest to `<out>.manifest.json`; neither is ever seen half-written.

    Raises OutputError, PeriodError, InexactColumnError, NoLedgerError.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise OutputError(f"{out} is not a file in a folder that exists", "give --out the path of a file")
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with open_ledger(home) as connection:
            rows = source(connection, period)
            FORMATS[form](rows, aside)
            count, control = rows.control()
        manifest = Manifest(
            file=out.name,
            format=form,
            table="ledger",
            period=period,
            rows=count,
            control=control,
            columns=[name for name, _ in rows.columns],
            bytes=aside.stat().st_size,
            sha256=_digest(aside),
        )
        _sync(aside)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    aside.write_bytes(orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    _sync(aside)
    aside.replace(out.with_name(f"{out.name}.manifest.json"))
    _sync(out.parent)
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
