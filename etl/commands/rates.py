"""`tokenledger rates check|show`: the rate table, validated and shown as it is in force."""

from __future__ import annotations

import time
from typing import Any

import click
import orjson

from etl.lookup import check_endpoints
from etl.table import jsonable, render
from schemas.book import load_book
from schemas.home import Home
from schemas.instants import parse_instant, write_instant
from schemas.rates import Rate

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
        "policies": len(book.policies),
    }
    if as_json:
        click.echo(orjson.dumps({"book": str(home.book), "digest": book.digest, **counts}, option=orjson.OPT_INDENT_2))
    else:
        click.echo(f"{home.book} is valid: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + f"; digest {book.digest}")


def _row(rate: Rate) -> tuple[Any, ...]:
    until = None if rate.effective_to is None else write_instant(rate.effective_to)
    return (
        rate.book,
        rate.channel,
        rate.model,
        rate.meter,
        f"{rate.price:f}",
        f"{rate.per:f}",
        rate.currency,
        write_instant(rate.effective_from),
        until,
        rate.named_conditions,
        rate.rate_id,
        rate.source,
    )


@click.command()
@click.option("--channel", help="Only rows that apply to this channel.")
@click.option("--model", help="Only rows that apply to this upstream model.")
@click.option("--at", metavar="INSTANT", help="In force at this instant (2026-10-01T00:00:00Z); else now.")
@click.option("--history", is_flag=True, help="Every row, past and future ones included.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects; prices are texts.")
@click.pass_obj
def show(home: Home, channel: str | None, model: str | None, at: str | None, history: bool, as_json: bool) -> None:
    """Show the prices in force, as book/rates.csv has them; where several rows apply, the most specific one wins."""
    instant = time.time_ns() // 1000 if at is None else parse_instant(at)
    rows = [
        _row(rate)
        for rate in load_book(home.book).rates
        if (history or rate.in_force(instant)) and _matches(channel, rate.channel) and _matches(model, rate.model)
    ]
    if as_json:
        click.echo(orjson.dumps([dict(zip(COLUMNS, map(jsonable, row), strict=True)) for row in rows], option=orjson.OPT_INDENT_2))
    else:
        click.echo(render(COLUMNS, rows, unknown="") if rows else "no rate row applies")


def _matches(asked: str | None, named: str) -> bool:
    return asked is None or named in (asked, "*")
