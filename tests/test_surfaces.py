"""One request on every surface: retried, failed over and adjusted, it has the same ids, tokens, prices, charge and bucket wherever it is told."""

from __future__ import annotations

import csv
import io
import json
import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pytest
from beancount import loader
from beancount.core import data
from click.testing import CliRunner

from etl.close import close
from etl.export.month import FORMATS, export
from etl.receipt_text import SECTIONS
from etl.table import cell
from schemas.home import Home
from schemas.instants import parse_instant
from tests.rawdata import DAY, NOON, SECOND, Archive, attempt, event, failure, one, request, response, rows, topup, usage, write_book
from tests.test_receipt import told_by, told_by_pdf
from tests.test_statement import OFFICIAL_FIRST
from tests.test_web import web
from tokenledger import cli

OCTOBER = "2026-10"
MORNING = parse_instant("2026-11-02T06:00:00Z")

# Worked by hand: two tries on the official channel failed before any output and are free; the routed backup took
# 1000 x 0.03 / 10^6 + 500 x 0.12 / 10^6 = 0.00003 + 0.00006 = 0.00009.
FACTS: Mapping[str, str] = {
    "request_id": "r1",
    "created_at": "2026-10-10T12:00:00.000000Z",
    "user_id": "ada",
    "project": "search",
    "api_key_label": "Ada's laptop",
    "public_model": "GPT-4o mini",
    "api_model": "gpt-4o-mini",
    "upstream_model": "openai/gpt-4o-mini",
    "route": "routed",
    "primary_channel": "official",
    "backup_channel": "routed",
    "retry_count": "1",
    "fallback_count": "1",
    "input_tokens": "1000",
    "output_tokens": "500",
    "input_price_per_mtok": "0.030000000000",
    "output_price_per_mtok": "0.120000000000",
    "final_charge": "0.000090000000",
    "balance_bucket": "routed_balance",
    "failed_request_policy": "no-charge",
    "wallet_entry_id": "",  # a hash: the journal's own, see `home`
    "adjustment_amount": "0.000020000000",
    "adjustment_reason": "goodwill for the wait",
}
ALL = frozenset(FACTS)
# What double entry has of a request: the books of money, not the log.
BOOKED = "request_id final_charge balance_bucket backup_channel wallet_entry_id adjustment_amount adjustment_reason".split()
# What each surface that is not about the whole request tells of it; every other surface tells all.
TELLS: Mapping[str, frozenset[str]] = {
    "wallet statement": frozenset(
        "request_id final_charge balance_bucket wallet_entry_id adjustment_amount adjustment_reason".split(),
    ),
    "reconciliation": frozenset({"request_id", "final_charge", "backup_channel"}),
    "export beancount": frozenset(BOOKED),
    "export hledger": frozenset(BOOKED),
}
MILLION = 1_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """October closed; one request in it."""
    home = Home(tmp_path_factory.mktemp("surfaces"))
    write_book(home, models=OFFICIAL_FIRST)
    Archive(home).seal(
        [
            topup("t1", "10"),
            topup("t2", "5", bucket="routed_balance"),
            request("r1", headers={"x-ledger-run": "run-7"}),
            attempt("r1"),
            failure("r1", status=503),
            attempt("r1", 2, NOON + 2 * SECOND),
            failure("r1", 2, NOON + 3 * SECOND, status=503),
            attempt("r1", 3, NOON + 4 * SECOND, channel="routed", role="backup", reason="fallback"),
            response("r1", 3, NOON + 5 * SECOND, usage=usage(1000, 500, cost=0.0001)),
            event(
                "a1", "wallet_adjust", NOON + DAY, actor="mallory-the-admin", reason="goodwill for the wait", reference="g", request_id="r1",
                wallet="research", bucket="routed_balance", currency="USD", amount="0.00002",
            ),
        ]
    )  # fmt: skip
    done = close(home, MORNING)
    assert done.closed == (OCTOBER,), done.refusals
    return home


def expected(home: Home) -> dict[str, str]:
    """The facts, with the entry that the journal has of the charge."""
    entry = one(home, "SELECT entry_id FROM journal WHERE request_id = 'r1' AND kind = 'charge' AND account LIKE 'wallet:%'")
    return {**FACTS, "wallet_entry_id": entry["entry_id"]}


# ---- what each surface tells ----


def _command(home: Home, *arguments: str) -> bytes:
    answer = CliRunner().invoke(cli, [*arguments, "--home", str(home.root)], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout_bytes


def _columns(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: cell(row[name]) for name in FACTS}


def _labelled(told: str, facts: Mapping[str, str]) -> dict[str, str]:
    """The facts that stand behind their labels in a receipt as people read it."""
    labels = {column: label for _, named in SECTIONS for label, column in named}
    flat = " ".join(told.split())
    found = {name: value for name, value in facts.items() if name != "request_id" and f"{labels[name]} {value}" in flat}
    return found | ({"request_id": "r1"} if "Receipt r1" in flat else {})


def _worded(told: str, facts: Mapping[str, str]) -> dict[str, str]:
    """The facts that a statement tells of one of its dearest requests, each behind its column's words."""
    part = " ".join(told.split()).split("Dearest requests")[1]
    found = {name: value for name, value in facts.items() if re.search(rf"{name.replace('_', ' ')} {re.escape(value)} ?(;|Each)", part)}
    head = re.match(r" 1\. (\S+) (\S+)", part)
    return found | ({"final_charge": head[1], "request_id": head[2]} if head else {})


def _receipt_json(home: Home) -> dict[str, str]:
    return _columns(json.loads(_command(home, "receipt", "r1", "--format", "json")))


def _wallet_statement(home: Home) -> dict[str, str]:
    charge, adjustment = rows(home, "FROM wallet_statement WHERE request_id = 'r1' ORDER BY posted_at")
    assert (charge["kind"], adjustment["kind"]) == ("charge", "adjustment")
    assert charge["balance_after"] + adjustment["amount"] == adjustment["balance_after"]
    return {
        "request_id": charge["request_id"],
        "final_charge": cell(-charge["amount"]),
        "balance_bucket": charge["bucket"],
        "wallet_entry_id": charge["entry_id"],
        "adjustment_amount": cell(adjustment["amount"]),
        "adjustment_reason": adjustment["reason"],
    }


def _reconciliation(home: Home) -> dict[str, str]:
    row = one(home, "FROM reconciliation WHERE source = 'reply'")
    return {"request_id": row["request_id"], "final_charge": cell(row["our_amount"]), "backup_channel": row["channel"]}


SURFACES: Mapping[str, Callable[[Home, Mapping[str, str]], dict[str, str]]] = {
    "ledger": lambda home, facts: _columns(one(home, "FROM ledger WHERE request_id = 'r1'")),
    "receipt text": lambda home, facts: _labelled(_command(home, "receipt", "r1").decode(), facts),
    "receipt json": lambda home, facts: _receipt_json(home),
    "receipt html": lambda home, facts: _labelled(told_by(_command(home, "receipt", "r1", "--format", "html").decode()), facts),
    "receipt pdf": lambda home, facts: _labelled(told_by_pdf(_command(home, "receipt", "r1", "--format", "pdf")), facts),
    "run": lambda home, facts: _columns(json.loads(_command(home, "run", "run-7", "--json"))["requests"][0]),
    "statement html": lambda home, facts: _worded(told_by(_command(home, "statement", "--period", OCTOBER).decode()), facts),
    "statement pdf": lambda home, facts: _worded(told_by_pdf(_command(home, "statement", "--period", OCTOBER, "--format", "pdf")), facts),
    "statement json": lambda home, facts: _columns(
        json.loads(_command(home, "statement", "--period", OCTOBER, "--json"))["top_requests"][0]
    ),
    "wallet statement": lambda home, facts: _wallet_statement(home),
    "reconciliation": lambda home, facts: _reconciliation(home),
}


@pytest.mark.parametrize("surface", SURFACES)
def test_each_surface_tells_the_same_facts(home: Home, surface: str) -> None:
    """Every fact that the surface is there to tell, written as the ledger writes it."""
    facts = expected(home)
    told = SURFACES[surface](home, facts)
    assert told == {name: value for name, value in facts.items() if name in TELLS.get(surface, ALL)}


# ---- pages ----


@pytest.fixture(scope="module")
def pages(home: Home) -> Iterator[str]:
    with web(home) as address:
        yield address


def test_the_pages_tell_the_same_facts(home: Home, pages: str) -> None:
    """The request's page, the file that hangs on it, its run's, and its wallet's statement."""

    def told(path: str) -> str:
        with urllib.request.urlopen(f"{pages}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    facts = expected(home)
    assert _labelled(told_by(told("/requests/r1")), facts) == facts
    assert _columns(json.loads(told("/requests/r1/receipt.json"))) == facts
    assert _columns(json.loads(told("/runs/run-7/receipt.json"))["requests"][0]) == facts
    statement = told("/wallets?wallet=research&bucket=routed_balance")  # six places are shown, and every one on hover
    exact = (f"-{facts['final_charge']}", "4.999910000000", facts["adjustment_amount"], "4.999930000000")
    for fact in (*exact, facts["balance_bucket"], facts["wallet_entry_id"], facts["adjustment_reason"], ">r1<"):
        assert fact in statement, fact


# ---- exports ----


def _read(select: str) -> dict[str, str]:
    with duckdb.connect() as reader:
        cursor = reader.execute(select)
        names = [column[0] for column in cursor.description or ()]
        (row,) = cursor.fetchall()
    return _columns(dict(zip(names, row, strict=True)))


def _jsonl(path: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return _columns(next(line for line in lines if line.get("request_id") == "r1"))


def _xlsx(path: Path) -> dict[str, str]:
    head, row = openpyxl.load_workbook(path, read_only=True)["Rows 1"].iter_rows(values_only=True)
    found = dict(zip(head, row, strict=True))
    return {name: str(found.get(f"{name} (exact)", found.get(name))) for name in FACTS}


def _focus(path: Path) -> dict[str, str]:
    lines = [line for line in csv.DictReader(io.StringIO(path.read_text())) if line["x_RequestId"] == "r1"]
    usage_of = {line["SkuMeter"]: line for line in lines if line["ChargeCategory"] == "Usage"}
    (fix,) = (line for line in lines if line["ChargeCategory"] == "Adjustment")
    line = usage_of["input"]
    per_million = {meter: Decimal(found["ContractedUnitPrice"]) * MILLION for meter, found in usage_of.items()}
    return {
        "request_id": line["x_RequestId"],
        "user_id": line["x_UserId"],
        "project": line["SubAccountName"],
        "api_key_label": line["x_ApiKeyLabel"],
        "public_model": line["x_PublicModel"],
        "upstream_model": json.loads(line["SkuPriceDetails"])["x_Model"],
        "route": line["x_Route"],
        "backup_channel": line["x_BackupChannel"],
        "input_tokens": usage_of["input"]["ConsumedQuantity"],
        "output_tokens": usage_of["output"]["ConsumedQuantity"],
        "input_price_per_mtok": f"{per_million['input']:f}",
        "output_price_per_mtok": f"{per_million['output']:f}",
        "final_charge": f"{sum((Decimal(found['EffectiveCost']) for found in usage_of.values()), Decimal(0)):f}",
        "balance_bucket": line["x_BalanceBucket"],
        "wallet_entry_id": line["x_WalletEntryId"],
        "created_at": line["x_CreatedAt"],
        "api_model": line["x_ApiModel"],
        "primary_channel": line["x_PrimaryChannel"],
        "retry_count": line["x_RetryCount"],
        "fallback_count": line["x_FallbackCount"],
        "failed_request_policy": line["x_FailedRequestPolicy"],
        "adjustment_amount": f"{-Decimal(fix['EffectiveCost']):f}",
        "adjustment_reason": fix["x_Reason"],
    }


def _postings(found: list[tuple[str, Decimal]]) -> dict[str, str]:
    """The wallet's side of a charge, by account and amount."""
    ((bucket, paid),) = ((name.split(":")[-1], amount) for name, amount in found if name.startswith("Assets:Wallet:"))
    ((channel, cost),) = ((name.split(":")[-1], amount) for name, amount in found if name.startswith("Expenses:Usage:"))
    assert paid == -cost
    return {"final_charge": f"{cost:f}", "backup_channel": channel.lower(), "balance_bucket": {"RoutedBalance": "routed_balance"}[bucket]}


def _beancount(path: Path) -> dict[str, str]:
    entries, errors, _ = loader.load_file(str(path))
    assert errors == []
    charge, fix = (entry for entry in entries if isinstance(entry, data.Transaction) and entry.meta.get("request-id") == "r1")
    legs = [(leg.account, leg.units.number) for leg in charge.postings if leg.units is not None and leg.units.number is not None]
    (gained,) = (leg.units.number for leg in fix.postings if leg.units is not None and leg.account.startswith("Assets:"))
    (entry_id,) = (leg.meta["entry-id"] for leg in charge.postings if leg.meta and leg.account.startswith("Assets:Wallet:"))
    told = {
        "request_id": charge.meta["request-id"],
        "wallet_entry_id": entry_id,
        "adjustment_amount": f"{gained:f}",
        "adjustment_reason": fix.meta["reason"],
    }
    return told | _postings(legs)


def _hledger(path: Path) -> dict[str, str]:
    blocks = [block for block in path.read_text().split("\n\n") if "; request_id: r1\n" in block]
    legs = [[(m[1], Decimal(m[2])) for m in re.finditer(r"^ +([A-Z]\S+) +(-?[\d.]+) USD", block, re.MULTILINE)] for block in blocks]
    (reason,) = re.findall(r"; reason: (.*)", blocks[1])
    (gained,) = (amount for name, amount in legs[1] if name.startswith("Assets:"))
    (entry_id,) = re.findall(r"^ +Assets:Wallet:.*; entry_id: (\S+)$", blocks[0], re.MULTILINE)
    return {"request_id": "r1", "wallet_entry_id": entry_id, "adjustment_amount": f"{gained:f}", "adjustment_reason": reason} | _postings(
        legs[0]
    )


def _otlp(path: Path) -> dict[str, str]:
    spans = json.loads(path.read_text().splitlines()[0])["resourceSpans"][0]["scopeSpans"][0]["spans"]
    (root,) = (span for span in spans if "parentSpanId" not in span)
    known = {fact["key"]: next(iter(fact["value"].values())) for fact in root["attributes"]}
    elsewhere = {
        "user_id": known["user.id"],
        "api_model": known["gen_ai.request.model"],
        "input_tokens": known["gen_ai.usage.input_tokens"],
        "output_tokens": known["gen_ai.usage.output_tokens"],
        "created_at": FACTS["created_at"] if int(root["startTimeUnixNano"]) == NOON * 1000 else "another instant",
    }
    return elsewhere | {name: known[f"tokenledger.{name}"] for name in ALL - elsewhere.keys()}


READ: Mapping[str, Callable[[Path], dict[str, str]]] = {
    "csv": lambda path: _read(f"FROM read_csv('{path}', all_varchar = true)"),
    "parquet": lambda path: _read(f"FROM '{path}'"),
    "jsonl": _jsonl,
    "xlsx": _xlsx,
    "focus": _focus,
    "beancount": _beancount,
    "hledger": _hledger,
    "otlp": _otlp,
}


@pytest.mark.parametrize("form", FORMATS)
def test_each_export_tells_the_same_facts(home: Home, form: str, tmp_path: Path) -> None:
    """Read back by somebody else's reader where there is one; a format that nobody reads here fails."""
    path = tmp_path / f"october.{form}"
    export(home, form, OCTOBER, path)
    facts = expected(home)
    assert READ[form](path) == {name: value for name, value in facts.items() if name in TELLS.get(f"export {form}", ALL)}
