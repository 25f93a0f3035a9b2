"""`tokenledger wallet topup|adjust`: entries that a person makes, appended to the journal like everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import click
import orjson
import uuid_utils

from proxy.journal import ADMIN_SLOT, append_once
from schemas.book import Book, load_book
from schemas.errors import UsageError
from schemas.home import Home
from schemas.instants import InstantError, parse_instant, write_instant
from schemas.money import amount, parse_decimal, plain
from schemas.records import Event, Instant, JsonText

TOPUP = "wallet_topup"
ADJUST = "wallet_adjust"


class WalletEntryError(UsageError):
    """An entry that cannot be booked as it is written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A top-up or an adjustment as a person wrote it: every amount a plain decimal text, what was not said is None."""

    wallet: str
    bucket: str
    amount: str
    by: str
    reference: str
    reason: str
    paid: str | None = None
    bonus: str | None = None
    expires: str | None = None
    request_id: str | None = None


def event_of(kind: str, entry: Entry, currency: str, at: Instant) -> Event:
    """The event that records `entry`; amounts become texts of 12 decimals, absent facts stay absent.

    A top-up is positive and its bonus lies inside it; an adjustment is any amount but zero, negative taking away.
    Raises WalletEntryError or MoneyError.
    """
    for option in ("wallet", "bucket", "by", "reference", "reason"):
        if not getattr(entry, option).strip():
            raise WalletEntryError(f"--{option} is empty", f"say it: --{option} TEXT")
    value = amount(parse_decimal(entry.amount))
    if kind == TOPUP and value <= 0:
        raise WalletEntryError(f"a top-up of {entry.amount} adds nothing", "give a positive amount, or use `wallet adjust`")
    if value == 0:
        raise WalletEntryError("an adjustment of 0 changes nothing", "give an amount other than zero")
    facts = {
        "wallet": entry.wallet.strip(),
        "bucket": entry.bucket.strip(),
        "currency": currency,
        "amount": plain(value),
        "paid": _part("paid", entry.paid, None),
        "bonus": _part("bonus", entry.bonus, value),
        "expires": None if entry.expires is None else write_instant(_expiry(entry.expires)),
        "request_id": entry.request_id,
    }
    return Event(
        event_id=str(uuid_utils.uuid7()),
        at=at,
        event=kind,
        request_id=entry.request_id,
        actor=entry.by.strip(),
        reason=entry.reason.strip(),
        reference=entry.reference.strip(),
        facts=JsonText(orjson.dumps({name: fact for name, fact in facts.items() if fact is not None}).decode()),
    )


def _part(option: str, text: str | None, whole: Decimal | None) -> str | None:
    if text is None:
        return None
    value = amount(parse_decimal(text))
    if value < 0 or (whole is not None and value > whole):
        raise WalletEntryError(f"--{option} {text} does not lie between 0 and the amount", f"correct --{option}")
    return plain(value)


def _expiry(text: str) -> Instant:
    try:
        return parse_instant(text)
    except InstantError as error:
        raise WalletEntryError(f"--expires {text}: {error.what}", error.cure) from None


def _check_bucket(book: Book, bucket: str) -> None:
    """A bucket that no channel pays from is a misspelling: money put there would never be spent."""
    buckets = sorted({channel.bucket for channel in book.channels})
    if bucket.strip() not in buckets:
        raise WalletEntryError(
            f"no channel pays from the bucket {bucket!r}", f"use one of {', '.join(buckets)}, or add a channel to channels.toml"
        )


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--wallet", required=True, help="Whose balance."),
            click.option("--bucket", required=True, help="Which balance: a bucket named in channels.toml."),
            click.option("--amount", required=True, metavar="A", help="Plain decimal in the book's currency."),
            click.option("--by", required=True, metavar="WHO", help="Who makes this entry."),
            click.option("--reference", required=True, metavar="REF", help="Invoice, ticket or statement line."),
            click.option("--reason", required=True, metavar="TEXT", help="Why."),
            click.option("--json", "as_json", is_flag=True, help="The recorded event as JSON."),
        )
    ):
        command = option(command)
    return command


def _record(home: Home, kind: str, entry: Entry, as_json: bool) -> None:
    book = load_book(home.book)
    event = event_of(kind, entry, book.settings.currency, Instant(time.time_ns() // 1000))
    _check_bucket(book, entry.bucket)
    append_once(home, ADMIN_SLOT, [event])
    facts = orjson.loads(event.facts)
    if as_json:
        click.echo(orjson.dumps({"event_id": event.event_id, "event": kind, **facts}, option=orjson.OPT_INDENT_2))
    else:
        sign = "" if facts["amount"].startswith("-") else "+"
        click.echo(f"recorded {event.event_id}  {facts['wallet']}:{facts['bucket']}  {sign}{facts['amount']} {facts['currency']}")


@click.command()
@_options
@click.option("--paid", metavar="A", help="Money paid for it.")
@click.option("--bonus", metavar="A", help="The part of the amount that was given, not bought.")
@click.option("--expires", metavar="INSTANT", help="When the credit lapses, with offset: 2027-01-01T00:00:00Z.")
@click.pass_obj
def topup(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Record credit that was bought or given. It shows after the next `tokenledger ledger`."""
    _record(home, TOPUP, Entry(**facts), as_json)


@click.command()
@_options
@click.option("--request", "request_id", metavar="ID", help="The request that this corrects.")
@click.pass_obj
def adjust(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Record a correction of a balance; a negative amount takes away. It shows after the next `tokenledger ledger`."""
    _record(home, ADJUST, Entry(**facts), as_json)
