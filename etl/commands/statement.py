"""`tokenledger statement`: a month for people."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from etl.published import open_ledger
from etl.statement import statement as statement_of
from schemas.home import Home


@click.command()
@click.option("--period", required=True, metavar="P", help="The month, as 2026-10.")
@click.option("--project", metavar="X", help="Only the requests of this project.")
@click.option("--wallet", metavar="W", help="Only this wallet and the requests that it pays.")
@click.option("--format", "form", type=click.Choice(["html", "pdf"]), default="html", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The figures and tables as JSON.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="PATH", help="Write to this file instead of standard output."
)
@click.pass_obj
def statement(home: Home, period: str, project: str | None, wallet: str | None, form: str, as_json: bool, out: Path | None) -> None:
    """Tell a month: balances and their proof, spend, savings, failures, what changed, the dearest requests and runs."""
    with open_ledger(home) as connection:
        found = statement_of(connection, period, project=project, wallet=wallet)
    if as_json:
        document = orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    else:
        from etl.page import pdf  # noqa: PLC0415  figures as JSON need not wait for what draws
        from etl.statement_page import statement_page  # noqa: PLC0415  see above

        page = statement_page(found)
        document = page.encode() if form == "html" else pdf(page)
    if out is None:
        click.echo(document, nl=False)
    else:
        out.write_bytes(document)
        click.echo(f"wrote {out}", err=True)
