"""The `tokenledger` command: a thin roof that names every subcommand, loads the one that was asked for, and turns errors into exit codes."""

from __future__ import annotations

import copy
import importlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import orjson

from schemas.errors import LedgerError
from schemas.home import Home


@dataclass(frozen=True, slots=True)
class Entry:
    """One subcommand: where its click command lives, or the entries below it."""

    summary: str
    target: str = ""  # module:attribute
    below: Mapping[str, Entry] = field(default_factory=dict)


# Modules are loaded by name when their command runs, so that `receipt` does not wait for mitmproxy to be imported.
COMMANDS: Mapping[str, Entry] = {
    "proxy": Entry("Run both doors and record what passes.", "proxy.commands.serve:proxy"),
    "env": Entry("Shell lines that put an environment behind the forward door.", "proxy.commands.env:env"),
    "ledger": Entry("Build and publish the ledger from what was recorded.", "tokenledger:ledger"),
    "receipt": Entry("The whole story of one request.", "etl.commands.receipt:receipt"),
    "run": Entry("The receipt of a whole agent run.", "etl.commands.receipt:run"),
    "sql": Entry("Ad hoc SQL on the published ledger, read-only.", "etl.commands.sql:sql"),
    "export": Entry("Write a month to a file: csv, parquet.", "etl.commands.export:export"),
    "wallet": Entry(
        "Top-ups, adjustments, refunds, expiries, snapshots and balances.",
        below={
            "topup": Entry("Record credit that was bought or given.", "proxy.commands.wallet:topup"),
            "adjust": Entry("Record a correction of a balance.", "proxy.commands.wallet:adjust"),
            "refund": Entry("Record money that came back.", "proxy.commands.wallet:refund"),
            "expire": Entry("Record credit that lapsed.", "proxy.commands.wallet:expire"),
            "snapshot": Entry("Record the balance that the vendor shows.", "proxy.commands.wallet:snapshot"),
            "list": Entry("Balances by wallet and bucket.", "etl.commands.wallets:list_wallets"),
        },
    ),
    "key": Entry(
        "The key registry, book/keys.toml.",
        below={
            "add": Entry("Register a key; its secret comes on stdin.", "proxy.commands.key:add"),
            "rotate": Entry("Give a key a new secret from now on.", "proxy.commands.key:rotate"),
            "revoke": Entry("End a key now.", "proxy.commands.key:revoke"),
            "list": Entry("Registered keys and whom they belong to.", "etl.commands.keys:list_keys"),
        },
    ),
    "rates": Entry(
        "The rate table, book/rates.csv.",
        below={
            "check": Entry("Validate the whole book.", "etl.commands.rates:check"),
            "show": Entry("Prices in force.", "etl.commands.rates:show"),
        },
    ),
}


def _set_home(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None or context.obj is None:
        context.obj = Home.find(value)


def _home_option() -> click.Option:
    return click.Option(
        ["--home"],
        metavar="DIR",
        is_eager=True,
        expose_value=False,
        callback=_set_home,
        help="Home folder; else TOKENLEDGER_HOME, else ./data.",
    )


class Roof(click.Group):
    """A group whose commands are named in a table and imported when they run."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.summary, params=[_home_option()], context_settings={"help_option_names": ["-h", "--help"]})
        self.entries = entry.below

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded, with `--home` among its options."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        if entry.below:
            return Roof(cmd_name, entry)
        module, _, attribute = entry.target.partition(":")
        command: click.Command = copy.copy(getattr(importlib.import_module(module), attribute))
        command.name = cmd_name
        command.params = [*command.params, _home_option()]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table's own summaries: listing the commands loads none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])


cli = Roof("tokenledger", Entry("A sidecar that records LLM traffic, and the ledger made from it.", below=COMMANDS))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 done, 1 a check failed, 2 bad usage or configuration. Words about errors go to stderr."""
    try:
        return cli.main(arguments, prog_name="tokenledger", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _fail("interrupted", "", 1)
    except LedgerError as error:
        return _fail(error.what, error.cure, error.exit_code)
    except BrokenPipeError:  # the reader of our stdout has left; what it did not read is not lost, only not shown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", "check the path, its owner and its mode", 2)


GET_TRAFFIC = """Nothing has been recorded yet in {home}.

To get traffic:
  1. open both doors:            {command} proxy
  2. point a client at one:      export OPENAI_BASE_URL=http://127.0.0.1:8780/v1
     or a whole environment:     eval "$({command} env)"
  3. after a call or two:        {command} ledger

To see it all work on made-up traffic first: make demo"""


@click.command()
@click.option("--period", metavar="P", help="Only this month in the summary, as 2026-10.")
@click.option("--as-of", metavar="INSTANT", help="Stands for the clock: 2026-11-01T06:00:00Z.")
@click.option("--no-close", is_flag=True, help="Build and publish only.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON; amounts are texts.")
@click.pass_obj
def ledger(home: Home, period: str | None, as_of: str | None, no_close: bool, as_json: bool) -> int:  # noqa: ARG001  no month is closed yet, so every build only builds
    """Seal what was recorded, build the ledger from it, publish it, and say where the balances stand."""
    # Loaded here, because no other command waits for the sealer and the builder.
    from etl.build import build  # noqa: PLC0415
    from etl.published import open_ledger, require_period  # noqa: PLC0415
    from etl.summary import summarise  # noqa: PLC0415
    from proxy.seal import seal  # noqa: PLC0415
    from schemas import manifest  # noqa: PLC0415
    from schemas.book import load_book  # noqa: PLC0415
    from schemas.instants import parse_instant  # noqa: PLC0415
    from schemas.records import Instant  # noqa: PLC0415

    load_book(home.book)  # a wrong book stops everything before anything is touched
    now = Instant(time.time_ns() // 1000) if as_of is None else parse_instant(as_of)
    _say("sealing what was recorded")
    seal(home, now)
    if not manifest.read(home.manifest):
        click.echo("{}" if as_json else GET_TRAFFIC.format(home=home.root, command=_command(home)))
        return 0
    result = build(home, progress=lambda step: _say(str(step)))
    _say(f"published {result.path}: {result.requests} requests, {result.attempts} attempts, {result.seconds:.1f} s")
    with open_ledger(home) as connection:
        if period is not None:
            require_period(connection, period)
        summary = summarise(connection, period)
    click.echo(orjson.dumps(summary.as_json(), option=orjson.OPT_INDENT_2) if as_json else summary.as_text(_command(home)))
    return 0


def _command(home: Home) -> str:
    """How a person names this home on the command line: not at all where it is the default one."""
    return "tokenledger" if home.root == Path("data").absolute() else f"tokenledger --home {shlex.quote(str(home.root))}"


def _say(text: str) -> None:
    """Progress: on stderr, so that stdout holds the result and nothing else."""
    click.echo(text, err=True)


def _fail(what: str, cure: str, code: int) -> int:
    click.echo(f"error: {what}", err=True)
    if cure:
        click.echo(f"  cure: {cure}", err=True)
    return code


def main() -> None:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
