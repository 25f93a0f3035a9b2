"""The command itself: exit codes, what goes to which stream, the home folder, and how fast a reader starts."""

from __future__ import annotations

import csv
import json
import os
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import certifi
import pyarrow.parquet as pq
import pytest

from schemas.fingerprint import fingerprint, home_key
from schemas.frames import Frame
from schemas.home import Home
from schemas.ledger import LEDGER
from schemas.money import plain
from schemas.spool import unsealed
from tests.clients import Ask, Door, ask_sync
from tests.published import publish
from tests.rawdata import call, spool
from tests.sidecar import Priced, Way, sidecar, write_book
from tests.upstream import serving
from tokenledger import COMMANDS, run

ROOT = Path(__file__).parent.parent
SECRET = "sk-test-0123456789abcdef"  # no key of anybody


def tokenledger(home: Home, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokenledger", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "TOKENLEDGER_HOME": str(home.root), **environment},
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with the example book, without its keys."""
    home = Home(tmp_path / "home")
    home.book.mkdir(parents=True)
    for path in (ROOT / "data" / "book").iterdir():
        if path.is_file() and path.name != "keys.toml":
            (home.book / path.name).write_bytes(path.read_bytes())
    return home


def events(home: Home) -> list[dict[str, object]]:
    return [found.fields for _, found, _ in unsealed(home, {}) if isinstance(found, Frame) and found.kind == "event"]


TOPUP = ("wallet", "topup", "--wallet", "team", "--bucket", "official_credit", "--by", "ann", "--reference", "inv-1", "--reason", "October")


def test_a_finding_is_accepted_by_name_and_with_a_reason(home: Home) -> None:
    """What is accepted, by whom and why stands in the journal; an empty word is refused and nothing is recorded."""
    for words, option in ((("", "ann", "late"), "SUBJECT"), (("r2/1", " ", "late"), "--by"), (("r2/1", "ann", ""), "--reason")):
        refused = tokenledger(home, "acknowledge", words[0], "--by", words[1], "--reason", words[2])
        assert (refused.returncode, f"{option} is empty" in refused.stderr, "cure:" in refused.stderr) == (2, True, True)
    assert events(home) == []
    told = json.loads(tokenledger(home, "acknowledge", "r2/1", "--by", " ann ", "--reason", "given up", "--json").stdout)
    (found,) = events(home)
    assert (found["event_id"], found["event"], found["actor"], found["reason"]) == (told["event_id"], "acknowledged", "ann", "given up")
    assert told["subject"] == "r2/1"


def test_every_command_takes_home_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command that is listed loads, explains itself on stdout with exit code 0, and takes --home."""
    for name, entry in COMMANDS.items():
        for below in entry.below or ("",):
            code = run([name, *([below] if below else []), "--help"])
            said = capsys.readouterr()
            assert (code, said.err) == (0, ""), (name, below)
            assert "--home DIR" in said.out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("receipt",),
        ("sql", "--frob"),
        ("export", "pdf", "--period", "2026-10", "--out", "x"),
        ("wallet", "topup"),
        ("sql",),
    ],
)
def test_bad_usage_is_exit_code_2(home: Home, arguments: Sequence[str]) -> None:
    """What a person typed wrong is said on stderr, and nothing goes to stdout."""
    refused = tokenledger(home, *arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("Usage: tokenledger")


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--at", ("rates", "show", "--at", "noon")),
        ("--from", ("rates", "import", "litellm", "pyproject.toml", "--channel", "openai", "--from", "noon")),
        ("--as-of", ("ledger", "--as-of", "noon")),
        ("--at", ("wallet", "snapshot", "--wallet", "w", "--bucket", "pool", "--amount", "1", "--by", "ann", "--at", "noon")),
        ("--paid", ("wallet", "topup", *"--wallet w --bucket pool --amount 1 --paid noon --by ann --reference r --reason x".split())),
    ],
    ids=lambda case: case if isinstance(case, str) else case[0],
)
def test_a_wrong_value_is_told_with_its_option(home: Home, option: str, arguments: Sequence[str]) -> None:
    """Of several instants or amounts that a command takes, the one that is wrong is named, with its cure."""
    refused = tokenledger(home, *arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {option} noon: not a") or f"error: {option} noon: 'noon' is not" in refused.stderr
    assert "  cure: write" in refused.stderr


def test_an_error_says_what_and_the_cure(home: Home) -> None:
    """A reader without a ledger fails with exit code 1, the reason and the command that cures it on stderr."""
    failed = tokenledger(home, "sql", "SELECT 1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines() == [
        f"error: no ledger has been published at {home.ledger_file}",
        f"  cure: tokenledger --home {home.root} ledger",
    ]


def test_home_is_found_in_its_order(home: Home, tmp_path: Path) -> None:
    """--home wins over TOKENLEDGER_HOME, before or after the command's name; without either it is ./data."""
    publish(home, {"periods": [{"period": "2026-10"}]})
    elsewhere = str(tmp_path / "elsewhere")
    query = ("sql", "--csv", "SELECT period FROM periods")
    assert tokenledger(home, *query).stdout == "period\n2026-10\n"
    assert tokenledger(home, *query, "--home", elsewhere).returncode == 1
    assert tokenledger(home, *query, "--home", str(home.root), TOKENLEDGER_HOME=elsewhere).returncode == 0
    assert tokenledger(home, "--home", str(home.root), *query, TOKENLEDGER_HOME=elsewhere).returncode == 0
    assert tokenledger(home, "rates", "check", TOKENLEDGER_HOME="").stdout.startswith(f"{ROOT}/data/book is valid")


def test_sql_reads_and_only_reads(home: Home, tmp_path: Path) -> None:
    """Ad hoc SQL answers as table, JSON and CSV; it can neither change the ledger nor reach a file, the network or a setting."""
    publish(home, {"ledger": [{"request_id": "a", "final_charge": "0.000001"}, {"request_id": "b"}]})
    before = home.ledger_file.read_bytes()
    query = "SELECT request_id, final_charge FROM ledger ORDER BY 1"
    assert tokenledger(home, "sql", query).stdout.splitlines() == [
        "request_id    final_charge",
        "----------  --------------",
        "a           0.000001000000",
        "b                     NULL",
        "(2 rows)",
    ]
    rows = json.loads(tokenledger(home, "sql", "--json", stdin=query).stdout)
    assert rows == [{"request_id": "a", "final_charge": "0.000001000000"}, {"request_id": "b", "final_charge": None}]
    assert tokenledger(home, "sql", "--csv", query).stdout == "request_id,final_charge\na,0.000001000000\nb,\n"
    for forbidden in (
        "DELETE FROM ledger",
        f"COPY ledger TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/other.duckdb'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ):
        refused = tokenledger(home, "sql", forbidden)
        assert (refused.returncode, refused.stdout) == (2, ""), forbidden
        assert refused.stderr.startswith("error: ")
    assert home.ledger_file.read_bytes() == before
    assert not list(tmp_path.glob("*.csv")) + list(tmp_path.glob("other*"))


def test_env_gives_every_kind_of_client_its_variable(home: Home, tmp_path: Path) -> None:
    """The lines, evaluated by a shell, name the door and a bundle that holds the system's roots and our authority."""
    roots = tmp_path / "roots.pem"
    roots.write_bytes(_some_root())
    shown = tokenledger(home, "env", "--forward-port", "9999", SSL_CERT_FILE=str(roots), NO_PROXY="intranet", no_proxy="")
    assert shown.returncode == 0
    said = subprocess.run(["sh", "-c", f"{shown.stdout}\nenv"], capture_output=True, text=True, check=True, env={}, timeout=10)
    values = dict(line.split("=", 1) for line in said.stdout.splitlines())
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        assert values[name] == "http://127.0.0.1:9999"
    assert values["NO_PROXY"] == values["no_proxy"] == "localhost,127.0.0.1,::1,intranet"
    assert values["NODE_USE_ENV_PROXY"] == "1"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert len(_trusted(values[name])) == 2, "the system's one root and ours"
    assert len(_trusted(values["NODE_EXTRA_CA_CERTS"])) == 1
    again = tokenledger(home, "env", "--json", SSL_CERT_FILE=values["SSL_CERT_FILE"])
    bundle = json.loads(again.stdout)["SSL_CERT_FILE"]
    assert Path(bundle).read_bytes().count(_pem(home)) == 1, "evaluated twice, our authority is still in it once"


def test_the_authority_is_for_its_owner_only(home: Home) -> None:
    """Secrets and authority folders are 0700, every key file in them 0600, and a second call makes no second authority."""
    tokenledger(home, "env")
    first = _pem(home)
    tokenledger(home, "env")
    assert _pem(home) == first
    assert stat.S_IMODE(home.secrets.stat().st_mode) == stat.S_IMODE(home.ca.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.ca.iterdir() if path.suffix != ".pem" or "ca.pem" in path.name} == {0o600}


def _pem(home: Home) -> bytes:
    return (home.ca / "mitmproxy-ca-cert.pem").read_bytes()


def _some_root() -> bytes:
    text = Path(certifi.where()).read_text()
    start = text.index("-----BEGIN")
    return text[start : text.index("-----END CERTIFICATE-----") + 26].encode()


def _trusted(path: str) -> list[object]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    return list(context.get_ca_certs())


def test_a_topup_is_one_durable_event(home: Home) -> None:
    """A top-up lands in the journal with actor, reference, reason and every amount as an exact text."""
    done = tokenledger(
        home, *TOPUP, "--amount", "25", "--paid", "20.5", "--bonus", "4.5", "--expires", "2027-01-01T01:00:00+01:00", "--json"
    )
    assert done.returncode == 0, done.stderr
    (event,) = events(home)
    assert event["event_id"] == json.loads(done.stdout)["event_id"]
    assert (event["event"], event["actor"], event["reference"], event["reason"]) == ("wallet_topup", "ann", "inv-1", "October")
    assert json.loads(str(event["facts"])) == {
        "wallet": "team",
        "bucket": "official_credit",
        "currency": "USD",
        "amount": "25.000000000000",
        "paid": "20.500000000000",
        "bonus": "4.500000000000",
        "expires": "2027-01-01T00:00:00Z",
    }


def test_an_adjustment_may_name_a_request(home: Home) -> None:
    """A negative adjustment keeps its sign and the request it corrects, recorded a second ago; both entries share one journal."""
    spool(home, call("req-1"))
    adjust = [word.replace("topup", "adjust") for word in TOPUP]
    assert tokenledger(home, *TOPUP, "--amount", "1").returncode == 0
    assert tokenledger(home, *adjust, "--amount", "-0.000000000001", "--request", "req-1").returncode == 0
    *_, event = events(home)
    assert (event["event"], event["request_id"]) == ("wallet_adjust", "req-1")
    assert json.loads(str(event["facts"]))["amount"] == "-0.000000000001"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--amount", "1e3"), "plain decimal"),
        (("--amount", "0"), "adds nothing"),
        (("--amount", "-5"), "adds nothing"),
        (("--amount", "0.0000000000001"), "12 decimals"),
        (("--amount", "5", "--bonus", "6"), "--bonus"),
        (("--amount", "5", "--expires", "2027-01-01"), "--expires"),
        (("--amount", "5", "--by", " "), "--by"),
        (("--amount", "5", "--bucket", "offical_credit"), "offical_credit"),
    ],
)
def test_an_entry_that_cannot_be_booked_is_not_recorded(home: Home, wrong: Sequence[str], named: str) -> None:
    """A wrong amount, bucket or instant is refused with exit code 2, and nothing reaches the journal."""
    refused = tokenledger(home, *TOPUP, *wrong)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert named in refused.stderr
    assert events(home) == []


def test_what_was_said_stands_in_the_cure_and_an_empty_home_has_no_month_to_open(home: Home) -> None:
    """An export without a file is told with its own month; reopening where nothing was ever recorded is no success."""
    done = tokenledger(home, "export", "csv", "--period", "2026-11")
    assert (done.returncode, done.stderr.splitlines()[1]) == (
        2,
        f"  cure: {home.command} export csv --period 2026-11 --out FILE",
    )
    done = tokenledger(home, "ledger", "--reopen", "2026-10", "--by", "ann", "--reason", "late")
    assert done.returncode == 2
    assert "2026-10 is not closed" in done.stderr


def test_a_wallet_that_no_key_pays_from_is_told(home: Home) -> None:
    """It is recorded, for the key may come later; where it is a misspelling, the one that was meant is named, and only then."""
    assert tokenledger(home, *TOPUP, "--amount", "1").stderr == ""
    key = ["key", "add", "--id", "k-1", "--label", "one", "--wallet", "team"]
    assert tokenledger(home, *key, stdin="sk-secret-1").returncode == 0
    assert tokenledger(home, *TOPUP, "--amount", "1").stderr == ""
    done = tokenledger(home, *TOPUP, "--amount", "1", "--wallet", "taem")
    assert (done.returncode, done.stderr) == (0, "note: no key pays from the wallet 'taem': did you mean 'team'?\n")
    wrong = tokenledger(home, "key", "add", "--id", "k 1", "--label", "one", "--wallet", "team", stdin="sk-secret-2")
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (2, "error: --id: not of the form asked for")


def test_a_key_is_registered_by_fingerprint_only(home: Home) -> None:
    """The secret comes on stdin; what is printed and written is its keyed fingerprint, and rotation keeps the id."""
    facts = ("--id", "k1", "--label", "search bot", "--user", "ann", "--project", "search", "--wallet", "team")
    added = tokenledger(home, "key", "add", *facts, stdin=f"Bearer {SECRET}\n")
    assert added.returncode == 0, added.stderr
    assert added.stdout.strip() == fingerprint(home_key(home), SECRET)
    assert tokenledger(home, "key", "rotate", "--id", "k1", stdin="another-secret").returncode == 0
    listed = json.loads(tokenledger(home, "key", "list", "--json").stdout)
    assert [(key["id"], key["user"]) for key in listed] == [("k1", "ann"), ("k1", "ann")]
    assert listed[0]["fingerprint"] == added.stdout.strip() != listed[1]["fingerprint"]
    for path in home.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    for stdin in ("", "  \n", "two words"):
        refused = tokenledger(home, "key", "add", "--id", "k2", *facts[2:], stdin=stdin)
        assert (refused.returncode, refused.stdout) == (2, "")
    revoked = json.loads(tokenledger(home, "key", "revoke", "--id", "k1", "--json").stdout)
    assert revoked["id"] == "k1"
    assert f"to = {revoked['to']}\n" in (home.book / "keys.toml").read_text()


def test_without_a_book_no_key_is_made_and_the_cure_works(tmp_path: Path) -> None:
    """Exit code 2 before the secret is asked for, nothing is left behind, and the cure, pasted, gives the home its book."""
    home = Home(tmp_path / "no such" / "home")
    facts = ("--id", "k1", "--label", "search bot", "--user", "ann", "--project", "search", "--wallet", "team")
    for words in (("add", *facts), ("rotate", "--id", "k1")):
        refused = tokenledger(home, "key", *words, stdin=SECRET)
        assert (refused.returncode, refused.stdout, home.root.exists()) == (2, "", False)
        assert "there is no book here" in refused.stderr
    cure = refused.stderr.partition("copy the example: ")[2].splitlines()[0]
    assert subprocess.run(["sh", "-c", cure], cwd=ROOT, check=False).returncode == 0
    assert tokenledger(home, "key", "add", *facts, stdin=SECRET).returncode == 0


def test_rates_check_names_file_line_and_cure(home: Home) -> None:
    """A wrong price is exit code 2 with its file, line, field and cure; a right book is told by its counts."""
    assert json.loads(tokenledger(home, "rates", "check", "--json").stdout)["rates"] > 0
    assert tokenledger(home, "rates", "show", "--history").returncode == 0
    rates = home.book / "rates.csv"
    lines = rates.read_text().splitlines()
    rates.write_text("\n".join([*lines, lines[1].replace(lines[1].split(",")[3], "cheap", 1)]) + "\n")
    refused = tokenledger(home, "rates", "check")
    assert refused.returncode == 2
    assert f"rates.csv:{len(lines) + 1} price 'cheap'" in refused.stderr


def test_one_request_tells_the_same_story_everywhere(tmp_path: Path) -> None:
    """From the wire to receipt before any build, summary, receipt, SQL, run, wallet, CSV and Parquet: one request, the same figures."""
    home = Home(tmp_path / "home")
    with serving() as vendor:
        write_book(
            home,
            [Way("acme", vendor.base_url)],
            prices=[Priced("acme", "gpt-4o-mini", "input", "0.15"), Priced("acme", "gpt-4o-mini", "output", "0.60")],
        )
        none_yet = tokenledger(home, "ledger")
        assert (none_yet.returncode, none_yet.stdout.splitlines()[0]) == (0, f"Nothing has been recorded yet in {home.root}.")
        with sidecar(home) as running:
            assert tokenledger(home, *TOPUP, "--amount", "10").returncode == 0
            reply = ask_sync(
                Door(running.base_url), Ask("one two three", headers={"x-ledger-run": "run-7", "x-client-request-id": "mine-1"})
            )
            assert reply.request_id is not None
            early = tokenledger(home, "receipt", "mine-1", "--json")
            assert early.returncode == 0, early.stderr
            built = tokenledger(home, "ledger", "--no-close", "--json")
            assert built.returncode == 0, built.stderr
            later = ask_sync(Door(running.base_url), Ask("one two three"))
            assert later.request_id is not None
            second = json.loads(tokenledger(home, "receipt", later.request_id, "--json").stdout)
    before = json.loads(early.stdout)
    assert (before["request_id"], before["published"]) == (reply.request_id, False)
    assert reply.usage is not None
    # 0.15 and 0.60 dollars a million: 0.00000015 an input token, 0.0000006 an output token
    charge = reply.usage["prompt_tokens"] * Decimal("0.00000015") + reply.usage["completion_tokens"] * Decimal("0.0000006")
    assert before["final_charge"] == plain(charge)
    assert second["published"] is False
    assert second["wallet_entries"][0]["balance_after"] == plain(-2 * charge), (
        "a receipt before the next build goes on from the published balance"
    )

    summary = json.loads(built.stdout)
    assert [(row["status"], row["requests"], row["charged"]) for row in summary["requests"]] == [("ok", 1, plain(charge))]
    after = json.loads(tokenledger(home, "receipt", reply.request_id, "--format", "json").stdout)
    assert after["published"] is True
    facts = {name: after[name] for name in LEDGER.column_names}
    assert facts == {name: before[name] for name in LEDGER.column_names}
    assert json.loads(tokenledger(home, "run", "run-7", "--json").stdout)["requests"] == [after]
    (row,) = json.loads(tokenledger(home, "sql", "--json", "FROM ledger").stdout)
    assert row == facts
    for form in ("csv", "parquet"):
        out = tmp_path / f"month.{form}"
        done = tokenledger(home, "export", form, "--period", facts["period"], "--out", str(out), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["control"]["USD"]["final_charge"] == plain(charge)
    with (tmp_path / "month.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line == {name: "" if value is None else str(value) for name, value in facts.items()}
    assert pq.read_table(tmp_path / "month.parquet").column("final_charge").to_pylist() == [charge]
    balances = json.loads(tokenledger(home, "wallet", "list", "--json").stdout)
    assert balances_of(balances, facts["wallet"]) == {facts["balance_bucket"]: plain(-charge)}
    assert balances_of(balances, "team") == {"official_credit": plain(Decimal(10))}

    unknown = tokenledger(home, "receipt", "no-such-id")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no recorded request has the id 'no-such-id'" in unknown.stderr
    text = tokenledger(home, "ledger").stdout
    for said in (
        "Balances",
        "Requests by status",
        "Spend by project and model",
        f"tokenledger --home {home.root} receipt {later.request_id}",
    ):
        assert said in text


def balances_of(rows: Sequence[dict[str, str]], wallet: str) -> dict[str, str]:
    return {row["bucket"]: row["balance"] for row in rows if row["wallet"] == wallet}


def test_a_wrong_book_builds_nothing_and_leaves_the_ledger(home: Home) -> None:
    """A book with a mistake is exit code 2 with its place; nothing is sealed or built, and the published ledger is as it was."""
    publish(home, {"periods": [{"period": "2026-10"}]})
    before = home.ledger_file.read_bytes()
    assert tokenledger(home, *TOPUP, "--amount", "1").returncode == 0
    (home.book / "channels.toml").write_text('[[channel]]\nname = "x"\nbase_url = "ftp://x"\n')
    refused = tokenledger(home, "ledger")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "channels.toml:3 base_url" in refused.stderr
    assert home.ledger_file.read_bytes() == before
    assert not home.raw.exists()


def test_balances_without_traffic(home: Home) -> None:
    """A top-up alone is a ledger: its balance stands there, and the summary says how to get traffic."""
    assert tokenledger(home, *TOPUP, "--amount", "12.5").returncode == 0
    text = tokenledger(home, "ledger").stdout
    assert "12.500000000000" in text
    assert "no requests yet" in text
    assert tokenledger(home, "ledger", "--period", "1999-01").returncode == 2


def test_a_reader_starts_without_the_proxy(home: Home) -> None:
    """`receipt` imports neither mitmproxy nor aiohttp, so that it answers at once; `--help` imports no command at all."""
    code = "import sys, tokenledger; tokenledger.run(sys.argv[1:]); print(sorted({m.partition('.')[0] for m in sys.modules}))"
    seen = subprocess.run(
        [sys.executable, "-c", code, "receipt", "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = seen.stdout.splitlines()[-1]
    assert "'duckdb'" in loaded
    for heavy in ("mitmproxy", "aiohttp"):
        assert f"'{heavy}'" not in loaded
    began = time.monotonic()
    assert tokenledger(home, "--help").returncode == 0
    assert time.monotonic() - began < 3
