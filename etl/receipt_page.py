"""The receipt, and that of a whole run, as a page: the facts and sentences of the text, with the attempts drawn as a timeline."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from etl import page, run
from etl import receipt_text as told
from etl.charts import Span, timeline
from etl.receipt import Receipt
from etl.table import cell

MILLISECOND = dt.timedelta(milliseconds=1)
MOST_SPANS = 40
PRICES = (("charged", "final_charge"), ("official list price", "list_charge"), ("reported by vendor", "vendor_charge"))


def _spans(receipt: Receipt) -> list[Span]:
    begin = receipt.facts["created_at"]

    def ms(at: dt.datetime | None) -> int | None:
        return None if at is None else (at - begin) // MILLISECOND

    return [
        Span(
            name=f"#{a.ordinal} {a.channel}",
            start_ms=(a.started_at - begin) // MILLISECOND,
            first_token_ms=ms(a.first_token_at),
            end_ms=ms(a.ended_at),
            is_ok=a.status == "ok",
            told=f"#{a.ordinal} {a.channel}, {a.role}, {a.reason}: {cell(a.outcome)} after {cell(a.ms)} ms",
        )
        for a in receipt.attempts[:MOST_SPANS]
    ]


def _groups(receipt: Receipt) -> list[tuple[str, list[tuple[str, str]]]]:
    return [(title, [(label, told.fact(receipt.facts, column)) for label, column in named]) for title, named in told.SECTIONS]


def receipt_facts(receipt: Receipt) -> dict[str, Any]:
    """What the template of a receipt is filled with."""
    return {
        "receipt": receipt,
        "told": told,
        "groups": _groups(receipt),
        "prices": [
            (label, told.fact(receipt.facts, column), "" if receipt.facts[column] is None else cell(receipt.facts["currency"]))
            for label, column in PRICES
        ],
        "timeline": page.chart(timeline(_spans(receipt))) if receipt.attempts else None,
        "undrawn": len(receipt.attempts[MOST_SPANS:]),
    }


def run_facts(run_id: str, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """What the template of a run is filled with."""
    return {
        "run_id": cell(run_id),
        "statuses": run.statuses(receipts),
        "columns": run.COLUMNS,
        "rows": run.rows(receipts),
        "sums": run.sums(receipts),
        "sum_columns": run.SUM_COLUMNS,
        "example": receipts[0].request_id,
    }


def receipt_page(receipt: Receipt) -> str:
    """One receipt as a self-contained HTML page."""
    return page.html("receipt.html", **receipt_facts(receipt))


def run_page(run_id: str, receipts: Sequence[Receipt]) -> str:
    """A run as a self-contained HTML page: one line a request, one total a bucket."""
    return page.html("run.html", **run_facts(run_id, receipts))
