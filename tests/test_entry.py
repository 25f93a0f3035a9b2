"""Entries that name something recorded: `wallet` refuses at once what the next build would not book, and records nothing."""

from __future__ import annotations

import shlex
from decimal import Decimal

import pytest

import tokenledger
from etl.build import build
from etl.close import close
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.spool import unsealed
from tests.rawdata import DAY, HOUR, NOON, Archive, attempt, built, call, event, one, request, spool, topup, write_book

WHERE = ["--wallet", "research", "--bucket", "official_credit"]
WHY = ["--by", "ann", "--reference", "ticket-7", "--reason", "said twice"]
CHARGE = "0.00045"  # of call()


def wallet(home: Home, *words: str) -> int:
    return tokenledger.run(["wallet", *words, *WHY, "--home", str(home.root)])


def refund(home: Home, request_id: str, amount: str = CHARGE) -> int:
    return wallet(home, "refund", "--request", request_id, "--amount", amount, *WHERE)


def recorded(home: Home) -> int:
    return sum(1 for _ in unsealed(home, {}))


NOTHING = {
    "it names a request that is not recorded": [
        ["refund", "--request", "nosuch", "--amount", "1", *WHERE],
        ["adjust", "--request", "nosuch", "--amount", "1", *WHERE],
        ["hold", "--request", "nosuch", "--amount", "1", "--until", "2999-01-01T00:00:00Z", *WHERE],
    ],
    "it names no hold that is recorded": [["release", "nosuch"]],
    "it names no transaction that is booked": [["reverse", "nosuch"]],
}


def test_a_name_that_nothing_recorded_has_is_refused_at_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with the reason and where to take the name from, and no event: after a build, and before there ever was one."""
    built(home, call("r1"))
    before = recorded(home)
    for reason, cases in NOTHING.items():
        for words in cases:
            assert wallet(home, *words) == 2, words
            said = capsys.readouterr()
            assert (said.out, reason in said.err, "cure: " in said.err) == ("", True, True), words
    assert recorded(home) == before
    young = Home(home.root.parent / "young")
    write_book(young)
    assert refund(young, "nosuch") == 2
    assert recorded(young) == 0


def test_only_what_was_found_is_accepted(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a build any subject is taken, after one only what the close names; the cure, pasted, lists that, and no event is left."""
    words = ["--by", "ann", "--reason", "given up", "--home", str(home.root)]
    write_book(home)
    assert tokenledger.run(["acknowledge", "early", *words]) == 0
    built(home, [*call("r1"), request("r2"), attempt("r2")])
    before = recorded(home)
    capsys.readouterr()
    assert tokenledger.run(["acknowledge", "r2/l", *words]) == 2
    said = capsys.readouterr()
    assert (said.out, "no finding has the subject 'r2/l'" in said.err) == ("", True)
    assert recorded(home) == before
    listing = shlex.split(said.err.partition("take it from: ")[2].partition(";")[0])
    assert listing[1:3] == ["--home", str(home.root)]
    assert tokenledger.run(listing[1:]) == 0
    assert "r2/1" in capsys.readouterr().out
    assert tokenledger.run(["acknowledge", "r2/1", *words]) == 0


def test_a_request_of_a_second_ago_can_be_refunded_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded since the last build, so were its refunds: parts are taken up to the charge and then no more."""
    built(home, [topup("t1", "1"), *call("r1")])
    spool(home, [topup("t1", "1"), *call("r1"), *call("r2", NOON + HOUR)])
    assert refund(home, "r2", "0.0002") == 0
    assert refund(home, "r2", "0.00025") == 0
    assert refund(home, "r2", "0.000000000001") == 2
    assert "exceed what it was charged" in capsys.readouterr().err
    build(home)
    assert one(home, "SELECT sum(refunds) AS refunds FROM balance_proof")["refunds"] == Decimal(CHARGE)
    assert one(home, "SELECT count(*) AS faults FROM data_quality WHERE kind = 'faulty_entry'")["faults"] == 0


def test_what_was_published_or_closed_is_refunded_or_reversed_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A published refund and the charge of a closed month count too: the second of either is refused."""
    write_book(home)
    archive = Archive(home)
    part = {"actor": "a", "reason": "r", "reference": "x", "wallet": "research", "bucket": "official_credit"}
    archive.seal([*call("r1"), *call("r2", NOON + HOUR), event("f1", "wallet_refund", NOON + DAY, amount=CHARGE, request_id="r1", **part)])
    build(home)
    assert refund(home, "r1", "0.000000000001") == 2
    assert close(home, parse_instant("2026-11-02T06:00:00Z")).closed == ("2026-10",)
    charge = one(home, "SELECT transaction_id FROM journal WHERE request_id = 'r2' AND account LIKE 'wallet:%'")["transaction_id"]
    assert refund(home, "r1", "0.000000000001") == 2
    assert wallet(home, "reverse", charge) == 0
    assert wallet(home, "reverse", charge) == 2
    assert "what it names was reversed before" in capsys.readouterr().err


@pytest.mark.parametrize("closes", [False, True])
def test_what_is_to_be_reversed_is_not_refunded_too(home: Home, capsys: pytest.CaptureFixture[str], closes: bool) -> None:
    """The reversal was recorded first and is not built yet: the refund is refused, another request's is not, and the reversal is booked."""
    write_book(home)
    Archive(home).seal([*call("r1"), *call("r2", NOON + HOUR)])
    build(home)
    if closes:
        assert close(home, parse_instant("2026-11-02T06:00:00Z")).closed == ("2026-10",)
    charge = one(home, "SELECT transaction_id FROM journal WHERE request_id = 'r1' AND account LIKE 'wallet:%'")["transaction_id"]
    assert wallet(home, "reverse", charge) == 0
    before = recorded(home)
    assert refund(home, "r1", "0.0001") == 2
    assert "would not be booked: the charge of its request was reversed before" in capsys.readouterr().err
    assert recorded(home) == before
    assert refund(home, "r2", "0.0001") == 0
    build(home)
    assert one(home, "SELECT sum(reversals) AS reversals, sum(refunds) AS refunds FROM balance_proof") == {
        "reversals": Decimal(CHARGE),
        "refunds": Decimal("0.0001"),
    }
    assert one(home, "SELECT count(*) AS faults FROM data_quality WHERE kind = 'faulty_entry'")["faults"] == 0
