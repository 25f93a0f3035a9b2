"""What stands against a close, each reason in turn: the cure that is printed, typed as printed, lets the month close."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import tokenledger
from etl.close import Refusal
from schemas.home import Home
from schemas.records import Record
from tests.rawdata import (
    BOOK,
    DAY,
    HOUR,
    NOON,
    Archive,
    attempt,
    call,
    event,
    failure,
    more_rates,
    one,
    request,
    response,
    usage,
    write_book,
)

AS_OF = "2026-11-02T06:00:00Z"
WORDS = {"WHO": "ann", "TEXT": "'the vendor was asked'", "PRICE": "3", "RATE": "1.1", "SOURCE": "contract", "NOTE": ""}
REFUND = {"actor": "a", "reason": "r", "reference": "x", "wallet": "research", "bucket": "official_credit"}

# What is wrong, by the name of the request or event that shows it, and what is said of it.
WRONG: dict[str, tuple[list[Record], tuple[str, ...]]] = {
    "price": (
        call("price", model="new-model"),
        ("1 request without a price for input of new-model", "1 request without a price for output of new-model"),
    ),
    "currency": (call("currency", NOON, 1000, 0, "euro"), ("1 request: no exchange rate for EUR",)),
    "policy": (
        [request("policy"), attempt("policy"), failure("policy", http_status=None, ending="timeout", terminal=None)],
        ("suspense is not empty: policy/1, no row of failed_requests.csv covers timeout",),
    ),
    "hold": ([request("hold"), attempt("hold")], ("suspense is not empty: hold/1", "open hold hold/1")),
    "loss": ([event("loss", "loss", reason="disk full")], ("loss loss: the proxy reported traffic that it could not record",)),
    "entry": (
        [event("entry", "wallet_refund", NOON + HOUR, amount="1", request_id="well", **REFUND)],
        ("faulty_entry entry: wallet_refund is not booked: with it the refunds",),
    ),
    "usage": (
        [*call("usage")[:2], response("usage", usage=usage(10, 10, total_tokens=21))],
        ("suspense is not empty: usage/1", "quarantined_usage usage/1"),
    ),
    "request": (call("request")[1:], ("lost_request_record request",)),
    "attempt": (call("attempt")[::2], ("suspense is not empty: attempt/1, channel (lost)", "lost_attempt_record attempt/1")),
}
GAP, DAMAGED = "loss w1 ", "quarantined file raw/event/"


def prepared(home: Home) -> None:
    """All of it in one month, records that the journal counted and nobody has, and a file that is not what was sealed."""
    policies = BOOK["failed_requests.csv"].replace("timeout,0.002,2026-01", "timeout,0.002,2026-12")
    rates = more_rates("official euro input 1 currency=EUR")
    worth = "EUR,1,2020-01-01T00:00:00Z,2020-02-01T00:00:00Z,test,\n"
    write_book(home, failed_requests=policies, rates=rates, fx=worth)
    archive = Archive(home)
    archive.seal([*call("well"), *(record for records, _ in WRONG.values() for record in records)])
    (damaged,) = archive.seal([event("noted", "noted")])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    last = archive.next_seq["w1"]
    archive.seal_frames(list(enumerate(call("after"), last + 2)), missing=((last, last + 1),))


def refused(said: str) -> list[Refusal]:
    """The lines of a refused close."""
    return [Refusal(*told) for told in re.findall(r"^refused: (\S+): (.*); cure: (.*)$", said, re.MULTILINE)]


def typed(home: Home, cure: str) -> int:
    """Do what the cure says: write the row it shows, or run the command it ends with."""
    said = re.sub(r"\b(" + "|".join(WORDS) + r")\b", lambda word: WORDS[word[0]], cure)
    row = re.match(r"add the row to (book/\w+\.csv): (.*); then tokenledger .*rates check", said)
    if row:
        with (home.root / row[1]).open("a") as file:
            file.write(row[2] + "\n")
    return tokenledger.run(shlex.split(said[said.rindex("tokenledger ") :])[1:])


def test_each_reason_is_told_with_the_cure_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is told once; as long as one is not cured the month stays open, and cured as printed, in this home and no other, it closes."""
    home = Home(tmp_path / "the home")
    prepared(home)
    close = ["ledger", "--as-of", AS_OF, "--home", str(home.root)]
    assert tokenledger.run(close) == 1
    found = refused(capsys.readouterr().err)
    expected = [GAP, DAMAGED, *(reason for _, reasons in WRONG.values() for reason in reasons)]
    assert sorted(reason for refusal in found for reason in expected if refusal.reason.startswith(reason)) == sorted(expected)
    assert len(found) == len(expected)
    *cures, last = dict.fromkeys(refusal.cure for refusal in found)
    assert [cure for cure in cures if typed(home, cure)] == []
    assert tokenledger.run(close) == 1
    assert {refusal.cure for refusal in refused(capsys.readouterr().err)} == {last}
    assert typed(home, last) == 0
    assert tokenledger.run(close) == 0, capsys.readouterr().err
    assert "cure " not in capsys.readouterr().out  # what was acknowledged has none
    assert one(home, "SELECT status FROM periods WHERE period = '2026-10'") == {"status": "closed"}


@pytest.mark.parametrize(("wrong", "cure"), [("price", "book/rates.csv"), ("currency", "book/fx.csv"), ("usage", "acknowledge SUBJECT")])
def test_summary_and_receipt_tell_the_cure_of_what_is_unknown(
    wrong: str, cure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A price, an exchange rate, and usage that nobody will ever know: each has its cure, and no other is told."""
    home = Home(tmp_path / "home")
    write_book(home, rates=more_rates("official euro input 1 currency=EUR"), fx="EUR,1,2020-01-01T00:00:00Z,2020-02-01T00:00:00Z,test,\n")
    Archive(home).seal(WRONG[wrong][0])
    at = ["--home", str(home.root)]
    tokenledger.run(["ledger", "--as-of", AS_OF, *at])
    summary = capsys.readouterr().out
    tokenledger.run(["receipt", wrong, *at])
    for told in (summary, capsys.readouterr().out):
        (line,) = (line for line in told.splitlines() if line.strip().startswith("cure "))
        assert cure in line
        assert ("rates.csv" in line) == (wrong == "price")


def test_a_month_that_is_not_over_is_told_with_the_command_for_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cure is the command, this home included, and that closes it once the month is over; so does that of a month before."""
    home = Home(tmp_path / "the home")
    write_book(home)
    Archive(home).seal([*call("r1"), *call("n1", NOON + 31 * DAY)])
    close = ["ledger", "--as-of", "2026-10-20T00:00:00Z", "--home", str(home.root)]
    assert tokenledger.run([*close, "--period", "2026-11"]) == 1
    over, before = (refusal.cure for refusal in refused(capsys.readouterr().err))
    ours = f"tokenledger --home {shlex.quote(str(home.root))}"
    assert (over, before) == (f"after that: {ours} ledger --period 2026-11", f"{ours} ledger --period 2026-10")
    for cure in (before, over):
        words = shlex.split(cure[cure.rindex("tokenledger ") :])[1:]
        assert tokenledger.run([*words, "--as-of", "2026-12-02T06:00:00Z"]) == 0
    assert one(home, "SELECT count(*) AS months FROM periods WHERE status = 'closed'") == {"months": 2}


def test_a_command_that_is_told_is_for_the_home_it_was_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed to be typed names the home: errors' cures, the summary, a run, a list; for ./data nothing is added."""
    home = Home(tmp_path / "the home")
    write_book(home)
    Archive(home).seal([*call("well"), *call("dear", model="new-model"), event("loss", "loss", reason="disk full")])
    ours = f"tokenledger --home {shlex.quote(str(home.root))}"
    revoked = ["key", "revoke", "--id", "nobody"]
    for words, told in (
        (["sql", "SELECT 1"], f"  cure: {ours} ledger\n"),
        ([*revoked[:2], "--home", str(home.root), *revoked[2:]], f"  cure: see `{ours} key list`\n"),
        (["ledger", "--no-close"], f'  all of them: {ours} sql "FROM data_quality"\n'),
        (["ledger", "--no-close"], f"check it with `{ours} rates check`, then `{ours} ledger` again\n"),
    ):
        placed = words if "--home" in words else ["--home", str(home.root), *words]
        tokenledger.run(placed)
        said = capsys.readouterr()
        assert told in said.out + said.err
        assert "tokenledger " not in (said.out + said.err).replace(ours, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(home.root)
    assert tokenledger.run(revoked) == 2
    assert "  cure: see `tokenledger key list`\n" in capsys.readouterr().err
    assert Home.find("data").typed("then tokenledger ledger") == "then tokenledger ledger"
    assert home.typed("mend /srv/tokenledger old/x, or tokenledger[spark]") == "mend /srv/tokenledger old/x, or tokenledger[spark]"
