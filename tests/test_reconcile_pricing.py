"""The bill beside a contract: each term, region, limit and exchange rate that the vendor forgot is named, worked by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from etl.published import open_ledger
from etl.reconcile.pricing import Pricer
from etl.reconcile.step import read_requests
from schemas.book import load_book
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record, UsageSeen
from tests.rawdata import NOON, SECOND, attempt, built, call, more_rates, request, response, rows, terms, usage
from tokenledger import run

DATES = "2026-01-01T00:00:00Z,,test,"
RATES = (
    *("official ratio input 1", "official geo input 1", "official geo input 3 region=us"),
    *("official steps input 2", "official steps input 1 min=1001 marginal=true", "official steps output 4"),
    *("official whisper second 0.0001 per=1", "official spoken second 0.0001 per=1"),
    *("official finder search_call 35 per=1000", "official euro input 1 currency=EUR"),
    *("official paths input 1", "official paths input 5 endpoint=responses", "official paths input 4 endpoint=responses tier=flex"),
)
TERMS = (
    "official ratio * multiplier 1.5",
    "official whisper second minimum 10",
    "official spoken second step 15",
    "official finder search_call allowance_month 3",
)
# name: what was booked, what the bill says, and the step that the difference belongs to
BILLED = {
    "ratio": ("0.0015", "0.001", "multiplier"),  # 1000 x 0.000001 without the 1.5 of the contract
    "geo": ("0.003", "0.001", "price_version"),  # 1000 x 0.000003 in the US, at the plain price 0.000001
    # 1000 x 0.000002 + 500 x 0.000001 = 0.0025; the bill has 500 more, which lie above the limit: 0.0005
    "steps": ("0.0025", "0.003", "usage_count"),
    "whisper": ("0.001", "0.0003", "usage_count"),  # 3 s, billed as 3 and not as 10
    "spoken": ("0.0015", "0.0003", "usage_count"),  # 3 s, and not 15
    "finder": ("0.035", "0.14", "usage_count"),  # 4 searches, none of them free
    "euro": ("0.0011", "0.0012", "currency"),  # 1000 x 0.000001 EUR at 1.2 and not at 1.1
    "paths": ("0.005", "0.004", "tier"),  # 1000 of responses at the tier flex
}
STEPS = {"multiplier": "-0.0005", "price_version": "-0.002", "usage_count": "0.1036", "currency": "0.0001", "tier": "-0.001"}


def _of(name: str, at: int, seen: str, path: str, host: str = "official.test") -> list[Record]:
    found = (UsageSeen("usage", seen, 1),)
    return [
        request(name, at, match_sha256=f"{name:m<64}"[:64], api_model=name, path=path),
        attempt(name, at=at, sent_model=name, url=f"https://{host}{path}"),
        response(name, at=at + SECOND, usage=found, served_model=None),
    ]


def _traffic() -> Iterator[Record]:
    spoken = '{"type": "duration", "seconds": 3}'
    searched = '{"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": 4}}'
    asked = '{"input_tokens": 1000, "output_tokens": 0, "total_tokens": 1000}'
    for n, name in enumerate(BILLED):
        at = NOON + n * 600 * SECOND
        match name:
            case "whisper" | "spoken":
                yield from _of(name, at, spoken, "/v1/audio/transcriptions")
            case "finder":
                yield from _of(name, at, searched, "/v1/messages")
            case "paths":
                yield from _of(name, at, asked, "/v1/responses")
            case "geo":
                yield from _of(name, at, usage(1000, 0)[0].object, "/v1/chat/completions", "us.api.openai.com")
            case _:
                yield from call(name, at, 1500 if name == "steps" else 1000, 0, name)


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A month under a contract with every kind of term."""
    home = Home(tmp_path_factory.mktemp("contract"))
    worth = f"EUR,1.1,{DATES}\nEUR,1.2,2026-10-20T00:00:00Z,,test,\n"
    built(home, list(_traffic()), rates=more_rates(*RATES), terms=terms(*TERMS), fx=worth)
    return home


def test_a_try_costs_in_the_comparison_what_was_booked(contract: Home) -> None:
    """Under its own conditions each try's price is the ledger's to the last digit: terms, limits, region, endpoint and currency."""
    pricer = Pricer.of_book(load_book(contract.book))
    month = (parse_instant("2026-10-01T00:00:00Z"), parse_instant("2026-11-01T00:00:00Z"))
    with open_ledger(contract) as connection:
        asked = read_requests(connection, ["official"], ["2026-10"], [month])
    assert {r.request_id: (pricer.total(t), t.charged) for r in asked for t in r.tries} == {
        name: (Decimal(booked), Decimal(booked)) for name, (booked, _, _) in BILLED.items()
    }


def test_what_the_vendor_forgot_of_a_contract_is_named(contract: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the bill differs by one thing; each is found, and the steps add up to the gap."""
    bill = tmp_path / "log.csv"
    lines = [
        f"up-{name}-1,{amount},{1500 + 500 if name == 'steps' else ''},,2026-10-10T12:{n}0:00,{name}"
        for n, (name, (_, amount, _)) in enumerate(list(BILLED.items()))
    ]
    lines = [line.replace("T12:60", "T13:00").replace("T12:70", "T13:10") for line in lines]
    bill.write_text("request_id,spend,prompt_tokens,completion_tokens,startTime,model\n" + "\n".join(lines) + "\n")
    capsys.readouterr()
    assert run(["reconcile", str(bill), "--vendor", "OpenAI", "--period", "2026-10", "--home", str(contract.root), "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    found = {row["request_id"]: row["step"] for row in rows(contract, "SELECT request_id, step FROM reconciliation WHERE source = 'bill'")}
    assert found == {name: step for name, (_, _, step) in BILLED.items()}
    assert {row["step"]: Decimal(row["amount"]) for row in page["waterfall"] if Decimal(row["amount"])} == {
        step: Decimal(amount) for step, amount in STEPS.items()
    }
    assert Decimal(page["gap"]) == sum(map(Decimal, STEPS.values()))
