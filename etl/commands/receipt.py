"""`tokenledger receipt` and `tokenledger run`: the story of one request, and of a run of them."""

from __future__ import annotations

from collections.abc import Callable

import click
import orjson

from etl import run as agent_run
from etl.receipt import find, of_run
from etl.receipt_text import as_text
from schemas.home import Home

FORMATS = click.Choice(["text", "json", "html", "pdf"])


def _schema(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from etl.receipt_schema import schema  # noqa: PLC0415  only who asks for it waits for it

        click.echo(orjson.dumps(schema(), option=orjson.OPT_INDENT_2))
        context.exit()


@click.command()
@click.argument("request_id")
@click.option("--format", "form", type=FORMATS, default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--schema", is_flag=True, is_eager=True, expose_value=False, callback=_schema, help="The JSON Schema of the JSON, and no receipt."
)
@click.pass_obj
def receipt(home: Home, request_id: str, form: str, as_json: bool) -> None:
    """Tell the whole story of one request, also of one recorded a second ago.

    REQUEST_ID is the ledger's id, a linked retry's, the client's own (x-client-request-id, idempotency-key) or the vendor's.
    """
    found = find(home, request_id)
    if as_json or form == "json":
        click.echo(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2))
    elif form == "text":
        click.echo(as_text(found))
    else:
        from etl.receipt_page import receipt_page  # noqa: PLC0415  a receipt as text need not wait for what draws

        _page(form, lambda: receipt_page(found))


@click.command()
@click.argument("run_id")
@click.option("--format", "form", type=FORMATS, default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json: totals and every receipt.")
@click.pass_obj
def run(home: Home, run_id: str, form: str, as_json: bool) -> None:
    """Show every published request of one agent run, and what each bucket paid for it."""
    receipts = of_run(home, run_id)
    if as_json or form == "json":
        click.echo(orjson.dumps(agent_run.as_json(run_id, receipts), option=orjson.OPT_INDENT_2))
    elif form == "text":
        click.echo(agent_run.as_text(run_id, receipts, home.command))
    else:
        from etl.receipt_page import run_page  # noqa: PLC0415  see above

        _page(form, lambda: run_page(run_id, receipts))


def _page(form: str, draw: Callable[[], str]) -> None:
    """A page on stdout: HTML as text, PDF as bytes."""
    from etl.page import pdf  # noqa: PLC0415  see above

    if form == "html":
        click.echo(draw())
    else:
        click.echo(pdf(draw()), nl=False)
