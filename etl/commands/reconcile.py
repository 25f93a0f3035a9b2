"""`tokenledger reconcile`: a vendor's bill beside the ledger."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from etl.bills.store import find_vendor, take
from etl.build import build
from etl.published import require_month
from etl.reconcile.dispute import write_pack
from etl.reconcile.page import read_page
from schemas.book import load_book
from schemas.counts import counted
from schemas.home import Home


@click.command()
@click.argument("bill", type=click.Path(path_type=Path))
@click.option(
    "--vendor", required=True, metavar="V", help="Who sent it: a vendor of channels.toml, a channel, or a mapping in book/bills/."
)
@click.option("--period", required=True, metavar="P", help="The month it is for, as 2026-10.")
@click.option("--account", metavar="A", help="Which account it is for, where the bill does not tell and there are several.")
@click.option(
    "--dispute", type=click.Path(path_type=Path), metavar="OUT", help="Also write a folder for the vendor: lines, receipts, hashes."
)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON; amounts are texts.")
@click.pass_obj
def reconcile(home: Home, bill: Path, vendor: str, period: str, account: str | None, dispute: Path | None, as_json: bool) -> None:
    """Keep a vendor's bill, match it with the ledger, and take the gap between the two apart.

    BILL is kept as it is in book/bills/; another one for the same vendor, month and account takes its place.
    """
    require_month(period)
    book = load_book(home.book)
    known = find_vendor(home, book, vendor)
    taken = take(home, book, bill, known, period, account)
    click.echo(f"kept {taken.folder}: {counted(len(taken.bill.lines), 'line')}, read as {taken.bill.mapping}", err=True)
    if taken.replaced:
        click.echo(f"it takes the place of the bill {taken.replaced[:16]}", err=True)
    build(home)
    page = read_page(home, known.name, period)
    if dispute is not None:
        write_pack(home, page, known.channels, dispute)
        click.echo(f"wrote {dispute}", err=True)
    click.echo(orjson.dumps(page.as_json(), option=orjson.OPT_INDENT_2) if as_json else page.as_text(home))
