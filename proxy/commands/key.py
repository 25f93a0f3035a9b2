"""`tokenledger key add`: register a credential by its fingerprint; the credential itself is read from stdin and kept nowhere."""

from __future__ import annotations

import getpass
import sys

import click
import orjson
from schemas.keybook import NewKey, append_key

from schemas.errors import UsageError
from schemas.fingerprint import fingerprint, home_key
from schemas.home import Home


class SecretError(UsageError):
    """What came on stdin is no credential."""


def read_secret() -> str:
    """The credential on stdin, `Bearer ` and the line's end removed; asked for without echo at a terminal. Raises SecretError."""
    text = getpass.getpass("API key (not shown): ", stream=sys.stderr) if sys.stdin.isatty() else sys.stdin.read()
    secret = text.strip().removeprefix("Bearer ").strip()
    if not secret:
        raise SecretError("no credential came on stdin", 'pipe it in: printf %s "$OPENAI_API_KEY" | tokenledger key add ...')
    if len(secret.split()) > 1:
        raise SecretError("stdin holds more than one word", "pipe in one credential and nothing else")
    return secret


@click.command()
@click.option("--id", "key_id", required=True, help="Stable id; rotation keeps it.")
@click.option("--label", required=True, help="What people call it.")
@click.option("--user", required=True, help="Whose traffic it carries.")
@click.option("--project", required=True, help="Which project pays.")
@click.option("--wallet", required=True, help="From which wallet.")
@click.option("--json", "as_json", is_flag=True, help="Id and fingerprint as JSON.")
@click.pass_obj
def add(home: Home, key_id: str, label: str, user: str, project: str, wallet: str, as_json: bool) -> None:
    """Register a key in book/keys.toml and print its fingerprint. The secret comes on stdin, never as an argument."""
    print_of_key = fingerprint(home_key(home), read_secret())
    append_key(home, NewKey(id=key_id, label=label, fingerprint=print_of_key, user=user, project=project, wallet=wallet))
    click.echo(orjson.dumps({"id": key_id, "fingerprint": print_of_key}) if as_json else print_of_key)
