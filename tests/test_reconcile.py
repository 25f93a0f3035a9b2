"""A vendor's bill beside the books: a golden bill for each format with planted differences, each named, and the steps worked by hand."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from etl.close import close
from etl.published import open_ledger
from etl.reconcile.waterfall import STEPS
from etl.statement import statement
from etl.statement_page import statement_page
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.billed import AT, RATES, days, recorded
from tests.rawdata import SECOND, attempt, body, built, event, failure, one, request, response, rows, usage, write_book
from tokenledger import run

GOLDEN = Path(__file__).parent / "golden_bills"

# Of each golden bill: the file, the vendor, the traffic it is for, its classes, and the steps of its gap.
CASES: Mapping[str, tuple[str, str, str, dict[str, int], dict[str, str]]] = {
    # 500,000 quota units a dollar. Billed 0.038902, booked 0.0252.
    "new-api": (
        "logs.json",
        "Router",
        "traffic",
        {"matched": 2, "mismatch": 8, "ours_only": 1, "vendor_only": 3},
        {
            "boundary_shift": "0.003",  # booked in November here, on the bill of October
            "vendor_only": "0.004",  # 2000 units of another key
            "ours_only": "-0.003",
            "aborted": "0.0016",  # 0.003 billed whole, 0.0014 by our policy
            "failed_attempts": "0.001",
            "missing_usage": "0.003",
            "cache_class": "0.0002",  # 400 x (0.000001 - 0.0000005)
            "usage_count": "0.0003",  # 100 x 0.000001 + 50 x 0.000004
            "tier": "0.0025",  # 1000 x 0.000002 + 500 x 0.000007 = 0.0055
            "price_version": "0.001",  # 1000 x 0.0000015 + 500 x 0.000005 = 0.004
            "multiplier": "0.0006",  # a group ratio of 1.2
            "unit_rounding": "0.000002",  # one unit
            "fees": "-0.0005",  # a refund of 250 units; a top-up is no part of a bill
        },
    ),
    "litellm": (
        "spend_logs.json",
        "Router",
        "traffic",
        {"matched": 1, "mismatch": 9, "ours_only": 1, "vendor_only": 2},
        {
            "boundary_shift": "0.003",  # booked in November here
            "vendor_only": "0.004",
            "ours_only": "-0.003",
            "aborted": "0.0016",
            "failed_attempts": "0.001",
            "missing_usage": "0.003",
            "cache_class": "0.0002",  # told by the amount alone
            "usage_count": "0.0003",
            "tier": "0.0025",
            "price_version": "0.001",
            "multiplier": "0.0006",  # exactly 1.2 times our price
            "unexplained": "0.0001117",  # 0.0031117 for 0.003: no price, tier or factor gives it
        },
    ),
    "openrouter-export": (
        "activity.csv",
        "Router",
        "traffic",
        {"matched": 1, "mismatch": 9, "ours_only": 1, "vendor_only": 2},
        {
            "boundary_shift": "0.003",  # booked in November here
            "vendor_only": "0.004",
            "ours_only": "-0.003",
            "aborted": "0.0016",
            "failed_attempts": "0.001",
            "missing_usage": "0.003",
            "cache_class": "0.0002",  # the bill says 0 cached tokens
            "usage_count": "0.0003",
            "tier": "0.0025",
            "price_version": "0.001",
            "multiplier": "0.0006",
            "unexplained": "0.0001117",  # 0.0031117 for 0.003: no price, tier or factor gives it
        },
    ),
    "openrouter-generations": (
        "generations.jsonl",
        "Router",
        "traffic",
        {"matched": 1, "mismatch": 9, "ours_only": 1, "vendor_only": 2},
        {
            "boundary_shift": "0.003",  # booked in November here
            "vendor_only": "0.004",
            "ours_only": "-0.003",
            "aborted": "0.0016",
            "failed_attempts": "0.001",
            "missing_usage": "0.003",
            "cache_class": "0.0002",
            "usage_count": "0.0003",
            "tier": "0.0025",  # the bill says priority
            "price_version": "0.001",
            "multiplier": "0.0006",
            "unexplained": "0.0001117",  # 0.0031117 for 0.003: no price, tier or factor gives it
        },
    ),
    # One day and model: 0.0296 against 0.0252; the bill has tokens beyond those of replies that told none. 0.015 for a model never asked.
    "openrouter-activity": (
        "activity.json",
        "Router",
        "traffic",
        {"mismatch": 1, "vendor_only": 1},
        {"vendor_only": "0.015", "missing_usage": "0.0044"},
    ),
    # Tokens alone, at our prices: 400 x (0.00000015 - 0.000000075), then 100 x 0.00000015 + 50 x 0.0000006; a model we cannot price.
    "openai-usage": (
        "usage.json",
        "OpenAI",
        "days",
        {"matched": 1, "mismatch": 2, "vendor_only": 1},
        {"cache_class": "0.00003", "usage_count": "0.000045"},
    ),
    # The 12th is not on the bill; 0.01 for a tool stands on a day without calls.
    "openai-costs": (
        "costs.json",
        "OpenAI",
        "days",
        {"matched": 2, "ours_only": 1, "vendor_only": 1},
        {"vendor_only": "0.01", "ours_only": "-0.00045"},
    ),
    # At 1.10 dollars a euro: 0.00083 EUR for 0.0009 USD, 0.00042 for 0.00045, 0.00045 for 0.00045: 0.000013 + 0.000012 + 0.000045.
    # The 11th is billed without the cache discount; 1 EUR of support.
    "azure-cost": (
        "cost.csv",
        "OpenAI",
        "days",
        {"mismatch": 3, "vendor_only": 1},
        {"cache_class": "0.00003", "currency": "0.00007", "fees": "1.1"},
    ),
    # Two calls by id, two days in one line (0.0009 against 0.00042 + 0.00045: the cached tokens again), a tax and a credit.
    "focus": (
        "focus.csv",
        "OpenAI",
        "days",
        {"matched": 2, "mismatch": 1, "vendor_only": 2},
        {"cache_class": "0.00003", "fees": "0.4"},
    ),
    # No ids: time, model and tokens. The client of the second had left; the fourth has 10 % more tokens; the fifth is of 1 November
    # here, and still of October in Los Angeles. What the vendor left out was 0.003 x 5; nothing is due for `failed`, `untold` is not known.
    "generic": (
        "bill.csv",
        "Router",
        "traffic",
        {"matched": 3, "mismatch": 2, "ours_only": 6, "vendor_only": 1},
        {"boundary_shift": "0.003", "ours_only": "-0.015", "aborted": "0.0016", "usage_count": "0.0003"},
    ),
}


def test_every_kind_of_difference_is_planted_in_a_golden_bill() -> None:
    """A step of the waterfall that no golden bill shows is one that nobody has seen work."""
    assert {step for case in CASES.values() for step in case[4]} == set(STEPS)


def reconcile(home: Home, bill: Path, vendor: str, *options: str, period: str = "2026-10") -> int:
    return run(["reconcile", str(bill), "--vendor", vendor, "--period", period, "--home", str(home.root), *options])


def told(home: Home, bill: Path, vendor: str, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """What the command says as JSON; amounts as decimals."""
    capsys.readouterr()
    assert reconcile(home, bill, vendor, "--json", *options) == 0
    page: dict[str, Any] = json.loads(capsys.readouterr().out)
    return page


def steps(page: dict[str, Any]) -> dict[str, Decimal]:
    """The steps that are not nothing."""
    return {row["step"]: Decimal(row["amount"]) for row in page["waterfall"] if Decimal(row["amount"])}


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Home]:
    """Both months, recorded and built once; no bill is in them yet."""
    found = {which: Home(tmp_path_factory.mktemp(which)) for which in ("traffic", "days")}
    recorded(found["traffic"])
    built(found["days"], days())
    return found


@pytest.fixture
def traffic_home(months: Mapping[str, Home]) -> Home:
    """The marketplace's month, without any bill."""
    return without_bills(months["traffic"])


@pytest.fixture
def days_home(months: Mapping[str, Home]) -> Home:
    """The vendor's own days, without any bill."""
    return without_bills(months["days"])


def without_bills(home: Home) -> Home:
    shutil.rmtree(home.book / "bills", ignore_errors=True)
    return home


@pytest.mark.parametrize("name", CASES)
def test_every_planted_difference_is_found_and_named(name: str, months: Mapping[str, Home], capsys: pytest.CaptureFixture[str]) -> None:
    """Each class has as many comparisons, each step the amount worked above, and the steps add up to the gap to the last digit."""
    file, vendor, which, classes, expected = CASES[name]
    home = without_bills(months[which])
    for own in (GOLDEN / name).glob("*.toml"):
        (home.book / "bills").mkdir(exist_ok=True)
        (home.book / "bills" / own.name).write_bytes(own.read_bytes())
    page = told(home, GOLDEN / name / file, vendor, capsys)
    assert steps(page) == {step: Decimal(amount) for step, amount in expected.items()}
    assert {row["class"]: row["comparisons"] for row in page["classes"]} == classes
    gap = Decimal(page["vendor_total"]) - Decimal(page["our_total"])
    assert Decimal(page["gap"]) == gap == sum(steps(page).values())
    # as much is booked as the ledger says, and every line and request is in one class
    assert Decimal(page["our_total"]) == one(home, f"SELECT sum(a.charged) AS t FROM attempts a JOIN ledger l USING (request_id) WHERE l.period = '2026-10' AND a.channel = '{'official' if vendor == 'OpenAI' else 'routed'}'")["t"]  # fmt: skip
    assert sum(row["bill_lines"] for row in page["classes"]) == sum(line["kind"] != "payment" for line in page["bill_lines"])
    asked = rows(home, f"SELECT DISTINCT l.request_id FROM ledger l JOIN attempts a USING (request_id) WHERE l.period = '2026-10' AND a.channel = '{'official' if vendor == 'OpenAI' else 'routed'}' ORDER BY 1")  # fmt: skip
    assert [row["request_id"] for row in page["requests"]] == [row["request_id"] for row in asked]


def test_the_comparison_can_be_made_again_from_what_was_kept(traffic_home: Home) -> None:
    """A build without the command finds the bill in the book and comes to the same rows."""
    assert reconcile(traffic_home, GOLDEN / "new-api" / "logs.json", "Router") == 0
    asked = (
        "SELECT * FROM reconciliation ORDER BY source, subject",
        "SELECT * FROM reconciliation_waterfall ORDER BY place",
        "SELECT * FROM bill_lines ORDER BY number",
    )
    before = [rows(traffic_home, query) for query in asked]
    built(traffic_home)
    assert [rows(traffic_home, query) for query in asked] == before


def test_the_page_tells_totals_classes_steps_and_what_to_do(traffic_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees both totals, the gap, its steps and the next step."""
    assert reconcile(traffic_home, GOLDEN / "new-api" / "logs.json", "router") == 0
    page = capsys.readouterr().out
    for text in (
        "the vendor wants  0.038902000000",
        "we booked         0.025200000000",
        "gap               0.013702000000",
        "multiplier              0.000600000000",
        "the bill states a factor of 1.2",
        "append the row to book/rates.csv",
        f"tokenledger --home {traffic_home.root} receipt",
    ):
        assert text in page


def test_a_corrected_bill_replaces_only_itself(traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two accounts and two months are three bills; one comes again with its stranger gone, and the others stay as they were."""
    whole = (GOLDEN / "openrouter-export" / "activity.csv").read_text()
    head, *lines = whole.splitlines()
    first, second, corrected = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "a2.csv"
    first.write_text("\n".join([head, *lines[:4], lines[-1]]) + "\n")
    second.write_text("\n".join([head, *lines[4:-1]]) + "\n")
    corrected.write_text("\n".join([head, *lines[:4]]) + "\n")
    told(traffic_home, first, "Router", capsys, "--account", "a")
    both = told(traffic_home, second, "Router", capsys, "--account", "b")
    assert {row["class"]: row["comparisons"] for row in both["classes"]} == {"matched": 1, "mismatch": 9, "ours_only": 1, "vendor_only": 2}
    assert reconcile(traffic_home, second, "Router", "--account", "b", period="2026-11") == 0
    page = told(traffic_home, corrected, "Router", capsys, "--account", "a")
    assert steps(page) == {step: amount for step, amount in steps(both).items() if step != "vendor_only"}
    assert [(bill["account"], bill["file"]) for bill in page["bills"]] == [("a", "a2.csv"), ("b", "b.csv")]
    assert one(traffic_home, "SELECT count(*) AS n FROM bills")["n"] == 3
    # the one it replaced is still there as evidence
    assert len(list((traffic_home.book / "bills" / "router" / "2026-10" / "a").glob("*-a*.csv"))) == 2


def test_a_bill_of_a_closed_month_changes_nothing_that_was_sealed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The bill comes after the close: it is compared all the same, and closing again finds what was sealed."""
    built(home, days())
    assert (
        close(home, parse_instant("2026-12-01T00:00:00Z"), period="2026-10").refusals[0].period == "2026-10"
    )  # records are not sealed yet
    assert run(["ledger", "--home", str(home.root), "--as-of", "2026-12-01T00:00:00Z"]) == 0
    page = told(home, GOLDEN / "openai-costs" / "costs.json", "openai", capsys)
    assert steps(page) == {"vendor_only": Decimal("0.01"), "ours_only": Decimal("-0.00045")}
    assert one(home, "SELECT status FROM periods")["status"] == "closed"
    assert run(["verify", "--home", str(home.root)]) == 0


def test_a_months_two_bills_share_what_lies_on_the_boundary(traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A call of 1 November that is on October's bill is vendor's in October, ours in November, and a shift of 0.003 in both."""
    head, *lines = (GOLDEN / "openrouter-export" / "activity.csv").read_text().splitlines()
    bill, later = tmp_path / "october.csv", tmp_path / "november.csv"
    moved = lines[0].replace("chatcmpl-plain-1", "chatcmpl-november-1").replace("2026-10-10 12:00:01", "2026-10-31 23:59:59")
    bill.write_text(f"{head}\n{moved}\n")
    later.write_text(head + "\n" + lines[-1].replace("2026-10-10", "2026-11-10") + "\n")
    october = told(traffic_home, bill, "Router", capsys)
    assert steps(october)["boundary_shift"] == Decimal("0.003")
    assert reconcile(traffic_home, later, "Router", period="2026-11") == 0
    november = {
        r["step"]: r["amount"] for r in rows(traffic_home, "SELECT step, amount FROM reconciliation_waterfall WHERE period = '2026-11'")
    }
    assert november["boundary_shift"] == Decimal("-0.003")
    assert november["vendor_only"] == Decimal("0.004")


def test_a_call_billed_twice_is_the_vendors_alone(traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second line of one call has no second request: 0.003 too much."""
    head, *lines = (GOLDEN / "openrouter-export" / "activity.csv").read_text().splitlines()
    bill = tmp_path / "twice.csv"
    bill.write_text(f"{head}\n{lines[0]}\n{lines[0]}\n")
    page = told(traffic_home, bill, "Router", capsys)
    assert steps(page)["vendor_only"] == Decimal("0.003")
    assert "billed twice: the same call is on another line" in [row["reason"] for row in page["matches"]]


def test_retries_of_one_request_are_compared_try_by_try(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One request, two tries on the vendor: the failed one is billed 0.001 too, the served one as booked."""
    records: list[Record] = [
        request("again", AT),
        attempt("again", 1, AT, channel="routed"),
        failure("again", 1, AT + SECOND, relayed=False, response_id="chatcmpl-again-1"),
        attempt("again", 2, AT + 2 * SECOND, channel="routed"),
        response("again", 2, AT + 3 * SECOND, usage=usage(1000, 500)),
    ]
    built(home, records, rates=RATES)
    bill = tmp_path / "log.csv"
    bill.write_text("request_id,spend,prompt_tokens,completion_tokens,startTime,model\nchatcmpl-again-1,0.001,1000,0,2026-10-10T12:00:00,m\nchatcmpl-again-2,0.003,1000,500,2026-10-10T12:00:02,m\n")  # fmt: skip
    page = told(home, bill, "Router", capsys)
    assert steps(page) == {"failed_attempts": Decimal("0.001")}
    assert [(row["class"], row["request_id"]) for row in page["matches"]] == [("mismatch", "again")]


def test_a_dispute_pack_holds_evidence_and_no_secrets(traffic_home: Home, tmp_path: Path) -> None:
    """Lines, receipts, hashes and plain words; nobody's name, project, key or wallet, and no prompt."""
    out = tmp_path / "pack"
    assert reconcile(traffic_home, GOLDEN / "new-api" / "logs.json", "Router", "--dispute", str(out)) == 0
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names[:5] == ["README.txt", "SHA256SUMS", "bill_lines.csv", "differences.csv", "evidence.json"]
    text = "".join(path.read_text() for path in out.rglob("*") if path.is_file())
    for private in ("ada", "Ada", "search", "k-ada", "research", "fp_", str(traffic_home.root)):
        assert private not in text.replace("web_search", "")
    assert "0.013702000000" in (out / "README.txt").read_text()
    receipts = [json.loads(path.read_text()) for path in sorted((out / "receipts").iterdir())]
    factor = next(receipt for receipt in receipts if receipt["request_id"] == "factor")
    assert (factor["final_charge"], factor["upstream_request_id"]) == ("0.003000000000", "up-factor-1")
    assert json.loads((out / "evidence.json").read_text())["bills"][0]["sha256"] == one(traffic_home, "SELECT sha256 FROM bills")["sha256"]
    with (out / "differences.csv").open(newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} == {"matched", "mismatch", "ours_only", "vendor_only"}
    # never over what is there
    assert reconcile(traffic_home, GOLDEN / "new-api" / "logs.json", "Router", "--dispute", str(out)) == 2


def test_a_dispute_pack_proves_what_passed_before_any_seal_and_tells_none_of_it(home: Home, tmp_path: Path) -> None:
    """The month is open: each try has the hashes of its two bodies all the same, and what was planted in them stays at home."""
    asked, answered = b'{"messages": "PLANTED-PROMPT sk-PLANTED-SECRET"}', b'{"choices": "PLANTED-ANSWER"}'
    digests = [hashlib.sha256(content).hexdigest() for content in (asked, answered)]
    told_headers = {"x-ledger-user": "PLANTED-USER", "x-ledger-tag-team": "PLANTED-TAG", "x-ledger-run": "PLANTED-RUN"}
    records: list[Record] = [
        request("planted", AT, headers=told_headers, body_sha256=digests[0]),
        attempt("planted", at=AT, channel="routed"),
        response("planted", at=AT + SECOND, usage=usage(1000, 500), body_sha256=digests[1]),
        body("planted", 0, asked, AT),
        body("planted", 1, answered, AT + SECOND),
        event("adjusted", "wallet_adjust", AT + 2 * SECOND, actor="PLANTED-ADMIN", reason="PLANTED-REASON", reference="PLANTED-REF", wallet="research", bucket="routed_balance", amount="-1", request_id="planted"),
    ]  # fmt: skip
    built(home, records, rates=RATES)
    assert one(home, "SELECT adjustment_amount FROM ledger") == {"adjustment_amount": Decimal(-1)}
    bill, out = tmp_path / "log.csv", tmp_path / "pack"
    bill.write_text(HEAD + "chatcmpl-planted-1,0.005,1000,500,2026-10-10T12:00:00,m\n")
    assert reconcile(home, bill, "Router", "--dispute", str(out)) == 0
    evidence = json.loads((out / "evidence.json").read_text())
    assert evidence["replies"] == [
        {"request_id": "planted", "attempt_ordinal": 1, "asked_sha256": digests[0], "reply_sha256": digests[1]},
    ]
    assert (evidence["month"], evidence["raw_files"]) == (None, {})  # nothing is sealed yet
    text = "".join(path.read_text() for path in out.rglob("*") if path.is_file())
    assert "PLANTED" not in text
    assert "a key of yours" not in text  # what we should do is our own affair


def test_a_difference_of_which_neither_side_is_known_is_null(home: Home, tmp_path: Path) -> None:
    """A call without a price that the bill does not name has no amount on either side; the steps add up to the gap all the same."""
    dark: list[Record] = [
        request("dark", AT),
        attempt("dark", at=AT, channel="routed", sent_model="dark"),
        response("dark", at=AT + SECOND, usage=usage(10, 5)),
    ]
    plain: list[Record] = [
        request("plain", AT),
        attempt("plain", at=AT, channel="routed"),
        response("plain", at=AT + SECOND, usage=usage(1000, 500)),
    ]
    built(home, [*dark, *plain], rates=RATES)
    bill = tmp_path / "log.csv"
    bill.write_text(HEAD + "chatcmpl-plain-1,0.005,1000,500,2026-10-10T12:00:00,m\n")
    assert reconcile(home, bill, "Router") == 0
    assert rows(home, "SELECT our_amount, vendor_amount, difference, class FROM reconciliation WHERE request_id = 'dark'") == [
        {"our_amount": None, "vendor_amount": None, "difference": None, "class": "ours_only"}
    ]
    gap = "SELECT sum(amount) AS steps, any_value(gap) AS gap FROM reconciliation_waterfall"
    differences = one(home, "SELECT sum(difference) AS sum FROM reconciliation WHERE source = 'bill'")["sum"]
    assert one(home, gap) == {"steps": differences, "gap": differences}


HEAD = "request_id,spend,prompt_tokens,completion_tokens,startTime,model\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "no known format of a bill"),
        ('{"object":"page","data":[{"start_time":1,"end_time":2,"results":[{"object":"organization.costs.result","amount":{"value":1,"currency":"usd"}}]}],"has_more":true}', "has_more 'true': the file is one page of several"),
        ('{"data":{"total":3,"items":[{"quota":1,"model_name":"m","created_at":1791590400,"type":2}]}}', "says that there are 3, and 1 record is here"),
        ('{"data":{"items":[{"quota":1,"model_name":"m","created_at":1791590400,"type":9}]}}', "not a kind of line that is known"),
        (HEAD + "x,abc,1,1,2026-10-10T12:00:00,m\n", "bill:2 spend 'abc': not a number"),
        (HEAD + "x,1,1.5,1,2026-10-10T12:00:00,m\n", "bill:2 prompt_tokens '1.5': not a whole number"),
        (HEAD + "x,1,1,1,yesterday,m\n", "not an instant that is understood"),
        (HEAD + "x,1,1,1\n", "4 cells under 6 columns"),
        (HEAD + ",,,,2026-10-10T12:00:00,m\n", "no amount and no tokens"),
        ("BilledCost,BillingCurrency,ChargeCategory,ChargePeriodStart,ChargePeriodEnd\n1,CNY,Usage,2026-10-10T00:00:00Z,2026-10-11T00:00:00Z\n", "[exchange] CNY"),
        ("", "is empty"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_told_with_its_line_and_nothing_is_kept(
    content: str, said: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line is left out in silence: the bill is refused whole, with exit code 2."""
    write_book(home)
    bill = tmp_path / "bill"
    bill.write_text(content)
    assert reconcile(home, bill, "OpenAI") == 2
    assert said in capsys.readouterr().err
    assert not (home.book / "bills").exists()


def test_a_point_in_a_bill_with_decimal_commas_stands_before_thousands_or_is_refused(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.000 tokens are a thousand; an amount of -0.3 is nothing that such a bill writes, and was read as -3."""
    write_book(home)
    (home.book / "bills").mkdir()
    shutil.copy(GOLDEN / "generic" / "router.toml", home.book / "bills")
    bill = tmp_path / "bill"
    (written,) = (GOLDEN / "generic").glob("*.csv")
    bill.write_text(written.read_text().replace("-0,3", "-0.3", 1))
    assert reconcile(home, bill, "Router") == 2
    assert "bill:2 Betrag in Cent '-0.3': not a number" in capsys.readouterr().err


def test_a_vendor_that_nobody_knows_is_told(days_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The cure names the vendors of channels.toml."""
    assert reconcile(days_home, GOLDEN / "focus" / "focus.csv", "Opanai") == 2
    assert "did you mean 'OpenAI'?" in capsys.readouterr().err


def test_a_stored_bill_that_was_touched_is_left_out_and_told(days_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Its hash no longer fits: the build goes on without it, and data_quality says so."""
    told(days_home, GOLDEN / "openai-costs" / "costs.json", "OpenAI", capsys)
    (raw,) = (days_home.book / "bills" / "openai" / "2026-10").glob("*/*costs.json")
    raw.write_bytes(raw.read_bytes().replace(b"0.01", b"0.02"))
    built(days_home)
    assert rows(days_home, "SELECT * FROM bills") == []
    assert one(days_home, "SELECT kind, blocks_close FROM data_quality WHERE kind = 'broken_bill'") == {
        "kind": "broken_bill",
        "blocks_close": False,
    }


def test_amounts_in_dollars_stand_for_a_currency_without_a_rate(days_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody wrote a rate for the euro: the vendor's own figures in dollars are taken, and no change of currency is seen."""
    page = told(days_home, GOLDEN / "azure-cost" / "cost.csv", "OpenAI", capsys)
    assert steps(page) == {"cache_class": Decimal("0.00003"), "fees": Decimal("1.1")}


def test_a_mapping_that_says_nonsense_is_refused_with_its_line(days_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mistake at once, each with file, line and cure."""
    (days_home.book / "bills").mkdir(exist_ok=True)
    (days_home.book / "bills" / "openai.toml").write_text('zone = "Mars"\nunit = "0"\ngrains = "day"\n[columns]\nammount = "cost"\n')
    assert reconcile(days_home, GOLDEN / "focus" / "focus.csv", "OpenAI") == 2
    said = capsys.readouterr().err
    for text in ("bills/openai.toml:1 zone 'Mars'", "openai.toml:2 unit '0'", "did you mean 'grain'?", "did you mean 'amount'?"):
        assert text in said


def test_each_month_and_vendor_says_how_far_it_is_reconciled(
    traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """October has a bill with something unexplained, November none; a bill of what was booked and no more is equal, another explained."""
    asked = "SELECT period, state, bills, gap, unexplained FROM reconciled_months WHERE vendor = 'Router' ORDER BY period"
    told(traffic_home, GOLDEN / "litellm" / "spend_logs.json", "Router", capsys)
    assert [tuple(row.values()) for row in rows(traffic_home, asked)] == [
        ("2026-10", "unexplained", 1, Decimal("0.0143117"), Decimal("0.0001117")),
        ("2026-11", "no_bill", 0, None, None),
    ]
    bill = tmp_path / "november.csv"
    for amount, state in (("0.003", "equal"), ("0.0036", "explained")):
        bill.write_text(HEAD + f"chatcmpl-november-1,{amount},1000,500,2026-11-01T00:30:00,m\n")
        assert reconcile(traffic_home, bill, "Router", period="2026-11") == 0
        assert rows(traffic_home, asked)[1]["state"] == state


def test_the_statement_shows_the_bill_beside_the_books(traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both totals, the gap, each step with its amount and what to do, and a picture of it; with a filter no bill is told."""
    page = told(traffic_home, GOLDEN / "new-api" / "logs.json", "Router", capsys)
    with open_ledger(traffic_home) as connection:
        found = statement(connection, "2026-10")
        filtered = statement(connection, "2026-10", project="search")
    (gap,) = found.gaps
    assert {step.step: step.amount for step in gap.steps} == steps(page)
    assert (gap.vendor_total, gap.our_total, gap.gap) == (Decimal("0.038902"), Decimal("0.0252"), Decimal("0.013702"))
    assert found.as_json()["bills"][0]["classes"] == page["classes"]
    shown = statement_page(found)
    for amount in (gap.vendor_total, gap.our_total, gap.gap, *(step.amount for step in gap.steps)):
        assert f"{amount:.12f}" in shown
    drawn = shown[shown.index("What the bill of Router has more than the books") :]
    for name in ("boundary shift", "unit rounding", "gap", "adds", "takes away", "USD"):
        assert f">{name}<" in drawn[: drawn.index("</svg>")]
    assert (filtered.gaps, "bill of" in statement_page(filtered)) == ((), False)


def wrappings() -> Mapping[str, bytes]:
    """One golden bill in every shape that the same lines may come in."""
    answer = json.loads((GOLDEN / "new-api" / "logs.json").read_text())
    items = answer["data"]["items"]
    pages = [answer | {"data": answer["data"] | {"page": place + 1, "items": items[7 * place : 7 * place + 7]}} for place in range(2)]
    names = [*reversed(items[0]), "a column of tomorrow"]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, restval="", extrasaction="ignore", delimiter=";", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(items)
    return {
        "lines.jsonl": "\n".join(map(json.dumps, items)).encode(),
        "pages.json": json.dumps(pages).encode(),
        "pages.jsonl": "\n".join(map(json.dumps, pages)).encode(),
        "table.csv": b"\xef\xbb\xbf" + table.getvalue().encode(),
        "packed.json.gz": gzip.compress(json.dumps(answer).encode()),
    }


@pytest.mark.parametrize("file", wrappings())
def test_the_wrapping_of_a_bill_does_not_matter(file: str, traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pages, lines, a table with its columns turned round, or gzip: the same lines, the same steps, and the file kept as it came."""
    content = wrappings()[file]
    (tmp_path / file).write_bytes(content)
    page = told(traffic_home, tmp_path / file, "Router", capsys)
    assert steps(page) == {step: Decimal(amount) for step, amount in CASES["new-api"][4].items()}
    assert page["bills"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert [path.read_bytes() for path in (traffic_home.book / "bills").rglob(f"*-{file}")] == [content]


@pytest.mark.parametrize("file", ["pages.json", "packed.json.gz"])
def test_a_bill_that_is_not_whole_is_refused(file: str, traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page that is missing in a list of pages, or the end of what was packed."""
    content = wrappings()[file]
    (tmp_path / file).write_bytes(json.dumps(json.loads(content)[:1]).encode() if file == "pages.json" else content[:-20])
    assert reconcile(traffic_home, tmp_path / file, "Router") == 2
    assert {"pages.json": "14, and 7 records are here", "packed.json.gz": "not whole as gzip"}[file] in capsys.readouterr().err


def test_a_row_of_totals_is_no_line(traffic_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name stands where a call's id would: taken as a call, it would double the bill."""
    whole = (GOLDEN / "openrouter-export" / "activity.csv").read_text()
    (tmp_path / "bill.csv").write_text(whole + "Total:,,0.0395117" + "," * 20 + "\n")
    assert reconcile(traffic_home, tmp_path / "bill.csv", "Router") == 2
    assert "the sum of other lines" in capsys.readouterr().err
