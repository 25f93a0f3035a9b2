"""The FOCUS checker: rows by hand that are right, and each way to break them, told with row, column and rule."""

from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path

import pytest

from etl.export.focus_check import VERSIONS, NotCheckableError, check, columns_of, rules, version_of
from schemas.home import Home
from tests.published import publish
from tokenledger import run

COMMON = {
    "BilledCost": "0.3",
    "BillingAccountId": "team",
    "BillingAccountName": "",
    "BillingCurrency": "USD",
    "BillingPeriodEnd": "2026-11-01T00:00:00Z",
    "BillingPeriodStart": "2026-10-01T00:00:00Z",
    "ChargeCategory": "Usage",
    "ChargeClass": "",
    "ChargeDescription": "input",
    "ChargeFrequency": "Usage-Based",
    "ChargePeriodEnd": "2026-10-03T12:00:01Z",
    "ChargePeriodStart": "2026-10-03T12:00:00Z",
    "ConsumedQuantity": "3",
    "ConsumedUnit": "Tokens",
    "ContractedCost": "0.3",
    "ContractedUnitPrice": "0.1",
    "EffectiveCost": "0.3",
    "InvoiceIssuerName": "official",
    "ListCost": "0.3",
    "ListUnitPrice": "0.1",
    "PricingQuantity": "3",
    "PricingUnit": "Tokens",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceName": "Model inference",
    "ServiceSubcategory": "Generative AI",
    "SkuId": "official/m",
    "SkuMeter": "input",
    "SkuPriceDetails": '{"x_Meter": "input"}',
    "SkuPriceId": "official/m/input",
    "SubAccountId": "search",
    "SubAccountName": "search",
    "Tags": "{}",
    "x_RequestId": "r1",
}
PROVIDERS = {"1.2": ("ProviderName", "PublisherName"), "1.4": ("HostProviderName", "ServiceProviderName")}
NO_PRICE = dict.fromkeys(
    ("PricingQuantity", "PricingUnit", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "ContractedUnitPrice", "ListUnitPrice"), ""
)
UNUSED = {"ConsumedQuantity": "", "ConsumedUnit": ""}


def _good(version: str) -> list[dict[str, str]]:
    """A usage, a purchase, a credit and a correction without quantity."""
    usage = {**COMMON, **dict.fromkeys(PROVIDERS[version], "official")}
    purchase = {**usage, **UNUSED, "ChargeCategory": "Purchase", "ChargeFrequency": "One-Time", "EffectiveCost": "0"}
    credit = {**usage, **UNUSED, **NO_PRICE, "ChargeCategory": "Credit", "ChargeFrequency": "One-Time", "EffectiveCost": "-1"}
    return [usage, purchase, credit, {**usage, **UNUSED, **NO_PRICE, "ChargeClass": "Correction"}]


def _write(path: Path, lines: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_right_passes(tmp_path: Path, version: str) -> None:
    """Nothing is told of rows that hold every rule, and the file's columns say its version."""
    path = _write(tmp_path / "f.csv", _good(version))
    assert list(check(path, version)) == []
    assert version_of(path) == version


# A cell of the row with this number (1 usage, 2 purchase, 3 credit, 4 correction), and a piece of the rule that it breaks.
BREAKS = (
    (1, "BilledCost", "", "must not be null"),
    (1, "BilledCost", "1,5", "is of type decimal"),
    (1, "BilledCost", "$1", "is of type decimal"),
    (1, "BillingCurrency", "usd", "is of type currency"),
    (1, "BillingPeriodStart", "2026-10-01", "is of type instant"),
    (1, "BillingPeriodStart", "2026-13-01T00:00:00Z", "is of type instant"),
    (1, "BillingPeriodEnd", "2026-10-01T00:00:00Z", "billing-period-has-length"),
    (1, "ChargePeriodEnd", "2026-10-03T12:00:00Z", "charge-period-has-length"),
    (1, "ChargeCategory", "usage", "is one of Usage"),
    (1, "ChargeClass", "Refund", "is one of Correction"),
    (1, "ChargeDescription", "N/A", "written as nothing"),
    (1, "ServiceCategory", "LLM", "is one of AI and Machine Learning"),
    (1, "ServiceCategory", "Storage", "subcategory-has-one-parent"),
    (1, "ServiceSubcategory", "Data Warehouses", "subcategory-has-one-parent"),
    (1, "ServiceSubcategory", "LLM", "is one of AI Platforms"),
    (1, "Tags", "team=blue", "is of type json"),
    (1, "PricingQuantity", "", "purchase-or-usage-has-quantity"),
    (1, "PricingUnit", "", "purchase-or-usage-has-unit"),
    (1, "SkuId", "", "usage-has-sku"),
    (1, "SkuPriceId", "", "usage-has-sku-price"),
    (1, "ContractedUnitPrice", "", "usage-has-contracted-price"),
    (1, "ContractedUnitPrice", "-0.1", "prices-are-not-negative"),
    (1, "ListUnitPrice", "", "usage-has-list-price"),
    (1, "ContractedCost", "0.300000000001", "contracted-is-price-times-quantity"),
    (1, "ListCost", "0.31", "list-is-price-times-quantity"),
    (1, "ConsumedQuantity", "", "usage-has-consumption"),
    (1, "ConsumedUnit", "", "consumption-has-unit"),
    (1, "SubAccountId", "", "no-account-no-name"),
    (2, "ConsumedQuantity", "1", "only-usage-is-consumed"),
    (2, "ChargeFrequency", "Usage-Based", "purchase-is-not-usage-based"),
    (3, "ContractedCost", "1", "credit-contracted-as-billed"),
    (3, "ListCost", "1", "credit-listed-as-billed"),
    (3, "SkuMeter", "input", "no-sku-no-meter"),
    (3, "SkuPriceDetails", "{}", "no-sku-price-no-details"),
    (4, "PricingQuantity", "1", "no-price-no-quantity"),
    (4, "PricingUnit", "Tokens", "no-quantity-no-unit"),
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("row", "column", "cell", "rule"), BREAKS, ids=[f"{row}-{rule}-{cell}" for row, _, cell, rule in BREAKS])
def test_each_break_is_told_with_row_column_and_rule(tmp_path: Path, version: str, row: int, column: str, cell: str, rule: str) -> None:
    """One cell is changed, and one of the things told is that rule in that row."""
    lines = _good(version)
    lines[row - 1] = {**lines[row - 1], column: cell}
    found = list(check(_write(tmp_path / "f.csv", lines), version))
    assert {violation.row for violation in found} == {row}
    assert any(rule in violation.rule for violation in found), [str(violation) for violation in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_are_held_to_the_version(tmp_path: Path, version: str) -> None:
    """Each mandatory column that is missing is told of, and so is one of another version, a free name and a double."""
    lines = _good(version)
    for column in columns_of(version):
        if column.level == "mandatory":
            path = _write(tmp_path / "f.csv", [{name: cell for name, cell in line.items() if name != column.name} for line in lines])
            assert next((v.row, v.column, v.rule) for v in check(path, version)) == (0, column.name, "is mandatory")
    other = next(name for key, names in PROVIDERS.items() if key != version for name in names)
    for name in (other, "Cost Center", "x_snake_case"):
        path = _write(tmp_path / "f.csv", [{**line, name: "1"} for line in lines])
        assert [(v.row, v.column) for v in check(path, version)] == [(0, name)]
    text = path.read_text().replace("x_snake_case", "x_RequestId")
    path.write_text(text + "short,row\n")
    assert [(v.row, v.column) for v in check(path, version)] == [(0, "x_RequestId"), (5, "(row)")]


def test_the_tables_speak_of_columns_that_there_are() -> None:
    """21 columns are mandatory in either version, as the specification counts them, and every rule names columns of it."""
    for version in VERSIONS:
        names = {column.name for column in columns_of(version)}
        assert sum(column.level == "mandatory" for column in columns_of(version)) == 21
        assert {rule.column for rule in rules()} | {name for rule in rules() for name, _, _ in rule.when} <= names


def test_every_subcategory_has_one_parent() -> None:
    """Each allowed value stands under one category, and each category has its own `Other`."""
    allowed = {column.name: column.allowed for column in columns_of("1.4")}
    parents = {
        value: rule.must for rule in rules() if rule.name == "subcategory-has-one-parent" for _, _, values in rule.when for value in values
    }
    assert parents.keys() == set(allowed["ServiceSubcategory"])
    assert len(allowed["ServiceSubcategory"]) == len(parents)
    assert {f"is {category}": f"Other ({category})" for category in allowed["ServiceCategory"]} == {
        must: value for value, must in parents.items() if value.startswith("Other (")
    }


# ---- the command ----


def test_check_says_what_is_wrong_and_exits_1(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A right file: exit 0; a wrong one: each violation on stdout and exit 1; the same as JSON."""
    good = _write(tmp_path / "good.csv", _good("1.4"))
    wrong = _write(tmp_path / "wrong.csv", [{**_good("1.2")[0], "BilledCost": ""}])
    place = ["--home", str(home.root)]
    assert run(["export", "focus", "--check", str(good), *place]) == 0
    assert capsys.readouterr().out == f"{good}: 0 violations of FOCUS 1.4\n"
    assert run(["export", "focus", "--check", str(wrong), *place]) == 1
    assert capsys.readouterr().out == f"row 1, BilledCost: must not be null; found null\n{wrong}: 1 violation of FOCUS 1.2\n"
    assert run(["export", "focus", "--check", str(wrong), "--json", *place]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["violations"] == [{"row": 1, "column": "BilledCost", "rule": "must not be null", "found": "null"}]
    with pytest.raises(NotCheckableError):
        list(check(tmp_path / "absent.csv", "1.4"))


def test_wrong_usage_is_told_with_its_cure_and_exit_2(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options of another format, no month, a month that is not there, a place that is no file: exit 2, nothing on stdout."""
    bounds = {"starts_at": dt.datetime(2026, 10, 1, tzinfo=dt.UTC), "ends_at": dt.datetime(2026, 11, 1, tzinfo=dt.UTC)}
    publish(home, {"periods": [{"period": "2026-10", **bounds}]})
    out = str(tmp_path / "m")
    for arguments in (
        ["csv", "--check", out],
        ["csv", "--focus-version", "1.2", "--period", "2026-10", "--out", out],
        ["csv", "--out", out],
        ["csv", "--period", "2026-10"],
        ["focus", "--period", "2026-11", "--out", out],
        ["focus", "--period", "2026-10", "--out", "/dev/null"],
        ["focus", "--period", "2026-10", "--out", str(tmp_path)],
        ["focus", "--period", "2026-10", "--focus-version", "1.3", "--out", out],
        ["tape", "--period", "2026-10", "--out", out],
        ["focus", "--check", str(tmp_path / "absent.csv")],
    ):
        assert run(["export", *arguments, "--home", str(home.root)]) == 2, arguments
        told = capsys.readouterr()
        assert not told.out
        assert told.err
    assert run(["export", "focus", "--period", "2026-10", "--out", out, "--home", str(home.root)]) == 0, (
        "a month without a charge is a head line"
    )
    assert not list(check(Path(out), "1.4"))
