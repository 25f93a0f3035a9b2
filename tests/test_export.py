"""Exports of a month: the same bytes every time, nothing bent, nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from etl.export.month import FORMATS, SEALED, OutputError, export
from etl.export.source import InexactColumnError, source
from etl.published import NoLedgerError, PeriodError, open_ledger
from schemas.home import Home
from schemas.ledger import LEDGER
from tests.published import publish

OCTOBER = "2026-10"
HOSTILE = ("=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\rx", 'a "quoted", text\nin two lines', "plain", "")
ROWS = ("csv", "parquet", "jsonl", "xlsx")  # the formats that carry the rows of the table ledger


def _row(number: int, **facts: object) -> dict[str, object]:
    return {
        "request_id": f"r{number:04d}",
        "created_at": dt.datetime(2026, 10, 3, 12, 0, number % 60, number, dt.UTC),
        "period": OCTOBER,
        "project": "plain",
        "input_tokens": number,
        "final_charge": Decimal("0.000000100000") * number,
        "adjustment_amount": Decimal("-0.5") if number == 1 else None,
        "currency": "USD",
        **facts,
    }


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    rows = [_row(number, project=text) for number, text in enumerate(HOSTILE)]
    rows += [_row(100, final_charge=None, input_tokens=None), _row(101, period="2026-11", final_charge=Decimal(7))]
    publish(home, {"ledger": rows, "periods": [{"period": OCTOBER}, {"period": "2026-11"}]})
    return home


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _folder(out: Path) -> None:
    out.mkdir()


def test_csv_carries_every_value_exactly(home: Home, out: Path) -> None:
    """A CSV reader gets back every column with 12 decimals, instants with Z, and null told from an empty text."""
    export(home, "csv", OCTOBER, out / "m.csv")
    with (out / "m.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(LEDGER.column_names)
    assert len(rows) == len(HOSTILE) + 1
    by_id = {row["request_id"]: row for row in rows}
    assert by_id["r0003"]["final_charge"] == "0.000000300000"
    assert by_id["r0003"]["created_at"] == "2026-10-03T12:00:03.000003Z"
    assert by_id["r0001"]["adjustment_amount"] == "-0.500000000000", "a negative amount is a number and stays one"
    assert by_id["r0100"]["final_charge"] == ""
    assert by_id["r0006"]["project"] == HOSTILE[6]
    line = next(text for text in (out / "m.csv").read_text().splitlines() if text.startswith("r0008"))
    assert line.split(",")[LEDGER.column_names.index("project")] == '""', "an empty text is quoted, a null is not"


def test_csv_defuses_formulas_in_text_only(home: Home, out: Path) -> None:
    """A text that a spreadsheet would run begins with an apostrophe; numbers and other texts are as they were."""
    export(home, "csv", OCTOBER, out / "m.csv")
    with (out / "m.csv").open(newline="") as file:
        projects = [row["project"] for row in csv.DictReader(file)]
    assert projects[:6] == ["'" + text for text in HOSTILE[:6]]
    assert projects[7] == "plain"


def test_parquet_keeps_decimals_and_texts(home: Home, out: Path) -> None:
    """Parquet keeps amounts as decimals of 12 places and texts as they were recorded."""
    export(home, "parquet", OCTOBER, out / "m.parquet")
    table = pq.read_table(out / "m.parquet")
    assert str(table.schema.field("final_charge").type) == "decimal128(38, 12)"
    assert str(table.schema.field("input_tokens").type) == "int64"
    by_id = {row["request_id"]: row for row in table.to_pylist()}
    assert by_id["r0003"]["final_charge"] == Decimal("0.0000003")
    assert by_id["r0000"]["project"] == HOSTILE[0]
    assert by_id["r0100"]["final_charge"] is None


@pytest.mark.parametrize("form", ROWS)
def test_the_manifest_says_what_must_be_in_the_file(home: Home, out: Path, form: str) -> None:
    """Rows, control sums and the hash beside the file are those of the file."""
    target = out / f"m.{form}"
    manifest = json.loads((export(home, form, OCTOBER, target), (out / f"m.{form}.manifest.json").read_text())[1])
    assert manifest["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert manifest["bytes"] == target.stat().st_size
    assert manifest["rows"] == len(HOSTILE) + 1
    # 0 + 1 + ... + 8 = 36 units of 0.0000001; the row without a charge is counted, not summed as zero
    assert manifest["control"]["USD"]["final_charge"] == "0.000003600000"
    assert manifest["control"]["USD"]["rows_without_charge"] == 1
    assert manifest["control"]["USD"]["input_tokens"] == 36
    assert manifest["control"]["USD"]["vendor_charge"] is None, "no row knows one"
    assert sorted(path.name for path in out.iterdir()) == [f"m.{form}", f"m.{form}.manifest.json"]


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_repeat_is_byte_identical_on_any_number_of_threads(tmp_path: Path, out: Path, form: str) -> None:
    """Whatever order the rows were stored in and however many threads write, the bytes are the same."""
    count = 70_000 if form in SEALED else 10_000  # more than one piece, so that the order of pieces shows; more than one batch
    digests = set()
    for name, order in (("a", "ASC"), ("b", "DESC")):
        home = Home(tmp_path / name)
        many(home, count, order)
        for threads in (1, 2):
            with open_ledger(home) as connection:
                connection.execute(f"SET threads = {threads}")
                assert FORMATS[form].write(source(connection, OCTOBER), out / "file").rows >= count
            digests.add(hashlib.sha256((out / "file").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "parquet"])
def test_where_a_month_is_cut_does_not_show(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of 100 rows or of more than there are: the same bytes, though many rows share an instant with others."""
    home = Home(tmp_path / "a")
    many(home, 1_000, "DESC")
    with duckdb.connect(str(home.ledger_file)) as connection:
        for table, instant in (("ledger", "created_at"), ("journal", "posted_at")):
            connection.execute(f"UPDATE {table} SET {instant} = make_timestamp(1790900000000000 + epoch_us({instant}) % 37)")
    contents = set()
    for rows in (100, 1_000_000):
        monkeypatch.setattr("etl.export.source.PIECE_ROWS", rows)
        assert export(home, form, OCTOBER, tmp_path / "m").rows >= 1_000
        contents.add((tmp_path / "m").read_bytes())
    assert len(contents) == 1


def many(home: Home, count: int, order: str = "ASC") -> None:
    """A ledger of `count` requests with a try, a charge and a transaction each."""
    bounds = {"starts_at": dt.datetime(2026, 10, 1, tzinfo=dt.UTC), "ends_at": dt.datetime(2026, 11, 1, tzinfo=dt.UTC)}
    publish(home, {"periods": [{"period": OCTOBER, **bounds}]})
    at = "make_timestamp(1790900000000000 + i % 7919)"
    amount = "(i % 1000)::DECIMAL(38,12) / 1000000"
    tables = {
        "ledger": f"'r' || i AS request_id, {at} AS created_at, '{OCTOBER}' AS period, 'USD' AS currency, i AS input_tokens, "
        f"{amount} AS final_charge, 'team' AS wallet, 'ok' AS status, sha256('r' || i) AS receipt_digest",
        "attempts": f"'r' || i AS request_id, 1 AS ordinal, 'official' AS channel, {at} AS started_at, 'charged' AS disposition, 'pool' AS bucket",
        "charges": f"'r' || i AS request_id, 1 AS attempt_ordinal, 'input' AS meter, i % 1000 AS quantity, 0.000001 AS unit_price, {amount} AS amount",
        "journal": f"'tx' || i // 2 AS transaction_id, 'we' || i AS entry_id, {at} AS posted_at, '{OCTOBER}' AS period, 'charge' AS kind, "
        f"CASE i % 2 WHEN 0 THEN 'wallet:team:pool' ELSE 'usage:official' END AS account, "
        f"CASE i % 2 WHEN 0 THEN -i ELSE i - 1 END::DECIMAL(38,12) AS amount, 'USD' AS currency",
    }
    with duckdb.connect(str(home.ledger_file)) as connection:
        for table, columns in tables.items():
            connection.execute(f"INSERT INTO {table} BY NAME SELECT {columns} FROM range({count}) AS numbers(i) ORDER BY i {order}")


def test_what_cannot_be_exported_leaves_nothing_behind(home: Home, out: Path, tmp_path: Path) -> None:
    """A period that is not there, a folder that is not there and a ledger that is not there are refused by name."""
    for period in ("2026-13", "October", "2025-01", "2026-10' OR '1'='1"):
        with pytest.raises(PeriodError):
            export(home, "csv", period, out / "m.csv")
    with pytest.raises(OutputError):
        export(home, "csv", OCTOBER, out / "absent" / "m.csv")
    with pytest.raises(OutputError):
        export(home, "csv", OCTOBER, out)
    with pytest.raises(NoLedgerError):
        export(Home(tmp_path / "nowhere"), "csv", OCTOBER, out / "m.csv")
    assert list(out.iterdir()) == []


def test_a_column_that_would_be_bent_is_refused(home: Home, out: Path) -> None:
    """A DOUBLE or HUGEINT column stops the export instead of being written as a float."""
    with duckdb.connect(str(home.ledger_file)) as connection:
        connection.execute("ALTER TABLE ledger ALTER final_charge TYPE DOUBLE")
    with pytest.raises(InexactColumnError):
        export(home, "parquet", OCTOBER, out / "m.parquet")
