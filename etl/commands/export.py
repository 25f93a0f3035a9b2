"""`tokenledger export`: a month to a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import orjson

from etl.export.month import FORMATS
from etl.export.month import export as export_month
from schemas.home import Home


@click.command()
@click.argument("form", metavar="FORMAT", type=click.Choice(list(FORMATS)))
@click.option("--period", required=True, metavar="P", help="The month, as 2026-10.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write; a manifest goes beside it.")
@click.option("--json", "as_json", is_flag=True, help="The manifest as JSON.")
@click.pass_obj
def export(home: Home, form: str, period: str, out: Path, as_json: bool) -> None:
    """Write a month of the ledger as csv or parquet, with a manifest of rows, control sums and hash beside it."""
    manifest = export_month(home, form, period, out)
    if as_json:
        click.echo(orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
        return
    click.echo(f"{out}  {manifest.rows} rows, {manifest.bytes} bytes, sha256 {manifest.sha256}")
    for currency, sums in manifest.control.items():
        click.echo(f"  {currency}: {sums['rows']} rows, charged {sums['final_charge']}, {sums['rows_without_charge']} without a charge")
