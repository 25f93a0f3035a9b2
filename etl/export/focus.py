"""FOCUS: the month's charges in the columns of the FinOps Open Cost and Usage Specification, versions 1.2 and 1.4.

Columns, levels and allowed values are in focus_columns.csv (focus.finops.org; 1.4 takes ProviderName and PublisherName out,
and has ServiceProviderName and HostProviderName in their place). Facts of our own stand after them as x_PascalCase.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

from etl.export.focus_check import VERSIONS, columns_of
from etl.export.source import Source, Sums, Written, literal, quoted
from etl.export.texts import harmless_sql
from schemas.errors import LedgerError
from schemas.meters import METERS
from schemas.money import plain

__all__ = ["VERSIONS", "writer"]

_SELECT = Path(__file__).with_name("focus.sql")
_COSTS = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")
_CATEGORIES: Mapping[str, str] = {"usage": "Usage", "purchases": "Purchase", "credits": "Credit", "adjustments": "Adjustment"}


class NoBoundsError(LedgerError):
    """A month of which the ledger does not say when it begins and ends."""


def writer(version: str) -> Callable[[Source, Path], Written]:
    """What writes one version of FOCUS."""

    def write(source: Source, path: Path) -> Written:
        if source.starts_at is None or source.ends_at is None:
            raise NoBoundsError(f"the ledger does not say when {source.period} begins and ends", "tokenledger ledger")
        units = ", ".join(f"({literal(meter.name)}, {literal(_plural(meter.unit))})" for meter in METERS)
        select = _SELECT.read_text(encoding="utf-8").replace("{units}", units).replace("$period", literal(source.period))
        source.connection.execute(f"CREATE OR REPLACE TEMP TABLE focus_row AS {select}")
        found = source.connection.execute("DESCRIBE focus_row").fetchall()
        known = {column.name for column in columns_of(version)}
        chosen = [(row[0], row[1]) for row in found if row[0] in known or row[0].startswith("x_")]
        cells = ", ".join(f"{_cell(name, kind)} AS {quoted(name)}" for name, kind in chosen)
        rows = source.copy(f"SELECT {cells} FROM focus_row ORDER BY rowid", path, "FORMAT csv, HEADER true, DELIMITER ',', NULLSTR ''")
        return Written("charges", rows, _control(source), tuple(name for name, _ in chosen))

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


def _control(source: Source) -> dict[str, Sums]:
    """By currency: rows, each cost, EffectiveCost by category, and what is left out because its charge is not known."""
    sums = [f'sum("{name}")::DECIMAL(38,12) AS "{name}"' for name in _COSTS]
    sums += [
        f'coalesce(sum("EffectiveCost") FILTER (WHERE "ChargeCategory" = \'{value}\'), 0)::DECIMAL(38,12) AS {name}'
        for name, value in _CATEGORIES.items()
    ]
    control: dict[str, Sums] = {}
    unknown, suspense = source.one(
        "SELECT count(*), (SELECT coalesce(sum(amount), 0)::DECIMAL(38,12) FROM journal WHERE period = $period AND account LIKE 'suspense:%') "
        "FROM ledger WHERE period = $period AND final_charge IS NULL"
    )
    for row in source.rows(
        f'SELECT "BillingCurrency" AS currency, count(*) AS rows, {", ".join(sums)} FROM focus_row GROUP BY 1 ORDER BY 1'
    ):
        currency = row.pop("currency")
        control[currency] = {name: plain(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    for sums_of_one in control.values():
        sums_of_one["requests_without_charge_left_out"] = unknown
        sums_of_one["suspense_left_out"] = plain(suspense)
    return control
