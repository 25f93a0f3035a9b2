"""`tokenledger wallet list`: balances by wallet and bucket."""

from __future__ import annotations

import click
import orjson

from etl.published import open_ledger
from etl.table import jsonable, render
from schemas.home import Home


@click.command()
@click.option("--wallet", help="Only this wallet, entry by entry.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects; amounts are texts.")
@click.pass_obj
def list_wallets(home: Home, wallet: str | None, as_json: bool) -> None:
    """List the balances in the published ledger; buckets never net. With --wallet, its statement."""
    with open_ledger(home) as connection:
        cursor = (
            connection.execute("SELECT wallet, bucket, currency, balance FROM wallet_balances ORDER BY wallet, bucket, currency")
            if wallet is None
            else connection.execute(
                "SELECT posted_at, bucket, kind, amount, balance_after, request_id, actor, reason FROM wallet_statement "
                "WHERE wallet = ? ORDER BY bucket, posted_at, entry_id",
                [wallet],
            )
        )
        columns = [column[0] for column in cursor.description or ()]
        rows = cursor.fetchall()
    if as_json:
        click.echo(orjson.dumps([dict(zip(columns, map(jsonable, row), strict=True)) for row in rows], option=orjson.OPT_INDENT_2))
    else:
        click.echo(render(columns, rows, unknown="") if rows else "no wallet entry has been booked yet")
