"""`tokenledger rates import|diff`: rows proposed from a published price catalogue, and what they would change in the book."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import click
import orjson

from etl.table import jsonable, render
from schemas.book import Book, load_book
from schemas.bookfile import BookError, Problem
from schemas.catalogues import KINDS, Asked, CatalogueError, Change, as_csv, changes, read
from schemas.counts import counted
from schemas.errors import UsageError
from schemas.home import Home
from schemas.instants import parse_option, write_instant
from schemas.rates import Rate, rates_of
from schemas.records import Instant

COLUMNS = ("change", "channel", "model", "meter", "conditions", "from", "per", "before", "after", "line", "source")
SHOWN_LEFT_OUT = 40
CURRENCY = "USD"  # of every catalogue


class NoSuchChannelError(UsageError):
    """The channel that was named is not in channels.toml."""


class NothingFoundError(UsageError):
    """A catalogue that says nothing of what was asked for."""


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--channel", required=True, help="The channel of channels.toml that the rows are for.")
@click.option("--model", "models", metavar="GLOB", default="*", help="Only models whose id matches, for example 'gpt-*'.")
@click.option("--vendor", help="The catalogue's name of the vendor, for example openai; else whichever has the model.")
@click.option("--version", "release", default="of an unstated version", help="The catalogue's version, for the source column.")
@click.option("--from", "since", metavar="INSTANT", help="From when undated prices count (2026-10-01T00:00:00Z); else now.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write here instead of to stdout; never into the book.")
@click.pass_obj
def propose(
    home: Home,
    kind: str,
    file: Path,
    channel: str,
    models: str,
    vendor: str | None,
    release: str,
    since: str | None,
    out: Path | None,
) -> int:
    """Propose rows of rates.csv from a catalogue. Nothing enters the book: read them, then append those you accept.

    \b
    genai-prices, from an environment of its own:
      python -c 'import json; from genai_prices.data_snapshot import get_snapshot as s; print(json.dumps(s().providers,
        default=lambda o: vars(o) if type(o).__module__ == "genai_prices.types" else str(o)))' > prices.json
    litellm: model_prices_and_context_window.json of its repository.
    openrouter: what its address /api/v1/models answers.

    What the catalogue says and a row cannot say is listed on stderr, with the reason.
    """  # noqa: D301  the backspace is how click is told not to wrap what follows
    book = load_book(home.book)
    found = next((one for one in book.channels if one.name == channel), None)
    if found is None:
        raise NoSuchChannelError(f"no channel {channel!r} in {home.book / 'channels.toml'}", f"name one of {_names(book)}")
    begin = Instant(time.time_ns() // 1_000_000_000 * 1_000_000) if since is None else parse_option("--from", since)
    content = file.read_bytes()
    if CURRENCY not in book.currencies:
        words = f"catalogues are in {CURRENCY}, and this book is kept in {book.settings.currency}"
        raise CatalogueError(words, f"write the rate of {CURRENCY} in book/fx.csv: the rows then stay in {CURRENCY}")
    asked = Asked(channel, CURRENCY, found.timezone or "UTC", models, vendor, begin)
    reading = read(kind, content, asked)
    if not reading.proposals:
        raise NothingFoundError(f"{file} proposes no price for {models!r}", "check --model and --vendor; ids are case-sensitive")
    note = f"proposed from {file.name} sha256 {hashlib.sha256(content).hexdigest()}"
    text = as_csv(reading.proposals, asked, f"{kind} {release}", note)
    if out is None:
        click.echo(text, nl=False)
    else:
        if out.resolve() == (home.book / "rates.csv").resolve():
            raise NothingFoundError("rows are proposed, never written into the book", "write them elsewhere, then append what you accept")
        out.write_text(text)
    _tell(reading.left_out)
    problems: list[Problem] = []
    rates_of("proposed", text.encode(), frozenset({channel}), book.currencies, problems)
    for problem in problems:
        click.echo(str(problem), err=True)
    click.echo(
        f"{counted(len(reading.proposals), 'row')} proposed, {counted(len(reading.left_out), 'thing')} left out, {counted(len(problems), 'problem')}",
        err=True,
    )
    return 1 if problems else 0


def _names(book: Book) -> str:
    return ", ".join(one.name for one in book.channels)


def _tell(left_out: Any) -> None:
    for one in left_out[:SHOWN_LEFT_OUT]:
        click.echo(f"left out: {one.model} {one.what}: {one.why}", err=True)
    if len(left_out) > SHOWN_LEFT_OUT:
        click.echo(f"left out: {len(left_out) - SHOWN_LEFT_OUT} more", err=True)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Rows that change nothing, too.")
@click.option("--at", metavar="INSTANT", help="What is in force at this instant may be gone (2026-10-01T00:00:00Z); else now.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects; prices are texts.")
@click.pass_obj
def diff(home: Home, file: Path, everything: bool, at: str | None, as_json: bool) -> None:
    """Show what FILE, rows in the form of rates.csv such as `rates import` writes, would change in the book.

    Each row stands beside the book's price for the same channel, model, meter and conditions at the row's beginning. `gone` is a
    price that the book has for one of the file's models and the file has not.
    """
    book = load_book(home.book)
    problems: list[Problem] = []
    channels = frozenset(one.name for one in book.channels)
    proposed = rates_of(str(file), file.read_bytes(), channels, book.currencies, problems)
    if problems:
        raise BookError(problems)
    found = changes(book.rates, proposed, Instant(time.time_ns() // 1000) if at is None else parse_option("--at", at))
    rows = [_row(one) for one in found if everything or one.what != "same"]
    same = sum(one.what == "same" for one in found)
    if as_json:
        click.echo(orjson.dumps([dict(zip(COLUMNS, map(jsonable, row), strict=True)) for row in rows], option=orjson.OPT_INDENT_2))
    else:
        click.echo(render(COLUMNS, rows, unknown="") if rows else "nothing changes")
    click.echo(counted(same, "row is", "rows are") + " as in the book", err=True)


def _row(change: Change) -> tuple[Any, ...]:
    row, before = change.row, change.before
    return (
        change.what,
        row.channel,
        row.model,
        row.meter,
        row.named_conditions,
        write_instant(row.effective_from),
        f"{row.per:f}",
        None if before is None else _price(before, row),
        None if change.what == "gone" else _price(row, row),
        None if before is None else before.line,
        row.source,
    )


def _price(rate: Rate, like: Rate) -> str:
    """The price for as many units as `like` states its own for."""
    text = f"{rate.unit_price * like.per:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
