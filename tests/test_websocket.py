"""WebSockets through both doors with a real client and a real upstream: every frame as it came, one record for each billable turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from schemas.home import Home
from schemas.records import KINDS
from tests.certs import Authority, Leaf
from tests.sidecar import Sidecar, Way, recorded, sidecar, write_book
from tests.websocket_vendor import REALTIME_USAGE, RESPONSES_USAGE, TRANSCRIPTION_USAGE, Connection, WebSocketVendor

DOORS = ["gateway", "forward"]
KEY = "sk-never-on-disk-4711"
BACKUP_KEY = "sk-of-the-backup-channel-0815"
TERMINAL = {"response.completed", "response.incomplete", "response.failed", "response.done", "error"}


@dataclass(frozen=True)
class Road:
    """Two vendors and the sidecar in front of them."""

    home: Home
    official: WebSocketVendor
    routed: WebSocketVendor
    sidecar: Sidecar

    @property
    def connection(self) -> Connection:
        """The last connection that the official vendor saw."""
        return self.official.seen[-1]

    def open(self, door: str, path: str = "/responses", **options: Any) -> connect:
        """A client's connection through a door."""
        headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        if door == "forward":
            trusted = ssl.create_default_context(cafile=str(self.home.ca / "mitmproxy-ca-cert.pem"))
            options |= {"proxy": self.sidecar.forward, "ssl": trusted}
            base = self.official.base_url
        else:
            options |= {"proxy": None}
            base = self.sidecar.base_url
        return connect(f"{base.replace('http', 'ws', 1)}{path}", additional_headers=headers, max_size=None, **options)

    def requests(self, method: str = "WS") -> list[dict[str, Any]]:
        """The request records of a method in order: WS for turns, GET for connections."""
        return [row for row in recorded(self.home, "request") if row["method"] == method]

    async def responses(self, count: int) -> list[dict[str, Any]]:
        """Every response record in order, once there are `count`."""
        found: list[dict[str, Any]] = []
        for _ in range(400):
            found = recorded(self.home, "response")
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"{len(found)} of {count} responses were recorded: {found}")

    async def closed(self, count: int) -> dict[str, dict[str, Any]]:
        """The response of every request, once there are `count`."""
        return {row["request_id"]: row for row in await self.responses(count)}

    async def turns(self, count: int) -> list[dict[str, Any]]:
        """The responses of the first `count` turns in the order they were asked for, once they and their connection are closed."""
        closed = await self.closed(count + 1)
        return [closed[request["request_id"]] for request in self.requests()]

    async def the_connection(self) -> dict[str, Any]:
        """The response of the one connection, once it is recorded: the client's leaving does not wait for the journal."""
        for _ in range(400):
            ids = {request["request_id"] for request in self.requests("GET")}
            assert len(ids) <= 1, f"one connection was to be recorded: {ids}"
            found = [row for row in recorded(self.home, "response") if row["request_id"] in ids]
            if found:
                return found[-1]
            await asyncio.sleep(0.02)
        raise AssertionError("the connection was not closed")


@pytest.fixture
async def road(home: Home, authority: Authority, leaf: Leaf) -> AsyncIterator[Road]:
    """`gpt-cheap` and `gpt-talk` go to routed under another id and with the channel's own key; everything else to official."""
    async with WebSocketVendor("official", leaf) as official, WebSocketVendor("routed") as routed:
        ways = [
            Way("official", official.base_url),
            Way("routed", routed.base_url, "routed", "routed_balance", 'api_key_env = "ROUTED_KEY"'),
        ]
        models = {"gpt-cheap": [("routed", "vendor/cheap")], "gpt-talk": [("official", "gpt-talk"), ("routed", "vendor/talk")]}
        write_book(home, ways, models=models)
        with sidecar(home, "--upstream-ca", str(authority.cert), environment={"ROUTED_KEY": BACKUP_KEY}) as running:
            yield Road(home, official, routed, running)


def create(model: str = "gpt-5", lane: str | None = None, **stub: Any) -> str:
    """A client's frame, with spaces and text that must arrive as they are."""
    lanes = {"stream_id": lane} if lane is not None else {}
    frame = {"type": "response.create", "model": model, **lanes, "input": "grüße ☃ 1.50", "metadata": {"team": "a"}, "stub": stub}
    return json.dumps(frame, ensure_ascii=False, separators=(" , ", " : "))


async def until_end(socket: ClientConnection, ends: int = 1) -> list[str]:
    """The frames up to the last of so many terminal ones."""
    frames: list[str] = []
    while ends:
        frame = await asyncio.wait_for(socket.recv(), 15)
        assert isinstance(frame, str)
        frames.append(frame)
        ends -= json.loads(frame)["type"] in TERMINAL
    return frames


def usage(response: dict[str, Any]) -> dict[str, Any]:
    """Where the usage stood, and what it was."""
    return {seen["path"]: json.loads(seen["object"]) for seen in response["usage"]}


def holding(folder: Path, text: bytes) -> list[Path]:
    """The files under a folder that hold this text."""
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.parametrize("door", DOORS)
async def test_each_turn_of_a_responses_socket_is_a_request_of_its_own(road: Road, door: str) -> None:
    """Three turns: three requests under one connection, each with its model, its usage as written, its id and its times."""
    async with road.open(door, headers={"X-Ledger-Project": "apollo", "X-Client-Request-Id": "mine"}) as socket:
        for model in ("gpt-5", "gpt-5-mini", "gpt-5"):
            await socket.send(create(model))
            await until_end(socket)
    responses = await road.turns(3)
    (connection,) = road.requests("GET")
    assert [(turn["api_model"], turn["parent_request_id"], turn["path"]) for turn in road.requests()] == [
        (model, connection["request_id"], "/v1/responses") for model in ("gpt-5", "gpt-5-mini", "gpt-5")
    ]
    assert len({turn["request_id"] for turn in road.requests()} | {connection["request_id"]}) == 4
    for turn, response in zip(road.requests(), responses, strict=True):
        assert usage(response) == {"response.usage": RESPONSES_USAGE}
        assert (response["terminal"], response["ending"], response["http_status"]) == ("response.completed", "complete", 101)
        assert (response["served_model"], response["streamed"], response["events"]) == (f"{turn['api_model']}-2026-01-01", True, 3)
        assert turn["received_at"] <= response["first_byte_at"] <= response["first_token_at"] <= response["closed_at"]
        assert json.loads(turn["body_facts"]) == {"metadata": {"team": "a"}}
        assert json.loads(turn["headers"])["x-ledger-project"] == "apollo"
        assert "x-client-request-id" not in json.loads(turn["headers"])
    assert [response["response_id"] for response in responses] == ["resp_official_1", "resp_official_2", "resp_official_3"]
    attempts = {row["request_id"]: row for row in recorded(road.home, "attempt")}
    assert {(attempts[turn["request_id"]]["channel"], attempts[turn["request_id"]]["ordinal"]) for turn in road.requests()} == {
        ("official", 1)
    }
    whole = await road.the_connection()
    assert (whole["http_status"], whole["terminal"], whole["usage"]) == (101, "close 1000", [])
    assert json.loads(whole["facts"])["turns"] == 3
    assert json.loads(connection["headers"])["x-client-request-id"] == "mine"


@pytest.mark.parametrize("door", DOORS)
async def test_frames_pass_as_they_were_written(road: Road, door: str) -> None:
    """Text and binary, small and of megabytes, both ways: what arrives is what was sent, byte for byte; x-ledger-* does not."""
    frames: list[str | bytes] = ["plain ☃", b"\x00\xff" * 700, "y" * (3 << 20), os.urandom(2 << 20), "", b""]
    async with road.open(door, "/other/path?a=%2F&b", headers={"X-Ledger-Run": "r1", "X-Own": "kept"}) as socket:
        for frame in frames:
            await socket.send(frame)
            assert await asyncio.wait_for(socket.recv(), 15) == frame
    whole = await road.the_connection()
    assert road.connection.received == frames
    assert road.connection.header("x-own") == "kept"
    assert road.connection.header("x-ledger-run") is None
    facts = json.loads(whole["facts"])
    total = sum(len(frame.encode() if isinstance(frame, str) else frame) for frame in frames)
    assert (facts["client_frames"], facts["server_frames"], facts["client_bytes"], facts["server_bytes"]) == (6, 6, total, total)
    assert (whole["events"], whole["ending"], facts["turns"]) == (6, "complete", 0)
    assert road.requests() == []


@pytest.mark.parametrize("door", DOORS)
async def test_the_json_of_a_turn_is_not_touched_and_large_frames_are_read(road: Road, door: str) -> None:
    """With and without permessage-deflate, a delta of megabytes in it: the frames are the vendor's own text, and the usage is found."""
    for count, compression in enumerate(("deflate", None), 1):
        async with road.open(door, compression=compression) as socket:
            await socket.send(create(big=2 << 20))
            frames = await until_end(socket)
        assert frames == road.connection.sent
        assert road.connection.received == [create(big=2 << 20)]
        response = (await road.closed(2 * count))[road.requests()[-1]["request_id"]]
        assert usage(response) == {"response.usage": RESPONSES_USAGE}
        assert response["body_bytes"] == sum(len(frame.encode()) + 1 for frame in frames)
        offered = road.connection.header("sec-websocket-extensions") or ""
        assert ("permessage-deflate" in offered) == (compression == "deflate")


@pytest.mark.parametrize("door", DOORS)
async def test_two_lanes_at_once_keep_their_turns_apart(road: Road, door: str) -> None:
    """The first lane is held, the second overtakes it, a third turn queues behind the first: each usage is at its own model."""
    async with road.open(door) as socket:
        await socket.send(create("slow", "a", hold="gate"))
        await socket.send(create("queued", "a", end="incomplete"))
        await socket.send(create("quick", "b"))
        overtaking = await until_end(socket)
        assert json.loads(overtaking[-1])["response"]["model"] == "quick-2026-01-01"
        road.official.release("gate")
        await until_end(socket, 2)
    slow, queued, quick = await road.turns(3)
    assert [one["served_model"] for one in (slow, queued, quick)] == ["slow-2026-01-01", "queued-2026-01-01", "quick-2026-01-01"]
    assert [one["terminal"] for one in (slow, queued, quick)] == ["response.completed", "response.incomplete", "response.completed"]
    assert [one["events"] for one in (slow, queued, quick)] == [3, 3, 3]
    assert queued["finish_reasons"] == ["max_output_tokens"]
    assert quick["closed_at"] < slow["closed_at"]


@pytest.mark.parametrize("door", DOORS)
async def test_every_frame_belongs_to_one_record(road: Road, door: str) -> None:
    """A steered response has a successor that nobody asked for: it is a turn too, at the model of the one it follows."""
    async with road.open(door) as socket:
        await socket.send(create("gpt-5", steer=True))
        await until_end(socket, 2)
        await socket.send('{"type":"response.steer"}')
        await asyncio.wait_for(socket.recv(), 15)
    first, successor = await road.turns(2)
    assert (first["terminal"], successor["terminal"]) == ("response.incomplete", "response.completed")
    asked, followed = road.requests()
    assert (asked["body_bytes"] > 0, followed["body_bytes"], followed["api_model"]) == (True, 0, "gpt-5")
    whole = await road.the_connection()
    assert first["events"] + successor["events"] + whole["events"] == json.loads(whole["facts"])["server_frames"] == 7
    assert usage(first) == usage(successor) == {"response.usage": RESPONSES_USAGE}


@pytest.mark.parametrize("door", DOORS)
async def test_an_error_frame_ends_its_turn_and_not_the_connection(road: Road, door: str) -> None:
    """The frame's own status is the turn's; a failed response keeps what the vendor says it used; the next turn goes well."""
    async with road.open(door) as socket:
        for stub in ({"end": "error", "status": 429, "code": "rate_limit_exceeded"}, {"end": "failed"}, {}):
            await socket.send(create(**stub))
            await until_end(socket)
    limited, failed, well = await road.turns(3)
    assert (limited["http_status"], limited["error_event"], limited["usage"]) == (429, False, [])
    assert json.loads(limited["error_object"])["code"] == "rate_limit_exceeded"
    assert (failed["http_status"], failed["error_event"], failed["terminal"]) == (101, True, "response.failed")
    assert usage(failed) == {"response.usage": RESPONSES_USAGE}
    assert well["terminal"] == "response.completed"


@pytest.mark.parametrize("door", DOORS)
async def test_realtime_responses_and_transcriptions_are_lines_of_their_own(road: Road, door: str) -> None:
    """One response asked for, one that voice began by itself, one transcription at another model; the session's model is what served."""
    async with road.open(door, "/realtime?model=gpt-realtime") as socket:
        assert json.loads(await socket.recv())["type"] == "session.created"
        await socket.send(json.dumps({"type": "response.create", "response": {"metadata": {"topic": "x"}}}))
        await until_end(socket)
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "UklG"}))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        await until_end(socket)
        assert "transcript" in json.loads(await socket.recv())
        await socket.send(json.dumps({"type": "response.create", "stub": {"end": "cancelled"}}))
        await until_end(socket)
    responses = await road.turns(4)
    rows = [(turn["api_model"], turn["method"], turn["body_facts"] or "") for turn in road.requests()]
    assert rows == [
        ("gpt-realtime", "WS", '{"metadata":{"topic":"x"}}'),
        ("gpt-4o-mini-transcribe", "WS", ""),
        ("gpt-realtime", "WS", ""),
        ("gpt-realtime", "WS", "{}"),
    ]
    asked, heard, voiced, cancelled = responses
    for response in (asked, voiced, cancelled):
        assert usage(response) == {"response.usage": REALTIME_USAGE}
        assert (response["terminal"], response["served_model"]) == ("response.done", "gpt-realtime-2026-01-01")
        assert response["output_seen"]
    assert usage(heard) == {"usage": TRANSCRIPTION_USAGE}
    assert heard["terminal"] == "conversation.item.input_audio_transcription.completed"
    assert (heard["served_model"], heard["events"]) == (None, 2)
    assert (cancelled["finish_reasons"], json.loads(cancelled["facts"])["status"]) == (["client_cancelled"], "cancelled")
    (connection,) = road.requests("GET")
    assert (connection["api_model"], connection["path"], connection["query"]) == ("gpt-realtime", "/v1/realtime", "model=gpt-realtime")


@pytest.mark.parametrize("door", DOORS)
async def test_a_realtime_error_closes_only_the_turn_that_it_names(road: Road, door: str) -> None:
    """An error that names a client's event ends the response which that event asked for."""
    async with road.open(door, "/realtime?model=gpt-realtime") as socket:
        await socket.recv()
        stub = {"end": "error", "code": "invalid_value"}
        await socket.send(json.dumps({"type": "response.create", "event_id": "mine_1", "stub": stub}))
        await until_end(socket)
        await socket.send(json.dumps({"type": "response.create", "event_id": "mine_2"}))
        await until_end(socket)
    refused, well = await road.turns(2)
    assert (json.loads(refused["error_object"])["event_id"], refused["error_event"]) == ("mine_1", True)
    assert well["terminal"] == "response.done"


@pytest.mark.parametrize("door", DOORS)
async def test_a_key_among_the_subprotocols_is_known_and_nowhere_on_disk(road: Road, door: str) -> None:
    """A browser's key stands in Sec-WebSocket-Protocol: it reaches the vendor, the record has its fingerprint, no file has the key."""
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with road.open(door, "/realtime?model=m", subprotocols=protocols, headers={"Authorization": ""}) as socket:
        assert socket.subprotocol == "realtime"
        await socket.recv()
        await socket.send(json.dumps({"type": "response.create"}))
        await until_end(socket)
    await road.turns(1)
    assert road.connection.protocols == protocols
    for request in recorded(road.home, "request"):
        assert (request["credential_in"], len(request["credential"] or "") > 10) == ("sec-websocket-protocol", True)
    assert holding(road.home.root, b"sec-websocket-protocol") != []
    assert holding(road.home.root, KEY.encode()) == []
    assert not any(KEY in repr(recorded(road.home, kind)) for kind in KINDS)


@pytest.mark.parametrize("door", DOORS)
async def test_upstreams_close_code_is_the_clients(road: Road, door: str) -> None:
    """The turn that was cut off is a record, and the code and its words reach the client; no code is no code."""
    for count, (code, seen) in enumerate(((1000, 1000), (1012, 1012), (4008, 4008), (0, 1005)), 1):
        async with road.open(door) as socket:
            await socket.send(create(close=code))
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await asyncio.wait_for(socket.recv(), 15)
        assert (socket.close_code, socket.close_reason) == (seen, "as asked" if code else "")
        closed = await road.closed(2 * count)
        response, whole = closed[road.requests()[-1]["request_id"]], closed[road.requests("GET")[-1]["request_id"]]
        assert (response["ending"], response["terminal"], response["output_seen"]) == ("upstream_truncated", None, True)
        facts = json.loads(whole["facts"])
        assert (whole["terminal"], facts["closed_by"], facts["close_code"]) == (f"close {seen}", "upstream", seen)


@pytest.mark.parametrize("door", DOORS)
async def test_an_upstream_that_vanishes_does_not_look_as_if_it_had_closed(road: Road, door: str) -> None:
    """No close frame came, so none is made up: the client sees 1006, after which its SDK comes back."""
    async with road.open(door) as socket:
        await socket.send(create(drop=True))
        with pytest.raises(ConnectionClosedError):
            await until_end(socket)
    assert socket.close_code == 1006
    (response,) = await road.turns(1)
    assert (response["ending"], response["client_gone_at"]) == ("upstream_truncated", None)
    assert (await road.the_connection())["ending"] == "upstream_truncated"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("how", ["close", "vanish"])
async def test_a_client_that_leaves_in_a_turn(road: Road, door: str, how: str) -> None:
    """Behind the gateway the turn is read to its end for the usage; behind the forward door upstream learns of it at once."""
    async with road.open(door) as socket:
        await socket.send(create(hold="gate"))
        for _ in range(2):
            await asyncio.wait_for(socket.recv(), 15)
        if how == "vanish":
            socket.transport.abort()
        else:
            await asyncio.wait_for(socket.close(code=4000), 5)
    await asyncio.sleep(0.2)  # the rest comes after the client has left: that is the case
    road.official.release("gate")
    (response,) = await road.turns(1)
    assert response["client_gone_at"] is not None
    if door == "gateway":
        assert (response["ending"], response["terminal"], usage(response)) == (
            "complete",
            "response.completed",
            {"response.usage": RESPONSES_USAGE},
        )
    else:
        assert (response["ending"], response["terminal"], response["usage"]) == ("client_gone", None, [])
    whole = await road.the_connection()
    assert whole["ending"] == ("complete" if how == "close" else "client_gone")
    await road.official.until(lambda vendor: vendor.seen[-1].ended)
    assert road.connection.close_code == (4000 if how == "close" else 1006)


@pytest.mark.parametrize("door", DOORS)
async def test_pings_pass_from_end_to_end(road: Road, door: str) -> None:
    """A ping reaches the vendor with its payload, and the pong is the vendor's."""
    async with road.open(door, "/other", ping_interval=None) as socket:
        await asyncio.wait_for(await socket.ping(b"are you there"), 15)
        assert b"are you there" in road.connection.pings


@pytest.mark.parametrize("door", DOORS)
async def test_a_refused_upgrade_is_the_vendors_own_answer(road: Road, door: str) -> None:
    """Status, headers and body of the refusal reach the client, and the attempt is a row."""
    road.official.refuse = 403
    with pytest.raises(InvalidStatus) as caught:
        async with road.open(door, "/realtime?model=m"):
            pass
    answer = caught.value.response
    assert (answer.status_code, answer.headers["x-request-id"]) == (403, "req_refused")
    assert json.loads(answer.body or b"")["error"]["code"] == "refused_by_vendor"
    response = await road.the_connection()
    assert (response["http_status"], response["ending"]) == (403, "complete")


async def test_the_gateway_answers_the_upgrade_with_its_id_and_the_vendors_headers(road: Road) -> None:
    """Realtime: what the vendor said is said, and only the ledger's id is added."""
    async with road.open("gateway", "/realtime?model=m") as socket, road.open("forward", "/realtime?model=m") as plain:
        assert socket.response is not None
        assert plain.response is not None
        added = {name.lower() for name in socket.response.headers} - {name.lower() for name in plain.response.headers}
        assert added == {"x-ledger-request-id"}
        assert socket.response.headers["x-request-id"] == "req_official_1"
        ids = [row["request_id"] for row in road.requests("GET")]
        assert socket.response.headers["x-ledger-request-id"] in ids


async def test_the_first_frame_chooses_the_channel(road: Road) -> None:
    """A model that the book lists for another channel leads there, under the channel's own id and with the channel's own key."""
    async with road.open("gateway") as socket:
        assert road.routed.seen == road.official.seen == []
        await socket.send(create("gpt-cheap"))
        await until_end(socket)
        await socket.send(create("gpt-5"))
        elsewhere = json.loads((await until_end(socket))[-1])
        await socket.send(create("gpt-cheap", "lane"))
        await until_end(socket)
    (connection,) = road.routed.seen
    assert road.official.seen == []
    assert connection.header("authorization") == f"Bearer {BACKUP_KEY}"
    assert [json.loads(frame)["model"] for frame in connection.received] == ["vendor/cheap", "vendor/cheap"]
    assert connection.received[0] == create("vendor/cheap")
    assert (elsewhere["status"], elsewhere["error"]["code"]) == (400, "model_on_another_channel")
    first, refused, last = await road.turns(3)
    assert (refused["ordinal"], refused["ending"], refused["http_status"]) == (0, "refused", 400)
    assert (first["terminal"], last["terminal"]) == ("response.completed", "response.completed")
    attempts = {row["request_id"]: row for row in recorded(road.home, "attempt")}
    attempt = attempts[road.requests()[0]["request_id"]]
    assert (attempt["channel"], attempt["sent_model"], attempt["modified"]) == ("routed", "vendor/cheap", ["credential", "model"])
    assert road.requests()[0]["api_model"] == "gpt-cheap"


async def test_a_realtime_model_goes_to_its_backup_when_the_first_refuses(road: Road) -> None:
    """Before the upgrade is answered there is a way back: retries, then the backup under its own model id, without the client's key."""
    road.official.refuse = 503
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with road.open("gateway", "/realtime?model=gpt-talk&b=%2F", subprotocols=protocols, headers={"Authorization": ""}) as socket:
        await socket.recv()
        await socket.send(json.dumps({"type": "response.create"}))
        await until_end(socket)
    (connection,) = road.routed.seen
    assert (connection.query, connection.protocols) == ({"model": "vendor/talk", "b": "/"}, ["realtime"])
    assert connection.header("authorization") == f"Bearer {BACKUP_KEY}"
    (asked,) = road.requests("GET")
    tries = [row for row in recorded(road.home, "attempt") if row["request_id"] == asked["request_id"]]
    assert [(row["channel"], row["reason"]) for row in tries] == [
        ("official", "first"),
        ("official", "retry"),
        ("official", "retry"),
        ("routed", "fallback"),
    ]
    assert (tries[-1]["sent_model"], tries[-1]["modified"]) == ("vendor/talk", ["model", "credential"])
    (turn,) = road.requests()
    assert turn["api_model"] == "gpt-talk"


async def test_an_upstream_that_is_down_is_an_error_frame_and_a_row_for_each_try(road: Road) -> None:
    """The client was answered already, so it is told in a frame of the vendor's shape, and the connection is closed."""
    await road.routed.__aexit__()
    async with road.open("gateway") as socket:
        await socket.send(create("gpt-cheap", "lane"))
        told = json.loads((await until_end(socket))[-1])
        with pytest.raises(ConnectionClosedError):
            await socket.recv()
    assert (told["status"], told["error"]["code"], told["stream_id"]) == (502, "upstream_unreachable", "lane")
    assert socket.close_code == 1011
    responses = await road.responses(5)
    (turn,) = road.requests()
    assert [row["ending"] for row in responses if row["request_id"] == turn["request_id"]] == ["exhausted"]
    assert [row["ending"] for row in responses if row["request_id"] != turn["request_id"]] == ["connect_error"] * 3 + ["exhausted"]


async def test_a_client_that_asks_for_nothing_is_a_record_too(road: Road) -> None:
    """It connects and leaves: the upgrade is on record, and no channel was opened."""
    async with road.open("gateway"):
        pass
    whole = await road.the_connection()
    assert (whole["ordinal"], whole["http_status"], whole["ending"]) == (0, 101, "client_gone")
    assert road.official.seen == []


async def test_sigterm_lets_a_turn_end_and_closes_idle_connections_at_once(road: Road) -> None:
    """1001 for who is idle; who is in the middle of a turn gets its end first; exit 0."""
    async with road.open("gateway") as idle, road.open("gateway") as busy, road.open("gateway") as silent:
        await idle.send(create())
        await until_end(idle)
        await busy.send(create(hold="gate"))
        for _ in range(2):
            await busy.recv()
        stopping = asyncio.create_task(asyncio.to_thread(road.sidecar.stop))
        for socket in (idle, silent):
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 5)
            assert socket.close_code == 1001
        assert not stopping.done()
        road.official.release("gate")
        assert json.loads((await until_end(busy))[-1])["type"] == "response.completed"
    assert await stopping == 0
    assert {row["terminal"] for row in await road.turns(2)} == {"response.completed"}


async def test_what_is_open_behind_the_forward_door_is_closed_on_record(road: Road) -> None:
    """The proxy stops with a connection open: connection and turn say so."""
    async with road.open("forward", "/realtime?model=m") as socket:
        await socket.recv()
        assert await asyncio.to_thread(road.sidecar.stop) == 0
    whole = await road.the_connection()
    assert (whole["ending"], json.loads(whole["facts"])["closed_by"]) == ("proxy_stopped", "proxy")


@pytest.mark.parametrize("door", DOORS)
async def test_the_sdks_own_socket_client(road: Road, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """openai-python's responses and realtime connections, with proxy and CA from the environment as in a team."""
    base = road.sidecar.base_url
    if door == "forward":
        monkeypatch.setenv("HTTPS_PROXY", road.sidecar.forward)
        monkeypatch.setenv("SSL_CERT_FILE", str(road.home.ca / "mitmproxy-ca-cert.pem"))
        base = road.official.base_url
    async with openai.AsyncOpenAI(base_url=base, api_key=KEY) as sdk:
        async with sdk.responses.connect() as responses:
            await responses.response.create(model="gpt-5", input="hello")
            async for event in responses:
                if event.type == "response.completed":
                    assert event.response.usage is not None
                    assert event.response.usage.input_tokens == 7
                    break
        async with sdk.realtime.connect(model="gpt-realtime") as realtime:
            await realtime.response.create()
            async for said in realtime:
                if said.type == "response.done":
                    break
    await road.closed(4)
    assert [turn["api_model"] for turn in road.requests()] == ["gpt-5", "gpt-realtime"]
    assert {row["credential_in"] for row in recorded(road.home, "request")} == {"authorization"}


@pytest.mark.parametrize("door", DOORS)
async def test_a_turn_is_durable_before_upstream_has_its_frame(road: Road, door: str) -> None:
    """The proxy is killed in the middle of a turn: request and attempt are on disk, and no response is made up."""
    async with road.open(door) as socket:
        await socket.send(create(hold="gate"))
        await socket.recv()
        road.sidecar.process.kill()
        with pytest.raises(ConnectionClosedError):
            await until_end(socket)
    (turn,) = road.requests()
    assert turn["request_id"] in {row["request_id"] for row in recorded(road.home, "attempt")}
    assert recorded(road.home, "response") == []
