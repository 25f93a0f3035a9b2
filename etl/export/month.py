"""One month to one file: written aside, synced, renamed in, with a manifest beside it that says what must be in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import duckdb
import orjson

from etl.export import beancount, csv, focus, hledger, jsonl, otlp, parquet, xlsx
from etl.export.source import MEMORY_LIMIT, Report, Source, Sums, Written, silent, source
from etl.published import open_ledger
from schemas import durable
from schemas.counts import counted
from schemas.errors import LedgerError, UsageError
from schemas.home import Home

Write = Callable[[Source, Path], Written]


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file: how it is written, and whether the close of a month writes it too."""

    write: Write
    sealed: bool = False
    filters: Mapping[str, str] = field(default_factory=dict)  # what else was chosen beside the period


# The close writes what others read as tables; the rest can be made from a closed month at any time, to the same bytes.
FORMATS: Mapping[str, Format] = {
    "csv": Format(csv.write, sealed=True),
    "parquet": Format(parquet.write, sealed=True),
    "jsonl": Format(jsonl.write),
    "xlsx": Format(xlsx.write),
    "focus": Format(focus.writer(focus.VERSIONS[-1]), filters={"focus_version": focus.VERSIONS[-1]}),
    "beancount": Format(beancount.write),
    "hledger": Format(hledger.write),
    "otlp": Format(otlp.write),
}
SEALED: tuple[str, ...] = tuple(name for name, form in FORMATS.items() if form.sealed)


class OutputError(UsageError):
    """The place to write to cannot be written to."""


class IncompleteError(LedgerError):
    """A file that does not hold every row it was given."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a reader checks an export against; no clock and no path in it, so that a repeat is byte-identical."""

    file: str
    format: str
    table: str
    period: str
    state: str  # open: the month may still change; closed: it never does
    filters: dict[str, str]
    rows: int
    control: dict[str, Sums]  # by currency
    columns: tuple[str, ...]
    bytes: int
    sha256: str
    receipts_sha256: str
    build: str  # which build of the ledger was read


def focus_format(version: str) -> Format:
    """The FOCUS format of one version of the specification."""
    return Format(focus.writer(version), filters={"focus_version": version})


def export(
    home: Home, form: str, period: str, out: Path, *, chosen: Format | None = None, closing: bool = False, report: Report = silent
) -> Manifest:
    """Write `period` to `out` and its manifest to `<out>.manifest.json`; neither is ever seen half-written.

    A file that is already there is replaced whole, or stays as it was. `chosen` stands for FORMATS[form], `closing` says
    that the month is about to be sealed. Raises OutputError, PeriodError, InexactColumnError, IncompleteError, NoLedgerError.
    """
    _check_place(out)
    how = chosen or FORMATS[form]
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    spill = aside.with_suffix(".spill")
    try:
        with open_ledger(home) as connection:
            if not closing:  # a close has its own bounds, and all connections of a process to one file share them
                connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
                connection.execute(f"SET temp_directory = '{str(spill).replace(chr(39), chr(39) * 2)}'")
            rows = source(connection, period, report)
            written = how.write(rows, aside)
            durable.sync(aside)
            manifest = Manifest(
                file=out.name,
                format=form,
                table=written.table,
                period=period,
                state="closed" if closing else rows.one("SELECT coalesce(status, 'open') FROM periods WHERE period = $period")[0],
                filters={"period": period, **how.filters},
                rows=written.rows,
                control=written.control,
                columns=written.columns,
                bytes=aside.stat().st_size,
                sha256=_digest(aside),
                receipts_sha256=rows.receipts_sha256(),
                build=build_id(connection),
            )
        _check_whole(manifest)
        aside.replace(out)
        aside.write_bytes(orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        durable.sync(aside)
        aside.replace(out.with_name(f"{out.name}.manifest.json"))
        durable.sync(out.parent)
    except (OSError, duckdb.IOException) as error:
        raise OutputError(f"{out} could not be written: {str(error).splitlines()[0]}", "make room, or give --out another place") from None
    finally:
        aside.unlink(missing_ok=True)
        shutil.rmtree(spill, ignore_errors=True)
    return manifest


def build_id(connection: duckdb.DuckDBPyConnection) -> str:
    """Names a build: SHA-256 over how far it read each journal and the last hash of its audit trail, which covers the book."""
    read = connection.execute("SELECT writer, last_seq FROM build_inputs ORDER BY writer").fetchall()
    last = connection.execute("SELECT hash FROM audit_trail ORDER BY number DESC LIMIT 1").fetchall()
    lines = [f"{writer} {last_seq}\n" for writer, last_seq in read] + [f"{hashed}\n" for (hashed,) in last]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_place(out: Path) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise OutputError(f"{out} is not a file in a folder that exists", "give --out the path of a file")
    if out.exists() and not stat.S_ISREG(out.stat().st_mode):
        raise OutputError(f"{out} is no regular file, and an export is renamed into its place", "give --out the path of a file")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out.parent} cannot be written to", "give --out a place that you may write to")


def _check_whole(manifest: Manifest) -> None:
    """The rows that were counted while writing are those that the control sums were taken over."""
    summed = sum(int(sums["rows"] or 0) for sums in manifest.control.values())
    if summed != manifest.rows:
        raise IncompleteError(
            f"{manifest.rows} of {counted(summed, 'row')} of {manifest.period} came into {manifest.file}", "export it again"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
