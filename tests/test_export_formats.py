"""One closed and one open month in every format: read elsewhere, with the same totals to the last digit."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pytest
from beancount import loader
from beancount.core import data

from etl.build import build
from etl.close import close
from etl.export.entries import UnknownAccountError, account_name
from etl.export.focus_check import VERSIONS, check
from etl.export.month import FORMATS, export, focus_format
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Event, Record
from tests.rawdata import (
    BOOK,
    DAY,
    HOUR,
    NOON,
    SECOND,
    Archive,
    attempt,
    call,
    event,
    failure,
    request,
    response,
    rows,
    topup,
    usage,
    write_book,
)

OCTOBER, NOVEMBER = "2026-10", "2026-11"
MORNING = parse_instant("2026-11-02T06:00:00Z")
ADMIN = "ann-of-finance"
ROUNDED = BOOK["channels.toml"].replace('name = "routed"', 'name = "routed"\nrounding = { unit = "0.0001", minimum = "0.0001" }')


def october() -> list[Record]:
    """Nine calls of 1000 + 500 tokens, one on the rounding channel after a failure, one free failure, and entries of people."""
    records: list[Record] = [
        topup("t1", "10", bonus="1", expires="2026-12-01T00:00:00Z", actor=ADMIN),
        topup("t2", "5", bucket="routed_balance", actor=ADMIN, paid="4.5"),
        event(
            "x1",
            "wallet_expire",
            NOON,
            actor=ADMIN,
            reason="lapsed",
            reference="e",
            wallet="research",
            bucket="official_credit",
            amount="0.25",
        ),
        event("a1", "wallet_refund", NOON + DAY, actor=ADMIN, reason="sorry", reference="c", request_id="r01", **MONEY, amount="0.0001"),
    ]
    for number in range(9):
        headers = {"x-ledger-run": "run-7", "x-ledger-tag-team": "=blue"} if number < 2 else {}
        records += call(f"r{number:02d}", NOON + number * HOUR, headers=headers)
    records += [
        request("f1", NOON + 9),
        attempt("f1", at=NOON + 9),
        failure("f1", at=NOON + 9 + SECOND),
        attempt("f1", 2, at=NOON + 2 * SECOND, channel="routed", role="backup", reason="fallback"),
        response("f1", 2, at=NOON + 3 * SECOND, usage=usage(1000, 500)),
        request("f2", NOON + 11),
        attempt("f2", at=NOON + 11),
        failure("f2", at=NOON + 12),
    ]
    return records


MONEY = {"wallet": "research", "bucket": "official_credit", "currency": "USD"}


def later() -> list[Record]:
    """What comes after October closed: a late call, a correction of October, a correction of November, and calls."""
    return [
        *call("late", NOON),
        *call("n1", MORNING),
        event(
            "c1", "wallet_adjust", MORNING + HOUR, actor=ADMIN, reason='fix; "x"', reference="k1", request_id="r01", **MONEY, amount="-0.5"
        ),
        event("c2", "wallet_adjust", MORNING + HOUR, actor=ADMIN, reason="new", reference="k2", request_id="n1", **MONEY, amount="0.25"),
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """October closed, November open."""
    home = Home(tmp_path_factory.mktemp("formats"))
    write_book(home, channels=ROUNDED)
    archive = Archive(home)
    archive.seal(october())
    done = close(home, MORNING)
    assert done.closed == (OCTOBER,), done.refusals
    _write_all(home, OCTOBER, home.root / "early")
    archive.seal(later(), writer="w2")
    build(home)
    for period in (OCTOBER, NOVEMBER):
        _write_all(home, period, home.root / period)
    return home


def _write_all(home: Home, period: str, folder: Path) -> None:
    folder.mkdir()
    for form in FORMATS:
        export(home, form, period, folder / f"m.{form}")
    for version in VERSIONS:
        export(home, "focus", period, folder / f"m.{version}.csv", chosen=focus_format(version))


def _ledger(home: Home, select: str) -> Any:
    (row,) = rows(home, f"SELECT ({select}) AS it")
    return row["it"]


def _spans(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        for resource in json.loads(line).get("resourceSpans", []):
            for span in resource["scopeSpans"][0]["spans"]:
                yield {**span, "known": {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}}


def _focus(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _total(values: Iterator[Any] | list[Any]) -> Decimal:
    return sum((Decimal(value) for value in values), Decimal(0))


# ---- the same everywhere ----


def test_every_format_has_the_same_charges_to_the_last_digit(home: Home) -> None:
    """Read by DuckDB, openpyxl, beancount, hledger and a JSON reader, October cost the same in each.

    Nine calls of 1000 x 0.15 / 10^6 + 500 x 0.60 / 10^6 = 0.00045 are 0.00405; the backup's 1000 x 0.03 / 10^6 + 500 x 0.12 / 10^6
    = 0.00009 is rounded to 0.0001; failures are free: 0.00415.
    """
    folder = home.root / OCTOBER
    expected = Decimal("0.004150000000")
    assert _ledger(home, "SELECT sum(final_charge) FROM ledger WHERE period = '2026-10'") == expected
    with duckdb.connect() as reader:
        for read in (f"read_csv('{folder}/m.csv', all_varchar = true)", f"'{folder}/m.parquet'", f"read_json('{folder}/m.jsonl')"):
            ((total, count),) = reader.execute(f"SELECT sum(final_charge::DECIMAL(38,12)), count(*) FROM {read}").fetchall()
            assert (total, count) == (expected, 11), read
    sheet = openpyxl.load_workbook(folder / "m.xlsx", read_only=True)["Rows 1"]
    head, *body = sheet.iter_rows(values_only=True)
    exact, shown = head.index("final_charge (exact)"), head.index("final_charge")
    assert _total([row[exact] for row in body]) == expected
    assert [row[shown] for row in body] == [float(row[exact]) for row in body]
    assert _total([s["known"]["tokenledger.final_charge"] for s in _spans(folder / "m.otlp") if "parentSpanId" not in s]) == expected
    for version in VERSIONS:
        lines = _focus(folder / f"m.{version}.csv")
        assert _total([line["EffectiveCost"] for line in lines if line["x_RequestId"] and not line["x_EntryId"]]) == expected
    assert (
        _total([amount for name, amount in _hledger(folder).items() if name.startswith("Expenses:") and "Expired" not in name]) == expected
    )
    entries = loader.load_file(str(folder / "m.beancount"))[0]
    legs = [p for e in entries if isinstance(e, data.Transaction) for p in e.postings]
    expenses = [
        leg.units.number for leg in legs if leg.units is not None and leg.account.startswith(("Expenses:Usage", "Expenses:Rounding"))
    ]
    assert _total(expenses) == expected


def test_a_closed_month_gives_the_same_bytes_after_more_traffic(home: Home) -> None:
    """Every format and its manifest but the build's name; the open month says that it is open."""
    for path in sorted((home.root / "early").iterdir()):
        again = home.root / OCTOBER / path.name
        if path.name.endswith(".manifest.json"):
            assert {**json.loads(path.read_bytes()), "build": ""} == {**json.loads(again.read_bytes()), "build": ""}
        else:
            assert path.read_bytes() == again.read_bytes(), path.name
    states = {p: json.loads((home.root / p / "m.csv.manifest.json").read_text())["state"] for p in (OCTOBER, NOVEMBER)}
    assert states == {OCTOBER: "closed", NOVEMBER: "open"}
    builds = {json.loads(path.read_text())["build"] for path in (home.root / NOVEMBER).glob("*.manifest.json")}
    assert len(builds) == 1, "one build, one name"


def test_who_entered_it_appears_nowhere(home: Home) -> None:
    """The actor's name is in the ledger and in no export."""
    assert _ledger(home, f"SELECT count(*) FROM journal WHERE actor = '{ADMIN}'") > 0
    for path in (*(home.root / OCTOBER).iterdir(), *(home.root / NOVEMBER).iterdir()):
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                content = b"".join(parts.read(name) for name in parts.namelist())
        assert ADMIN.encode() not in content, path.name
        if path.suffix == ".parquet":
            with duckdb.connect() as reader:
                assert ADMIN not in str(reader.execute(f"SELECT * FROM '{path}'").fetchall())


# ---- double entry ----


def _bean_check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(sys.executable).with_name("bean-check"), path], capture_output=True, text=True, check=False)


def _hledger_run(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["hledger", "-f", f"journal:{path}", *words], capture_output=True, text=True, check=False)


def _hledger(folder: Path) -> dict[str, Decimal]:
    done = _hledger_run(folder / "m.hledger", "balance", "--flat", "--no-total", "--empty", "-O", "json")
    assert done.returncode == 0, done.stderr
    found = [(name, amount["aquantity"]) for name, _, _, (amount,) in json.loads(done.stdout)[0]]
    return {name: Decimal(quantity["decimalMantissa"]).scaleb(-quantity["decimalPlaces"]) for name, quantity in found}


@pytest.mark.parametrize("period", [OCTOBER, NOVEMBER])
def test_the_books_open_and_close_with_the_balances_of_the_proof(home: Home, period: str) -> None:
    """Each wallet's first and last balance are those of balance_proof, in beancount and in hledger; both checkers find nothing."""
    folder = home.root / period
    assert _bean_check(folder / "m.beancount").returncode == 0, _bean_check(folder / "m.beancount").stderr
    strict = _hledger_run(folder / "m.hledger", "check", "--strict")
    assert strict.returncode == 0, strict.stderr
    entries, errors, _ = loader.load_file(str(folder / "m.beancount"))
    assert not errors
    asserted = {e.account: e.amount.number for e in entries if isinstance(e, data.Balance)}
    carried = {
        p.account: p.units.number
        for e in entries
        if isinstance(e, data.Transaction) and e.narration == "Carried forward"
        for p in e.postings
        if p.units is not None
    }
    proof = rows(home, f"SELECT * FROM balance_proof WHERE period = '{period}'")
    assert len(proof) == 2
    for row in proof:
        name = account_name(f"wallet:{row['wallet']}:{row['bucket']}")
        assert asserted[name] == row["closing"]
        assert _hledger(folder)[name] == row["closing"]
        assert carried.get(name, Decimal(0)) == row["opening"]
    assert _total(list(asserted.values())) == 0


def test_a_broken_entry_is_found_by_both(home: Home, tmp_path: Path) -> None:
    """An amount that is wrong by 10^-12, a balance that is wrong by 10^-12, and an account nobody opened: no tolerance."""
    for form, run in (("beancount", _bean_check), ("hledger", lambda path: _hledger_run(path, "check", "--strict"))):
        whole = (home.root / NOVEMBER / f"m.{form}").read_text()
        assert "-0.000450000000 USD" in whole
        assert "4.999900000000" in whole, "5 less 0.0001, asserted"
        for old, new in (
            ("-0.000450000000 USD", "-0.000450000001 USD"),
            ("4.999900000000", "4.999900000001"),
            ("Usage:Official ", "Usage:Oficial "),
        ):
            place = whole.index(old) if old != "4.999900000000" else whole.rindex(old)
            broken = tmp_path / f"broken.{form}"
            broken.write_text(whole[:place] + new + whole[place + len(old) :])
            assert run(broken).returncode != 0, (form, old)


def test_two_accounts_never_share_a_name() -> None:
    """What letters cannot tell apart is told apart by a hash; every name is legal in beancount, and one that has no place is refused."""
    parts = [
        "a_b",
        "a-b",
        "aB",
        "AB",
        "Ab",
        "a__b",
        "a b",
        "a:b",
        "ä",
        "ö",
        "",
        "_",
        "-",
        "9",
        "a_9",
        "a9",
        "A9",
        'x"y',
        "x\ny",
        "Xa",
        "X-",
        "ab",
        "a.b",
    ]
    accounts = [f"wallet:{wallet}:{bucket}" for wallet in parts for bucket in ("pool", "official_credit")] + [
        f"usage:{part}" for part in parts if part
    ]
    names = [account_name(account) for account in accounts]
    assert len(set(names)) == len(accounts)
    legal = "\n".join(f"2026-01-01 open {name}" for name in names)
    assert loader.load_string(legal)[1] == []
    assert account_name("wallet:team:official_credit") == "Assets:Wallet:Team:OfficialCredit"
    with pytest.raises(UnknownAccountError):
        account_name("mystery:x")


# ---- FOCUS ----


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("period", [OCTOBER, NOVEMBER])
def test_focus_keeps_its_own_rules(home: Home, period: str, version: str) -> None:
    """The checker finds nothing in what we write."""
    assert list(check(home.root / period / f"m.{version}.csv", version)) == []


def test_focus_marks_what_corrects_a_closed_month(home: Home) -> None:
    """The late call's lines and the adjustment of an October request are corrections; that of a November request is not."""
    lines = _focus(home.root / NOVEMBER / "m.focus")
    corrections = {(line["x_RequestId"], line["ChargeCategory"]) for line in lines if line["ChargeClass"] == "Correction"}
    assert corrections == {("late", "Usage"), ("r01", "Adjustment")}
    assert {line["x_RequestId"] for line in lines if line["ChargeClass"] == ""} == {"n1"}
    assert {line["BillingPeriodStart"] for line in lines} == {"2026-11-01T00:00:00Z"}
    assert {line["ChargePeriodStart"][:7] for line in lines if line["x_RequestId"] == "late"} == {"2026-10"}


def test_focus_adds_up_with_the_balance_proof(home: Home) -> None:
    """Costs in effect are what the balances lost less what was bought; billed is what was paid: 9 + 4.5, and usage of credit is not billed again."""
    lines = _focus(home.root / OCTOBER / "m.focus")
    (proof,) = rows(
        home, "SELECT sum(charges + expiries - bonuses - adjustments - refunds) AS cost FROM balance_proof WHERE period = '2026-10'"
    )
    assert _total([line["EffectiveCost"] for line in lines]) == proof["cost"]
    assert _total([line["BilledCost"] for line in lines]) == Decimal("13.5")
    by_category = {line["ChargeCategory"] for line in lines}
    assert by_category == {"Usage", "Purchase", "Credit", "Adjustment"}
    rounding = [line for line in lines if line["ChargeDescription"] == "rounding by routed"]
    assert [line["EffectiveCost"] for line in rounding] == ["0.000010000000"], "0.0001 less 0.00009"


# Of each reversal what it is told as, whether it corrects a closed month, and quantity, billed, effective, contracted and list cost.
REVERSALS = {
    OCTOBER: [
        # 100 with 20 of them given, typed by mistake: 20 were not given, 80 not paid
        ("Credit", "reversal of credit given", "", "", "0", "20", "0", "0"),
        ("Purchase", "reversal of credit bought", "", "-1", "-80", "0", "-80", "-80"),
        ("Adjustment", "reversal of credit lapsed", "", "", "0", "-0.25", "0", "0"),
    ],
    NOVEMBER: [
        # 1000 x 0.15 / 10^6 + 500 x 0.60 / 10^6, paid by credit that was bought: nothing of it was billed
        ("Adjustment", "reversal of usage", "Correction", "", "0", "-0.00045", "-0.00045", "-0.00045"),
        ("Credit", "reversal of refund", "Correction", "", "0", "0.0001", "0", "0"),
        # 1000 x 0.03 / 10^6 + 500 x 0.12 / 10^6 = 0.00009, rounded to 0.0001; the list price is 0.00045; nothing was paid before
        ("Adjustment", "reversal of usage", "", "", "-0.0001", "-0.0001", "-0.0001", "-0.00045"),
        ("Adjustment", "reversal of adjustment", "", "", "-0.5", "-0.5", "-0.5", "-0.5"),
    ],
}


def test_focus_has_a_row_against_what_was_reversed(tmp_path: Path) -> None:
    """Each kind of entry reversed, in its month and after its close: the row is the negative of what stood there, and the proof agrees."""
    home = Home(tmp_path)
    write_book(home, channels=ROUNDED)
    archive = Archive(home)
    who = {"actor": ADMIN, "reason": "wrong", "reference": "w"}

    def reverse(at: int, select: str) -> Event:
        name = _ledger(home, f"SELECT transaction_id FROM journal WHERE account LIKE 'wallet:%' AND {select}")
        return event(f"back-{name}", "wallet_reverse", at, transaction=name, **who)

    archive.seal(
        [
            topup("t1", "10", bonus="1"),
            topup("oops", "100", bonus="20"),
            *call("r1"),
            *call("r2", NOON + HOUR),
            event("x1", "wallet_expire", NOON, **who, **MONEY, amount="0.25"),
            event("a1", "wallet_refund", NOON + DAY, **who, **MONEY, request_id="r2", amount="0.0001"),
        ]
    )
    build(home)
    archive.seal([reverse(NOON + 2 * DAY, "amount = 100"), reverse(NOON + 3 * DAY, "kind = 'expiry'")])
    assert close(home, MORNING).closed == (OCTOBER,)
    archive.seal(
        [
            request("n1", MORNING),
            attempt("n1", at=MORNING, channel="routed"),
            response("n1", at=MORNING + SECOND, usage=usage(1000, 500)),
            event("c1", "wallet_adjust", MORNING, **who, **MONEY | {"bucket": "routed_balance"}, amount="-0.5"),
        ]
    )
    build(home)
    asked = ("request_id = 'r1'", "kind = 'refund'", "request_id = 'n1'", "kind = 'adjustment'")
    archive.seal([reverse(MORNING + hour * HOUR, select) for hour, select in enumerate(asked, 1)])
    build(home)
    for period, expected in REVERSALS.items():
        for version in VERSIONS:
            path = tmp_path / f"{period}.{version}"
            manifest = export(home, "focus", period, path, chosen=focus_format(version))
            assert list(check(path, version)) == []
        lines = _focus(path)
        told = [line for line in lines if line["ChargeDescription"].startswith("reversal of ")]
        names = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")
        assert [
            (
                line["ChargeCategory"],
                line["ChargeDescription"],
                line["ChargeClass"],
                line["PricingQuantity"],
                *(Decimal(line[n]) for n in names),
            )
            for line in told
        ] == [(*row[:4], *map(Decimal, row[4:])) for row in expected]
        for name in names:
            assert _total([line[name] for line in lines]) == Decimal(str(manifest.control["USD"][name]))
        # what is bought is no cost until it is used, and so its reversal is none: the proof has the 80 among its reversals
        (proof,) = rows(
            home,
            "SELECT sum(charges + expiries - bonuses - adjustments - refunds - reversals) AS cost "
            f"FROM balance_proof WHERE period = '{period}'",
        )
        assert _total([line["EffectiveCost"] for line in lines]) == proof["cost"] - (80 if period == OCTOBER else 0)
    assert _total([line["BilledCost"] for line in _focus(tmp_path / f"{OCTOBER}.1.4")]) == 9


def test_focus_bills_what_a_reversed_top_up_did_not_pay(tmp_path: Path) -> None:
    """The only top-up was a mistake: nothing was paid up front, and the call's 0.00045 is to be paid."""
    home = Home(tmp_path)
    write_book(home)
    archive = Archive(home)
    archive.seal([topup("oops", "100"), *call("r1")])
    build(home)
    name = _ledger(home, "SELECT DISTINCT transaction_id FROM journal WHERE kind = 'topup'")
    archive.seal([event("v", "wallet_reverse", NOON + DAY, actor=ADMIN, reason="r", reference="x", transaction=name)])
    build(home)
    export(home, "focus", OCTOBER, tmp_path / "m.focus")
    assert _total([line["BilledCost"] for line in _focus(tmp_path / "m.focus")]) == Decimal("0.00045")


# ---- OTLP ----


def test_otlp_has_a_span_a_request_and_a_child_a_try(home: Home) -> None:
    """Ids are of the protocol's length and never twice, a child's parent is there, a run is one trace, tokens are those of the ledger."""
    spans = list(_spans(home.root / OCTOBER / "m.otlp"))
    ids = {span["spanId"] for span in spans}
    assert len(ids) == len(spans) == 11 + 12
    assert all(len(span["traceId"]) == 32 and len(span["spanId"]) == 16 for span in spans)
    assert {span["parentSpanId"] for span in spans if "parentSpanId" in span} <= ids
    assert len({span["traceId"] for span in spans if span["known"].get("tokenledger.run_id") == "run-7"}) == 1
    roots = [span for span in spans if "parentSpanId" not in span]
    told = _ledger(home, "SELECT sum(input_tokens) FROM ledger WHERE period = '2026-10'")
    assert sum(int(span["known"].get("gen_ai.usage.input_tokens", 0)) for span in roots) == told == 10_000
    (failed,) = [span for span in roots if span["known"]["tokenledger.request_id"] == "f2"]
    assert failed["status"]["code"] == 2
    assert failed["known"]["error.type"] == "error_before_output"


def test_otlp_metrics_add_up_with_the_spans(home: Home) -> None:
    """The histograms of a month hold every request once: count, sum and buckets."""
    last = json.loads((home.root / OCTOBER / "m.otlp").read_text().splitlines()[-1])
    metrics = {metric["name"]: metric for metric in last["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]}
    points = metrics["gen_ai.client.token.usage"]["histogram"]["dataPoints"]
    inputs = [p for p in points if {"key": "gen_ai.token.type", "value": {"stringValue": "input"}} in p["attributes"]]
    assert sum(p["sum"] for p in inputs) == 10_000
    assert sum(int(p["count"]) for p in inputs) == 10
    assert all(sum(map(int, p["bucketCounts"])) == int(p["count"]) for p in points)
    assert all(len(p["bucketCounts"]) == len(p["explicitBounds"]) + 1 for p in points)
    durations = metrics["gen_ai.client.operation.duration"]["histogram"]["dataPoints"]
    assert sum(int(p["count"]) for p in durations) == 11
