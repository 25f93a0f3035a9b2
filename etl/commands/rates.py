"""`tokenledger rates check|show`: the rate table, validated and shown as it is in force."""

from __future__ import annotations

import time
from typing import Any

import click
import orjson

from etl.lookup import check_endpoints
from etl.table import jsonable, render
from schemas.book import load_book
from schemas.counts import counted
from schemas.dated import DatedRow
from schemas.fx import Fx
from schemas.home import Home
from schemas.instants import parse_option, write_instant
from schemas.rates import Rate
from schemas.terms import Term

COLUMNS = ("book", "channel", "model", "meter", "price", "per", "currency", "from", "to", "conditions", "rate_id", "source")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Counts and the book's digest as JSON.")
@click.pass_obj
def check(home: Home, as_json: bool) -> None:
    """Validate the whole book; what is wrong is named by file, line, field, value and cure, with exit code 2."""
    book = load_book(home.book)
    check_endpoints(book.rates)
    counts = {
        "channels": len(book.channels),
        "models": len(book.models),
        "keys": len(book.keys),
        "rates": len(book.rates),
        "terms": len(book.terms),
        "exchange rates": len(book.fx),
        "policies": len(book.policies),
    }
    if as_json:
        click.echo(orjson.dumps({"book": str(home.book), "digest": book.digest, **counts}, option=orjson.OPT_INDENT_2))
    else:
        singular = ("channel", "model", "key", "rate", "term", "exchange rate", "policy")
        told = [counted(number, one, many) for one, (many, number) in zip(singular, counts.items(), strict=True)]
        click.echo(f"{home.book} is valid: " + ", ".join(told) + f"; digest {book.digest}")


def _row(rate: Rate) -> tuple[Any, ...]:
    return (
        rate.book,
        rate.channel,
        rate.model,
        rate.meter,
        f"{rate.price:f}",
        f"{rate.per:f}",
        rate.currency,
        *_dates(rate),
        rate.named_conditions,
        rate.rate_id,
        rate.source,
    )


def _term_row(term: Term) -> tuple[Any, ...]:
    pool = "" if term.pool is None else f"pool={term.pool}"
    return (term.term, term.channel, term.model, term.meter, f"{term.value:f}", "", "", *_dates(term), pool, term.term_id, term.source)


def _fx_row(fx: Fx) -> tuple[Any, ...]:
    return ("fx", "*", "*", "*", f"{fx.rate:f}", "1", fx.currency, *_dates(fx), "", fx.fx_id, fx.source)


def _dates(row: DatedRow) -> tuple[str, str | None]:
    return write_instant(row.effective_from), None if row.effective_to is None else write_instant(row.effective_to)


@click.command()
@click.option("--channel", help="Only rows that apply to this channel.")
@click.option("--model", help="Only rows that apply to this upstream model.")
@click.option("--at", metavar="INSTANT", help="In force at this instant (2026-10-01T00:00:00Z); else now.")
@click.option("--history", is_flag=True, help="Every row, past and future ones included.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects; prices are texts.")
@click.pass_obj
def show(home: Home, channel: str | None, model: str | None, at: str | None, history: bool, as_json: bool) -> None:
    """Show the prices in force, as book/rates.csv has them; where several rows apply, the most specific one wins.

    Below them the terms of terms.csv, with the term in the place of the book and its value in that of the price, and the
    exchange rates of fx.csv.
    """
    instant = time.time_ns() // 1000 if at is None else parse_option("--at", at)
    book = load_book(home.book)
    named = [(row, _row(row)) for row in book.rates] + [(row, _term_row(row)) for row in book.terms]
    rows = [
        shown
        for row, shown in named
        if (history or row.in_force(instant)) and _matches(channel, row.channel) and _matches(model, row.model)
    ]
    rows += [_fx_row(fx) for fx in book.fx if history or fx.in_force(instant)]
    if as_json:
        click.echo(orjson.dumps([dict(zip(COLUMNS, map(jsonable, row), strict=True)) for row in rows], option=orjson.OPT_INDENT_2))
    else:
        click.echo(render(COLUMNS, rows, unknown="") if rows else "no rate row applies")


def _matches(asked: str | None, named: str) -> bool:
    return asked is None or named in (asked, "*")
