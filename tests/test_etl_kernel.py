"""The kernel's own rules: headers are read before anything runs, laws are held, and publishing is all or nothing."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from etl.closed import BILLS
from etl.edition import Change, edition
from etl.kernel import CheckFailed, Model, ModelError, Progress, ShapeError, Step, check_shape, open_engine, read_models, run
from etl.lookup import AuditTableError, lookup_tables
from schemas.home import Home
from schemas.ledger import BY_NAME, TABLES, Column, Table
from schemas.meters import METERS
from tests.rawdata import built, call

GOOD = "-- One row is one number.\n-- check: n > 0\n-- check: select n from numbers\n--   where n is null\nselect 1 as n\n"


def model(folder: Path, text: str, name: str = "10_numbers.sql") -> tuple[Model, ...]:
    (folder / name).write_text(text)
    return read_models(folder)


def test_a_header_gives_meaning_and_laws(tmp_path: Path) -> None:
    """What one row means, and each law, over as many lines as it needs."""
    (found,) = model(tmp_path, GOOD)
    assert (found.number, found.name, found.doc) == ("10", "numbers", "One row is one number.")
    assert found.laws == ("n > 0", "select n from numbers where n is null")


BAD = {
    "no header": "select 1 as n\n",
    "no check": "-- One row is one number.\nselect 1 as n\n",
    "no meaning": "-- check: n > 0\nselect 1 as n\n",
    "empty check": "-- One row is one number.\n-- check:\nselect 1 as n\n",
    "two statements": GOOD + "; select 2",
    "not a select": "-- One row is one number.\n-- check: n > 0\ncreate table x (n int)\n",
    "does not parse": "-- One row is one number.\n-- check: n > 0\nselect from where\n",
    "a law of uniqueness without its commas": "-- One row is one number.\n-- check: unique n m\nselect 1 as n, 2 as m\n",
    "a law that does not parse": "-- One row is one number.\n-- check: n >> > 0\nselect 1 as n\n",
}


@pytest.mark.parametrize("fault", BAD)
def test_a_model_that_breaks_the_rules_is_refused(tmp_path: Path, fault: str) -> None:
    """Before anything runs, with the file's name."""
    with pytest.raises(ModelError, match=r"10_numbers\.sql"):
        model(tmp_path, BAD[fault])


def test_names_are_unique_and_plain(tmp_path: Path) -> None:
    """Two digits and small letters; the same table twice is refused."""
    model(tmp_path, GOOD)
    with pytest.raises(ModelError, match="another model has the name numbers"):
        model(tmp_path, GOOD, "11_numbers.sql")
    with pytest.raises(ModelError, match="two digits"):
        model(tmp_path, GOOD, "09.sql")


@pytest.mark.parametrize("value", ["0", "cast(null as integer)"])
def test_a_law_that_does_not_hold_stops_the_build(tmp_path: Path, value: str) -> None:
    """A null does not fulfil a law either; the error has the model, the law, the count and a sample."""
    text = GOOD.replace("-- check: select n from numbers\n--   where n is null\n", "").replace(
        "select 1 as n", f"select {value} as n from range(9)"
    )
    with open_engine() as connection, pytest.raises(CheckFailed) as failed:
        run(connection, model(tmp_path, text), lambda progress: None, frozenset())
    assert (failed.value.model, failed.value.law, failed.value.count, len(failed.value.sample)) == ("numbers", "n > 0", 9, 3)


def test_keys_that_two_rows_have_stop_the_build(tmp_path: Path) -> None:
    """Nulls are alike too; a condition picks the rows that the law is about; the error has the keys."""
    text = "-- One row is a number and a letter.\n-- check: unique n, c where n < 3\nselect unnest([1, 1, 2, 9, 9]) as n, unnest(['a', 'b', {}, 'z', 'z']) as c\n"
    with open_engine() as connection:
        run(connection, model(tmp_path, text.format("'a'")), lambda progress: None, frozenset())
    for rows in ("'a' union all select 1, 'b'", "null union all select 2, null"):
        last, more = rows.split(" ", 1)
        with open_engine() as connection, pytest.raises(CheckFailed) as failed:
            run(connection, model(tmp_path, text.format(last).strip() + f" {more}\n"), lambda progress: None, frozenset())
        assert (failed.value.law, failed.value.count) == ("unique n, c where n < 3", 1)
        assert failed.value.sample[0][-1] == 2


def test_models_run_in_name_order(tmp_path: Path) -> None:
    """Each step is reported with its place, its name and its rows."""
    model(tmp_path, "-- One row is twice a number.\n-- check: n = 2\nselect n * 2 as n from numbers\n", "20_doubles.sql")
    seen: list[Progress] = []
    with open_engine() as connection:
        run(connection, model(tmp_path, GOOD), seen.append, frozenset())
    assert [(p.place, p.of, p.name, p.rows) for p in seen] == [(1, 2, "numbers", 1), (2, 2, "doubles", 1)]
    assert str(seen[0]).startswith("[1/2] numbers 1 row ")


@pytest.mark.parametrize("keep", [frozenset[str](), frozenset({"numbers"})])
def test_a_table_goes_when_its_last_reader_is_done(tmp_path: Path, keep: frozenset[str]) -> None:
    """A law reads too, and so does a step; what is to be kept stays."""
    model(tmp_path, "-- One row is twice a number.\n-- check: n = 2\nselect n * 2 as n from numbers\n", "20_doubles.sql")
    model(tmp_path, "-- One row is one.\n-- check: select n from numbers where n <> 1\nselect 1 as n\n", "30_ones.sql")
    there: list[set[str]] = []

    def look(connection: duckdb.DuckDBPyConnection) -> int:
        there.append({name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()})
        return 0

    steps: list[Model | Step] = [*model(tmp_path, GOOD), Step("40", "looked", look, frozenset({"ones"})), Step("50", "looked again", look)]
    with open_engine() as connection:
        run(connection, steps, lambda progress: None, keep)
    assert there == [{"ones"} | keep, set(keep)]


NUMBERS = Table("numbers", "One row is one number.", ("n",), (Column("n", "INTEGER", "the number"),))


def test_a_shape_that_is_not_the_contract_s_is_refused(tmp_path: Path) -> None:
    """A wrong type and a missing column are named."""
    with open_engine() as connection:
        connection.execute("CREATE TABLE numbers AS SELECT 1::BIGINT AS n")
        with pytest.raises(ShapeError, match="BIGINT, not INTEGER"):
            check_shape(connection, NUMBERS)
        with pytest.raises(ShapeError, match="absent"):
            check_shape(connection, Table("numbers", "x", ("m",), (Column("m", "BIGINT", "the number"),)))


def test_an_edition_that_fails_leaves_the_old_file(home: Home) -> None:
    """A fault while rows are written: the published ledger is as it was, and nothing lies beside it."""
    built(home, call("r1"))
    before = home.ledger_file.read_bytes()
    beside = sorted(home.ledger.iterdir())
    with open_engine() as connection, pytest.raises(duckdb.Error), edition(connection, home.ledger_file) as issue:
        issue.write([Change(BY_NAME["runs"], "SELECT 'not a run' AS run_id")])
    assert home.ledger_file.read_bytes() == before
    assert sorted(home.ledger.iterdir()) == beside


# ---- the real models and tables ----


def test_every_contract_table_has_its_model() -> None:
    """One model a table, or a step of its own where the order of what happened decides; the rest are on the way there."""
    assert {table.name for table in TABLES} <= {found.name for found in read_models()} | {"wallet_lots", *BILLS}


FORBIDDEN = (
    "now(",
    "current_timestamp",
    "current_date",
    "random(",
    "uuid(",
    "double",
    "float",
    "avg(",
    "round_even",
    "asof",
    "union all by name",
    " map {",
    "copy ",
)


def test_models_keep_to_the_portable_and_repeatable() -> None:
    """No clock, no chance, no floating point, and nothing of what stack.md says another engine reads differently."""
    for found in read_models():
        lines = "\n".join((found.select, *found.laws)).lower().splitlines()
        code = "\n".join(line.split("--")[0] for line in lines)
        assert [word for word in FORBIDDEN if word in code] == [], found.name
        assert " / " not in code.replace("// ", ""), f"{found.name} divides"


def test_a_meters_price_comes_from_outside_it() -> None:
    """The chain of each meter begins with itself and ends with a meter that lies inside nothing."""
    chains = lookup_tables()["meter_chain"].to_pylist()
    outermost = {row["meter"]: row["priced_as"] for row in sorted(chains, key=lambda row: row["depth"])}
    assert {row["meter"] for row in chains if row["depth"] == 0} == {meter.name for meter in METERS}
    assert outermost["cached_audio_input"] == "input"
    assert outermost["reasoning"] == "output"


def test_a_slip_in_an_audited_table_is_refused(tmp_path: Path) -> None:
    """A meter that does not exist, a flag that is none, a cell too many: file and line are named."""
    real = {path.name: path.read_text() for path in Path("etl/tables").glob("*.csv")}
    slips = (
        ("dialects.csv", ",reasoning,", ",resoning,"),
        ("endpoints.csv", ",true,", ",yes,"),
        ("endpoints.csv", "embeddings,usage,", "embeddings,usage,x,"),
    )
    for name, before, after in slips:
        for file, text in real.items():
            (tmp_path / file).write_text(text.replace(before, after) if file == name else text)
        with pytest.raises(AuditTableError, match=name.replace(".", r"\.")):
            lookup_tables(tmp_path)
