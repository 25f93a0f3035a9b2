"""`tokenledger wallet list`: balances by wallet and bucket, and what of them is held now."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import orjson

from etl.published import open_ledger
from etl.table import jsonable, render
from schemas.home import Home

_BALANCES = """
    WITH holds AS (
        SELECT wallet, bucket, currency, sum(amount) AS amount FROM wallet_holds
        WHERE placed_at <= $now AND $now < ends_at GROUP BY ALL
    )
    SELECT b.wallet, b.bucket, b.currency, b.balance, coalesce(h.amount, 0)::DECIMAL(38,12) AS held,
        (b.balance - coalesce(h.amount, 0))::DECIMAL(38,12) AS available
    FROM wallet_balances b LEFT JOIN holds h USING (wallet, bucket, currency) ORDER BY b.wallet, b.bucket, b.currency
"""


@click.command()
@click.option("--wallet", help="Only this wallet, entry by entry.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects; amounts are texts.")
@click.pass_obj
def list_wallets(home: Home, wallet: str | None, as_json: bool) -> None:
    """List the balances in the published ledger, and what of them is held at this moment; buckets never net. With --wallet, its statement."""
    with open_ledger(home) as connection:
        cursor = (
            connection.execute(_BALANCES, {"now": datetime.now(UTC).replace(tzinfo=None)})
            if wallet is None
            else connection.execute(
                "SELECT posted_at, bucket, kind, amount, balance_after, held_after, request_id, actor, reason FROM wallet_statement "
                "WHERE wallet = ? ORDER BY bucket, posted_at, entry_id",
                [wallet],
            )
        )
        columns = [column[0] for column in cursor.description or ()]
        rows = cursor.fetchall()
    if as_json:
        click.echo(orjson.dumps([dict(zip(columns, map(jsonable, row), strict=True)) for row in rows], option=orjson.OPT_INDENT_2))
    else:
        none = "no wallet entry has been booked yet" if wallet is None else f"no entry of the wallet {wallet!r} has been booked"
        click.echo(render(columns, rows, unknown="") if rows else none)
