"""`tokenledger acknowledge`: a person says by name that a loss, or an end that nobody will ever know, is known and accepted."""

from __future__ import annotations

import time

import click
import orjson
import uuid_utils

from proxy.commands.wallet import append_judged
from schemas.errors import UsageError
from schemas.home import Home
from schemas.records import Event, Instant, JsonText

ACKNOWLEDGED = "acknowledged"


class EmptyWordError(UsageError):
    """An option that says nothing."""


def acknowledgement(subject: str, by: str, reason: str, reference: str | None, at: Instant) -> Event:
    """The event that records it; raises EmptyWordError."""
    for option, said in (("SUBJECT", subject), ("--by", by), ("--reason", reason)):
        if not said.strip():
            raise EmptyWordError(f"{option} is empty", "name the finding, who accepts it and why")
    return Event(
        event_id=str(uuid_utils.uuid7()),
        at=at,
        event=ACKNOWLEDGED,
        actor=by.strip(),
        reason=reason.strip(),
        reference=reference,
        facts=JsonText(orjson.dumps({"subject": subject.strip()}).decode()),
    )


@click.command()
@click.argument("subject")
@click.option("--by", required=True, metavar="WHO", help="Who accepts it.")
@click.option("--reason", required=True, metavar="TEXT", help="Why.")
@click.option("--reference", metavar="REF", help="Ticket or letter.")
@click.option("--json", "as_json", is_flag=True, help="The recorded event as JSON.")
@click.pass_obj
def acknowledge(home: Home, subject: str, by: str, reason: str, reference: str | None, as_json: bool) -> None:
    """Accept a finding that keeps a month from closing, by its SUBJECT in the table data_quality.

    A SUBJECT that nothing in the published ledger has is refused. A missing price cannot be accepted: write its row. It counts from the next `tokenledger ledger` on.
    """
    event = acknowledgement(subject, by, reason, reference, Instant(time.time_ns() // 1000))
    append_judged(home, event)
    if as_json:
        click.echo(orjson.dumps({"event_id": event.event_id, "event": event.event, "subject": subject}, option=orjson.OPT_INDENT_2))
    else:
        click.echo(f"recorded {event.event_id}  {subject}")
