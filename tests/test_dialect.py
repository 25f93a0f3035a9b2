"""Every model can be written for Spark, and what sqlglot would get wrong is written by hand."""

from __future__ import annotations

import pytest
from sqlglot import exp, parse_one

from etl.dialect import FUNCTIONS, NotPortableError, as_spark, tables_of
from etl.kernel import MODELS, Model, offending_rows, read_models

WRITTEN = {
    "a window picks rows, and its column is not left behind": (
        "select a from t qualify row_number() over (partition by a order by b) = 1",
        "SELECT * EXCEPT (_kept) FROM (SELECT a, ROW_NUMBER() OVER (PARTITION BY a ORDER BY b NULLS LAST) = 1 AS _kept FROM t) AS qualified WHERE _kept",
    ),
    "a member of a text is asked of DuckDB": (
        "select json_extract_string(f, '$.\"a.b\"') as x from t",
        "SELECT DUCKDB_JSON_EXTRACT_STRING(f, '$.\"a.b\"') AS x FROM t",
    ),
    "also inside another": (
        "select try_cast(json_extract_string(f, '$.n') as bigint) as x from t",
        "SELECT DUCKDB_TRY_BIGINT(DUCKDB_JSON_EXTRACT_STRING(f, '$.n')) AS x FROM t",
    ),
    "a series that ends before it starts is empty": (
        "select unnest(generate_series(0, n - 1)) as x from t",
        "SELECT EXPLODE(IF(n - 1 >= 0, SEQUENCE(0, n - 1, 1), ARRAY())) AS x FROM t",
    ),
    "the group of a pattern stands in the expression": (
        "select regexp_extract(a, '(b)', 1) as x from t",
        "SELECT DUCKDB_REGEXP_EXTRACT(a, '(b)') AS x FROM t",
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_spark_says_otherwise(name: str) -> None:
    """Each rule by one example."""
    given, expected = WRITTEN[name]
    assert as_spark(given) == expected


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """The real ones by name; no global of this file, whose parsed statements DuckDB would miss at the end."""
    return {found.name: found for found in read_models()}


@pytest.mark.parametrize("name", [path.stem[3:] for path in sorted(MODELS.glob("*.sql"))])
def test_every_model_and_law_can_be_written(models: dict[str, Model], name: str) -> None:
    """Nothing in it that Spark does not know: no QUALIFY, no REPLACE in a star, no function of DuckDB's but those in the table."""
    model = models[name]
    for select in (model.select, *(offending_rows(model.name, law) for law in model.laws)):
        written = parse_one(as_spark(select), dialect="spark")
        assert not any(found.args.get("qualify") for found in written.find_all(exp.Select))
        assert not any(star.args.get("replace") for star in written.find_all(exp.Star))
        called = {call.name.lower() for call in written.find_all(exp.Anonymous)}
        assert called <= {f"duckdb_{name}" for name in FUNCTIONS}


def test_what_nobody_said_how_to_write_is_refused() -> None:
    """A cast and a pattern option that the table does not have are named, not passed on."""
    with pytest.raises(NotPortableError, match="try_date"):
        as_spark("select try_cast(a as date) from t")
    with pytest.raises(NotPortableError, match="regexp_replace"):
        as_spark("select regexp_replace(a, b, c, 'i') from t")


def test_the_tables_of_a_select_are_those_it_does_not_make_itself() -> None:
    """Common table expressions are its own."""
    assert tables_of("with a as (select * from b) select * from a join c on true") == {"b", "c"}
