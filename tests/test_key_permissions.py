"""What keys may do, on which day, and what they may spend: the published history, the spend file, and the gateway that reads both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest

from proxy.permissions import Permissions, Refusal
from proxy.routing import Plans
from schemas import spend
from schemas.book import load_book
from schemas.fingerprint import fingerprint, home_key
from schemas.home import Home
from schemas.instants import parse_instant
from tests import rawdata
from tests.rawdata import KEY, NOON, OTHER_KEY, SECOND, built, call, rows
from tests.sidecar import Sidecar, Way, sidecar, write_book
from tests.upstream import Upstream

HISTORY = f"""
[[key]]
id = "k-ada"
label = "Ada's laptop"
fingerprint = "{KEY}"
wallet = "research"
models = ["gpt-4o-mini"]
monthly_limit = "5.00"
enforce = true
from = 2026-01-01T00:00:00Z

[[key]]
id = "k-ada"
label = "Ada's desktop"
fingerprint = "{OTHER_KEY}"
wallet = "research"
routes = ["official"]
from = 2026-10-10T12:00:05Z
"""


def test_the_permission_in_force_is_visible_on_any_date(home: Home) -> None:
    """The key was rotated, renamed and freed of its limit at one instant: before it the old row answers, from it on the new one."""
    built(home, call("r1"), keys=HISTORY)
    query = (
        "SELECT label, models, routes, monthly_limit, enforce FROM key_permissions WHERE id = 'k-ada' "
        "AND coalesce(valid_from <= TIMESTAMP '{0}', true) AND coalesce(TIMESTAMP '{0}' < valid_to, true)"
    )
    before, after = (rows(home, query.format(at)) for at in ("2026-10-10 12:00:04.999999", "2026-10-10 12:00:05"))
    assert before == [{"label": "Ada's laptop", "models": '["gpt-4o-mini"]', "routes": None, "monthly_limit": Decimal(5), "enforce": True}]
    assert after == [{"label": "Ada's desktop", "models": None, "routes": '["official"]', "monthly_limit": None, "enforce": False}]


def test_what_a_key_spent_is_published_by_key_and_month(home: Home) -> None:
    """Two calls of 0.00045 with either credential of one key: 0.0009 in October, under its stable id."""
    built(home, [*call("r1"), *call("r2", NOON + 10 * SECOND, credential=OTHER_KEY)], keys=HISTORY)
    assert spend.read(home.spend_file) == {("k-ada", "2026-10"): Decimal("0.0009")}


def test_what_a_key_was_not_allowed_is_flagged(home: Home) -> None:
    """Nobody refused it (no enforcement, or the forward door): told by key, model, route, expiry and limit; what its rows allow is not.

    Two calls cost 0.0009 of 0.0005; from the 11th on the key has another limit, and the month is held to its newest row.
    """
    keys = HISTORY.replace('"gpt-4o-mini"]', '"gpt-4o-mini", "other"]').replace(
        'routes = ["official"]', 'routes = ["routed"]\nmonthly_limit = "0.0005"'
    )
    later = NOON + 10 * SECOND
    built(
        home,
        [
            *call("r1"),
            *call("r2", NOON + SECOND, model="gift"),
            *call("r3", later, credential=OTHER_KEY),
        ],
        keys=keys.replace("enforce = true", "expires = 2026-10-10T12:00:01Z", 1),
    )
    found = rows(home, "SELECT subject, detail, rows, blocks_close FROM data_quality WHERE kind = 'key_not_allowed' ORDER BY subject")
    assert [(row["subject"], row["detail"], row["rows"]) for row in found] == [
        ("k-ada expired", "used after it had expired", 1),
        ("k-ada model gift", "asked for a model that it may not use", 1),
        ("k-ada monthly_limit", "spent 0.000900000000 of 0.000500000000", 3),
        ("k-ada route official", "took a route that it may not take", 1),
    ]
    assert not any(row["blocks_close"] for row in found)


def test_a_month_of_spending_is_the_books_month() -> None:
    """At 23:30 UTC on the last day of October it is November in Berlin."""
    at = parse_instant("2026-10-31T23:30:00Z")
    assert (spend.month_of(at, "UTC"), spend.month_of(at, "Europe/Berlin")) == ("2026-10", "2026-11")


@pytest.mark.parametrize("content", ["", "[]", '{"spent": [{"key": "k"}]}', '{"spent": [{"key": "k", "period": "p", "charged": "1e3"}]}'])
def test_a_spend_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    """It is not taken for "nothing was spent"; a file that is not there yet is."""
    path = tmp_path / "spend.json"
    assert spend.read(path) == {}
    path.write_text(content)
    with pytest.raises(spend.SpendError):
        spend.read(path)


def test_a_key_that_has_spent_its_limit_is_refused_until_the_month_ends(home: Home) -> None:
    """5.00 of 5.00 is spent: 402 insufficient_quota in October, nothing in November; a cent less passes."""
    rawdata.write_book(home, keys=HISTORY)
    book = load_book(home.book)
    permissions = Permissions(book)
    ways = Plans(book).of("gpt-4o-mini")
    at = parse_instant("2026-10-05T00:00:00Z")
    permissions.spend = {("k-ada", "2026-10"): Decimal("4.99")}
    assert permissions.ways(KEY, "gpt-4o-mini", ways, at) == ways
    permissions.spend = {("k-ada", "2026-10"): Decimal("5.00")}
    refusal = permissions.ways(KEY, "gpt-4o-mini", ways, at)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (402, "insufficient_quota")
    # the row in force from the 10th has no limit and is only flagged
    assert permissions.ways(OTHER_KEY, "gpt-4o-mini", ways, parse_instant("2026-10-11T00:00:00Z")) == ways
    flagged = HISTORY.replace("enforce = true", "enforce = false")
    rawdata.write_book(home, keys=flagged)
    permissions.renew(load_book(home.book))
    assert permissions.ways(KEY, "gpt-4o-mini", ways, at) == ways


@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize("unknown", ["refuse", "record"])
def test_a_revoked_key_is_no_better_than_a_strangers(home: Home, unknown: str, enforce: bool) -> None:
    """From the instant on at which its row ends: refused where strangers are, or where the row was enforced; until then it passes."""
    gone = f'[[key]]\nid = "k"\nlabel = "k"\nwallet = "w"\nfingerprint = "{KEY}"\nto = 2026-10-10T00:00:00Z\nenforce = {str(enforce).lower()}\n'
    rawdata.write_book(home, keys=gone, book=f'currency = "USD"\ntimezone = "UTC"\nunknown_keys = "{unknown}"\n')
    book = load_book(home.book)
    permissions, ways = Permissions(book), Plans(book).of("gpt-4o-mini")
    assert permissions.ways(KEY, "gpt-4o-mini", ways, parse_instant("2026-10-09T23:59:59Z")) == ways
    after = permissions.ways(KEY, "gpt-4o-mini", ways, parse_instant("2026-10-10T00:00:00Z"))
    refused = Refusal(401, "invalid_api_key", "this API key has been revoked")
    assert after == (refused if enforce or unknown == "refuse" else ways)
    stranger = permissions.ways(None, "gpt-4o-mini", ways, parse_instant("2026-10-10T00:00:00Z"))
    assert stranger == (Refusal(401, "invalid_api_key", "this API key is not registered here") if unknown == "refuse" else ways)


def test_a_key_that_may_use_some_models_may_list_and_delete(home: Home) -> None:
    """What has no body asks no model for anything; a body that names none is refused, for nobody knows whom it asks."""
    rawdata.write_book(home, keys=HISTORY)
    book = load_book(home.book)
    permissions, ways = Permissions(book), Plans(book).of(None)
    at = parse_instant("2026-10-05T00:00:00Z")
    assert permissions.ways(KEY, None, ways, at, bare=True) == ways
    for model, bare, words in ((None, False, "a request whose body names no model"), ("gpt-4o", True, "the model 'gpt-4o'")):
        assert permissions.ways(KEY, model, ways, at, bare=bare) == Refusal(
            403, "model_not_allowed", f'the key "Ada\'s laptop" may not use {words}'
        )


SECRET, NEW_SECRET = "sk-first-0123456789abcdef", "sk-second-0123456789abcdef"


@pytest.fixture
async def limited(home: Home) -> AsyncIterator[tuple[Upstream, Sidecar]]:
    """A gateway with one key, which has a limit of one dollar."""
    async with Upstream() as upstream:
        write_book(home, [Way("official", upstream.base_url)], settings='unknown_keys = "refuse"')
        (home.book / "keys.toml").write_text(_key(home, "k-1", SECRET))
        with sidecar(home, "--no-forward") as running:
            yield upstream, running


def _key(home: Home, name: str, secret: str) -> str:
    printed = fingerprint(home_key(home), secret)
    return f'[[key]]\nid = "{name}"\nlabel = "{name}"\nwallet = "w"\nfingerprint = "{printed}"\nmonthly_limit = "1.00"\nenforce = true\n'


async def _status(running: Sidecar, secret: str) -> tuple[int, str | None]:
    async with httpx2.AsyncClient(trust_env=False) as http:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
        answer = await http.post(running.base_url + "/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"})
        return answer.status_code, answer.json()["error"]["code"] if answer.status_code != 200 else None


async def _until(running: Sidecar, secret: str, status: int) -> tuple[int, str | None]:
    """The first answer with this status, or the last one after some rounds of looking at the files."""
    found: tuple[int, str | None] = (0, None)
    limit = time.monotonic() + 20
    while found[0] != status and time.monotonic() < limit:
        found = await _status(running, secret)
        await asyncio.sleep(0.5)
    return found


async def test_a_running_gateway_sees_new_keys_and_new_spending(limited: tuple[Upstream, Sidecar]) -> None:
    """Without a restart: a key that is added passes, a limit that is reached refuses, and a broken book changes nothing."""
    _, running = limited
    home = running.home
    assert await _status(running, SECRET) == (200, None)
    assert await _status(running, NEW_SECRET) == (401, "invalid_api_key")
    keys = home.book / "keys.toml"
    good = keys.read_text() + _key(home, "k-2", NEW_SECRET)
    keys.write_text(good)
    home.ledger.mkdir(exist_ok=True)
    spend.write(home.spend_file, {("k-1", spend.month_of(time.time_ns() // 1000, "UTC")): Decimal("1.00")})
    assert await _until(running, NEW_SECRET, 200) == (200, None)
    assert await _until(running, SECRET, 402) == (402, "insufficient_quota")
    keys.write_text("[[key]]\n")
    await asyncio.sleep(6)
    assert await _status(running, NEW_SECRET) == (200, None)
