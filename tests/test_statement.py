"""The statement: the ledger's own figures to the last digit, its filters and its state told, the same page as the close sealed."""

from __future__ import annotations

import html
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from etl.build import build
from etl.charts import Bar, bars
from etl.close import close
from etl.page import pdf
from etl.published import PeriodError, open_ledger
from etl.statement import Statement, UnknownFilterError, previous, statement
from etl.statement_page import statement_page
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.hostile import HOSTILE
from tests.rawdata import (
    DAY,
    HOUR,
    KEY,
    NOON,
    OTHER_KEY,
    SECOND,
    Archive,
    attempt,
    call,
    event,
    failure,
    request,
    response,
    rows,
    spool,
    topup,
    usage,
    write_book,
)
from tests.test_receipt import Elements, told_by, told_by_pdf

ADMIN = "mallory-the-admin"
SEPTEMBER, OCTOBER = "2026-09", "2026-10"
MORNING = parse_instant("2026-11-02T06:00:00Z")
IN_SEPTEMBER = NOON - 20 * DAY
KEYS = f"""
[[key]]
id = "k-ada"
label = "Ada's laptop"
fingerprint = "{KEY}"
user = "ada"
project = "search"
wallet = "research"
from = 2026-01-01T00:00:00Z

[[key]]
id = "k-bob"
label = {HOSTILE[0]!r}
fingerprint = "{OTHER_KEY}"
user = "bob"
project = "support & <b>sales</b>"
wallet = "desk"
from = 2026-01-01T00:00:00Z
"""


OFFICIAL_FIRST = """
[[model]]
public = "GPT-4o mini"
api = "gpt-4o-mini"
[[model.channel]]
name = "official"
upstream = "gpt-4o-mini"
[[model.channel]]
name = "routed"
upstream = "openai/gpt-4o-mini"
"""


def traffic() -> list[Record]:
    """September: one call. October: two of Ada's, one of Bob's, a fallback that worked, a failure, and what people entered."""
    return [
        topup("t1", "10", at=IN_SEPTEMBER - DAY, actor=ADMIN),
        topup("t2", "5", at=NOON - DAY, bucket="routed_balance", bonus="1", actor=ADMIN),
        *call("s1", IN_SEPTEMBER),
        *call("r1"),
        *call("r2", NOON + HOUR, headers={"x-ledger-run": "run-7"}),
        *call("b1", NOON + DAY, credential=OTHER_KEY),
        request("f1", NOON + 2 * DAY),
        attempt("f1", at=NOON + 2 * DAY),
        failure("f1", at=NOON + 2 * DAY + SECOND),
        attempt("f1", 2, NOON + 2 * DAY + 2 * SECOND, channel="routed", role="backup", reason="fallback"),
        response("f1", 2, NOON + 2 * DAY + 3 * SECOND, usage=usage(1000, 500)),
        request("x1", NOON + 3 * DAY),
        attempt("x1", at=NOON + 3 * DAY),
        failure("x1", at=NOON + 3 * DAY + SECOND),
        event(
            "a1", "wallet_adjust", NOON + 4 * DAY, actor=ADMIN, reason="goodwill", reference="g", request_id="r1", wallet="research",
            bucket="official_credit", currency="USD", amount="0.0001",
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """September and October closed, November open with one call."""
    home = Home(tmp_path_factory.mktemp("statement"))
    write_book(home, keys=KEYS, models=OFFICIAL_FIRST)
    archive = Archive(home)
    archive.seal(traffic())
    done = close(home, MORNING)
    assert done.closed == (SEPTEMBER, OCTOBER), done.refusals
    archive.seal(call("n1", MORNING), writer="w2")
    build(home)
    return home


def of(home: Home, period: str = OCTOBER, **filters: Any) -> Statement:
    with open_ledger(home) as connection:
        return statement(connection, period, **filters)


def named(found: Statement, key: str) -> list[dict[str, Any]]:
    answer = found.answers[key]
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def figure(found: Statement, name: str) -> tuple[Any, Any, Any]:
    (chosen,) = (f for f in found.figures if f.name == name)
    return chosen.this_month, chosen.month_before, chosen.change


def test_the_figures_are_those_worked_by_hand(home: Home) -> None:
    """Three calls of 1000 x 0.15 / 10^6 + 500 x 0.60 / 10^6 = 0.00045 and a backup's 1000 x 0.03 / 10^6 + 500 x 0.12 / 10^6 = 0.00009
    are 0.00144; September's one call was 0.00045. The backup's list price is 0.00045: 0.00036 saved.
    """
    october = of(home)
    assert figure(october, "charged") == (Decimal("0.00144"), Decimal("0.00045"), Decimal("0.00099"))
    assert figure(october, "requests") == (5, 1, 4)
    assert figure(october, "saved against list prices")[0] == Decimal("0.00036")
    assert {(row["project"], row["requests"], row["charged"]) for row in named(october, "by_project")} == {
        ("search", 4, Decimal("0.00099")),
        ("support & <b>sales</b>", 1, Decimal("0.00045")),
    }
    assert named(october, "fallbacks") == [
        {
            "primary_channel": "official",
            "backup_channel": "routed",
            "requests": 1,
            "saved_by_it": 1,
            "paid_for_failed_tries": Decimal(0),
            "charged": Decimal("0.00009"),
            "longest_added_ms": 2000,
        }
    ]
    assert [(row["outcome"], row["requests"]) for row in named(october, "failures")] == [("error_before_output", 1)]
    assert [(row["run_id"], row["charged"]) for row in named(october, "top_runs")] == [("run-7", Decimal("0.00045"))]


@pytest.mark.parametrize("key", ["by_project", "by_model", "by_key", "by_route"])
@pytest.mark.parametrize("filters", [{}, {"project": "search"}, {"wallet": "desk"}], ids=str)
def test_every_table_of_spend_adds_up_to_the_ledger(home: Home, key: str, filters: dict[str, str]) -> None:
    """Whatever the grouping and the filter, requests and charges are those of the ledger's rows."""
    condition = " AND ".join(f"{name} = '{value}'" for name, value in {"period": OCTOBER, **filters}.items())
    (expected,) = rows(home, f"SELECT count(*) AS requests, sum(final_charge) AS charged FROM ledger WHERE {condition}")
    spent = named(of(home, **filters), key)
    assert {"requests": sum(row["requests"] for row in spent), "charged": sum(row["charged"] for row in spent)} == expected


def test_page_and_pdf_show_every_figure_as_the_ledger_writes_it(home: Home) -> None:
    """Each cell of each table stands on the page and in the PDF with its 12 places; no admin's name does."""
    october = of(home)
    page = statement_page(october)
    for told in (told_by(page), told_by_pdf(pdf(page))):
        bare = "".join(told.split())
        for key in ("proof", "by_project", "by_model", "by_key", "by_route", "savings", "failures", "failed_tries", "movers", "entries"):
            for row in october.answers[key].rows:
                for value in row:
                    if isinstance(value, Decimal | int):
                        assert f"{value:f}" if isinstance(value, Decimal) else str(value) in told, key
                    elif isinstance(value, str):
                        assert "".join(value.split()) in bare, key
        assert ADMIN not in told


def test_the_balance_proof_of_the_statement_is_the_ledgers(home: Home) -> None:
    """Opening to closing of each balance, and its terms add up: 10 - 0.00045 in September, then - 0.0009 + 0.0001 in October."""
    proof = {(row["wallet"], row["bucket"]): row for row in named(of(home), "proof")}
    official = proof["research", "official_credit"]
    assert (official["opening"], official["charges"], official["adjustments"], official["closing"]) == tuple(
        map(Decimal, ("9.99955", "0.0009", "0.0001", "9.99875"))
    )
    routed = proof["research", "routed_balance"]
    assert (routed["topups"], routed["bonuses"], routed["charges"], routed["closing"]) == tuple(
        map(Decimal, ("4", "1", "0.00009", "4.99991"))
    )
    told = told_by(statement_page(of(home)))
    assert "opening 9.999550000000" in told
    assert "= closing 9.998750000000" in told


def test_filters_and_state_are_told_on_the_page(home: Home) -> None:
    """What was left out is said; a month still open says so, a closed one names its seal; an unknown name is refused."""
    assert "Filters: none; every request and every wallet" in told_by(statement_page(of(home)))
    assert "Closed. Its figures are sealed in ledger/2026-10/seal.json" in told_by(statement_page(of(home)))
    project = told_by(statement_page(of(home, project="support & <b>sales</b>")))
    assert "only requests of the project support & <b>sales</b> ; balances belong to wallets" in project
    assert "= closing" not in project
    wallet = told_by(statement_page(of(home, wallet="desk")))
    assert "only the wallet desk and the requests that it pays" in wallet
    assert "research" not in wallet
    november = told_by(statement_page(of(home, "2026-11")))
    assert "Still open. Every figure may change" in november
    for filters in ({"project": "nobody's"}, {"wallet": "nobody's"}):
        with pytest.raises(UnknownFilterError):
            of(home, **filters)
    with pytest.raises(PeriodError):
        of(home, "2025-01")


def test_the_sealed_statement_is_the_one_that_is_shown_later(home: Home) -> None:
    """The close wrote the page; more traffic and another build later it is made again to the same bytes, and so is its PDF."""
    sealed = (home.ledger / OCTOBER / "statement.html").read_text()
    again = statement_page(of(home))
    assert again == sealed
    assert pdf(again) == pdf(sealed)


def test_a_page_runs_and_fetches_nothing_whatever_names_are_in_it(home: Home) -> None:
    """Markup in a key's label, a project or a chart's bar is text, and the file stands alone."""
    page = statement_page(of(home))
    elements = Elements()
    elements.feed(page)
    assert elements.tags & {"script", "img", "link", "iframe", "object", "a", "foreignobject"} == set()
    assert {name for name in elements.attributes if name.startswith("on") or name.endswith(("src", "href"))} == set()
    assert HOSTILE[0] in told_by(page)
    for text in HOSTILE:
        drawn = Elements()
        drawn.feed(bars([Bar(text, Decimal(1))], "USD"))
        assert drawn.tags <= {"svg", "g", "path", "line", "text", "rect"}, text


def test_every_chart_has_a_scale_its_unit_and_the_names_it_draws(home: Home) -> None:
    """Six pictures or more, each with the currency, and each bar can be read aloud with the exact amount."""
    found = of(home)
    pictures = [html.unescape(picture) for picture in re.findall(r"<svg.*?</svg>", statement_page(found), re.DOTALL)]
    assert len(pictures) >= 6
    assert all(">USD<" in picture and "role-axis" in picture for picture in pictures)
    assert "research · official_credit" in pictures[0]
    assert "day (UTC)" in pictures[0]
    assert any("search  0.000990000000 USD" in picture for picture in pictures)


def test_rows_that_a_table_does_not_show_are_added_up(tmp_path: Path) -> None:
    """Of 25 models 20 are shown, and a row tells what the five others cost: the sum is still the month's."""
    home = Home(tmp_path / "many")
    prices = "".join(f"official,m{n:02d},input,{n + 1},1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,\n" for n in range(25))
    write_book(home, rates="+" + prices + prices.replace(",input,", ",output,"))
    Archive(home).seal([record for n in range(25) for record in call(f"r{n:02d}", NOON + n * HOUR, 1, 0, model=f"m{n:02d}")])
    build(home)
    found = of(home)
    answer = found.answers["by_model"]
    assert (len(answer.rows), answer.others) == (20, 5)
    assert found.as_json()["others"]["by_model"]["charged"] == "0.000015000000"  # 1 + 2 + 3 + 4 + 5 millionths
    assert sum(row["charged"] for row in named(found, "by_model")) + Decimal("0.000015") == figure(found, "charged")[0]
    assert "5 others" in told_by(statement_page(found))
    assert "the 12 largest of 25" in told_by(statement_page(found))


def test_what_is_not_known_is_told_as_unknown(tmp_path: Path) -> None:
    """September's one call cost 0.00045, and October's has a model without a price: nobody knows what it cost, saved or changed."""
    home = Home(tmp_path / "dark")
    write_book(home, models=OFFICIAL_FIRST)
    Archive(home).seal([*call("s1", IN_SEPTEMBER), *call("r1", model="dark")])
    build(home)
    found = of(home)
    assert figure(found, "charged") == (None, Decimal("0.00045"), None)
    assert figure(found, "saved against list prices") == (None, Decimal(0), None)
    assert figure(found, "paid for failed tries") == (Decimal(0), Decimal(0), Decimal(0))
    assert [(row["model"], row["charged"], row["charge_unknown"]) for row in named(found, "by_model")] == [("dark", None, 1)]
    assert [(row["model"], row["month_before"], row["this_month"], row["change"]) for row in named(found, "movers")] == [
        ("GPT-4o mini", Decimal("0.00045"), Decimal(0), Decimal("-0.00045")),
        ("dark", Decimal(0), None, None),
    ]
    assert "unknown" in told_by(statement_page(found))


def test_without_a_month_before_nothing_is_set_beside_a_model(home: Home) -> None:
    """The ledger begins with September: what its model cost in August is not nothing, it is not known."""
    (mover,) = of(home, SEPTEMBER).as_json()["movers"]
    assert mover == {"model": "GPT-4o mini", "month_before": None, "this_month": "0.000450000000", "change": None}


def test_the_month_before_january_is_december() -> None:
    """And it is the year before's."""
    assert (previous("2026-01"), previous("2026-10")) == ("2025-12", "2026-09")


def test_the_proof_on_the_page_adds_up_whatever_moved(home: Home, tmp_path: Path) -> None:
    """Ten bought, three of them moved to another wallet, and a bonus taken back: each card's terms come to its closing."""
    moved = Home(tmp_path)
    where = {"wallet": "research", "bucket": "official_credit", "currency": "USD", "actor": ADMIN, "reason": "r", "reference": "x"}
    write_book(moved)
    first = [topup("t1", "10"), topup("t2", "2")]
    spool(moved, first)
    build(moved)
    (second,) = rows(moved, "SELECT DISTINCT transaction_id FROM journal WHERE kind = 'topup' AND amount = 2")
    later = [
        event("m1", "wallet_transfer", NOON, **where, amount="3", to_wallet="ops", to_bucket="pool"),
        event("v1", "wallet_reverse", NOON + HOUR, **where, transaction=second["transaction_id"]),
    ]
    spool(moved, [*first, *later])
    build(moved)
    told = told_by(statement_page(of(moved)))
    cards = re.findall(r"opening [^=]*= closing -?[\d.]+", " ".join(told.split()))
    assert len(cards) == 2
    for card in cards:
        signs = [(-1 if sign == "-" else 1) * Decimal(amount) for sign, amount in re.findall(r"([+-]?) ?[a-z][a-z -]*? (-?\d+\.\d+)", card)]
        assert sum(signs[:-1]) == signs[-1], card
    assert "+ transfers -3.000000000000" in cards[1] + cards[0]
    assert "+ reversals -2.000000000000" in cards[1] + cards[0]
