"""`tokenledger whatif`: a month under other prices, in a separate book."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from etl.whatif import what_if
from schemas.home import Home


@click.command()
@click.option("--period", required=True, metavar="P", help="The month, as 2026-10.")
@click.option("--rates", type=click.Path(path_type=Path), metavar="FILE", help="Takes the place of book/rates.csv.")
@click.option("--policies", type=click.Path(path_type=Path), metavar="FILE", help="Takes the place of book/failed_requests.csv.")
@click.option("--route", type=click.Choice(["official", "routed", "pool"]), help="As if every request had gone to this route at once.")
@click.option("--json", "as_json", is_flag=True, help="As JSON; amounts are texts.")
@click.pass_obj
def whatif(home: Home, period: str, rates: Path | None, policies: Path | None, route: str | None, as_json: bool) -> None:
    """Price a month again under other prices, policies or another route; the real book is untouched."""
    found = what_if(home, period, rates=rates, policies=policies, route=route)
    click.echo(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2) if as_json else found.as_text())
