"""FOCUS: the month's charges in the columns of the FinOps Open Cost and Usage Specification, versions 1.2 and 1.4.

Columns, levels and allowed values are in focus_columns.csv (focus.finops.org; 1.4 takes ProviderName and PublisherName out,
and has ServiceProviderName and HostProviderName in their place). Facts of our own stand after them as x_PascalCase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

from etl.export.focus_check import VERSIONS, columns_of
from etl.export.source import Source, Sums, Written, literal, quoted
from etl.export.texts import harmless_sql
from schemas.errors import LedgerError
from schemas.meters import METERS
from schemas.money import EXACT, plain

__all__ = ["VERSIONS", "writer"]

PIECE_REQUESTS = 8192  # a request has several charges, and each is a wide row
_SELECT = Path(__file__).with_name("focus.sql")
_COSTS = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")
_CATEGORIES = ("Usage", "Purchase", "Credit", "Adjustment")


class NoBoundsError(LedgerError):
    """A month of which the ledger does not say when it begins and ends."""


def writer(version: str) -> Callable[[Source, Path], Written]:
    """What writes one version of FOCUS."""

    def write(source: Source, path: Path) -> Written:
        if source.starts_at is None or source.ends_at is None:
            raise NoBoundsError(f"the ledger does not say when {source.period} begins and ends", "tokenledger ledger")
        units = ", ".join(f"({literal(meter.name)}, {literal(_plural(meter.unit))})" for meter in METERS)
        select = _SELECT.read_text(encoding="utf-8").replace("{units}", units).replace("$period", literal(source.period))
        known = {column.name for column in columns_of(version)}
        names: list[str] = []
        control: dict[str, Sums] = {}

        def parts() -> Iterator[str]:
            for piece, entries in (*((piece, "false") for piece in source.pieces(rows=PIECE_REQUESTS)), ("false", "true")):
                asked = select.replace("{piece}", piece).replace("{entries}", entries)
                source.connection.execute(f"CREATE OR REPLACE TEMP TABLE focus_row AS {asked}")
                found = source.connection.execute("DESCRIBE focus_row").fetchall()
                chosen = [(row[0], row[1]) for row in found if row[0] in known or row[0].startswith("x_")]
                names[:] = [name for name, _ in chosen]
                _add(control, source)
                yield f"SELECT {', '.join(f'{_cell(name, kind)} AS {quoted(name)}' for name, kind in chosen)} FROM focus_row ORDER BY rowid"

        rows = source.write_csv(parts(), path)
        _add_left_out(control, source)
        return Written("charges", rows, control, tuple(names))

    return write


def _cell(name: str, kind: str) -> str:
    column = quoted(name)
    if kind == "TIMESTAMP":
        return f"strftime({column}, '%Y-%m-%dT%H:%M:%SZ')"
    if kind == "VARCHAR":
        return harmless_sql(f"nullif({column}, '')")  # FOCUS writes what is unknown as nothing, and never as an empty text
    return f"{column}::VARCHAR"


def _plural(unit: str) -> str:
    return {"query": "Queries"}.get(unit, f"{unit.capitalize()}s")


_SUMS = {name: f'sum("{name}")' for name in _COSTS} | {
    f"EffectiveCost of {value}": f'sum("EffectiveCost") FILTER (WHERE "ChargeCategory" = \'{value}\')' for value in _CATEGORIES
}


def _add(control: dict[str, Sums], source: Source) -> None:
    """Add one piece to the control sums: by currency the rows, each cost, and EffectiveCost by category."""
    sums = ", ".join(f'coalesce({sql}, 0)::DECIMAL(38,12) AS "{name}"' for name, sql in _SUMS.items())
    for row in source.rows(f'SELECT "BillingCurrency" AS currency, count(*) AS rows, {sums} FROM focus_row GROUP BY 1 ORDER BY 1'):
        so_far = control.setdefault(row["currency"], {"rows": 0, **dict.fromkeys(_SUMS, "0")})
        so_far["rows"] = int(so_far["rows"] or 0) + row["rows"]
        for name in _SUMS:
            so_far[name] = plain(EXACT.add(Decimal(so_far[name] or 0), row[name]))


def _add_left_out(control: dict[str, Sums], source: Source) -> None:
    """What is no row because its charge is not known: its requests, and the known part of its money."""
    unknown, suspense = source.one(
        "SELECT count(*), (SELECT coalesce(sum(amount), 0)::DECIMAL(38,12) FROM journal WHERE period = $period AND account LIKE 'suspense:%') "
        "FROM ledger WHERE period = $period AND final_charge IS NULL"
    )
    for sums in control.values():
        sums["requests_without_charge_left_out"] = unknown
        sums["suspense_left_out"] = plain(suspense)
