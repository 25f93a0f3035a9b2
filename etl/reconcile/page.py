"""The comparison of one vendor's month as a page of text for a tired person, and as JSON; read from the published ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb

from etl.published import open_ledger
from etl.table import jsonable, render
from schemas.errors import LedgerError
from schemas.home import Home

BIGGEST = 10

# What to do about a step that is not nothing; the first word of each is what a person does.
NEXT: dict[str, str] = {
    "boundary_shift": "nothing: the neighbour month's bill has the other side; import it too",
    "vendor_only": "ask the vendor for the ids of these calls; a key of yours may be used outside the proxy",
    "ours_only": "look whether the bill is whole; what the vendor never billed may be refunded: tokenledger wallet refund",
    "aborted": "agree with the vendor how an aborted call is billed, then write that into book/failed_requests.csv",
    "failed_attempts": "dispute them, or write the vendor's rule into book/failed_requests.csv",
    "missing_usage": "ask for usage in streams (inject_usage), so that the reply tells what the bill will say",
    "cache_class": "dispute it: the replies told more cached tokens than the bill",
    "usage_count": "dispute it with the receipts: the replies told other counts; tokenledger audit recounts them",
    "tier": "dispute it: the replies told another tier",
    "price_version": "compare with the vendor's price page; if it is right, append the row to book/rates.csv",
    "multiplier": "ask which group or plan the key is in; the factor belongs into book/terms.csv",
    "unit_rounding": "nothing, or write the vendor's rule into channels.toml (rounding)",
    "currency": "compare the bill's exchange rate with the contract's and with book/fx.csv",
    "fees": "book them: tokenledger wallet adjust, with the bill as its reference",
    "unexplained": "ask the vendor, with --dispute",
}


class NotComparedError(LedgerError):
    """The ledger has no bill of this vendor and month."""

    def __init__(self, vendor: str, period: str) -> None:
        super().__init__(f"no bill of {vendor} for {period} is stored", f"tokenledger reconcile BILL --vendor {vendor!r} --period {period}")


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the ledger says of one vendor's month; rows as dictionaries in the order of their table."""

    vendor: str
    period: str
    bills: Sequence[dict[str, Any]]
    classes: Sequence[dict[str, Any]]
    waterfall: Sequence[dict[str, Any]]
    rows: Sequence[dict[str, Any]]
    lines: Sequence[dict[str, Any]]
    requests: Sequence[dict[str, Any]]

    @property
    def gap(self) -> Decimal:
        gap: Decimal = self.waterfall[0]["gap"]
        return gap

    def as_json(self) -> dict[str, Any]:
        """For machines: amounts are texts with 12 places."""
        first = self.waterfall[0]
        return {
            "vendor": self.vendor,
            "period": self.period,
            **{name: jsonable(first[name]) for name in ("currency", "vendor_total", "our_total", "gap")},
            "bills": [_plain(row) for row in self.bills],
            "classes": [_plain(row) for row in self.classes],
            "waterfall": [{**_plain(row), "next": NEXT[row["step"]] if row["amount"] else None} for row in self.waterfall],
            "matches": [_plain(row) for row in self.rows],
            "bill_lines": [_plain(row) for row in self.lines],
            "requests": [_plain(row) for row in self.requests],
        }

    def as_text(self, home: Home) -> str:
        """The page: totals, classes, waterfall, biggest lines, what to do next for this home."""
        first = self.waterfall[0]
        currency = first["currency"]
        blocks = [f"{self.vendor}, {self.period}: the vendor's bill beside our books, in {currency}"]
        totals = [("the vendor wants", first["vendor_total"]), ("we booked", first["our_total"]), ("gap", first["gap"])]
        blocks.append(render(("", currency), totals))
        if any(row["without_money"] for row in self.bills):
            blocks.append("Lines that name no money are taken at our prices: their gap is one of tokens.")
        files = [(b["account"], b["file"], b["mapping"], b["lines"], b["total"], b["sha256"][:16]) for b in self.bills]
        blocks.append("Bills\n" + render(("account", "file", "read as", "lines", "total", "sha256"), files))
        blocks.append(
            "Classes\n"
            + render(("class", "comparisons", "bill lines", "our requests", "difference"), [tuple(c.values()) for c in self.classes])
        )
        steps = [(row["step"], row["amount"], row["groups"]) for row in self.waterfall if row["amount"]]
        steps.append(("sum, which is the gap", self.gap, ""))
        blocks.append("Where the gap comes from\n" + render(("step", "amount", "comparisons"), steps))
        biggest = sorted((row for row in self.rows if row["difference"]), key=lambda r: (-abs(r["difference"]), r["subject"]))[:BIGGEST]
        if biggest:
            shown = [(r["class"], r["difference"], r["step"], r["subject"].rpartition(" (")[0], r["reason"] or "") for r in biggest]
            blocks.append("Biggest differences\n" + render(("class", "difference", "step", "what", "seen"), shown))
        blocks.append("Next\n" + "\n".join(f"  {line}" for line in self._next(home)))
        return "\n\n".join(blocks)

    def _next(self, home: Home) -> Sequence[str]:
        largest = sorted((row for row in self.waterfall if row["amount"]), key=lambda row: -abs(row["amount"]))
        lines = [f"{row['step']}: {home.typed(NEXT[row['step']])}" for row in largest]
        if not lines:
            return ("nothing: the bill is what we booked",)
        named = next((row["request_id"] for row in self.rows if row["request_id"] and row["difference"]), None)
        return [*lines, *([f"one request's whole story: {home.command} receipt {named}"] if named else [])]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: jsonable(value) for name, value in row.items()}


def read_page(home: Home, vendor: str, period: str) -> Page:
    """The page of a vendor's month; raises NotComparedError or NoLedgerError."""
    with open_ledger(home) as connection:
        told = {"vendor": vendor, "period": period}
        waterfall = _rows(connection, "SELECT * EXCLUDE (vendor, period) FROM reconciliation_waterfall WHERE {where} ORDER BY place", told)
        if not waterfall:
            raise NotComparedError(vendor, period)
        return Page(
            vendor=vendor,
            period=period,
            bills=_rows(connection, "SELECT * EXCLUDE (vendor, period) FROM bills WHERE {where} ORDER BY account", told),
            classes=_rows(connection, _CLASSES, told),
            waterfall=waterfall,
            rows=_rows(
                connection,
                "SELECT * EXCLUDE (vendor, period, source) FROM reconciliation WHERE {where} AND source = 'bill' ORDER BY subject",
                told,
            ),
            lines=_rows(connection, "SELECT * EXCLUDE (vendor, period) FROM bill_lines WHERE {where} ORDER BY account, number", told),
            requests=_rows(
                connection, "SELECT * EXCLUDE (vendor, period) FROM reconciliation_requests WHERE {where} ORDER BY request_id", told
            ),
        )


_CLASSES = """
    SELECT class, count(*) AS comparisons, sum(bill_lines)::BIGINT AS bill_lines, sum(requests)::BIGINT AS requests,
        sum(difference)::DECIMAL(38,12) AS difference
    FROM reconciliation WHERE {where} AND source = 'bill' GROUP BY class ORDER BY class
"""


def _rows(connection: duckdb.DuckDBPyConnection, query: str, told: dict[str, str]) -> list[dict[str, Any]]:
    cursor = connection.execute(query.replace("{where}", "vendor = $vendor AND period = $period"), told)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
