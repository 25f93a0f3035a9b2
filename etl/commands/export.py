"""`tokenledger export`: a month to a file, and a FOCUS file held against the specification."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from etl.export.focus_check import VERSIONS, check, version_of
from etl.export.month import FORMATS, focus_format
from etl.export.month import export as export_month
from schemas.counts import counted
from schemas.errors import UsageError
from schemas.home import Home


@click.command()
@click.argument("form", metavar="FORMAT", type=click.Choice(list(FORMATS)))
@click.option("--period", metavar="P", help="The month, as 2026-10.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; a manifest goes beside it.")
@click.option("--focus-version", type=click.Choice(VERSIONS), help="focus only: which version of FOCUS; the newest unless said.")
@click.option("--check", "checked", type=click.Path(path_type=Path), help="focus only: check this file instead of writing one.")
@click.option("--json", "as_json", is_flag=True, help="The manifest, or what the check found, as JSON.")
@click.pass_obj
def export(
    home: Home, form: str, period: str | None, out: Path | None, focus_version: str | None, checked: Path | None, as_json: bool
) -> None:
    """Write a month of the ledger to a file, with a manifest of rows, control sums and hash beside it.

    FORMAT is csv, parquet, jsonl, xlsx, focus, beancount, hledger or otlp.
    """
    if form != "focus" and (focus_version or checked):
        raise UsageError(f"--focus-version and --check are for focus, not for {form}", "tokenledger export focus ...")
    if checked:
        _check(checked, focus_version, as_json)
        return
    if period is None or out is None:
        said = f"--period {shlex.quote(period or '2026-10')} --out {shlex.quote(str(out or 'FILE'))}"
        raise UsageError("an export needs a month and a file", f"tokenledger export {form} {said}")
    chosen = focus_format(focus_version) if focus_version else None
    manifest = export_month(home, form, period, out, chosen=chosen, report=lambda line: click.echo(f"export {form}: {line}", err=True))
    if as_json:
        click.echo(orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
        return
    click.echo(
        f"{out}  {counted(manifest.rows, 'row')} of {period} ({manifest.state}), {counted(manifest.bytes, 'byte')}, sha256 {manifest.sha256}"
    )
    for currency, sums in manifest.control.items():
        told = ", ".join(f"{name} {'unknown' if value is None else value}" for name, value in sums.items())
        click.echo(f"  {currency}: {told}")


def _check(path: Path, version: str | None, as_json: bool) -> None:
    """Print each violation; exit 1 if there is one."""
    version = version or version_of(path)
    count = 0
    found = []
    for violation in check(path, version):
        count += 1
        if as_json:
            found.append(asdict(violation))
        else:
            click.echo(str(violation))
    if as_json:
        click.echo(orjson.dumps({"file": str(path), "focus_version": version, "violations": found}, option=orjson.OPT_INDENT_2))
    else:
        click.echo(f"{path}: {counted(count, 'violation')} of FOCUS {version}")
    if count:
        raise click.exceptions.Exit(1)
