"""ledger/spend.json: what each registered key was charged by month; the ETL writes it whole, the gateway reads it for monthly limits."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson

from schemas import durable
from schemas.errors import LedgerError
from schemas.instants import to_datetime
from schemas.money import MoneyError, parse_decimal, plain

Spend = Mapping[tuple[str, str], Decimal]  # by key id and month, in the book's currency


class SpendError(LedgerError):
    """A spend file that is not one."""


def month_of(at: int, timezone: str) -> str:
    """The book's month that contains an instant, as 2026-10."""
    return to_datetime(at).astimezone(ZoneInfo(timezone)).strftime("%Y-%m")


def content(spend: Spend) -> bytes:
    """What the file holds: one way to write one spending."""
    rows = [{"key": key, "period": period, "charged": plain(charged)} for (key, period), charged in sorted(spend.items())]
    return orjson.dumps({"spent": rows}) + b"\n"


def write(path: Path, spend: Spend) -> None:
    """Replace the file whole: a reader sees the old one or the new one."""
    durable.replace(path, content(spend))


def read(path: Path) -> Spend:
    """The file's content; nothing where there is none yet. Raises SpendError."""
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        rows = orjson.loads(written)["spent"]
        return {(row["key"], row["period"]): parse_decimal(row["charged"]) for row in rows}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, MoneyError) as error:
        raise SpendError(f"{path} cannot be read ({error})", "tokenledger ledger writes it again") from None
