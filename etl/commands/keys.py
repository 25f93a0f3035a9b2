"""`tokenledger key list`: the registry as the book has it."""

from __future__ import annotations

import click
import orjson

from etl.table import render
from schemas.book import load_book
from schemas.home import Home
from schemas.instants import write_instant

COLUMNS = ("id", "label", "fingerprint", "user", "project", "wallet", "enforce", "from", "to")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list of objects.")
@click.pass_obj
def list_keys(home: Home, as_json: bool) -> None:
    """List every row of book/keys.toml, history included; a fingerprint tells nothing of the credential."""
    rows = [
        (
            key.id,
            key.label,
            key.fingerprint,
            key.user,
            key.project,
            key.wallet,
            key.enforce,
            None if key.valid_from is None else write_instant(key.valid_from),
            None if key.valid_to is None else write_instant(key.valid_to),
        )
        for key in load_book(home.book).keys
    ]
    if as_json:
        click.echo(orjson.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows], option=orjson.OPT_INDENT_2))
    else:
        click.echo(render(COLUMNS, rows, unknown="") if rows else home.typed("no key is registered; add one with tokenledger key add"))
