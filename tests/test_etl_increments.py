"""A build that goes on from the published ledger makes what a build of everything makes, in every published table."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from etl.build import build
from etl.carried import BASIS_FILE
from etl.close import close, reopen
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.published import differences
from tests.rawdata import (
    DAY,
    NOON,
    SECOND,
    Archive,
    attempt,
    call,
    event,
    failure,
    request,
    response,
    rows,
    spool,
    topup,
    usage,
    write_book,
)

AS_OF = parse_instant("2026-11-20T00:00:00Z")
NOVEMBER = parse_instant("2026-11-10T12:00:00Z")


def recording(home: Home) -> Archive:
    write_book(home)
    return Archive(home)


def many(count: int, start: int = NOON, name: str = "n") -> list[Record]:
    return [record for n in range(count) for record in call(f"{name}{n}", start + n * SECOND, prompt=100 * n + 1, completion=n)]


def whole(home: Home, folder: Path) -> Path:
    """The ledger of the same records, made from nothing but them and the seals."""
    copy = Home(folder / "copy")
    shutil.rmtree(copy.root, ignore_errors=True)
    shutil.copytree(home.root, copy.root)
    copy.ledger_file.unlink()
    (copy.ledger / BASIS_FILE).unlink()
    build(copy, as_of=AS_OF)
    return copy.ledger_file


def seen(home: Home) -> dict[str, int]:
    """Build; the steps of the build with their rows."""
    rows: dict[str, int] = {}
    build(home, as_of=AS_OF, progress=lambda step: rows.__setitem__(step.name, step.rows))
    return rows


def entry(name: str, at: int, **facts: str) -> Record:
    return event(name, facts.pop("event"), at, **{"actor": "ada", "reason": "why", "reference": "r", "currency": "USD", **facts})


# What comes after forty calls were published: what it is, the records before (beside the forty), and those since.
LATER: dict[str, tuple[Sequence[Record], Sequence[Record]]] = {
    "a call": ([], call("new", NOON + DAY)),
    "a call before all others": ([], call("early", NOON - DAY)),
    "a call of another month": ([], call("old", NOON - 40 * DAY)),
    "a late end": ([request("u1"), attempt("u1")], [response("u1", usage=usage(1000, 500))]),
    "an SDK's retry": (
        [request("a"), attempt("a"), failure("a")],
        [
            request("b", NOON + 2 * SECOND, retry=1),
            attempt("b", at=NOON + 2 * SECOND),
            response("b", at=NOON + 3 * SECOND, usage=usage(9, 5)),
        ],
    ),
    "a refund": (
        call("r1"),
        [entry("f1", NOON + DAY, event="wallet_refund", amount="0.0001", wallet="research", bucket="official_credit", request_id="r1")],
    ),
    "a top-up before all calls": ([], [topup("t1", "5", at=NOON - DAY)]),
    "a hold over what is booked": (
        [],
        [
            entry(
                "h1",
                NOON + 5 * SECOND,
                event="wallet_hold",
                amount="2",
                wallet="research",
                bucket="official_credit",
                until="2026-12-01T00:00:00Z",
            )
        ],
    ),
    "a balance shown before and after": (
        [topup("e0", "5", at=NOON - DAY)],
        [
            entry(f"s{n}", at, event="wallet_snapshot", amount="3", wallet="research", bucket="official_credit")
            for n, at in ((1, NOON + 5 * SECOND), (2, NOON + DAY), (3, NOON - 2 * DAY))
        ],
    ),
    "nothing": ([], []),
}


def test_what_comes_later_changes_what_it_touches(home: Home, tmp_path: Path) -> None:
    """Forty calls are published, then one thing after the other comes: each time the ledger is that of a build of everything, and the
    forty are not made again.
    """
    archive = recording(home)
    archive.seal([*many(40), *(record for before, _ in LATER.values() for record in before)])
    build(home, as_of=AS_OF)
    for name, (_, since) in LATER.items():
        if since:
            archive.seal(since)
        assert seen(home)["received"] < 10, name
        assert differences(whole(home, tmp_path), home.ledger_file) == {}, name


def test_closed_months_stay_where_they_are(home: Home, tmp_path: Path) -> None:
    """A closed month's rows are carried over: beside new calls, late ones, entries about it, and when the next month closes too."""
    archive = recording(home)
    hold = {"amount": "1", "wallet": "research", "bucket": "official_credit", "until": "2026-12-01T00:00:00Z"}
    archive.seal([topup("e0", "5", at=NOON - DAY), *many(40), entry("h0", NOON, event="wallet_hold", **hold)])
    assert close(home, AS_OF).closed == ("2026-10",)
    assert differences(whole(home, tmp_path), home.ledger_file) == {}
    archive.seal(many(30, NOVEMBER, "m"))
    build(home, as_of=AS_OF)
    assert differences(whole(home, tmp_path), home.ledger_file) == {}
    archive.seal(
        [
            *call("late", NOON + DAY),
            entry("h1", NOVEMBER + SECOND, event="wallet_release", hold="h0"),
            response("n1", at=NOON + DAY, usage=usage(1, 1)),
            entry(
                "e1", NOVEMBER + DAY, event="wallet_refund", amount="0.00001", wallet="research", bucket="official_credit", request_id="n5"
            ),
        ]
    )
    assert seen(home)["received"] < 30
    assert differences(whole(home, tmp_path), home.ledger_file) == {}


def test_a_month_opened_again_is_made_from_its_records(home: Home, tmp_path: Path) -> None:
    """What was booked late in November goes back to October where it belongs."""
    archive = recording(home)
    archive.seal(many(10))
    close(home, AS_OF)
    archive.seal(call("late", NOON + DAY))
    build(home, as_of=AS_OF)
    reopen(home, "2026-10")
    build(home, as_of=AS_OF)
    assert differences(whole(home, tmp_path), home.ledger_file) == {}


def test_another_book_makes_the_open_months_again(home: Home, tmp_path: Path) -> None:
    """A price that changed changes every open charge."""
    archive = recording(home)
    archive.seal(many(40))
    build(home, as_of=AS_OF)
    rates = home.book / "rates.csv"
    rates.write_text(rates.read_text().replace("0.15,", "0.30,"), encoding="utf-8")
    assert seen(home)["received"] == 40
    assert differences(whole(home, tmp_path), home.ledger_file) == {}


def test_a_published_file_that_is_not_what_was_written_is_not_gone_on_from(home: Home, tmp_path: Path) -> None:
    """One changed byte, and everything is made again."""
    archive = recording(home)
    archive.seal(many(40))
    build(home, as_of=AS_OF)
    content = bytearray(home.ledger_file.read_bytes())
    content[len(content) // 2] ^= 1
    home.ledger_file.write_bytes(content)
    assert seen(home)["received"] == 40
    assert differences(whole(home, tmp_path), home.ledger_file) == {}


def test_what_was_lost_and_came_back_is_read(home: Home, tmp_path: Path) -> None:
    """A journal with a gap, published as a loss: once the missing records lie there again, they are in the ledger."""
    write_book(home)
    records = many(40)
    spool(home, records[:60])
    spool(home, records[90:], first_seq=91)
    build(home, as_of=AS_OF)
    assert rows(home, "SELECT subject FROM data_quality WHERE kind = 'loss'") == [{"subject": "w1 61-90"}]
    spool(home, records[60:90], first_seq=61)
    assert seen(home)["received"] == 40
    assert differences(whole(home, tmp_path), home.ledger_file) == {}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
def test_records_in_any_pieces_make_one_ledger(home: Home, tmp_path: Path, seed: int) -> None:
    """Records of calls, failures, retries and entries, sealed in random pieces in random order with a build after each."""
    chance = random.Random(seed)
    records = many(60)
    for n in range(12):
        at = NOON + chance.randrange(60) * SECOND
        records += [request(f"f{n}", at), attempt(f"f{n}", at=at), failure(f"f{n}", at=at + SECOND)]
        if chance.random() < 0.6:
            again = at + 2 * SECOND
            records += [request(f"g{n}", again, retry=1), attempt(f"g{n}", at=again), response(f"g{n}", at=again + 1, usage=usage(7, n))]
        wallet = {"wallet": "research", "bucket": "official_credit"}
        records.append(topup(f"t{n}", str(n + 1), at=at))
        records.append(entry(f"a{n}", at, event="wallet_adjust", amount=f"-0.{n + 1}", **wallet))
        records.append(entry(f"r{n}", at + DAY, event="wallet_refund", amount="0.000001", request_id=f"n{n * 3}", **wallet))
    archive = recording(home)
    first = chance.sample(records, len(records) * 2 // 3)
    rest = [record for record in records if record not in first]
    archive.seal(first)
    build(home, as_of=AS_OF)
    chance.shuffle(rest)
    while rest:
        piece, rest = rest[:40], rest[40:]
        archive.seal(piece)
        build(home, as_of=AS_OF)
    assert differences(whole(home, tmp_path), home.ledger_file) == {}
