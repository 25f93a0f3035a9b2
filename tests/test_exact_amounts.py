"""Amounts at the ends of what a DECIMAL(38,12) holds: sums of ten million specks, and no exponent in any export."""

from __future__ import annotations

import datetime as dt
import re
import zipfile
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from etl import kernel
from etl.export.month import FORMATS, export
from schemas.home import Home
from tests.published import publish

OCTOBER = "2026-10"
AT = dt.datetime(2026, 10, 3, 12, tzinfo=dt.UTC)
TINY = Decimal("0.000000000001")
HUGE = Decimal("12345678901234567890123456.123456789012")  # 38 digits, and room for sums
EXPONENT = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d*)?[eE][+-]?\d+(?![\w.])")

LEGS = """
    CREATE TABLE charge_legs AS
    SELECT
        cast(n // 10000 AS varchar) AS transaction_id, cast(n AS varchar) AS entry_id, TIMESTAMP '2026-10-03 12:00:00' AS posted_at,
        '2026-10' AS period, 'wallet:team:pool' AS account, cast('-0.0000001' AS decimal(38,12)) AS amount, 'USD' AS currency,
        'charge' AS kind, NULL::VARCHAR AS request_id, NULL::VARCHAR AS reference, NULL::VARCHAR AS actor, NULL::VARCHAR AS reason,
        TIMESTAMP '2026-10-03 12:00:00' AS service_at, 'team' AS wallet, 'pool' AS bucket
    FROM range(10000000) t(n)
    UNION ALL
    SELECT
        cast(n AS varchar), 'c' || n, TIMESTAMP '2026-10-03 12:00:00', '2026-10', 'usage:official', cast('0.001' AS decimal(38,12)), 'USD',
        'charge', NULL, NULL, NULL, NULL, TIMESTAMP '2026-10-03 12:00:00', NULL, 'pool'
    FROM range(1000) t(n)
"""


def test_ten_million_specks_sum_exactly(tmp_path: Path) -> None:
    """10,000,000 x 0.0000001 = 1, and 10,000 of them meet 0.001 in each of 1,000 transactions.

    The journal and the balances are the models' own selects, and the laws those of the journal that sum: they hold, and no longer
    once 0.000000000001 more is taken from one transaction.
    """
    models = {model.name: model for model in kernel.read_models()}
    laws = [law for law in models["journal"].laws if law.startswith("select transaction_id, currency, sum(amount)")]
    with kernel.open_engine(memory_limit="2GB", spill_to=tmp_path) as connection:
        connection.execute(LEGS)
        for name in ("admin_legs", "reversal_legs"):
            connection.execute(f"CREATE TABLE {name} AS SELECT *, NULL::VARCHAR AS reverses FROM charge_legs LIMIT 0")
        connection.execute(f"CREATE VIEW journal AS {models['journal'].select}")
        connection.execute(f"CREATE VIEW wallet_statement AS {models['wallet_legs'].select}")
        connection.execute("CREATE TABLE setting AS SELECT TIMESTAMP '2026-11-01' AS as_of")
        connection.execute("CREATE TABLE opening AS SELECT wallet, bucket, currency, amount AS balance FROM charge_legs LIMIT 0")
        connection.execute("CREATE TABLE wallet_holds AS SELECT *, posted_at AS placed_at, posted_at AS ends_at FROM charge_legs LIMIT 0")
        balances = connection.execute(models["wallet_balances"].select).fetchall()
        assert balances == [("team", "pool", "USD", Decimal(-1), Decimal(0), Decimal(-1))]
        assert connection.execute("SELECT sum(amount), count(*) FROM journal").fetchall() == [(Decimal(0), 10_001_000)]
        (law,) = laws
        kernel.hold(connection, "journal", law)
        connection.execute(
            "INSERT INTO charge_legs SELECT * REPLACE (cast('-0.000000000001' AS decimal(38,12)) AS amount) FROM charge_legs WHERE entry_id = 'c777'"
        )
        with pytest.raises(kernel.CheckFailed) as told:
            kernel.hold(connection, "journal", law)
        assert (told.value.count, told.value.sample) == (1, (("777", "USD", Decimal("-0.000000000001")),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format of a month with the smallest amount and the largest, of charges and of entries, both ways."""
    root = tmp_path_factory.mktemp("amounts")
    home = Home(root / "home")
    month = {"starts_at": dt.datetime(2026, 10, 1, tzinfo=dt.UTC), "ends_at": dt.datetime(2026, 11, 1, tzinfo=dt.UTC)}
    request = {"created_at": AT, "period": OCTOBER, "status": "ok", "currency": "USD", "wallet": "team", "balance_bucket": "pool"}
    leg = {
        "posted_at": AT,
        "service_at": AT,
        "period": OCTOBER,
        "kind": "adjustment",
        "currency": "USD",
        "reference": "ref",
        "reason": "why",
    }
    ledger, attempts, charges, journal, statement = [], [], [], [], []
    for name, amount, price in (("tiny", TINY, TINY), ("huge", HUGE, Decimal("999999.999999999999"))):
        ledger.append(
            {
                **request,
                "request_id": name,
                "final_charge": amount,
                "list_charge": amount,
                "savings": amount.copy_negate(),
                "input_tokens": 1,
            }
        )
        attempts.append(
            {"request_id": name, "ordinal": 1, "channel": "official", "sent_model": "m", "started_at": AT, "disposition": "charged"}
            | {"bucket": "pool"}
        )
        line = {"request_id": name, "attempt_ordinal": 1, "meter": "input", "quantity": 1, "model": "m", "unit_price": price}
        charges.append({**line, "amount": price})
        for account, signed in (("wallet:team:pool", amount.copy_negate()), ("adjustment:team:pool", amount)):
            ids = {"transaction_id": f"tx-{name}", "entry_id": f"we-{name}-{account}", "account": account}
            journal.append({**leg, **ids, "amount": signed})
        statement.append({"entry_id": f"we-{name}-wallet:team:pool", "wallet": "team", "bucket": "pool", "amount": amount.copy_negate()})
    tables = {"ledger": ledger, "attempts": attempts, "charges": charges, "journal": journal, "wallet_statement": statement}
    publish(home, {"periods": [{"period": OCTOBER, **month}], **tables})
    for form in FORMATS:
        export(home, form, OCTOBER, root / f"m.{form}")
    return root


def _texts(path: Path) -> str:
    """What a file says, a workbook's sheets unpacked."""
    if not zipfile.is_zipfile(path):
        return path.read_text(encoding="utf-8")
    with zipfile.ZipFile(path) as parts:
        return "\n".join(parts.read(name).decode() for name in parts.namelist() if name.endswith(".xml"))


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "parquet"])
def test_no_export_writes_an_exponent(folder: Path, form: str) -> None:
    """The least and the largest amount stand there digit for digit, and no number has an exponent."""
    text = _texts(folder / f"m.{form}")
    assert EXPONENT.findall(text) == []
    assert f"{TINY:.12f}" in text
    assert f"{HUGE:.12f}" in text


def test_parquet_holds_amounts_as_decimals(folder: Path) -> None:
    """Both amounts come back as they are, from a type that has no exponent."""
    table = pq.read_table(folder / "m.parquet")
    assert str(table.schema.field("final_charge").type) == "decimal128(38, 12)"
    assert sorted(table.column("final_charge").to_pylist()) == [TINY, HUGE]
