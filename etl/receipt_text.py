"""The receipt for people: plain text, every figure with its arithmetic, what is not known called unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from etl.cures import cures_of
from etl.receipt import Line, Receipt
from etl.table import cell, render
from schemas.money import plain

# Which facts stand together under which heading, and what each is called there.
SECTIONS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Request",
        (
            ("created", "created_at"),
            ("period", "period"),
            ("door", "door"),
            ("endpoint", "endpoint"),
            ("status", "status"),
            ("outcome", "outcome"),
            ("HTTP status", "http_status"),
            ("client's own id", "client_request_id"),
            ("vendor's id", "upstream_request_id"),
        ),
    ),
    (
        "Who",
        (
            ("user", "user_id"),
            ("project", "project"),
            ("key", "api_key_label"),
            ("key id", "api_key_id"),
            ("run", "run_id"),
            ("tags", "tags"),
        ),
    ),
    (
        "Model",
        (
            ("public name", "public_model"),
            ("asked for", "api_model"),
            ("sent upstream", "upstream_model"),
            ("served", "served_model"),
        ),
    ),
    (
        "Road",
        (
            ("route", "route"),
            ("primary channel", "primary_channel"),
            ("backup channel", "backup_channel"),
            ("served by", "served_channel"),
            ("attempts", "attempt_count"),
            ("retries", "retry_count"),
            ("fallbacks", "fallback_count"),
            ("latency ms", "latency_ms"),
            ("first token ms", "first_token_ms"),
            ("added by fallback ms", "fallback_latency_ms"),
        ),
    ),
    (
        "Usage",
        (
            ("from", "usage_source"),
            ("input tokens", "input_tokens"),
            ("of these cached", "cached_input_tokens"),
            ("of these cache writes", "cache_write_tokens"),
            ("output tokens", "output_tokens"),
            ("of these reasoning", "reasoning_tokens"),
            ("input price per million", "input_price_per_mtok"),
            ("output price per million", "output_price_per_mtok"),
        ),
    ),
    (
        "Charge",
        (
            ("official list price", "list_charge"),
            ("charged", "final_charge"),
            ("reported by vendor", "vendor_charge"),
            ("saved against list", "savings"),
            ("paid for failed tries", "leakage"),
            ("vendor says more by", "vendor_difference"),
            ("currency", "currency"),
            ("failed-request policy", "failed_request_policy"),
            ("paid from", "balance_bucket"),
            ("wallet", "wallet"),
            ("wallet entry", "wallet_entry_id"),
            ("adjusted by", "adjustment_amount"),
            ("adjusted because", "adjustment_reason"),
        ),
    ),
)

# Facts that are null because there is nothing to tell, not because it is unknown.
NOTHING_TO_TELL = {
    "backup_channel": "none was tried",
    "failed_request_policy": "none applies",
    "adjustment_amount": "none",
    "adjustment_reason": "none",
    "client_request_id": "none given",
    "vendor_charge": "it did not say",
    "savings": "it did not end ok, or a price is unknown",
    "vendor_difference": "it did not say, or the charge is unknown",
    "wallet_entry_id": "nothing was posted",
    "run_id": "none given",
    "tags": "none given",
    "fallback_latency_ms": "no fallback",
}

INDENT = "  "
CHECK = "tokenledger receipt {id} --format json > r.json; python tools/verify_receipt.py r.json {folder}/seal.json"


def fact(facts: Mapping[str, Any], column: str) -> str:
    """One fact of the ledger's row as text; what is null is called unknown, or by why there is nothing to tell."""
    value = facts[column]
    return NOTHING_TO_TELL.get(column, "none") if value in ({}, []) else cell(value, NOTHING_TO_TELL.get(column, "unknown"))


def _facts(facts: Mapping[str, Any], named: Sequence[tuple[str, str]]) -> Iterable[str]:
    wide = max(len(label) for label, _ in named)
    return (f"{INDENT}{label:<{wide}}  {fact(facts, column)}" for label, column in named)


def state(receipt: Receipt) -> str:
    """Whether it is published yet."""
    return "published" if receipt.published else "not published yet: built just now from the records, balances may still move"


ATTEMPT_COLUMNS = ("#", "started", "channel", "role", "reason", "sent", "status", "HTTP", "outcome", "ms", "bucket", "charged")


def attempt_rows(receipt: Receipt) -> list[tuple[Any, ...]]:
    """The timeline, a row a try."""
    return [
        (
            a.ordinal,
            a.started_at,
            a.channel,
            a.role,
            a.reason,
            a.sent_model,
            a.status,
            a.http_status,
            a.outcome,
            a.ms,
            a.bucket,
            a.charged,
        )
        for a in receipt.attempts
    ]


def attempt_notes(receipt: Receipt) -> Iterable[str]:
    """What each try that did not simply work and get charged has to say, and the policy that decided."""
    for attempt in receipt.attempts:
        if attempt.error:
            yield f"#{attempt.ordinal} error: {cell(attempt.error)}"
        if attempt.disposition_reason:
            yield f"#{attempt.ordinal} {cell(attempt.disposition)}: {cell(attempt.disposition_reason)}"
    for policy in receipt.policies:
        flat = "" if policy.flat_amount is None else f" {cell(policy.flat_amount)}"
        yield (
            f"#{policy.attempt_ordinal} {cell(policy.outcome)}: policy {cell(policy.policy, 'missing')} charges "
            f"{cell(policy.charge)}{flat}, in force from {cell(policy.effective_from)}"
        )
        currency = cell(receipt.facts["currency"])
        for label, amount, otherwise in (
            ("by contract", policy.contract_amount, "unknown"),
            ("booked", policy.booked_amount, "in suspense"),
            ("vendor charged", policy.vendor_amount, "not reported"),
        ):
            paid_from = f" from {cell(policy.booked_bucket)}" if label == "booked" and policy.booked_bucket else ""
            yield f"{INDENT}{label:<14}  " + (otherwise if amount is None else f"{plain(amount)} {currency}{paid_from}")


LINE_COLUMNS = ("attempt", "meter", "quantity", "", "unit price", "", "amount", "rate", "in force from")


def line_rows(receipt: Receipt) -> list[tuple[Any, ...]]:
    """Each line as quantity x unit price = amount, with its model where that is not the one sent."""
    sent = {attempt.ordinal: attempt.sent_model for attempt in receipt.attempts}
    return [
        (
            n.attempt_ordinal,
            _of_model(n, sent.get(n.attempt_ordinal)),
            n.quantity,
            "x",
            n.unit_price,
            "=",
            n.amount,
            n.rate_id,
            n.rate_effective_from,
        )
        for n in receipt.lines
    ]


def line_notes(receipt: Receipt) -> Iterable[str]:
    """Their sum, and the rate rows they come from."""
    total = sum((line.amount for line in receipt.lines), Decimal(0))
    yield f"sum of these lines: {plain(total)} {cell(receipt.facts['currency'])}"
    for line in receipt.lines:
        if line.priced_as not in (None, line.meter):
            yield f"{line.meter} has no price of its own; that of {line.priced_as} counts"
    for rate in receipt.rates:
        yield (
            f"rate {rate.rate_id}: {cell(rate.book)} book, rates.csv line {rate.line}, {cell(rate.channel)} {cell(rate.model)} "
            f"{cell(rate.meter)}, {rate.price.normalize():f} {cell(rate.currency)} per {rate.per.normalize():f}, from {cell(rate.effective_from)}"
            f"; source: {cell(rate.source)}" + (f"; {cell(rate.note)}" if rate.note else "")
        )
    for term in receipt.terms:
        value = term.quantity if term.multiplier is None else f"{term.multiplier.normalize():f}"
        yield (
            f"term {term.term_id}: {cell(term.term)} {value}, terms.csv line {term.line}, {cell(term.channel)} {cell(term.model)} "
            f"{cell(term.meter)}, from {cell(term.effective_from)}; source: {cell(term.source)}"
        )
    for exchange in receipt.exchanges:
        yield (
            f"exchange rate {exchange.fx_id}: 1 {cell(exchange.currency)} = {exchange.rate.normalize():f} {cell(receipt.facts['currency'])}, "
            f"fx.csv line {exchange.line}, from {cell(exchange.effective_from)}; source: {cell(exchange.source)}"
        )


def _of_model(line: Line, sent: str | None) -> str:
    return line.meter if line.model in (None, sent) else f"{line.meter} of {line.model}"


def no_line(receipt: Receipt) -> str:
    """Why there is no arithmetic."""
    return "no line: the charge is unknown" if receipt.facts["final_charge"] is None else "no line: nothing was charged"


POSTING_COLUMNS = ("posted", "wallet", "bucket", "kind", "amount", "balance after", "reason", "entry")


def posting_rows(receipt: Receipt) -> list[tuple[Any, ...]]:
    """What it moved in wallets."""
    return [(p.posted_at, p.wallet, p.bucket, p.kind, p.amount, p.balance_after, p.reason or "", p.entry_id) for p in receipt.postings]


UNPRICED_COLUMNS = ("meter", "quantity", "channel", "model", "reason")


def unpriced_rows(receipt: Receipt) -> list[tuple[Any, ...]]:
    """What has no price."""
    return [(u.meter, u.quantity, u.channel, u.upstream_model, u.reason) for u in receipt.unpriced]


def unpriced_notes(receipt: Receipt) -> list[str]:
    """What makes the charge known; nothing once the month is sealed, for then it was given up."""
    return cures_of((u.meter, u.reason) for u in receipt.unpriced) if receipt.proof is None else []


def claim_notes(receipt: Receipt) -> list[str]:
    """What was said about whom it belongs to and does not count."""
    claimed = [claim for claim in receipt.claims if claim.standing != "applied"]
    return [f"{cell(claim.fact)}: {cell(claim.value)} (said by {cell(claim.source)})" for claim in claimed]


def proof_notes(receipt: Receipt) -> list[str]:
    """What shows that nobody changed it since."""
    if receipt.proof is None:
        return ["no seal covers it: its month is not closed yet"]
    proof = receipt.proof
    return [
        f"receipt {proof.index + 1} of {proof.count} of {proof.period}, whose root is {proof.root}",
        f"sealed by {proof.seal}",
        *(f"join with {sibling.hash} on the {sibling.side}" for sibling in proof.siblings),
        f"check it: {CHECK.format(id=receipt.request_id, folder=f'ledger/{proof.period}')}",
    ]


def as_text(receipt: Receipt) -> str:
    """The whole receipt as lines of text."""
    lines = [f"Receipt {receipt.request_id}  ({state(receipt)})"]
    for title, named in SECTIONS:
        lines += ["", title, *_facts(receipt.facts, named)]
    if claimed := claim_notes(receipt):
        lines += ["", "Claimed, but not what counts", *_indented(claimed)]
    lines += ["", "Attempts"]
    if receipt.attempts:
        lines += [render(ATTEMPT_COLUMNS, attempt_rows(receipt), indent=INDENT), *_indented(attempt_notes(receipt))]
    else:
        lines += [f"{INDENT}none: nothing was sent upstream", *_indented(attempt_notes(receipt))]
    lines += ["", "Arithmetic"]
    if receipt.lines:
        lines += [render(LINE_COLUMNS, line_rows(receipt), indent=INDENT), *_indented(line_notes(receipt))]
    else:
        lines.append(INDENT + no_line(receipt))
    if receipt.unpriced:
        lines += ["", "Without a price (in suspense)", render(UNPRICED_COLUMNS, unpriced_rows(receipt), indent=INDENT)]
        lines += _indented(unpriced_notes(receipt))
    lines += ["", "Wallet", render(POSTING_COLUMNS, posting_rows(receipt), indent=INDENT) if receipt.postings else f"{INDENT}no entry"]
    lines += ["", "Ids", *(f"{INDENT}{cell(name.kind)}  {cell(name.id)}" for name in receipt.names)]
    lines += ["", f"Digest  {cell(receipt.facts['receipt_digest'])}", *_indented(proof_notes(receipt))]
    return "\n".join(lines)


def _indented(lines: Iterable[str]) -> Iterable[str]:
    return (INDENT + line for line in lines)
