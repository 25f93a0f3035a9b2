"""A whole agent run: every receipt in it, and totals that never net one bucket against another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from etl.receipt import Receipt
from etl.table import cell, render
from schemas.counts import counted
from schemas.money import plain


@dataclass(frozen=True, slots=True)
class Total:
    """What one bucket of one wallet paid for the run."""

    wallet: str | None
    bucket: str | None
    currency: str | None
    attempts: int
    charged: Decimal  # of the attempts whose charge is known
    unknown: int  # attempts whose charge is not known


def totals(receipts: Sequence[Receipt]) -> list[Total]:
    """One total a wallet, bucket and currency, in that order: by attempt, for a fallback may cost both channels' buckets."""
    groups: dict[tuple[str | None, str | None, str | None], list[Decimal | None]] = {}
    for receipt in receipts:
        for attempt in receipt.attempts:
            groups.setdefault((receipt.facts["wallet"], attempt.bucket, receipt.facts["currency"]), []).append(attempt.charged)
    return [
        Total(*key, len(charges), sum((c for c in charges if c is not None), Decimal(0)), charges.count(None))
        for key, charges in sorted(groups.items(), key=lambda group: tuple(part or "" for part in group[0]))
    ]


def as_json(run_id: str, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """The run for machines."""
    return {
        "run_id": run_id,
        "totals": [
            {
                "wallet": total.wallet,
                "bucket": total.bucket,
                "currency": total.currency,
                "attempts": total.attempts,
                "charged": plain(total.charged),
                "attempts_without_charge": total.unknown,
            }
            for total in totals(receipts)
        ],
        "requests": [receipt.as_json() for receipt in receipts],
    }


COLUMNS = (
    "created_at",
    "request_id",
    "api_model",
    "served_channel",
    "status",
    "attempt_count",
    "input_tokens",
    "output_tokens",
    "final_charge",
)


SUM_COLUMNS = ("wallet", "bucket", "attempts", "charged", "currency", "charge unknown")


def statuses(receipts: Sequence[Receipt]) -> str:
    """How many of the requests ended how."""
    counts = Counter(cell(receipt.facts["status"]) for receipt in receipts)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def rows(receipts: Sequence[Receipt]) -> list[tuple[Any, ...]]:
    """The columns of each request."""
    return [tuple(receipt.facts[column] for column in COLUMNS) for receipt in receipts]


def sums(receipts: Sequence[Receipt]) -> list[tuple[Any, ...]]:
    """The totals as rows."""
    return [(t.wallet, t.bucket, t.attempts, t.charged, t.currency, t.unknown) for t in totals(receipts)]


def as_text(run_id: str, receipts: Sequence[Receipt], command: str) -> str:
    """The run for people: one line a request, one total a bucket; `command` is how ours is typed."""
    return "\n".join(
        [
            f"Run {cell(run_id)}: {counted(len(receipts), 'request')} ({statuses(receipts)})",
            "",
            render(COLUMNS, rows(receipts), indent="  "),
            "",
            "Paid from",
            render(SUM_COLUMNS, sums(receipts), indent="  "),
            "",
            f"One of them in full: {command} receipt {receipts[0].request_id}",
        ]
    )
