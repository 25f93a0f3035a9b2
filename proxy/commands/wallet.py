"""`tokenledger wallet topup|adjust|refund|expire|transfer|hold|release|reverse|snapshot`: entries that a person makes, appended to the journal like everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import click
import orjson
import uuid_utils

from proxy.journal import ADMIN_SLOT, append_once
from schemas.book import Book, load_book
from schemas.bookfile import closest
from schemas.errors import UsageError
from schemas.home import Home
from schemas.instants import parse_option, write_instant
from schemas.money import MoneyError, entered, parse_decimal, plain
from schemas.records import Event, Instant, JsonText

TOPUP = "wallet_topup"
ADJUST = "wallet_adjust"
REFUND = "wallet_refund"
EXPIRE = "wallet_expire"
TRANSFER = "wallet_transfer"
HOLD = "wallet_hold"  # moves no money: reserves it until an instant
RELEASE = "wallet_release"
REVERSE = "wallet_reverse"
SNAPSHOT = "wallet_snapshot"  # moves no money: the balance that the vendor shows, evidence for the balance proof

UNREGISTERED = "unregistered"  # the wallet of what came under a key that is not in keys.toml

# Which amounts a kind takes, and what to do instead; a snapshot takes any, for a vendor may show an overdrawn balance.
AMOUNTS: dict[str, tuple[Callable[[Decimal], bool], str, str]] = {
    TOPUP: (lambda value: value > 0, "a top-up of {} adds nothing", "give a positive amount, or use `wallet adjust`"),
    ADJUST: (lambda value: value != 0, "an adjustment of {} changes nothing", "give an amount other than zero"),
    REFUND: (lambda value: value > 0, "a refund of {} gives nothing back", "give a positive amount, or use `wallet adjust`"),
    EXPIRE: (lambda value: value > 0, "an expiry of {} takes nothing away", "give the lapsed amount as a positive one"),
    TRANSFER: (lambda value: value > 0, "a transfer of {} moves nothing", "give a positive amount; --wallet gives and --to-wallet takes"),
    HOLD: (lambda value: value > 0, "a hold of {} reserves nothing", "give a positive amount"),
    SNAPSHOT: (Decimal.is_finite, "", ""),
}


# How an amount is shown that its kind does not simply add.
SIGNS = {SNAPSHOT: "=", EXPIRE: "-", TRANSFER: "-", HOLD: "held "}


# Where the roof hangs the builder's judgement of an entry, in the context's `meta`: this wing does not know the one that books.
JUDGE = "tokenledger.judge"


class WalletEntryError(UsageError):
    """An entry that cannot be booked as it is written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a person wrote: every amount a plain decimal text, what was not said is None."""

    wallet: str
    bucket: str
    amount: str
    by: str
    reference: str | None
    reason: str | None
    second: str | None = None
    paid: str | None = None
    bonus: str | None = None
    expires: str | None = None
    until: str | None = None
    to_wallet: str | None = None
    to_bucket: str | None = None
    request_id: str | None = None


def event_of(kind: str, entry: Entry, currency: str, at: Instant) -> Event:
    """The event that records `entry`; amounts become texts of 12 decimals, absent facts stay absent.

    A top-up, a refund and an expiry are positive, and a top-up's bonus lies inside it; an adjustment is any amount but zero,
    negative taking away. Raises WalletEntryError or InstantError.
    """
    for option in ("wallet", "bucket", "by", "reference", "reason", "second", "to_wallet", "to_bucket"):
        _check_said(option, getattr(entry, option))
    value = _amount("amount", entry.amount)
    is_taken, what, cure = AMOUNTS[kind]
    if not is_taken(value):
        raise WalletEntryError(what.format(entry.amount), cure)
    facts = {
        "wallet": entry.wallet.strip(),
        "bucket": entry.bucket.strip(),
        "currency": currency,
        "amount": plain(value),
        "paid": _part("paid", entry.paid, None),
        "bonus": _part("bonus", entry.bonus, value),
        "expires": None if entry.expires is None else write_instant(parse_option("--expires", entry.expires)),
        "until": None if entry.until is None else write_instant(_after(at, entry.until)),
        "to_wallet": None if entry.to_wallet is None else entry.to_wallet.strip(),
        "to_bucket": None if entry.to_bucket is None else entry.to_bucket.strip(),
        "request_id": entry.request_id,
        "second": None if entry.second is None else entry.second.strip(),
    }
    return Event(
        event_id=str(uuid_utils.uuid7()),
        at=at,
        event=kind,
        request_id=entry.request_id,
        actor=entry.by.strip(),
        reason=None if entry.reason is None else entry.reason.strip(),
        reference=None if entry.reference is None else entry.reference.strip(),
        facts=JsonText(orjson.dumps({name: fact for name, fact in facts.items() if fact is not None}).decode()),
    )


def _check_said(option: str, said: str | None) -> None:
    if said is not None and not said.strip():
        raise WalletEntryError(f"--{option.replace('_', '-')} is empty", f"say it: --{option.replace('_', '-')} TEXT")


def _after(at: Instant, text: str) -> Instant:
    until = parse_option("--until", text)
    if until <= at:
        raise WalletEntryError(f"--until {text} is over already", "name an instant to come")
    return until


def _amount(option: str, text: str) -> Decimal:
    try:
        return entered(parse_decimal(text))
    except MoneyError as error:
        raise WalletEntryError(f"--{option} {text}: {error.what}", error.cure) from None


def _part(option: str, text: str | None, whole: Decimal | None) -> str | None:
    if text is None:
        return None
    value = _amount(option, text)
    if value < 0 or (whole is not None and value > whole):
        raise WalletEntryError(f"--{option} {text} does not lie between 0 and the amount", f"correct --{option}")
    return plain(value)


def _check_bucket(book: Book, bucket: str) -> None:
    """A bucket that no channel pays from is a misspelling: money put there would never be spent."""
    buckets = sorted({channel.bucket for channel in book.channels})
    if bucket.strip() not in buckets:
        raise WalletEntryError(
            f"no channel pays from the bucket {bucket!r}", f"use one of {', '.join(buckets)}, or add a channel to channels.toml"
        )


def _note_stranger(book: Book, facts: Mapping[str, str]) -> None:
    """Say that no key pays from a wallet. It is no mistake yet, as a bucket's misspelling is: the key may be registered later."""
    wallets = {key.wallet for key in book.keys} | {UNREGISTERED}
    for wallet in filter(None, (facts["wallet"], facts.get("to_wallet"))):
        if book.keys and wallet not in wallets:
            click.echo(f"note: no key pays from the wallet {wallet!r}: {closest(wallet, wallets)}", err=True)


def check_second(book: Book, entry: Entry) -> None:
    """An adjustment above the book's limit, either way, is made by two people. Raises WalletEntryError."""
    limit = book.settings.second_person_above
    if limit is not None and abs(parse_decimal(entry.amount)) > limit:
        if entry.second is None:
            raise WalletEntryError(
                f"an adjustment above {plain(limit)} needs a second person",
                "let them agree, then add --second WHO (book.toml second_person_above)",
            )
        if entry.second.strip().casefold() == entry.by.strip().casefold():
            raise WalletEntryError(f"--second {entry.second} is the person who makes the entry", "name somebody else")


_MONEY = (
    click.option("--reference", required=True, metavar="REF", help="Invoice, ticket or statement line."),
    click.option("--reason", required=True, metavar="TEXT", help="Why."),
)
_SAID = (
    click.option("--reference", metavar="REF", help="Invoice, ticket or statement line."),
    click.option("--reason", metavar="TEXT", help="Why."),
)


def _options(*words: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(
            (
                click.option("--wallet", required=True, help="Whose balance."),
                click.option("--bucket", required=True, help="Which balance: a bucket named in channels.toml."),
                click.option("--amount", required=True, metavar="A", help="Plain decimal in the book's currency."),
                click.option("--by", required=True, metavar="WHO", help="Who makes this entry."),
                *words,
                click.option("--json", "as_json", is_flag=True, help="The recorded event as JSON."),
            )
        ):
            command = option(command)
        return command

    return decorate


def _record(home: Home, kind: str, entry: Entry, as_json: bool, at: Instant | None = None) -> None:
    book = load_book(home.book)
    event = event_of(kind, entry, book.settings.currency, Instant(time.time_ns() // 1000) if at is None else at)
    for bucket in (entry.bucket, entry.to_bucket):
        if bucket is not None:
            _check_bucket(book, bucket)
    facts = orjson.loads(event.facts)
    if kind == TRANSFER and (facts["wallet"], facts["bucket"]) == (facts["to_wallet"], facts["to_bucket"]):
        raise WalletEntryError("a transfer goes from one balance to another", "name another --to-wallet or --to-bucket")
    if kind == ADJUST:
        check_second(book, entry)
    if entry.request_id is None:
        append_once(home, ADMIN_SLOT, [event])
    else:
        append_judged(home, event)
    _note_stranger(book, facts)
    if as_json:
        click.echo(orjson.dumps({"event_id": event.event_id, "event": kind, **facts}, option=orjson.OPT_INDENT_2))
    else:
        sign = SIGNS.get(kind, "" if facts["amount"].startswith("-") else "+")
        click.echo(f"recorded {event.event_id}  {facts['wallet']}:{facts['bucket']}  {sign}{facts['amount']} {facts['currency']}")


def append_judged(home: Home, event: Event) -> None:
    """Record an entry that names something recorded before, only where the builder would book it. Raises what it is refused with."""
    judge = click.get_current_context().meta.get(JUDGE)
    if judge is not None:
        judge(home, event)
    append_once(home, ADMIN_SLOT, [event])


@click.command()
@_options(*_MONEY)
@click.option("--paid", metavar="A", help="Money paid for it.")
@click.option("--bonus", metavar="A", help="The part of the amount that was given, not bought.")
@click.option("--expires", metavar="INSTANT", help="When the credit lapses, with offset: 2027-01-01T00:00:00Z.")
@click.pass_obj
def topup(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Record credit that was bought or given. It shows after the next `tokenledger ledger`."""
    _record(home, TOPUP, Entry(**facts), as_json)


@click.command()
@_options(*_MONEY)
@click.option("--request", "request_id", metavar="ID", help="The request that this corrects.")
@click.option("--second", metavar="WHO", help="Who else agreed: needed above the book's second_person_above.")
@click.pass_obj
def adjust(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Record a correction of a balance; a negative amount takes away. It shows after the next `tokenledger ledger`."""
    _record(home, ADJUST, Entry(**facts), as_json)


@click.command()
@_options(*_MONEY)
@click.option("--request", "request_id", metavar="ID", help="The request whose charge this gives back, whole or in part.")
@click.pass_obj
def refund(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Record money that came back. All refunds of a request together are never booked above what its bucket was charged."""
    _record(home, REFUND, Entry(**facts), as_json)


@click.command()
@_options(*_MONEY)
@click.pass_obj
def expire(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Record credit that lapsed. Nothing lapses by itself: `wallet_lots` shows what is due."""
    _record(home, EXPIRE, Entry(**facts), as_json)


@click.command()
@_options(*_SAID)
@click.option("--at", "read_at", metavar="INSTANT", help="When the vendor showed it, with offset; else now.")
@click.pass_obj
def snapshot(home: Home, /, as_json: bool, read_at: str | None, **facts: Any) -> None:
    """Record the balance that the vendor shows. It moves no money; `balance_proof` holds it against ours."""
    _record(home, SNAPSHOT, Entry(**facts), as_json, None if read_at is None else parse_option("--at", read_at))


@click.command()
@_options(*_MONEY)
@click.option("--to-wallet", required=True, help="Whose balance takes it.")
@click.option("--to-bucket", required=True, help="Which balance takes it.")
@click.pass_obj
def transfer(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Record that an amount moved from one balance to another; buckets meet in no other entry."""
    _record(home, TRANSFER, Entry(**facts), as_json)


@click.command()
@_options(*_MONEY)
@click.option("--until", required=True, metavar="INSTANT", help="When it ends by itself, with offset: 2026-11-01T00:00:00Z.")
@click.option("--request", "request_id", metavar="ID", help="The request that it is for.")
@click.pass_obj
def hold(home: Home, /, as_json: bool, **facts: Any) -> None:
    """Reserve an amount until an instant. No money moves; `wallet list` shows what is held and what is available."""
    _record(home, HOLD, Entry(**facts), as_json)


def _record_about(home: Home, kind: str, facts: dict[str, str], by: str, reference: str, reason: str, as_json: bool) -> None:
    for option, said in (("by", by), ("reference", reference), ("reason", reason)):
        _check_said(option, said)
    event = Event(
        event_id=str(uuid_utils.uuid7()),
        at=Instant(time.time_ns() // 1000),
        event=kind,
        actor=by.strip(),
        reason=reason.strip(),
        reference=reference.strip(),
        facts=JsonText(orjson.dumps(facts).decode()),
    )
    append_judged(home, event)
    if as_json:
        click.echo(orjson.dumps({"event_id": event.event_id, "event": kind, **facts}, option=orjson.OPT_INDENT_2))
    else:
        click.echo(f"recorded {event.event_id}  " + "  ".join(f"{name} {fact}" for name, fact in facts.items()))


@click.command()
@click.argument("hold_id", metavar="HOLD")
@click.option("--by", required=True, metavar="WHO", help="Who makes this entry.")
@_MONEY[0]
@_MONEY[1]
@click.option("--json", "as_json", is_flag=True, help="The recorded event as JSON.")
@click.pass_obj
def release(home: Home, hold_id: str, by: str, reference: str, reason: str, as_json: bool) -> None:
    """End a hold before its instant, whole; HOLD is the id that placing it printed."""
    _record_about(home, RELEASE, {"hold": hold_id}, by, reference, reason, as_json)


@click.command()
@click.argument("transaction")
@click.option("--by", required=True, metavar="WHO", help="Who makes this entry.")
@_MONEY[0]
@_MONEY[1]
@click.option("--json", "as_json", is_flag=True, help="The recorded event as JSON.")
@click.pass_obj
def reverse(home: Home, transaction: str, by: str, reference: str, reason: str, as_json: bool) -> None:
    """Negate a whole transaction of the journal, leg by leg and once; TRANSACTION is its transaction_id."""
    _record_about(home, REVERSE, {"transaction": transaction}, by, reference, reason, as_json)
