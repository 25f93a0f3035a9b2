"""The first minute: a stand-in vendor, the proxy, the openai SDK through both doors, then the ledger, one receipt, and what to type next.

Everything happens on loopback and in one folder, which is made anew each time: `python -m bench.demo --home data/demo`.
The book is the example book with its channels pointed at the stand-in vendors, so that prices and policies are the real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.certs import make_authority
from tests.clients import Ask, Door, Reply, ask_async, question
from tests.upstream import process as upstream_process

ROOT = Path(__file__).resolve().parent.parent
MARK = ".made-by-demo"
RUNNING = "running-pids"
KEPT = ("openai", "cheap-router", "team-pool")
"""The example book's channels that the demo plays; one of each route."""
# Addresses of their own: the forward door knows a channel by its host, and NO_PROXY exempts 127.0.0.1.
HOSTS = {"openai": "127.0.0.2", "cheap-router": "127.0.0.3", "team-pool": "127.0.0.4"}
CREDENTIALS = {
    "OPENAI_API_KEY": "sk-vendor-demo-official",
    "CHEAP_ROUTER_API_KEY": "sk-vendor-demo-routed",
    "FLAT_RATE_API_KEY": "sk-vendor-demo-pool",
}
ADA, BOB, STRANGER = "sk-demo-ada", "sk-demo-bob", "sk-demo-nobody-registered-this"


class DemoError(Exception):
    """Why the demo cannot go on, in one sentence."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the demo: what it shows, through which door, and what is asked."""

    shows: str
    door: str
    ask: Ask


def _chat(message: str, model: str, key: str = ADA, **more: Any) -> Ask:
    return Ask(message, model, api_key=key, **more)


def _run(step: int) -> Ask:
    headers = {"x-ledger-run": "demo-run-1", "x-ledger-tag-step": str(step)}
    return _chat(f"Step {step} of a small agent run", "gpt-6-luna", BOB, headers=headers)


OPENAI, ROUTED_FIRST, POOL_FIRST = "gpt-6.1-sol", "gpt-4o-mini", "gpt-6-luna"

STEPS = (
    Step("a chat on the routed channel", "gateway", _chat("Name three rivers of Europe", ROUTED_FIRST)),
    Step("a chat on the official channel", "gateway", _chat("Explain double entry in one line", OPENAI)),
    Step("a chat on the pool", "gateway", _chat("Good morning", POOL_FIRST, BOB)),
    Step("a stream with usage", "gateway", _chat("Tell me a short story", ROUTED_FIRST, stream=True, include_usage=True)),
    Step("a stream that did not ask for usage", "gateway", _chat("Tell me another one", OPENAI, stream=True)),
    Step("a stream on the pool", "gateway", _chat("And a last one", POOL_FIRST, BOB, stream=True, include_usage=True)),
    Step("embeddings", "gateway", Ask("the quick brown fox jumps", "text-embedding-3-small", "embeddings", api_key=BOB)),
    Step("the list of models", "gateway", Ask(endpoint="models", api_key=ADA)),
    Step("an agent run, step 1", "gateway", _run(1)),
    Step("an agent run, step 2", "gateway", _run(2)),
    Step("an agent run, step 3", "gateway", _run(3)),
    Step("a 429: tried again on the same channel", "gateway", _chat("Busy? [[stub: status=429 times=1 retry-after-ms=40]]", OPENAI)),
    Step("a fallback: the routed channel is down", "gateway", _chat("Still there? [[stub: only=cheap-router status=503]]", ROUTED_FIRST)),
    Step("a pool that is used up, then the vendor", "gateway", _chat("More please [[stub: only=team-pool status=429]]", POOL_FIRST, BOB)),
    Step("a request the vendor refuses", "gateway", _chat("Bad request [[stub: status=400]]", OPENAI, BOB)),
    Step("a stream that breaks half way", "gateway", _chat("Long answer [[stub: drop=4]]", OPENAI, stream=True)),
    Step("a client that leaves early", "gateway", _chat("Never mind [[stub: delay-each=20]]", ROUTED_FIRST, stream=True, leave_after=3)),
    Step("a key that nobody registered", "gateway", _chat("Who am I?", ROUTED_FIRST, STRANGER)),
    Step("a chat", "forward", _chat("Name three rivers of Asia", OPENAI)),
    Step("another user's chat", "forward", _chat("A haiku about ledgers", OPENAI, BOB)),
    Step("a stream with usage", "forward", _chat("Count to eight", OPENAI, stream=True, include_usage=True)),
    Step("a stream without usage: recounted", "forward", _chat("Count again", OPENAI, stream=True)),
    Step("embeddings", "forward", Ask("over the lazy dog", "text-embedding-3-small", "embeddings", api_key=ADA)),
    Step("a 429: the SDK tries again", "forward", _chat("Busy here too? [[stub: status=429 times=2 retry-after-ms=40]]", OPENAI)),
    Step("a vendor that fails", "forward", _chat("Hello? [[stub: status=500]]", OPENAI, max_retries=0)),
    Step("a content filter", "forward", _chat("Something rude [[stub: finish=content_filter tokens=0]]", OPENAI, BOB)),
    Step("a cached prompt", "forward", _chat("Long context [[stub: prompt=4000 cached=3000 tokens=200]]", OPENAI)),
    Step("a key that nobody registered", "forward", _chat("Who am I now?", OPENAI, STRANGER)),
)


def main() -> None:
    """Read the option, run the demo, and end with 0, or with 2 and one line that says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("data/demo"))
    home: Path = parser.parse_args().home
    try:
        demo(home)
    except DemoError as fault:
        sys.exit(_complain(str(fault)))


def demo(home: Path) -> None:
    """The whole demo in the folder `home`, which is emptied first."""
    begun = time.monotonic()
    clean(home)
    with ExitStack() as stack:
        _say("starting three stand-in vendors: official over HTTPS with a private CA, a router, a pool")
        authority = make_authority(home / "ca")
        leaf = authority.issue(HOSTS["openai"])
        urls = {
            name: stack.enter_context(upstream_process(name, HOSTS[name], leaf if name == "openai" else None)).base_url for name in KEPT
        }
        write_book(ROOT / "data" / "book", home / "book", urls)
        _say(f"book written to {home / 'book'}; registering two keys, topping up two balances")
        fill(home)
        gateway, forward = stack.enter_context(proxy(home, authority.cert))
        _say(f"proxy is up: gateway {gateway}, forward {forward}")
        replies = asyncio.run(through_gateway(f"{gateway}/v1")) + through_forward(home, forward, urls["openai"])
        _say("stopping the proxy")
    chosen = next(reply for step, reply in replies if step.shows.startswith("a fallback")).request_id
    if chosen is None:
        raise DemoError("the gateway door did not say x-ledger-request-id; see the lines above")
    _say("building the ledger")
    summary = tokenledger(home, "ledger", "--no-close")
    receipt = tokenledger(home, "receipt", chosen)
    _tell(home, summary, chosen, receipt, time.monotonic() - begun)


# --- the folder ----------------------------------------------------------------------------------------------------------------------


def clean(home: Path) -> None:
    """Stop what an interrupted demo left running, and empty the folder; a folder that the demo did not make is refused."""
    if home.exists() and any(home.iterdir()) and not (home / MARK).exists():
        raise DemoError(f"{home} was not made by the demo, so it is left alone; name another folder with --home")
    left = home / RUNNING
    for line in left.read_text().split() if left.exists() else []:
        _stop_stale(int(line), str(home))
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / MARK).touch()


def _stop_stale(pid: int, home: str) -> None:
    """End a process of an earlier demo, if the number still belongs to one."""
    command = Path("/proc", str(pid), "cmdline")
    words = command.read_bytes().split(b"\0") if command.exists() else []
    if b"tokenledger" in words and home.encode() in words:
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if not command.exists():
                return
            time.sleep(0.05)


def write_book(source: Path, target: Path, urls: Mapping[str, str]) -> None:
    """The example book with only the channels of the demo, at the addresses of the stand-in vendors."""
    target.mkdir(parents=True)
    for name in ("book.toml", "keys.toml"):
        shutil.copy(source / name, target / name)
    channels = tomllib.loads((source / "channels.toml").read_text())["channel"]
    kept = [channel | {"base_url": urls[channel["name"]]} for channel in channels if channel["name"] in urls]
    (target / "channels.toml").write_text("# The example book's channels, at the demo's stand-in vendors.\n" + "".join(map(_channel, kept)))
    models = tomllib.loads((source / "models.toml").read_text())["model"]
    (target / "models.toml").write_text("".join(_model(model, urls) for model in models))
    for name in ("rates.csv", "failed_requests.csv"):
        rows = list(csv.DictReader(io.StringIO((source / name).read_text())))
        with (target / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if row["channel"] in {"*", *urls})


def _channel(channel: Mapping[str, Any]) -> str:
    return "\n[[channel]]\n" + _assignments(channel)


def _model(model: Mapping[str, Any], urls: Mapping[str, str]) -> str:
    ways = [way for way in model["channel"] if way["name"] in urls]
    if not ways:
        return ""
    head = "[[model]]\n" + _assignments({name: value for name, value in model.items() if name != "channel"})
    return head + "".join("[[model.channel]]\n" + _assignments(way) for way in ways) + "\n"


def _assignments(table: Mapping[str, Any]) -> str:
    """Strings, numbers, truths and lists of them are written alike in TOML and in JSON."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())


# --- the programs --------------------------------------------------------------------------------------------------------------------


def tokenledger(home: Path, *arguments: str, stdin: str = "") -> str:
    """What one `tokenledger` command prints as its result; its progress and its errors go to our stderr."""
    command = [sys.executable, "-m", "tokenledger", "--home", str(home), *arguments]
    done = subprocess.run(command, input=stdin, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DemoError(f"tokenledger {shlex.join(arguments)} ended with {done.returncode}; its own words are above")
    return done.stdout


def fill(home: Path) -> None:
    """Two registered keys of one team, and money in the wallet they share."""
    people = {"ada": (ADA, "search"), "bob": (BOB, "support")}
    for user, (key, project) in people.items():
        about = ("--id", f"k-{user}", "--label", f"{user.title()}'s key", "--user", user, "--project", project, "--wallet", "team")
        tokenledger(home, "key", "add", *about, stdin=key)
    why = ("--by", "ada", "--reason", "demo opening balance")
    official = ("--wallet", "team", "--bucket", "official_credit", "--amount", "50", "--paid", "50", "--reference", "invoice-1")
    routed = (
        "--wallet",
        "team",
        "--bucket",
        "routed_balance",
        "--amount",
        "22",
        "--paid",
        "20",
        "--bonus",
        "2",
        "--reference",
        "invoice-2",
    )
    tokenledger(home, "wallet", "topup", *official, *why)
    tokenledger(home, "wallet", "topup", *routed, *why)


@contextmanager
def proxy(home: Path, upstream_ca: Path) -> Iterator[tuple[str, str]]:
    """`tokenledger proxy` on free ports: the addresses of the gateway and the forward door. It is asked to drain at the end."""
    command = [sys.executable, "-m", "tokenledger", "--home", str(home), "proxy", "--upstream-ca", str(upstream_ca)]
    command += ["--gateway-port", "0", "--forward-port", "0", "--admin-port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **CREDENTIALS}) as child:
        (home / RUNNING).write_text(f"{child.pid}\n")
        assert child.stdout is not None
        try:
            words = child.stdout.readline().split()
            if words[:1] != ["ready"]:
                raise DemoError("the proxy did not start; its own words are above")
            doors = dict(word.split("=", 1) for word in words[1:])
            yield doors["gateway"], doors["forward"]
        finally:
            child.terminate()
            code = child.wait(60)
            (home / RUNNING).unlink()
        if code:
            raise DemoError(f"the proxy ended with {code}; its own words are above")


# --- the calls -----------------------------------------------------------------------------------------------------------------------


async def through_gateway(base_url: str) -> list[tuple[Step, Reply]]:
    """The gateway door's calls one after the other."""
    door, replies = Door(base_url), []
    for number, step in _numbered("gateway"):
        begun = time.monotonic()
        reply = await ask_async(door, step.ask)
        _progress(number, step, reply, time.monotonic() - begun)
        replies.append((step, reply))
    return replies


def through_forward(home: Path, forward: str, base_url: str) -> list[tuple[Step, Reply]]:
    """The forward door's calls: the SDK in a shell whose environment is what `tokenledger env` prints."""
    environment = shlex.join(
        [sys.executable, "-m", "tokenledger", "--home", str(home), "env", "--forward-port", forward.rpartition(":")[2]]
    )
    line = f'eval "$({environment})" && exec {shlex.quote(sys.executable)} -m tests.clients'
    replies = []
    own = Door(base_url).environment()
    with subprocess.Popen(["bash", "-c", line], cwd=ROOT, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for number, step in _numbered("forward"):
            begun = time.monotonic()
            child.stdin.write(question(base_url, step.ask))
            child.stdin.flush()
            answer = child.stdout.readline()
            if not answer:
                raise DemoError("the SDK behind the forward door ended early; its own words are above")
            replies.append((step, Reply(**json.loads(answer))))
            _progress(number, step, replies[-1][1], time.monotonic() - begun)
        child.stdin.close()
    return replies


def _numbered(door: str) -> list[tuple[int, Step]]:
    return [(number, step) for number, step in enumerate(STEPS, 1) if step.door == door]


# --- what the person sees ------------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


def _progress(number: int, step: Step, reply: Reply, seconds: float) -> None:
    got = reply.error or reply.text or f"{reply.chunks} object"
    status = reply.status or "---"
    print(
        f"  {number:2d}/{len(STEPS)}  {step.door:7}  {step.shows:42}  {status}  {seconds * 1000:5.0f} ms  {got.splitlines()[0][:56]}",
        file=sys.stderr,
        flush=True,
    )


def _complain(text: str) -> int:
    print(f"demo: {text}", file=sys.stderr)
    return 2


def _tell(home: Path, summary: str, chosen: str, receipt: str, seconds: float) -> None:
    """The result, on stdout: balances, one receipt, where the files lie, and what to type next."""
    ours = f".venv/bin/tokenledger --home {home}"
    balances = summary.partition("\nNext\n")[0]  # its own next commands are for the ordinary home; ours come last and name this one
    print(f"\n{balances.rstrip()}\n")
    print(f"One receipt: the request whose first channel was down\n\n{receipt.rstrip()}\n")
    print("Where the files lie")
    for name, what in FILES.items():
        print(f"  {home / name!s:36}  {what}")
    print("\nWhat to type next")
    for words in NEXT:
        print(f"  {words.format(ours=ours, chosen=chosen)}")
    print(f"\ndone in {seconds:.0f} s")


FILES = {
    "book": "channels, models, keys, prices and policies: people write these",
    "raw": "what the proxy recorded, sealed into Parquet",
    "spool": "the proxy's journal, not yet sealed",
    "ledger/ledger.duckdb": "the published ledger",
}
NEXT = (
    "{ours} receipt {chosen} --format json",
    '{ours} sql "select outcome, count(*), sum(final_charge) from ledger group by all order by all"',
    '{ours} sql "select * from wallet_statement order by posted_at"',
    "{ours} run demo-run-1",
    "{ours} wallet list",
    "make proxy                      # the same for your own traffic; the README says how to point a team at it",
)


if __name__ == "__main__":
    main()
