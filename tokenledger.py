"""The `tokenledger` command: a thin roof that names every subcommand, loads the one that was asked for, and turns errors into exit codes."""

from __future__ import annotations

import copy
import importlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click
import orjson

from schemas.counts import counted
from schemas.errors import LedgerError, UsageError
from schemas.home import Home

if TYPE_CHECKING:
    from datetime import date, datetime

    from etl.kernel import Run  # the builder is loaded by `ledger` alone
    from schemas.rawstore import RawStore


@dataclass(frozen=True, slots=True)
class Entry:
    """One subcommand: where its click command lives, or the entries below it."""

    summary: str
    target: str = ""  # module:attribute
    judge: str = ""  # module:attribute that the command asks, with home and event, before it records what names something recorded
    below: Mapping[str, Entry] = field(default_factory=dict)


_JUDGE = "etl.entry:judge"
_JUDGE_SUBJECT = "etl.entry:judge_subject"

# Modules are loaded by name when their command runs, so that `receipt` does not wait for mitmproxy to be imported.
COMMANDS: Mapping[str, Entry] = {
    "proxy": Entry("Run both doors and record what passes.", "proxy.commands.serve:proxy"),
    "env": Entry("Shell lines that put an environment behind the forward door.", "proxy.commands.env:env"),
    "ledger": Entry("The monthly close: build, check, publish, close.", "tokenledger:ledger"),
    "receipt": Entry("The whole story of one request.", "etl.commands.receipt:receipt"),
    "run": Entry("The receipt of a whole agent run.", "etl.commands.receipt:run"),
    "statement": Entry("A month for people: HTML or PDF.", "etl.commands.statement:statement"),
    "sql": Entry("Ad hoc SQL on the published ledger, read-only.", "etl.commands.sql:sql"),
    "audit": Entry("Can the reported usage be true: recount, hard rules, substitution, drift.", "etl.commands.audit:audit"),
    "whatif": Entry("A month under other prices, in a separate book.", "etl.commands.whatif:whatif"),
    "reconcile": Entry("Match a vendor's bill with the ledger.", "etl.commands.reconcile:reconcile"),
    "export": Entry("Write a month to a file: csv, parquet, jsonl, xlsx, focus, beancount, hledger, otlp.", "etl.commands.export:export"),
    "wallet": Entry(
        "Top-ups, adjustments, refunds, expiries, snapshots and balances.",
        below={
            "topup": Entry("Record credit that was bought or given.", "proxy.commands.wallet:topup"),
            "adjust": Entry("Record a correction of a balance.", "proxy.commands.wallet:adjust", _JUDGE),
            "refund": Entry("Record money that came back.", "proxy.commands.wallet:refund", _JUDGE),
            "expire": Entry("Record credit that lapsed.", "proxy.commands.wallet:expire"),
            "transfer": Entry("Record that an amount moved to another balance.", "proxy.commands.wallet:transfer"),
            "hold": Entry("Reserve an amount until an instant.", "proxy.commands.wallet:hold", _JUDGE),
            "release": Entry("End a hold before its instant.", "proxy.commands.wallet:release", _JUDGE),
            "reverse": Entry("Negate a whole transaction.", "proxy.commands.wallet:reverse", _JUDGE),
            "snapshot": Entry("Record the balance that the vendor shows.", "proxy.commands.wallet:snapshot"),
            "list": Entry("Balances by wallet and bucket.", "etl.commands.wallets:list_wallets"),
        },
    ),
    "acknowledge": Entry(
        "Accept by name a loss that keeps a month from closing.", "proxy.commands.acknowledge:acknowledge", _JUDGE_SUBJECT
    ),
    "erase": Entry("Remove messages kept: of closed months, of a request, of a subject.", "tokenledger:erase"),
    "web": Entry("The pages over the published ledger.", "web.commands.serve:web"),
    "verify": Entry("Recompute every hash and every law.", "etl.commands.verify:verify"),
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
            "import": Entry("Propose rows from a published price catalogue.", "etl.commands.catalogues:propose"),
            "diff": Entry("What proposed rows would change in the book.", "etl.commands.catalogues:diff"),
        },
    ),
}


def _loaded(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _set_home(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None or context.obj is None:
        context.find_root().obj = context.obj = Home.find(value)  # at the root too, where an error's cure names it


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
        command: click.Command = copy.copy(_loaded(entry.target))
        if entry.judge:
            ctx.meta["tokenledger.judge"] = _loaded(entry.judge)
        command.name = cmd_name
        command.params = [*command.params, _home_option()]
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; what cures an error is told with the home that was meant."""
        try:
            return super().invoke(ctx)
        except LedgerError as error:
            if ctx.parent is None:
                error.cure = ctx.obj.typed(error.cure)
            raise

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
@click.option("--period", metavar="P", help="Close only this month, as 2026-10, as soon as it is over; else all that may close.")
@click.option("--as-of", metavar="INSTANT", help="Stands for the clock: 2026-11-01T06:00:00Z.")
@click.option("--no-close", is_flag=True, help="Build and publish only.")
@click.option("--reopen", metavar="P", help="Open this closed month and every later one again; needs --by and --reason. Closes nothing.")
@click.option("--by", metavar="WHO", help="Who reopens, and who changed the book since the last time.")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option("--engine", type=click.Choice(["duckdb", "spark"]), default="duckdb", show_default=True, help="What runs the models.")
@click.option("--master", metavar="URL", help="The Spark master, as spark://HOST:7077 or local[2]; goes with --engine spark.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON; amounts are texts.")
@click.pass_obj
def ledger(  # noqa: PLR0913, PLR0917  a command takes one argument for each of its options, by name
    home: Home,
    /,
    period: str | None,
    as_of: str | None,
    no_close: bool,
    reopen: str | None,
    by: str | None,
    reason: str | None,
    engine: str,
    master: str | None,
    as_json: bool,
) -> int:
    """Seal what was recorded, build the ledger, publish it, close each month that is over, and say where the balances stand.

    A month that may not close yet is refused: exit code 1, each reason on stderr with the command that cures it.
    """
    # Loaded here, because no other command waits for the sealer and the builder.
    from etl import close as closing  # noqa: PLC0415
    from etl.erasure import erased  # noqa: PLC0415
    from etl.following import follow  # noqa: PLC0415
    from etl.published import open_ledger, require_month, require_period  # noqa: PLC0415
    from etl.summary import summarise  # noqa: PLC0415
    from proxy.emptying import empty  # noqa: PLC0415
    from proxy.seal import seal  # noqa: PLC0415
    from schemas import manifest  # noqa: PLC0415
    from schemas.book import load_book  # noqa: PLC0415
    from schemas.instants import parse_option  # noqa: PLC0415
    from schemas.rawstore import RawStore  # noqa: PLC0415
    from schemas.records import Instant  # noqa: PLC0415

    if any(said is not None and not said.strip() for said in (by, reason)) or (reopen is not None and None in (by, reason)):
        raise click.UsageError("--reopen PERIOD needs --by WHO and --reason TEXT, and each says something")
    if (engine == "spark") != (master is not None):
        raise click.UsageError("--engine spark and --master URL go together")
    for month in filter(None, (period, reopen)):
        require_month(month)
    book = load_book(home.book)  # a wrong book stops everything before anything is touched
    store = RawStore(book.settings.raw.store) if book.settings.raw.store else None
    now = Instant(time.time_ns() // 1000) if as_of is None else parse_option("--as-of", as_of)
    _say("sealing what was recorded")
    seal(home, now, store)
    if not manifest.read(home.manifest) and reopen is None:
        click.echo("{}" if as_json else GET_TRAFFIC.format(home=home.root, command=home.command))
        return 0
    _note_book(home, now, by, reason)
    if reopen is None and not no_close:
        _forget_bodies(home, now, book.settings.capture.body_days, store)
    if reopen is not None:
        _note_reopening(home, now, reopen, by, reason)
        _say(f"reopened {', '.join(closing.reopen(home, reopen))}")
    seal(home, now, store)
    if store is not None:
        _say(f"{counted(follow(home, store, _tell_fetched), 'file')} fetched from {store.url}")
        empty(home, erased(home).holds)
    with _engine(home, master) as runs:
        closes = not no_close and reopen is None
        done = closing.close(home, now, period=period, closes=closes, progress=lambda step: _say(str(step)), engine=runs)
    result = done.built
    made = "" if result.made == result.requests else f" ({result.made:,} of them made now, the others stand)"
    _say(
        f"published {result.path}: {counted(result.requests, 'request')}{made}, {counted(result.attempts, 'attempt')}, {result.seconds:.1f} s"
    )
    for month in done.closed:
        _say(f"closed {month}: {home.ledger / month}")
    for month in done.verified:
        _say(f"{month} was closed before and is what was sealed")
    with open_ledger(home) as connection:
        if period is not None:
            require_period(connection, period)
        summary = summarise(connection, period)
    click.echo(orjson.dumps(summary.as_json(), option=orjson.OPT_INDENT_2) if as_json else summary.as_text(home))
    for refusal in done.refusals:
        _say(str(replace(refusal, cure=home.typed(refusal.cure))))
    return 1 if done.refusals else 0


def _tell_fetched(count: int, of: int) -> None:
    if count % 1000 == 0:
        _say(f"{count:,} of {counted(of, 'file')} fetched")


@contextmanager
def _engine(home: Home, master: str | None) -> Iterator[Run]:
    """What runs the models: DuckDB here, or a Spark cluster that sees the home folder at the same path."""
    if master is None:
        from etl import kernel  # noqa: PLC0415  see `ledger`

        yield kernel.run
        return
    try:
        from etl import spark  # noqa: PLC0415  no other command waits for it, and it is an extra
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", "make setup-spark, or pip install 'tokenledger[spark]'") from None
    with spark.session(master) as session:
        yield spark.Engine(session, home.ledger / ".spill" / "spark").run


def _note_book(home: Home, now: int, by: str | None, reason: str | None) -> None:
    """Record what changed in the book since the last build saw it, and who says to have done it, then keep it as seen."""
    from etl import bookwatch  # noqa: PLC0415  see `ledger`

    changes = bookwatch.unseen(home)
    if changes:
        _append(home, now, [(bookwatch.CHANGED, by, reason, change.facts()) for change in changes])
        bookwatch.remember(home)


def _note_reopening(home: Home, now: int, period: str, by: str | None, reason: str | None) -> None:
    """Record who reopens which months and why, before it is done."""
    from etl.close import reopening  # noqa: PLC0415  see `ledger`
    from etl.seals import REOPENED  # noqa: PLC0415  see `ledger`

    opened = reopening(home, period).items()
    _append(home, now, [(REOPENED, by, reason, {"period": month, "seal": seal}) for month, seal in opened])


@click.command()
@click.option("--before", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="All of closed months from days before this one (UTC).")
@click.option(
    "--request", "requests", multiple=True, metavar="ID", help="Those of this request, by any id that `receipt` takes; repeatable."
)
@click.option("--subject", "subjects", multiple=True, metavar="S", help="Those of user:NAME, key:FINGERPRINT or unknown; repeatable.")
@click.option("--by", required=True, metavar="WHO", help="Who erases.")
@click.option("--reason", required=True, metavar="TEXT", help="Why.")
@click.option("--json", "as_json", is_flag=True, help="How many files, or messages, as JSON.")
@click.pass_obj
def erase(
    home: Home, before: datetime | None, requests: tuple[str, ...], subjects: tuple[str, ...], by: str, reason: str, as_json: bool
) -> None:
    """Remove messages kept, for good, and the key of a subject; what was charged and its proof stay.

    --before leaves those of an open month, whose tokens may still be counted from them; --request and --subject erase
    there too, and keep what was counted.
    """
    from schemas.book import load_book  # noqa: PLC0415  see `ledger`
    from schemas.rawstore import RawStore  # noqa: PLC0415  see `ledger`

    if not (by.strip() and reason.strip()):
        raise click.UsageError("--by WHO and --reason TEXT say something")
    if (before is not None) == bool(requests or subjects):
        raise click.UsageError("name what to erase: --before DATE, or --request ID and --subject S")
    url = load_book(home.book).settings.raw.store
    now, store, who = time.time_ns() // 1000, RawStore(url) if url else None, (by.strip(), reason.strip())
    if before is not None:
        what, count = "file", _erase(home, now, before.date(), who, store)
    else:
        what, count = "message", _erase_messages(home, now, (requests, subjects), who, store)
    click.echo(orjson.dumps({f"{what}s_erased": count}, option=orjson.OPT_INDENT_2) if as_json else f"{counted(count, what)} erased")


def _erase_messages(home: Home, now: int, asked: tuple[Sequence[str], Sequence[str]], who: tuple[str, str], store: RawStore | None) -> int:
    """Record what is erased, by whom and why, then do it; how many messages."""
    from etl import erase as erasing  # noqa: PLC0415  see `ledger`
    from etl.build import lock  # noqa: PLC0415  see `ledger`
    from etl.erasure import ERASED, erased  # noqa: PLC0415  see `ledger`
    from etl.following import follow  # noqa: PLC0415  see `ledger`
    from proxy.emptying import empty  # noqa: PLC0415  see `ledger`
    from proxy.seal import seal  # noqa: PLC0415  see `ledger`
    from schemas.records import Instant  # noqa: PLC0415  see `ledger`

    seal(home, Instant(now), store)
    if store is not None:
        follow(home, store, _tell_fetched)
    with lock(home):
        found = erasing.find(home, *asked)
        facts, messages = erasing.prepare(home, found)
        if facts["files"] or facts["keys"]:
            # at this instant, for what came since the command began was sealed and is erased too
            _append(home, time.time_ns() // 1000, [(ERASED, *who, facts)])
            seal(home, Instant(now), store)  # other homes hear of it before what they could fetch is another
        erasing.carry_out(home, facts, store)
        empty(home, erased(home).holds)
    return messages


def _forget_bodies(home: Home, now: int, days: int, store: RawStore | None) -> None:
    """Erase the bodies of closed months that are older than the book keeps them."""
    from datetime import timedelta  # noqa: PLC0415  see `ledger`

    from schemas.instants import to_datetime  # noqa: PLC0415  see `ledger`

    _erase(home, now, to_datetime(now).date() - timedelta(days=days), ("tokenledger ledger", f"[capture] body_days = {days}"), store)


def _erase(home: Home, now: int, before: date, who: tuple[str, str], store: RawStore | None) -> int:
    """Record who erases which files and why, then do it; how many."""
    from etl import erasure  # noqa: PLC0415  see `ledger`
    from etl.build import lock  # noqa: PLC0415  see `ledger`
    from proxy.emptying import empty  # noqa: PLC0415  see `ledger`
    from proxy.seal import seal  # noqa: PLC0415  see `ledger`
    from schemas.records import Instant  # noqa: PLC0415  see `ledger`

    with lock(home):
        files = erasure.erasable(home, before, elsewhere=store is not None)
        if not files:
            return 0
        _append(home, now, [(erasure.ERASED, *who, facts) for facts in erasure.facts_of(files)])
        if store is not None:
            seal(home, Instant(now), store)  # see _erase_messages
            store.remove([file.path for file in files])
        erasure.erase(home, files)
        empty(home, erasure.erased(home).holds)
    _say(f"erased {counted(len(files), 'file')} of bodies from before {before}")
    return len(files)


def _append(home: Home, now: int, entries: Sequence[tuple[str, str | None, str | None, Mapping[str, Any]]]) -> None:
    import uuid_utils  # noqa: PLC0415  see `ledger`

    from proxy.journal import ADMIN_SLOT, append_once  # noqa: PLC0415  see `ledger`
    from schemas.records import Event, Instant, JsonText  # noqa: PLC0415  see `ledger`

    events = [
        Event(
            event_id=str(uuid_utils.uuid7()),
            at=Instant(now),
            event=event,
            actor=actor,
            reason=reason,
            facts=JsonText(orjson.dumps(facts).decode()),
        )
        for event, actor, reason, facts in entries
    ]
    append_once(home, ADMIN_SLOT, events)


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
    os.umask(0o077)  # money, names and messages: what any command writes is its owner's alone
    sys.exit(run())


if __name__ == "__main__":
    main()
