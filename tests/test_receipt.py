"""The receipt: what it tells of a request that was retried, failed over, adjusted and partly unknown."""

from __future__ import annotations

import datetime as dt
import html
import io
import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pypdf
import pytest
from jsonschema import Draft202012Validator

from etl import run as agent_run
from etl.page import pdf
from etl.published import open_ledger
from etl.receipt import AmbiguousRequestError, Receipt, UnknownRunError, load, matches, of_run
from etl.receipt_page import receipt_page, run_page
from etl.receipt_schema import schema
from etl.receipt_text import SECTIONS, as_text, fact
from schemas.home import Home
from schemas.ledger import LEDGER
from tests.published import Rows, publish
from tests.rawdata import write_book

START = dt.datetime(2026, 10, 3, 12, 0, 0, 250_000, dt.UTC)
SECOND = dt.timedelta(seconds=1)
ADMIN = "mallory-the-admin"


def _ledger(request_id: str, **facts: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "created_at": START,
        "period": "2026-10",
        "status": "ok",
        "currency": "USD",
        "wallet": "team",
        **facts,
    }


# One request: the routed channel timed out, the official one served it. 1,000 plain and 200 cached input tokens, 50 output
# tokens: 1000 x 0.00000125 + 200 x 0.000000125 + 50 x 0.00001 = 0.00125 + 0.000025 + 0.0005 = 0.001775.
ROWS: Rows = {
    "ledger": [
        _ledger(
            "req-1",
            user_id="alice",
            run_id="run-7",
            api_model="gpt-5",
            primary_channel="cheap",
            backup_channel="openai",
            served_channel="openai",
            attempt_count=2,
            fallback_count=1,
            retry_count=0,
            outcome="ok",
            input_tokens=1200,
            cached_input_tokens=200,
            output_tokens=50,
            final_charge=Decimal("0.001775"),
            balance_bucket="official_credit",
            wallet_entry_id="entry-1",
            failed_request_policy="routed timeouts are free",
            adjustment_amount=Decimal("0.000775"),
            adjustment_reason="goodwill",
            receipt_digest="ab" * 32,
        ),
        _ledger(
            "req-2", run_id="run-7", status="failed", outcome="timeout", balance_bucket="routed_balance", final_charge=Decimal("0.0001")
        ),
        _ledger("req-3", run_id="run-7", balance_bucket="official_credit", api_model="model\x1b[2Jx"),
    ],
    "attempts": [
        {
            "request_id": "req-1",
            "ordinal": 1,
            "channel": "cheap",
            "role": "primary",
            "reason": "first",
            "status": "failed",
            "outcome": "timeout",
            "started_at": START,
            "ended_at": START + 2 * SECOND,
            "charged": Decimal(0),
            "bucket": "routed_balance",
            "error": "no byte for 2 s",
            "disposition": "free",
            "disposition_reason": "policy",
            "raw_request_id": "raw-1",
            "raw_ordinal": 1,
        },
        {
            "request_id": "req-1",
            "ordinal": 2,
            "channel": "openai",
            "role": "backup",
            "reason": "fallback",
            "status": "ok",
            "outcome": "ok",
            "started_at": START + 2 * SECOND,
            "ended_at": START + 3 * SECOND + dt.timedelta(milliseconds=50),
            "charged": Decimal("0.001775"),
            "bucket": "official_credit",
            "disposition": "charged",
            "raw_request_id": "raw-1",
            "raw_ordinal": 2,
        },
        *(
            {
                "request_id": request_id,
                "ordinal": 1,
                "channel": "any",
                "role": "primary",
                "reason": "first",
                "started_at": START,
                "charged": charged,
                "bucket": bucket,
                "disposition": "charged" if charged else "suspense",
                "raw_request_id": request_id,
                "raw_ordinal": 1,
            }
            for request_id, bucket, charged in (("req-2", "routed_balance", Decimal("0.0001")), ("req-3", "official_credit", None))
        ),
    ],
    "charges": [
        {
            "request_id": "req-1",
            "attempt_ordinal": 2,
            "meter": meter,
            "quantity": quantity,
            "unit_price": Decimal(price),
            "amount": Decimal(price) * quantity,
            "rate_id": f"rate-{priced_as}",
            "rate_effective_from": START - 90 * 24 * 3600 * SECOND,
            "priced_as": priced_as,
        }
        for meter, quantity, price, priced_as in (
            ("input", 1000, "0.00000125", "input"),
            ("cached_input", 200, "0.000000125", "cached_input"),
            ("reasoning", 50, "0.00001", "output"),
        )
    ],
    "model_prices": [
        {
            "rate_id": f"rate-{meter}",
            "book": "charge",
            "channel": "openai",
            "model": "gpt-5",
            "meter": meter,
            "unit_price": Decimal(price) / 1_000_000,
            "price": Decimal(price),
            "per": Decimal(1_000_000),
            "currency": "USD",
            "effective_from": START - 90 * 24 * 3600 * SECOND,
            "source": "https://example.com/pricing",
            "note": "read on 2026-07-05",
            "line": line,
        }
        for line, meter, price in ((2, "input", "1.25"), (3, "cached_input", "0.125"), (4, "output", "10"), (5, "unrelated", "9"))
    ],
    "attempt_policy": [
        {
            "request_id": "req-1",
            "attempt_ordinal": 1,
            "raw_request_id": "raw-1",
            "channel": "cheap",
            "outcome": "timeout",
            "policy_id": "policy-1",
            "policy": "routed timeouts are free",
            "charge": "none",
            "effective_from": START - SECOND,
        }
    ],
    "wallet_statement": [
        {
            "entry_id": "entry-1",
            "posted_at": START + 2 * SECOND,
            "wallet": "team",
            "bucket": "official_credit",
            "kind": "charge",
            "amount": Decimal("-0.001775"),
            "balance_after": Decimal("9.998225"),
            "request_id": "req-1",
        },
        {
            "entry_id": "entry-2",
            "posted_at": START + 60 * SECOND,
            "wallet": "team",
            "bucket": "official_credit",
            "kind": "adjustment",
            "amount": Decimal("0.000775"),
            "balance_after": Decimal("9.999"),
            "request_id": "req-1",
            "actor": ADMIN,
            "reason": "goodwill",
        },
    ],
    "unpriced": [
        {
            "request_id": "req-3",
            "channel": "openai",
            "upstream_model": "new",
            "meter": "input",
            "quantity": 7,
            "reason": "no rate",
            "attempt_ordinal": 1,
        }
    ],
    "attribution": [
        {"request_id": "req-1", "fact": "user_id", "value": "alice", "source": "registry", "standing": "applied"},
        {"request_id": "req-1", "fact": "user_id", "value": "bob", "source": "x-ledger-user", "standing": "claimed"},
    ],
    "request_ids": [
        {"id": "req-1", "kind": "request", "request_id": "req-1"},
        {"id": "raw-1b", "kind": "linked", "request_id": "req-1"},
        {"id": "order-42", "kind": "client_request_id", "request_id": "req-1"},
        {"id": "chatcmpl-9", "kind": "response_id", "request_id": "req-1"},
        {"id": "shared", "kind": "idempotency_key", "request_id": "req-1"},
        {"id": "shared", "kind": "idempotency_key", "request_id": "req-2"},
        {"id": "req-2", "kind": "client_request_id", "request_id": "req-3"},
    ],
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    publish(home, ROWS)
    return home


def _receipt(home: Home, request_id: str) -> Receipt:
    with open_ledger(home) as connection:
        return load(connection, request_id, published=True)


def test_the_arithmetic_stands_line_by_line(home: Home) -> None:
    """Each line multiplies out to its amount, the lines to the charge, and each names its rate row and source."""
    receipt = _receipt(home, "req-1")
    assert [line.quantity * line.unit_price for line in receipt.lines] == [line.amount for line in receipt.lines]
    assert sum(line.amount for line in receipt.lines) == receipt.facts["final_charge"] == Decimal("0.001775")
    text = as_text(receipt)
    assert " ".join(next(row for row in text.splitlines() if "cached_input  " in row).split()) == (
        "2 cached_input 200 x 0.000000125000 = 0.000025000000 rate-cached_input 2026-07-05T12:00:00.250000Z"
    )
    assert "sum of these lines: 0.001775000000 USD" in text
    assert "rates.csv line 3, openai gpt-5 cached_input, 0.125 USD per 1000000" in text
    assert "source: https://example.com/pricing; read on 2026-07-05" in text
    assert "reasoning has no price of its own; that of output counts" in text
    assert "unrelated" not in text


def test_the_attempts_are_a_timeline_with_their_policy(home: Home) -> None:
    """The failed try stands before the one that served, with its milliseconds, its error and the policy that freed it."""
    receipt = _receipt(home, "req-1")
    assert [(a.ordinal, a.channel, a.reason, a.ms) for a in receipt.attempts] == [
        (1, "cheap", "first", 2000),
        (2, "openai", "fallback", 1050),
    ]
    text = as_text(receipt)
    assert "#1 error: no byte for 2 s" in text
    assert "#1 timeout: policy routed timeouts are free charges none, in force from 2026-10-03T11:59:59.250000Z" in text


def test_every_fact_of_the_contract_is_on_both_faces(home: Home) -> None:
    """Text and JSON carry every column of the ledger's row; JSON writes amounts as texts of 12 places."""
    receipt = _receipt(home, "req-1")
    shown = {column for _, named in SECTIONS for _, column in named}
    told_elsewhere = {"request_id", "receipt_digest"}  # in the first line and the last
    assert shown | told_elsewhere == set(LEDGER.column_names)
    facts = json.loads(json.dumps(receipt.as_json()))
    assert set(LEDGER.column_names) <= set(facts)
    assert facts["final_charge"] == "0.001775000000"
    assert facts["wallet_entries"][1]["balance_after"] == "9.999000000000"
    assert facts["created_at"] == "2026-10-03T12:00:00.250000Z"
    assert facts["charges"][0]["unit_price"] == "0.000000125000"


def test_wallet_and_adjustment_are_told_without_the_admin(home: Home) -> None:
    """The balance after each entry and the reason of an adjustment stand there; who made it does not."""
    receipt = _receipt(home, "req-1")
    text = as_text(receipt)
    assert "9.998225000000" in text
    assert "goodwill" in text
    assert ADMIN not in text
    assert ADMIN not in json.dumps(receipt.as_json())


def test_a_claim_that_does_not_count_is_kept_apart(home: Home) -> None:
    """What a header claimed against the registry is shown as claimed, and the registry's value is the fact."""
    text = as_text(_receipt(home, "req-1"))
    assert "alice" in text.split("Who")[1].split("Model")[0]
    assert "user_id: bob (said by x-ledger-user)" in text.split("Claimed, but not what counts")[1]


def test_unknown_is_called_unknown(home: Home) -> None:
    """A null is never shown as 0, and a meter without a price stands in suspense with its cure."""
    receipt = _receipt(home, "req-3")
    text = as_text(receipt)
    charged = next(row for row in text.splitlines() if row.strip().startswith("charged "))
    assert charged.split() == ["charged", "unknown"]
    assert receipt.as_json()["final_charge"] is None
    assert "no rate" in text.split("Without a price")[1]
    assert "\x1b" not in text, "a terminal must not obey what a client sent"


def test_any_id_leads_to_the_request(home: Home) -> None:
    """A linked retry's id, the client's own, the vendor's: each finds the request; its own id wins over another's alias."""
    with open_ledger(home) as connection:
        for asked in ("req-1", "raw-1b", "order-42", "chatcmpl-9"):
            assert matches(connection, asked) == ["req-1"]
        assert matches(connection, "req-2") == ["req-2"]
        assert matches(connection, "shared") == ["req-1", "req-2"]
        assert matches(connection, "' OR 1=1 --") == []


def test_an_ambiguous_id_lists_what_it_names() -> None:
    """The refusal names every request and the command for the first."""
    error = AmbiguousRequestError("shared", ["req-1", "req-2"])
    assert error.exit_code == 1
    assert "req-1" in error.what
    assert "req-2" in error.what
    assert error.cure == "tokenledger receipt req-1"


def test_a_run_adds_up_without_netting_buckets(home: Home) -> None:
    """A run lists its requests and one total a bucket, by attempt; an attempt without a charge is counted, not summed as zero."""
    receipts = of_run(home, "run-7")
    totals = {total.bucket: (total.attempts, total.charged, total.unknown) for total in agent_run.totals(receipts)}
    assert totals == {"official_credit": (2, Decimal("0.001775"), 1), "routed_balance": (2, Decimal("0.0001"), 0)}
    assert agent_run.as_json("run-7", receipts)["totals"][0]["charged"] == "0.001775000000"
    text = agent_run.as_text("run-7", receipts, "tokenledger")
    assert "3 requests (1 failed, 2 ok)" in text
    assert ": 1 request (" in agent_run.as_text("run-7", receipts[:1], "tokenledger")
    write_book(home)
    with pytest.raises(UnknownRunError):
        of_run(home, "run-8")


HOSTILE = {
    "user_id": "<script>alert('user')</script>",
    "project": '"><img src=x onerror=alert(1)>',
    "api_key_label": "\u05de\u05e4\u05ea\u05d7 \u202e{{ 7 * 7 }}",
    "public_model": "a model with a long name " * 20,
    "adjustment_reason": "</style><svg onload=alert(2)>",
}


@pytest.fixture
def hostile(tmp_path: Path) -> Receipt:
    """The same request under names that somebody chose in order to be run, to be laid out badly, or to hide."""
    home = Home(tmp_path / "hostile")
    first, *others = ROWS["ledger"]
    attempts = [{**attempt, "channel": "<script>cheap</script>"} for attempt in ROWS["attempts"]]
    publish(home, {**ROWS, "ledger": [{**first, **HOSTILE}, *others], "attempts": attempts})
    return _receipt(home, "req-1")


class Elements(HTMLParser):
    """What a browser would make of a page: the names of its elements and of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def told_by(page: str) -> str:
    """What a page shows as text: its markup taken away, runs of space made one."""
    visible = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(visible).split())


def told_by_pdf(document: bytes) -> str:
    """What a PDF shows as text."""
    return " ".join(" ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(document)).pages).split())


def test_page_and_pdf_tell_every_fact_as_the_text_does(home: Home) -> None:
    """Each fact, each line's arithmetic, policy, entry and balance stand on the page and in the PDF, written alike; no admin does."""
    receipt = _receipt(home, "req-1")
    page = receipt_page(receipt)
    for told in (told_by(page), told_by_pdf(pdf(page))):
        for column in LEDGER.column_names:
            assert fact(receipt.facts, column) in told, column
        assert "200 x 0.000000125000 = 0.000025000000" in told
        assert "sum of these lines: 0.001775000000 USD" in told
        assert "source: https://example.com/pricing" in told
        assert "#1 timeout: policy routed timeouts are free charges none" in told
        assert "9.998225000000" in told
        assert ADMIN not in told


def test_a_currency_stands_only_behind_an_amount(home: Home) -> None:
    """The head of the page: what was charged has one, what the vendor did not say has none."""
    receipt = _receipt(home, "req-1")
    receipt.facts["vendor_charge"] = None
    told = told_by(receipt_page(receipt))
    assert f"charged {fact(receipt.facts, 'final_charge')} USD" in told
    assert "it did not say" in told
    assert "it did not say USD" not in told


def test_a_page_is_one_file_that_runs_and_fetches_nothing(hostile: Receipt) -> None:
    """Names that are markup, templates or direction marks are shown as they were sent; nothing is linked, loaded or run."""
    page = receipt_page(hostile)
    elements = Elements()
    elements.feed(page)
    assert elements.tags & {"script", "img", "link", "iframe", "object", "a", "foreignobject"} == set()
    assert {name for name in elements.attributes if name.startswith("on") or name.endswith(("src", "href"))} == set()
    told = told_by(page)
    for name in ("user_id", "project", "adjustment_reason"):
        assert HOSTILE[name] in told
    assert "\\u202e{{ 7 * 7 }}" in told, "what would turn the line round is shown as its code"
    assert "&lt;script&gt;cheap" in page.split("<svg")[1].split("</svg>")[0], "the chart escapes names too"
    assert told_by_pdf(pdf(page)).count("alert('user')") == 1


def test_the_same_receipt_gives_the_same_bytes(home: Home) -> None:
    """Neither page nor PDF holds a clock, a chance or a count of what was drawn before."""
    receipt = _receipt(home, "req-1")
    first = receipt_page(receipt)
    assert receipt_page(receipt) == first
    assert pdf(first) == pdf(first)


def test_the_timeline_shows_each_try_with_its_scale(home: Home) -> None:
    """Each try is named in the drawing, the axis has its unit, and what a bar means can be read aloud."""
    drawn = html.unescape(receipt_page(_receipt(home, "req-1")).split("<svg")[1].split("</svg>")[0])
    for words in ("#1 cheap", "#2 openai", "ms after the request came in", "failed", "#1 cheap, primary, first: timeout after 2000 ms"):
        assert words in drawn
    assert "<svg" not in receipt_page(_receipt(home, "req-1")).split("Arithmetic")[1]


def test_a_run_has_a_page_too(home: Home) -> None:
    """Its requests, and what each bucket paid."""
    receipts = of_run(home, "run-7")
    told = told_by(run_page("run-7", receipts))
    assert all(receipt.request_id in told for receipt in receipts)
    assert "team official_credit 2 0.001775000000 USD 1" in told


def test_the_json_holds_to_its_published_schema(home: Home) -> None:
    """Every receipt fits the schema; one with a float, a missing fact or an unknown member does not."""
    known = schema()
    Draft202012Validator.check_schema(known)
    validator = Draft202012Validator(known)
    receipts = [_receipt(home, f"req-{number}").as_json() for number in (1, 2, 3)]
    assert [error.message for receipt in receipts for error in validator.iter_errors(receipt)] == []
    first = receipts[0]
    without = {name: value for name, value in first.items() if name != "final_charge"}
    for bent in ({**first, "final_charge": 0.001775}, {**first, "actor": ADMIN}, without, {**first, "schema": "urn:other"}):
        assert not validator.is_valid(bent)
