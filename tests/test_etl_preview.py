"""The preview: what a receipt shows a second after the call, by the same models and on top of the published balances."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from etl.build import preview
from etl.close import close
from etl.seals import SealBroken
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.rawdata import (
    DAY,
    NOON,
    SECOND,
    Archive,
    attempt,
    built,
    call,
    failure,
    request,
    response,
    rows,
    spool,
    topup,
    usage,
    write_book,
)


def seen(home: Home, asked: str, query: str) -> list[tuple[Any, ...]]:
    with preview(home, asked) as connection:
        return connection.execute(query).fetchall()


def test_without_a_published_ledger_everything_is_new(home: Home) -> None:
    """The journal alone is enough."""
    built(home, call("r1"))
    home.ledger_file.unlink()
    assert seen(home, "r1", "SELECT request_id, final_charge FROM ledger") == [("r1", Decimal("0.00045"))]


def test_balances_go_on_from_the_published_ones(home: Home) -> None:
    """1 credited, 0.00045 published, 0.00045 since: 0.9991 after the new call, as a build says later."""
    records: list[Record] = [topup("e1", "1"), *call("r1")]
    built(home, records)
    spool(home, [*records, *call("r2", NOON + DAY)])
    assert seen(home, "r2", "SELECT request_id FROM ledger") == [("r2",)]
    previewed = seen(home, "r2", "SELECT entry_id, balance_after FROM wallet_statement WHERE request_id = 'r2'")
    assert previewed[0][1] == Decimal("0.9991")
    built(home)
    published = rows(home, "SELECT entry_id, balance_after FROM wallet_statement WHERE request_id = 'r2'")
    assert previewed == [tuple(row.values()) for row in published]


def test_a_late_end_settles_what_was_held(home: Home) -> None:
    """A request published as unknown shows its outcome once its CLOSE is recorded, and its hold is not counted twice."""
    records: list[Record] = [topup("e1", "1"), request("r1"), attempt("r1")]
    built(home, records)
    spool(home, [*records, response("r1", usage=usage(1000, 500))])
    assert seen(home, "r1", "SELECT status, final_charge FROM ledger") == [("ok", Decimal("0.00045"))]
    assert seen(home, "r1", "SELECT balance FROM wallet_balances") == [(Decimal("0.99955"),)]


def test_a_retry_finds_the_published_try_before_it(home: Home) -> None:
    """The SDK's first try was published as a request of its own; with its retry it becomes one request of two tries."""
    first: list[Record] = [request("a"), attempt("a"), failure("a")]
    archive = Archive(home)
    archive.seal([*call("other", NOON - DAY), *first])
    built(home)
    retry: list[Record] = [request("b", NOON + 2 * SECOND, retry=1), attempt("b", at=NOON + 2 * SECOND)]
    spool(home, [*retry, response("b", at=NOON + 3 * SECOND, usage=usage(1000, 500))], first_seq=archive.next_seq["w1"])
    assert seen(home, "b", "SELECT request_id, attempt_count, final_charge FROM ledger") == [("a", 2, Decimal("0.00045"))]
    assert seen(home, "b", "SELECT request_id FROM request_ids WHERE id = 'b'") == [("a",)]


def test_what_was_published_is_not_paid_twice(home: Home) -> None:
    """A timed out try was published at its flat 0.002; with its retry for 0.00045 the balance is 1 - 0.00245, not less."""
    late = failure("a", http_status=None, ending="timeout", terminal=None)
    records: list[Record] = [topup("e1", "1"), request("a"), attempt("a"), late]
    built(home, records)
    retry: list[Record] = [request("b", NOON + 2 * SECOND, retry=1), attempt("b", at=NOON + 2 * SECOND)]
    spool(home, [*records, *retry, response("b", at=NOON + 3 * SECOND, usage=usage(1000, 500))])
    assert seen(home, "b", "SELECT request_id, final_charge FROM ledger") == [("a", Decimal("0.00245"))]
    assert seen(home, "b", "SELECT balance FROM wallet_balances") == [(Decimal("0.99755"),)]


def test_what_is_late_for_a_month_whose_seal_is_lost_is_not_shown_in_it(home: Home) -> None:
    """A build refuses to open the month because a file is missing; what the next build would say is refused with it."""
    write_book(home)
    archive = Archive(home)
    archive.seal(call("r1"))
    assert close(home, parse_instant("2026-11-02T06:00:00Z")).closed == ("2026-10",)
    archive.seal(call("late", NOON + DAY), writer="w2")
    assert seen(home, "late", "SELECT period FROM ledger WHERE request_id = 'late'") == [("2026-11",)]
    (home.ledger / "2026-10" / "seal.json").unlink()
    with pytest.raises(SealBroken, match="is missing, though the month was closed"):
        preview(home, "late")
