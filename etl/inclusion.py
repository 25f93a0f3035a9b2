"""The proof that a receipt is one of those that its month's seal covers: the way from its digest up to the sealed root."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from etl.merkle import MERKLE_FILE, Sibling, proof
from schemas.home import Home


@dataclass(frozen=True, slots=True)
class Inclusion:
    """The place of a receipt among those of its month, ordered by request_id, and the siblings on the way to the root."""

    period: str
    index: int
    count: int
    siblings: tuple[Sibling, ...]
    root: str
    seal: str  # the hash of the seal

    def as_json(self) -> dict[str, Any]:
        """As tools/verify_receipt.py reads it."""
        return asdict(self)


def inclusion(home: Home, connection: duckdb.DuckDBPyConnection, request_id: str, period: str) -> Inclusion | None:
    """The proof for a published receipt, null while its month is open. Raises SealBroken."""
    row = connection.execute("SELECT seal_hash FROM periods WHERE period = ? AND status = 'closed'", [period]).fetchone()
    if row is None:
        return None
    from etl.seals import SEAL_FILE, folder, load  # noqa: PLC0415  a receipt of an open month does not wait for what checks signatures

    place = folder(home, period)
    if not (place / SEAL_FILE).exists():
        return None
    seal = load(place / SEAL_FILE)
    if seal.hash != row[0]:
        return None  # the month was closed anew since this ledger was published
    ((index,),) = connection.execute("SELECT count(*) FROM ledger WHERE period = ? AND request_id < ?", [period, request_id]).fetchall()
    count = int(seal.receipts["count"])
    return Inclusion(period, index, count, proof(place / MERKLE_FILE, count, index), seal.receipts["root"], seal.hash)
