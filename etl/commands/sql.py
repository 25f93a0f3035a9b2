"""`tokenledger sql`: ad hoc SQL, read-only."""

from __future__ import annotations

import sys

import click

from etl.adhoc import as_csv, as_json, as_text, ask
from schemas.home import Home


@click.command()
@click.argument("query", required=False)
@click.option("--json", "form", flag_value="json", help="A list of objects; amounts are texts.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values.")
@click.pass_obj
def sql(home: Home, query: str | None, form: str | None) -> None:
    """Ask the published ledger anything in DuckDB's SQL; QUERY comes as an argument or on stdin."""
    text = query if query is not None else sys.stdin.read()
    if not text.strip():
        raise click.UsageError('no query: give it as an argument or on stdin, for example "SHOW TABLES"')
    click.echo({"json": as_json, "csv": as_csv, None: as_text}[form](ask(home, text)))
