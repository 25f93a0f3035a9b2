"""What a build reads: sealed files that are what the manifest says they are, frames not sealed yet, the book, and the months.

Nothing is found by looking into folders: a file that no manifest line names does not exist. A file whose SHA-256 is not
the manifest's is quarantined, its rows are not read and its month cannot close; the build goes on with the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import msgspec
import pyarrow as pa

from schemas import manifest
from schemas.book import Book
from schemas.frames import Damage, Frame
from schemas.home import Home
from schemas.instants import from_datetime, to_datetime
from schemas.manifest import Seal, SealedFile
from schemas.money import ENTRY_LIMIT
from schemas.records import ARROW, KINDS, Event, Instant
from schemas.spool import unsealed

ROW_KINDS = ("request", "attempt", "response", "event")
OF_A_REQUEST = ROW_KINDS[:-1]  # kinds whose records belong to one request each
HASHERS = 4

_DAY = timedelta(days=1)
_FINDING = pa.schema(
    [
        ("kind", pa.string()),
        ("subject", pa.string()),
        ("detail", pa.string()),
        ("rows", pa.int64()),
        ("at", pa.timestamp("us")),
        ("blocks_close", pa.bool_()),
    ]
)
_POSITION = pa.schema([("writer", pa.string()), ("last_seq", pa.int64())])
_PERIOD = pa.schema(
    [(name, pa.string()) for name in ("period", "service_period")]
    + [(name, pa.timestamp("us")) for name in ("starts_at", "ends_at", "posts_from", "posts_last")]
)
_OFFSET = pa.schema(
    [("timezone", pa.string()), ("starts_at", pa.timestamp("us")), ("ends_at", pa.timestamp("us")), ("offset_minutes", pa.int64())]
)
_SETTING = pa.schema(
    [(name, pa.string()) for name in ("currency", "timezone")]
    + [(name, pa.decimal128(38, 12)) for name in ("second_person_above", "entry_limit")]
    + [("as_of", pa.timestamp("us"))]
)
OPENING = pa.schema([("wallet", pa.string()), ("bucket", pa.string()), ("currency", pa.string()), ("balance", pa.decimal128(38, 12))])


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with what was to be read; a row of data_quality later."""

    kind: str
    subject: str
    detail: str
    rows: int
    at: int | None  # microseconds; places it in a month
    blocks_close: bool


@dataclass(frozen=True, slots=True)
class Sources:
    """The raw records of a home: whole sealed files by kind, unsealed rows by kind, and how far each journal was read."""

    raw: Path
    files: Mapping[str, tuple[Path, ...]]
    rows: Mapping[str, pa.Table]
    body_files: tuple[SealedFile, ...]  # not verified yet: bodies are read for a recount only
    findings: tuple[Finding, ...]
    positions: Mapping[str, int]
    seals: tuple[Seal, ...]  # every line of the manifest, as it was when this was read
    named: tuple[SealedFile, ...]  # the files that were wanted, whole or not

    @property
    def records(self) -> int:
        """How many records these are, bodies left out."""
        return sum(file.rows for file in self.named if file.kind in ROW_KINDS) + sum(len(rows) for rows in self.rows.values())


def date_of(file: SealedFile) -> str:
    """The UTC date of its folder, YYYY-MM-DD."""
    return date_of_path(file.path)


def date_of_path(path: str) -> str:
    """The UTC date that a path below raw/ names."""
    return path.split("date=", 1)[-1][:10]


def sha256_in(path: Path) -> str | None:
    """SHA-256 of what lies there; null where nothing does, or it cannot be read."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


def is_whole(path: Path, file: SealedFile) -> bool:
    """Whether the file is there and has the manifest's SHA-256."""
    return sha256_in(path) == file.sha256


def quarantine(file: SealedFile) -> Finding:
    """The finding for a file that is missing or is not what was sealed."""
    detail = "missing, or not the bytes that were sealed (SHA-256 differs): restore it from a copy"
    return Finding("quarantined_file", f"raw/{file.path}", detail, file.rows, _midnight(date_of(file)), True)


def _midnight(day: str) -> Instant | None:
    try:
        return instant_of(datetime.fromisoformat(day))
    except ValueError:
        return None


def read_sources(home: Home, *, after: Mapping[str, int] | None = None, after_line: int = 0, since: str = "") -> Sources:
    """Everything recorded; or only files past what was read before, and those with days from `since` (YYYY-MM-DD) on.

    What was read before is told by the position in each journal (`after`), or by the number of manifest lines (`after_line`).

    Raises ManifestError; a bad file or frame is a finding.
    """
    seals, waiting = _snapshot(home)
    named = [file for seal in seals for file in seal.files if _is_wanted(seal, file, after, after_line, since)]
    row_files = [file for file in named if file.kind in ROW_KINDS]
    with ThreadPoolExecutor(HASHERS) as pool:
        whole = list(pool.map(lambda file: is_whole(home.raw / file.path, file), row_files))
    files: dict[str, list[Path]] = {kind: [] for kind in ROW_KINDS}
    findings: list[Finding] = []
    for file, good in zip(row_files, whole, strict=True):
        if good:
            files[file.kind].append(home.raw / file.path)
        else:
            findings.append(quarantine(file))
    findings.extend(_losses(seals))
    frames: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    positions = manifest.sealed_up_to(seals)
    findings.extend(_collect(waiting, positions, frames))
    return Sources(
        raw=home.raw,
        files={kind: tuple(paths) for kind, paths in files.items()},
        rows={kind: pa.Table.from_pylist(frames[kind], schema=ARROW[kind]) for kind in KINDS},
        body_files=tuple(file for file in named if file.kind == "body"),
        findings=tuple(findings),
        positions=positions,
        seals=tuple(seals),
        named=tuple(named),
    )


def with_event(sources: Sources, event: Event) -> Sources:
    """The same, and an event that is not recorded."""
    row = pa.Table.from_pylist([{**msgspec.structs.asdict(event), "writer": "", "seq": 1}], schema=ARROW["event"])
    return replace(sources, rows={**sources.rows, "event": pa.concat_tables([sources.rows["event"], row])})


def _snapshot(home: Home) -> tuple[list[Seal], list[tuple[str, Frame | Damage, Path]]]:
    """Manifest and spool as of one moment: what a sealer moves while the spool is read would else be in neither."""
    while True:
        seals = manifest.read(home.manifest)
        waiting = list(unsealed(home, manifest.sealed_up_to(seals)))
        if len(manifest.read(home.manifest)) == len(seals):
            return seals, waiting


def _is_wanted(seal: Seal, file: SealedFile, after: Mapping[str, int] | None, after_line: int, since: str) -> bool:
    is_new = seal.number > after_line if after is None else seal.last_seq > after.get(seal.writer, 0)
    return is_new or date_of(file) >= since


def _losses(seals: Iterable[Seal]) -> Iterator[Finding]:
    """A loss is placed on the day of the newest record that its journal had before, so that no month closes over it."""
    days: dict[str, str] = {}
    for seal in seals:
        dates = [date_of(file) for file in seal.files if file.kind != "body"]
        for first, last in seal.missing:
            yield _loss(seal.writer, first, last, _midnight(days.get(seal.writer) or min(dates, default="")) or seal.sealed_at)
        if dates:
            days[seal.writer] = max(dates)


def _loss(writer: str, first: int, last: int, at: int | None) -> Finding:
    detail = "records that the journal counted and that are not there: acknowledge the loss, or restore the journal from a copy"
    return Finding("loss", f"{writer} {first}-{last}", detail, last - first + 1, at, True)


def _collect(
    found: Iterable[tuple[str, Frame | Damage, Path]], positions: dict[str, int], frames: dict[str, list[dict[str, Any]]]
) -> Iterator[Finding]:
    """Sort whole frames into `frames` and count `positions` on; a finding for each gap and each stretch of damage before one.

    Damage after a journal's last frame is a record being written just now, or one that was never acknowledged: no loss.
    """
    damaged: dict[str, tuple[Path, Damage]] = {}
    for writer, piece, path in found:
        if isinstance(piece, Damage):
            damaged[writer] = (path, piece)
            continue
        fields = piece.fields
        at = fields[KINDS[piece.kind].instant]
        expected = positions.get(writer, 0) + 1
        if piece.seq > expected:
            yield _loss(writer, expected, piece.seq - 1, at)
        if writer in damaged:
            segment, damage = damaged.pop(writer)
            subject = f"{segment.parent.name}/{segment.name} bytes {damage.offset}-{damage.end}"
            yield Finding("damage", subject, "no whole record could be read here", 1, at, False)
        positions[writer] = max(positions.get(writer, 0), piece.seq)
        frames[piece.kind].append({**fields, "writer": writer, "seq": piece.seq})


def register(connection: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """Make every record visible as `all_<kind>`, and findings and positions as `source_finding` and `source_position`."""
    for kind in ROW_KINDS:
        connection.register(f"unsealed_{kind}", sources.rows[kind])
        connection.execute(f"CREATE VIEW all_{kind} AS {select_rows(kind, sources.files[kind])}")
    connection.execute(
        'CREATE TABLE source_finding (kind VARCHAR, subject VARCHAR, detail VARCHAR, rows BIGINT, "at" TIMESTAMP, blocks_close BOOLEAN)'
    )
    add_findings(connection, sources.findings)
    positions = [{"writer": writer, "last_seq": seq} for writer, seq in sorted(sources.positions.items())]
    table(connection, "source_position", pa.Table.from_pylist(positions, _POSITION))


def select_rows(kind: str, paths: Sequence[Path], *, unsealed: bool = True) -> str:
    """A select of the records of one kind in these sealed files, and of those that are not sealed yet, once they are registered."""
    columns = ", ".join(f'"{name}"' for name in ARROW[kind].names)
    waiting = f"SELECT {columns} FROM unsealed_{kind}{'' if unsealed else ' WHERE false'}"
    if not paths:
        return waiting
    listed = ", ".join(f"'{str(path).replace(chr(39), chr(39) * 2)}'" for path in paths)
    read = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
    # by name, so that a column which older files do not have reads as null
    return f"SELECT {columns} FROM (SELECT * FROM {read} UNION ALL BY NAME {waiting})"


def add_findings(connection: duckdb.DuckDBPyConnection, findings: Sequence[Finding]) -> None:
    """Append to `source_finding`, each finding once."""
    if findings:
        rows = [{name: getattr(finding, name) for name in _FINDING.names} for finding in dict.fromkeys(findings)]
        connection.register("found", pa.Table.from_pylist(rows, _FINDING))
        connection.execute("INSERT INTO source_finding SELECT * FROM found EXCEPT SELECT * FROM source_finding")
        connection.unregister("found")


def table(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Make `rows` a table of their own on the connection."""
    connection.register(f"arrow_{name}", rows)
    connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM arrow_{name}')
    connection.unregister(f"arrow_{name}")


def register_book(connection: duckdb.DuckDBPyConnection, book: Book, until: int | None = None, as_of: int | None = None) -> None:
    """Make the book visible as its tables, `setting`, and, for the time that records and findings span, months and offsets.

    Months before `until` (microseconds) are closed: what falls into them is booked in the first open one. `as_of` stands for
    the clock where a table tells how things stand; without it that is the instant of the newest record.
    """
    for name, rows in book.tables().items():
        table(connection, name, rows)
    span = _span(connection)
    now = as_of if as_of is not None else span[1] if span else None
    setting = {
        "currency": book.settings.currency,
        "timezone": str(book.settings.timezone),
        "second_person_above": book.settings.second_person_above,
        "entry_limit": ENTRY_LIMIT,
        "as_of": now,
    }
    table(connection, "setting", pa.Table.from_pylist([setting], _SETTING))
    table(connection, "book_period", pa.Table.from_pylist(book_periods(str(book.settings.timezone), span, until), _PERIOD))
    zones = sorted({channel.timezone or "UTC" for channel in book.channels}) if span else []
    table(connection, "book_offset", pa.Table.from_pylist([row for zone in zones for row in offsets(zone, *(span or (0, 0)))], _OFFSET))


def _span(connection: duckdb.DuckDBPyConnection) -> tuple[int, int] | None:
    instants = " UNION ALL ".join(
        f'SELECT min("{KINDS[kind].instant}") AS low, max("{KINDS[kind].instant}") AS high FROM all_{kind}' for kind in ROW_KINDS
    )
    ((low, high),) = connection.execute(
        f'SELECT epoch_us(min(low)), epoch_us(max(high)) FROM ({instants} UNION ALL SELECT min("at"), max("at") FROM source_finding)'
    ).fetchall()
    return None if low is None else (low, high)


def months(timezone: str, low: int, high: int) -> Iterator[dict[str, Any]]:
    """The months of a zone that [low, high] touches, each from its first local midnight until before the next one's."""
    zone = ZoneInfo(timezone)
    first = to_datetime(low).astimezone(zone)
    year, month = first.year, first.month
    while True:
        begin = datetime(year, month, 1, tzinfo=zone)
        following = (year + month // 12, month % 12 + 1)
        if from_datetime(begin) > high:
            return
        end = datetime(*following, 1, tzinfo=zone)
        yield {"period": f"{year:04d}-{month:02d}", "starts_at": _naive(begin), "ends_at": _naive(end)}
        year, month = following


def book_periods(timezone: str, span: tuple[int, int] | None, until: int | None) -> list[dict[str, Any]]:
    """The months that `span` touches, each with the month it is booked in: itself, or the first open one where it is closed.

    What is booked in a month is posted from `posts_from` to `posts_last`.
    """
    if span is None:
        return []
    low, high = span
    rows = list(months(timezone, low, high if until is None else max(high, until)))
    opened = [row for row in rows if until is None or instant_of(row["ends_at"]) > until]
    found = []
    for row in rows:
        posting = row if row in opened else opened[0]
        found.append(
            {
                "period": posting["period"],
                "service_period": row["period"],
                "starts_at": row["starts_at"],
                "ends_at": row["ends_at"],
                "posts_from": posting["starts_at"],
                "posts_last": to_datetime(instant_of(posting["ends_at"]) - 1).replace(tzinfo=None),
            }
        )
    return found


def instant_of(naive: datetime) -> Instant:
    """The instant of what a TIMESTAMP column holds."""
    return from_datetime(naive.replace(tzinfo=UTC))


def offsets(timezone: str, low: int, high: int) -> Iterator[dict[str, Any]]:
    """The stretches of [low, high] with one offset from UTC each, daylight saving changes found to the minute."""
    zone = ZoneInfo(timezone)
    begin = to_datetime(low).replace(second=0, microsecond=0)
    last = to_datetime(high) + _DAY
    at = begin
    while at < last:
        following = at + _DAY
        if _offset(zone, at) != _offset(zone, following):
            change = _change(zone, at, following)
            yield _stretch(timezone, zone, begin, change)
            begin = change
        at = following
    yield _stretch(timezone, zone, begin, at)


def _offset(zone: ZoneInfo, at: datetime) -> int:
    offset = at.astimezone(zone).utcoffset()
    return int(offset.total_seconds() // 60) if offset else 0


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    minutes = (after - before) // timedelta(minutes=1)
    low, high = 0, minutes
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, before + timedelta(minutes=middle)) == _offset(zone, before):
            low = middle
        else:
            high = middle
    return before + timedelta(minutes=high)


def _stretch(timezone: str, zone: ZoneInfo, begin: datetime, end: datetime) -> dict[str, Any]:
    return {"timezone": timezone, "starts_at": _naive(begin), "ends_at": _naive(end), "offset_minutes": _offset(zone, begin)}


def _naive(moment: datetime) -> datetime:
    """UTC without saying so: what a TIMESTAMP column holds."""
    return moment.astimezone(UTC).replace(tzinfo=None)
