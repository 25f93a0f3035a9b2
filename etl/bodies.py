"""The bodies kept, as a build reads them: plain, or decrypted while their key is here; what is erased or damaged says so."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from etl.erasure import erased, kept
from etl.sources import Finding, Sources, instant_of
from schemas.bodykeys import AlteredBodyError, BodyKeys, NoKeyError
from schemas.home import Home
from schemas.records import ARROW

ERASED = "its body was erased"
_COLUMNS = [name for name in ARROW["body"].names if name not in ("writer", "seq")]


@dataclass(frozen=True, slots=True)
class KeptBody:
    """One body: its bytes as they passed, or why there are none, or not all."""

    raw_id: str
    raw_ordinal: int
    content_encoding: str | None
    content: bytes
    fault: str | None


def read_bodies(
    sources: Sources, raw_ids: Collection[str], dates: Container[str], findings: list[Finding], rows_at_once: int
) -> Iterator[KeptBody]:
    """The bodies kept of these requests under these UTC dates, one at a time, and a finding for each thing that is not as it was sealed."""
    needed = pa.array(sorted(raw_ids), pa.string())
    reader = _Reader(Home(sources.raw.parent), findings)
    paths, bad = kept(sources, dates)
    findings.extend(bad)
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from reader.read(file.iter_batches(rows_at_once, columns=_COLUMNS), needed)
    yield from reader.read(sources.rows["body"].to_batches(rows_at_once), needed)


def key_ids(path: Path) -> frozenset[str]:
    """The ids of the keys that a file's bodies are encrypted under."""
    with pq.ParquetFile(path) as file:
        if "key" not in file.schema_arrow.names:  # sealed before bodies could be encrypted
            return frozenset()
        found = pc.unique(file.read(columns=["key"])["key"]).to_pylist()
    return frozenset(key for key in found if key is not None)


class _Reader:
    def __init__(self, home: Home, findings: list[Finding]) -> None:
        self._home = home
        self._keys = BodyKeys(home)
        self._findings = findings
        self._destroyed: frozenset[str] | None = None

    def read(self, batches: Iterable[pa.RecordBatch], needed: pa.Array) -> Iterator[KeptBody]:
        for batch in batches:
            for row in batch.filter(pc.is_in(batch["request_id"], needed)).to_pylist():
                content, fault = self._content(row)
                yield KeptBody(row["request_id"], row["ordinal"], row["content_encoding"], content, fault)

    def _content(self, row: dict[str, Any]) -> tuple[bytes, str | None]:
        if row["size"] and not row["content"]:
            return b"", ERASED
        try:
            content = self._keys.content(row)
        except NoKeyError as error:
            if row["key"] in self._are_destroyed():
                return b"", ERASED
            self._found("missing_key", f"body key {row['key']}", f"{error.what}, and nobody destroyed it: {error.cure}", row)
            return b"", "the key of its body is missing"
        except AlteredBodyError as error:
            self._found("altered_body", f"body {row['request_id']}/{row['ordinal']}", f"{error.what}: {error.cure}", row)
            return b"", "its body is not what was recorded"
        if len(content) < row["size"]:
            return content, f"only the first {len(content)} of its {row['size']} bytes are kept"
        return content, None

    def _are_destroyed(self) -> frozenset[str]:
        if self._destroyed is None:
            self._destroyed = erased(self._home).keys
        return self._destroyed

    def _found(self, kind: str, subject: str, detail: str, row: dict[str, Any]) -> None:
        self._findings.append(Finding(kind, subject, detail, 1, instant_of(row["at"]), True))
