"""What the gateway refuses: an OpenAI-shaped answer, nothing sent upstream, a row at zero charge."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import duckdb
import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from etl.build import build
from schemas import spend
from schemas.fingerprint import fingerprint, home_key
from schemas.home import Home
from tests.sidecar import Sidecar, Way, recorded, seal_all, sidecar, write_book
from tests.upstream import Upstream

SECRETS = {name: f"sk-{name}-0123456789abcdef" for name in ("free", "strict", "late", "gone", "spent", "narrow", "stranger")}
KEYS = {
    "free": 'models = ["other"]',
    "strict": 'models = ["gpt-4o"]\nroutes = ["official"]\nenforce = true',
    "late": "expires = 2026-01-01T00:00:00Z\nenforce = true",
    "gone": "enforce = true\nto = 2026-01-02T00:00:00Z",
    "narrow": 'routes = ["official"]\nenforce = true',
    "spent": 'monthly_limit = "1.00"\nenforce = true',
}


@pytest.fixture
async def guarded(home: Home) -> AsyncIterator[tuple[Upstream, Sidecar]]:
    """A gateway whose registry refuses strangers; gpt-4o goes to a routed channel first and an official one second."""
    async with Upstream() as upstream:
        routed = Way("routed", upstream.base_url, "routed", "routed_balance")
        write_book(
            home,
            [Way("official", upstream.base_url), routed],
            models={"gpt-4o": [("routed", "cheap"), ("official", "gpt-4o")], "cheap-only": [("routed", "cheap")]},
            settings='unknown_keys = "refuse"',
        )
        key = home_key(home)
        (home.book / "keys.toml").write_text(
            "\n".join(
                f'[[key]]\nid = "{name}"\nlabel = "{name}"\nwallet = "team"\nfingerprint = "{fingerprint(key, SECRETS[name])}"\n{rules}\n'
                for name, rules in KEYS.items()
            )
        )
        home.ledger.mkdir(exist_ok=True)
        spend.write(home.spend_file, {("spent", spend.month_of(time.time_ns() // 1000, "UTC")): Decimal("1.00")})
        with sidecar(home, "--no-forward") as running:
            yield upstream, running


async def ask(running: Sidecar, name: str, model: str, path: str = "/chat/completions") -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as http:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return await http.post(running.base_url + path, json=body, headers={"Authorization": f"Bearer {SECRETS[name]}"})


async def test_each_refusal_has_its_status_and_leaves_a_row_at_zero(guarded: tuple[Upstream, Sidecar]) -> None:
    """Strangers, expired and revoked keys, models and routes that a key may not use; what is only flagged passes."""
    upstream, running = guarded
    refusals = [
        ("stranger", "gpt-4o", 401, "invalid_api_key"),
        ("late", "gpt-4o", 401, "expired_api_key"),
        ("gone", "gpt-4o", 401, "invalid_api_key"),
        ("strict", "gpt-4o-mini", 403, "model_not_allowed"),
        ("narrow", "cheap-only", 403, "route_not_allowed"),
        ("spent", "gpt-4o", 402, "insufficient_quota"),
    ]
    for name, model, status, code in refusals:
        answer = await ask(running, name, model)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, None), name
        assert error["message"]
        assert error["type"]
    assert upstream.seen == []
    assert (await ask(running, "free", "gpt-4o")).status_code == 200
    assert (await ask(running, "strict", "gpt-4o")).status_code == 200
    assert [one.json()["model"] for one in upstream.seen] == ["cheap", "gpt-4o"]  # the strict key skips the routed channel
    async with httpx2.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {SECRETS['strict']}"}) as http:
        assert (await http.get(running.base_url + "/models")).status_code == 200  # which asks no model for anything

    await asyncio.to_thread(running.stop)
    seal_all(running.home)
    build(running.home)
    with duckdb.connect(str(running.home.ledger_file), read_only=True) as con:
        rows = con.execute(
            "select http_status, status, outcome, final_charge, attempt_count from ledger where status = 'rejected' order by created_at"
        )
        assert rows.fetchall() == [(status, "rejected", "rejected_by_proxy", 0, 0) for _, _, status, _ in refusals]
        flagged = con.execute("select subject from data_quality where kind = 'key_not_allowed'")
        assert flagged.fetchall() == [("free model gpt-4o",)]


@pytest.mark.parametrize(
    ("name", "path", "status", "code"),
    [
        ("spent", "/responses", 402, "insufficient_quota"),
        ("spent", "/realtime?model=gpt-4o", 402, "insufficient_quota"),
        ("strict", "/realtime?model=gpt-4o-mini", 403, "model_not_allowed"),
        ("late", "/realtime?model=gpt-4o", 401, "expired_api_key"),
    ],
)
async def test_a_socket_is_refused_before_it_opens(guarded: tuple[Upstream, Sidecar], name: str, path: str, status: int, code: str) -> None:
    """The upgrade's answer says what an HTTP request would hear, nothing goes upstream, and a record says that it was refused."""
    upstream, running = guarded
    with pytest.raises(InvalidStatus) as caught:
        async with connect(
            running.base_url.replace("http", "ws", 1) + path, additional_headers={"Authorization": f"Bearer {SECRETS[name]}"}, proxy=None
        ):
            pass
    answer = caught.value.response
    assert (answer.status_code, json.loads(answer.body or b"")["error"]["code"]) == (status, code)
    assert upstream.seen == []
    await asyncio.to_thread(running.stop)  # a refusal is told at once and written with the next group: the stop awaits it
    (response,) = recorded(running.home, "response")
    assert (response["http_status"], response["ending"]) == (status, "refused")


async def test_a_model_that_a_key_may_not_use_is_refused_with_the_frame_that_asks_for_it(guarded: tuple[Upstream, Sidecar]) -> None:
    """A Responses socket names its model after it has opened: an error frame with the status, and the socket closes."""
    upstream, running = guarded
    async with connect(
        running.base_url.replace("http", "ws", 1) + "/responses",
        additional_headers={"Authorization": f"Bearer {SECRETS['strict']}"},
        proxy=None,
    ) as socket:
        await socket.send('{"type": "response.create", "model": "gpt-4o-mini", "input": "hi"}')
        told = json.loads(await asyncio.wait_for(socket.recv(), 15))
    assert (told["type"], told["status"], told["error"]["code"]) == ("error", 403, "model_not_allowed")
    assert upstream.seen == []


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/./x"])
async def test_no_path_leads_out_of_a_channels_base(guarded: tuple[Upstream, Sidecar], path: str) -> None:
    """A dot segment would send the channel's credential to another part of its host."""
    upstream, running = guarded
    host, port = running.gateway.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert upstream.seen == []
