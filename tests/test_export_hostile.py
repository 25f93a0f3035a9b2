"""A hundred hostile texts in every place where a stranger may write: inert in each format, and exact where a format can be exact."""

from __future__ import annotations

import csv
import datetime as dt
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import duckdb
import openpyxl
import pyarrow.parquet as pq
import pytest
from beancount import loader

from etl.export import xlsx
from etl.export.focus_check import check
from etl.export.month import FORMATS, export
from etl.export.texts import FORMULA_STARTS, harmless
from schemas.home import Home
from tests.published import publish

OCTOBER = "2026-10"
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
BODIES = ("1+1", "cmd|' /C calc'!A0", 'HYPERLINK("http://x.test","y")', "SUM(A1:A9)", "\u202etxt", "\x00\x01\x1b[2J")
SIGNS = (
    *(
        '"',
        '""',
        "'",
        "''",
        "\\",
        '\\"',
        '"; drop table ledger; --',
        "a,b;c\td",
        "line\nline",
        "line\r\nline",
        "\x00",
        "a\x00b",
        "\x07\x08\x0b\x0c\x7f",
    ),
    *(
        "\u202eltr\u202c",
        "\u200f\u200e\u061c",
        "\u2066x\u2069",
        "\ufeffbom",
        "\ufffe\uffff",
        "\u2028\u2029",
        "\u0085",
        "\U000e0041",
        "e\u0301",
        "ß\u1e9e",
    ),
    *(
        "\U0001f9ff" * 40,
        "; date:2020-01-01",
        "[2020-01-01]",
        "x, date:2020-01-01, date2:2020-01-02",
        "  two  spaces  ",
        " | payee",
        "; ; ;",
        "= 5 USD",
    ),
    *(
        '2026-10-01 * "x"',
        "include /etc/passwd",
        'plugin "os"',
        "option",
        "account A",
        "Assets:Wallet:Team",
        "{}",
        '{"a":1}',
        "[]",
        "null",
        "NULL",
        "NaN",
    ),
    *(
        "1e400",
        "9" * 400,
        "-" + "9" * 400,
        "0x1F",
        "1,000",
        "2026-10-01",
        "TRUE",
        "<script>alert(1)</script>",
        "]]>",
        "&lt;",
        "%s%n",
        "${jndi:ldap://x}",
    ),
    *("../../etc/passwd", "~", ",", "0", "-0.0", "{{7*7}}", "a" * 40_000),
)
HOSTILE = tuple(dict.fromkeys([start + body for start in STARTS for body in BODIES] + list(SIGNS)))
AT = dt.datetime(2026, 10, 3, 12, tzinfo=dt.UTC)
HUGE = 2**63 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format of a month whose every foreign text is hostile: names, tags, models, channels, accounts, reasons."""
    assert len(HOSTILE) >= 100
    root = tmp_path_factory.mktemp("hostile")
    home = Home(root / "home")
    bounds = {"starts_at": dt.datetime(2026, 10, 1, tzinfo=dt.UTC), "ends_at": dt.datetime(2026, 11, 1, tzinfo=dt.UTC)}
    ledger, attempts, charges, journal, statement = [], [], [], [], []
    for number, text in enumerate(HOSTILE):
        name = f"r{number:03d}"
        told = {"project": text, "user_id": text, "api_model": text, "public_model": text, "adjustment_reason": text, "endpoint": text}
        ledger.append(
            {"request_id": name, "created_at": AT, "period": OCTOBER, "input_tokens": HUGE if number == 0 else number, "status": "ok"}
            | {
                "final_charge": Decimal("0.000000000001"),
                "currency": "USD",
                "wallet": text or "none",
                "balance_bucket": "pool",
                "latency_ms": 5,
            }
            | {"tags": json.dumps({"t": text}), "run_id": text}
            | told
        )
        attempts.append(
            {"request_id": name, "ordinal": 1, "channel": text, "sent_model": text, "started_at": AT, "disposition": "charged"}
            | {"bucket": "pool"}
        )
        charges.append(
            {"request_id": name, "attempt_ordinal": 1, "meter": "input", "quantity": 1, "model": text}
            | {"unit_price": Decimal("0.000000000001")}
            | {"amount": Decimal("0.000000000001")}
        )
        for account, amount in ((f"wallet:{text}:pool", "-1"), (f"adjustment:{text}:pool", "1")):
            leg = {"transaction_id": f"tx{number}", "entry_id": f"we{number}{amount}", "posted_at": AT, "service_at": AT, "period": OCTOBER}
            words = {
                "kind": "adjustment",
                "reference": text,
                "reason": text,
                "request_id": name,
                "currency": "USD",
                "actor": "ann-of-finance",
            }
            journal.append(leg | words | {"account": account, "amount": Decimal(amount)})
        statement.append({"entry_id": f"we{number}-1", "wallet": text, "bucket": "pool", "amount": Decimal(-1)})
    tables = {"ledger": ledger, "attempts": attempts, "charges": charges, "journal": journal, "wallet_statement": statement}
    publish(home, {"periods": [{"period": OCTOBER, **bounds}], **tables})
    for form in FORMATS:
        export(home, form, OCTOBER, root / f"m.{form}")
    return root


def _is_inert(cell: str) -> bool:
    return not cell.startswith(tuple(FORMULA_STARTS)) and not any(ord(char) < 32 and char not in "\t\r\n" for char in cell)


def test_no_cell_of_a_spreadsheet_runs(folder: Path, record_property: Callable[[str, object], None]) -> None:
    """In csv, focus and xlsx each text is that of the rule, none is a formula, and every row is there."""
    with (folder / "m.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["project"] for line in lines] == [harmless(text) for text in HOSTILE]
    with (folder / "m.focus").open(newline="", encoding="utf-8") as file:
        charges = list(csv.DictReader(file))
    assert len(charges) == 2 * len(HOSTILE), "a charge and an adjustment for each"
    for line in (*lines, *charges):
        for name, cell in line.items():
            number = cell.lstrip("-").replace(".", "", 1).isdecimal() and name not in ("project", "user_id")
            assert number or _is_inert(cell), (name, cell)
    book = openpyxl.load_workbook(folder / "m.xlsx")
    head, *body = book["Rows 1"].iter_rows()
    places = {cell.value: place for place, cell in enumerate(head)}
    assert len(body) == len(HOSTILE)
    assert {cell.data_type for row in body for cell in row} <= {"s", "inlineStr", "n"}, "no formula, no error"
    shown = [row[places["project"]].value for row in body]
    assert all(_is_inert(text) for text in shown if isinstance(text, str) and text)
    assert body[0][places["input_tokens"]].value == str(HUGE), "a number that a double would bend is a text"
    assert str(body[-1][places["project"]].value).startswith("(40000 characters: sheet Long texts, from row")
    parts = [row for row in book["Long texts"].iter_rows(min_row=2, values_only=True) if row[2] == "project"]
    assert "".join(str(row[4]) for row in parts) == HOSTILE[-1]
    record_property("trust: hostile cells x exports inert", 2 * len(HOSTILE))


def test_parquet_jsonl_and_otlp_keep_each_text_exactly(folder: Path, record_property: Callable[[str, object], None]) -> None:
    """What has types or escapes of its own gives back what was recorded, huge counts too."""
    table = pq.read_table(folder / "m.parquet")
    assert table.column("project").to_pylist() == list(HOSTILE)
    lines = (folder / "m.jsonl").read_bytes().split(b"\n")
    objects = [json.loads(line) for line in lines if line]
    assert [one["project"] for one in objects] == list(HOSTILE)
    assert objects[0]["input_tokens"] == HUGE
    projects = {}
    for line in (folder / "m.otlp").read_bytes().splitlines():
        for resource in json.loads(line).get("resourceSpans", []):
            for span in resource["scopeSpans"][0]["spans"]:
                known = {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}
                if "parentSpanId" not in span:
                    projects[known["tokenledger.request_id"]] = known["tokenledger.project"]
    assert [projects[f"r{number:03d}"] for number in range(len(HOSTILE))] == list(HOSTILE)
    record_property("trust: hostile cells x exports inert", 3 * len(HOSTILE))


def test_the_books_hold_in_spite_of_every_text(folder: Path, record_property: Callable[[str, object], None]) -> None:
    """bean-check and hledger find nothing, every transaction is there on its day, and each text is seen and not obeyed."""
    done = subprocess.run(
        [Path(sys.executable).with_name("bean-check"), folder / "m.beancount"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    entries, errors, _ = loader.load_file(str(folder / "m.beancount"))
    assert not errors
    transactions = [entry for entry in entries if type(entry).__name__ == "Transaction"]
    assert len(transactions) == len(HOSTILE)
    assert {str(entry.date) for entry in transactions} == {"2026-10-03"}
    assert '"; drop table ledger; --' in {entry.meta["reason"] for entry in transactions}
    done = subprocess.run(
        ["hledger", "-f", f"journal:{folder}/m.hledger", "check", "--strict"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        ["hledger", "-f", f"journal:{folder}/m.hledger", "print", "-O", "csv"], capture_output=True, text=True, check=True
    )
    printed = [row for row in csv.DictReader(done.stdout.splitlines()) if row["description"] == "adjustment"]
    assert {(row["date"], row["amount"].lstrip("-")) for row in printed} == {("2026-10-03", "1.000000000000")}
    assert len(printed) == 2 * len(HOSTILE)
    for form in ("beancount", "hledger"):
        written = (folder / f"m.{form}").read_text(encoding="utf-8")
        assert not {char for char in written if unicodedata.category(char) in ("Cc", "Cf") and char != "\n"}, form
    record_property("trust: hostile cells x exports inert", 2 * len(HOSTILE))


def test_focus_holds_in_spite_of_every_text(folder: Path, record_property: Callable[[str, object], None]) -> None:
    """Only placeholders that somebody really wrote are told of; types and rules hold in every row."""
    found = {violation.rule for violation in check(folder / "m.focus", "1.4")}
    assert found <= {"what is null is written as nothing"}
    record_property("trust: hostile cells x exports inert", len(HOSTILE))


def test_a_sheet_that_is_full_goes_on_in_the_next(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sheets of 31 rows there are as many as are needed, each with the head line, and no row is lost."""
    monkeypatch.setattr(xlsx, "SHEET_ROWS", 31)
    export(Home(folder / "home"), "xlsx", OCTOBER, tmp_path / "m.xlsx")
    book = openpyxl.load_workbook(tmp_path / "m.xlsx", read_only=True)
    sheets = [list(book[name].iter_rows(values_only=True)) for name in book.sheetnames if name.startswith("Rows")]
    assert [len(sheet) for sheet in sheets[:-1]] == [31] * (len(sheets) - 1)
    assert [row[0] for sheet in sheets for row in sheet[1:]] == [f"r{number:03d}" for number in range(len(HOSTILE))]


def test_duckdb_reads_the_csv_back(folder: Path) -> None:
    """A reader of another make finds the same rows."""
    with duckdb.connect() as reader:
        query = f"SELECT project FROM read_csv('{folder}/m.csv', all_varchar = true, max_line_size = 10000000, quote = '\"', escape = '\"', strict_mode = true)"
        assert [row[0] for row in reader.execute(query).fetchall()] == [harmless(text) for text in HOSTILE]
