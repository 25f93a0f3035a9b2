"""`tokenledger audit`: can what the vendors reported be true?"""

from __future__ import annotations

import click
import orjson

from etl.usage_audit import audit_usage
from schemas.home import Home


@click.command()
@click.option("--period", metavar="P", help="Only this month, as 2026-10.")
@click.option("--json", "as_json", is_flag=True, help="Everything that was looked at, as JSON.")
@click.pass_obj
def audit(home: Home, period: str | None, as_json: bool) -> int:
    """Recount what passed beside what was reported, and flag what cannot be true; exit code 1 where something is flagged."""
    found = audit_usage(home, period)
    click.echo(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2) if as_json else found.as_text())
    return 1 if found.flags else 0
