"""`tokenledger key add|rotate|revoke`: credentials are registered by fingerprint; they are read from stdin and kept nowhere."""

from __future__ import annotations

import getpass
import sys
import time

import click
import orjson
from pydantic import ValidationError

from schemas.book import load_book
from schemas.errors import UsageError
from schemas.fingerprint import fingerprint, home_key
from schemas.home import Home
from schemas.instants import write_instant
from schemas.keybook import append_key, revoke_key, rotate_key
from schemas.registry import Key

FILE = "keys.toml"


class SecretError(UsageError):
    """What came on stdin is no credential."""


class KeyFactsError(UsageError):
    """A fact of the new key that the book does not take."""


def read_secret() -> str:
    """The credential on stdin, `Bearer ` and the line's end removed; asked for without echo at a terminal. Raises SecretError."""
    text = getpass.getpass("API key (not shown): ", stream=sys.stderr) if sys.stdin.isatty() else sys.stdin.read()
    secret = text.strip().removeprefix("Bearer ").strip()
    if not secret:
        raise SecretError("no credential came on stdin", 'pipe it in: printf %s "$OPENAI_API_KEY" | tokenledger key ...')
    if len(secret.split()) > 1:
        raise SecretError("stdin holds more than one word", "pipe in one credential and nothing else")
    return secret


def _key(**facts: str | None) -> Key:
    try:
        return Key.model_validate(facts)
    except ValidationError as error:
        wrong = "; ".join(f"--{'.'.join(map(str, one['loc']))}: {one.get('ctx', {}).get('error', one['msg'])}" for one in error.errors())
        raise KeyFactsError(wrong, "use plain words; ids and wallets are letters, digits, - and _") from None


def _say(key_id: str, print_of_key: str, as_json: bool) -> None:
    click.echo(orjson.dumps({"id": key_id, "fingerprint": print_of_key}) if as_json else print_of_key)


@click.command()
@click.option("--id", "key_id", required=True, help="Stable id; rotation keeps it.")
@click.option("--label", required=True, help="What people call it.")
@click.option("--user", help="Whose traffic it carries.")
@click.option("--project", help="What it is used for.")
@click.option("--wallet", required=True, help="Which wallet pays.")
@click.option("--json", "as_json", is_flag=True, help="Id and fingerprint as JSON.")
@click.pass_obj
def add(home: Home, /, key_id: str, as_json: bool, **facts: str | None) -> None:
    """Register a key in book/keys.toml and print its fingerprint. The secret comes on stdin, never as an argument."""
    load_book(home.book)  # where there is none, nothing is made and no secret is asked for
    print_of_key = fingerprint(home_key(home), read_secret())
    append_key(home.book / FILE, _key(id=key_id, fingerprint=print_of_key, **facts))
    _say(key_id, print_of_key, as_json)


@click.command()
@click.option("--id", "key_id", required=True, help="The key that gets a new secret.")
@click.option("--json", "as_json", is_flag=True, help="Id and new fingerprint as JSON.")
@click.pass_obj
def rotate(home: Home, key_id: str, as_json: bool) -> None:
    """Give a key a new secret from now on; it comes on stdin. The old row stays as history."""
    load_book(home.book)  # see add
    print_of_key = fingerprint(home_key(home), read_secret())
    rotate_key(home.book / FILE, key_id, print_of_key, time.time_ns() // 1000)
    _say(key_id, print_of_key, as_json)


@click.command()
@click.option("--id", "key_id", required=True, help="The key that ends.")
@click.option("--json", "as_json", is_flag=True, help="Id and the instant it ends at as JSON.")
@click.pass_obj
def revoke(home: Home, key_id: str, as_json: bool) -> None:
    """End a key now. Its row stays, and what it did stays its own."""
    now = time.time_ns() // 1000
    revoke_key(home.book / FILE, key_id, now)
    click.echo(orjson.dumps({"id": key_id, "to": write_instant(now)}) if as_json else f"revoked {key_id}")
