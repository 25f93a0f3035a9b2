"""`tokenledger receipt` and `tokenledger run`: the story of one request, and of a run of them."""

from __future__ import annotations

import click
import orjson

from etl import run as agent_run
from etl.receipt import find, of_run
from etl.receipt_text import as_text
from schemas.home import Home


@click.command()
@click.argument("request_id")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_obj
def receipt(home: Home, request_id: str, form: str, as_json: bool) -> None:
    """Tell the whole story of one request, also of one recorded a second ago.

    REQUEST_ID is the ledger's id, a linked retry's, the client's own (x-client-request-id, idempotency-key) or the vendor's.
    """
    found = find(home, request_id)
    if as_json or form == "json":
        click.echo(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2))
    else:
        click.echo(as_text(found))


@click.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="Totals and every receipt as JSON.")
@click.pass_obj
def run(home: Home, run_id: str, as_json: bool) -> None:
    """Show every published request of one agent run, and what each bucket paid for it."""
    receipts = of_run(home, run_id)
    if as_json:
        click.echo(orjson.dumps(agent_run.as_json(run_id, receipts), option=orjson.OPT_INDENT_2))
    else:
        click.echo(agent_run.as_text(run_id, receipts))
