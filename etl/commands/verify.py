"""`tokenledger verify`: is everything still what it was?"""

from __future__ import annotations

from dataclasses import asdict

import click
import orjson

from etl.published import require_month
from etl.verify import verify as verify_home
from schemas.home import Home


@click.command()
@click.option("--period", metavar="P", help="Only what concerns this month, as 2026-10.")
@click.option("--json", "as_json", is_flag=True, help="What was found whole, as JSON.")
@click.pass_obj
def verify(home: Home, period: str | None, as_json: bool) -> None:
    """Recompute every hash and every law of book, journals, raw files, seals, exports and ledger; name the first thing that is wrong."""
    if period is not None:
        require_month(period)
    found = verify_home(home, period)
    click.echo(orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2) if as_json else str(found))
