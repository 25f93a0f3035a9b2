"""Both doors with a plain client and a real upstream: bytes as they came, one record for each try, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import httpx2
import pytest

from etl.build import build
from schemas.home import Home
from tests.certs import Authority
from tests.clients import Ask, Door, ask_async, ask_many
from tests.conftest import Place
from tests.sidecar import command, recorded
from tests.upstream import Upstream

DOORS = ["gateway", "forward"]
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "say something"}]}
JSON = {"Content-Type": "application/json"}
DRESSES = [
    "usage=always",
    "eol=crlf",
    "eol=cr",
    "bom",
    "comments",
    "cut=7",
    "encoding=gzip",
    "encoding=deflate",
    "encoding=zstd",
    "encoding=br",
]
DAMAGE = ["no-done", "body=utf8", "body=malformed", "body=empty", "no-last-blank", "json-error", "error=2", "error-event=2"]


def said(marker: str, **more: Any) -> bytes:
    """A chat request whose last message carries a marker for the upstream."""
    return json.dumps({**BODY, "messages": [{"role": "user", "content": f"go [[stub: {marker}]]"}], **more}).encode()


def client(door: Door) -> httpx2.AsyncClient:
    """A plain HTTP client at a door, with no retries of its own."""
    verify: Any = ssl.create_default_context(cafile=str(door.ca)) if door.ca else True
    headers = {"Authorization": "Bearer sk-test-0123456789abcdef"}
    return httpx2.AsyncClient(base_url=door.base_url, proxy=door.proxy, verify=verify, timeout=20, trust_env=False, headers=headers)


@contextlib.asynccontextmanager
async def streaming(door: Door, body: bytes) -> AsyncIterator[httpx2.Response]:
    """A chat request of that client whose answer is read as it comes."""
    async with client(door) as http, http.stream("POST", "/chat/completions", content=body, headers=JSON) as answer:
        yield answer


async def closed(place: Place, count: int) -> list[dict[str, Any]]:
    """The response records, once there are `count`."""
    found: list[dict[str, Any]] = []
    for _ in range(250):
        found = recorded(place.home, "response")
        if len(found) >= count:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(found)} of {count} responses were recorded: {found}")


@pytest.mark.parametrize("door", DOORS)
async def test_the_client_gets_every_byte_as_the_upstream_sent_it(place: Place, door: str) -> None:
    """Streams in every dress, damaged ones too: what arrives is what was sent, and is what was recorded."""
    async with client(place.door(door)) as http:
        for count, marker in enumerate(DRESSES + DAMAGE, 1):
            async with http.stream("POST", "/chat/completions", content=said(marker, stream=True), headers=JSON) as answer:
                got = b"".join([piece async for piece in answer.aiter_raw()])
            response = (await closed(place, count))[-1]
            assert place.official.seen[-1].sent_bytes == len(got) == response["body_bytes"], marker
            assert response["body_sha256"] == (hashlib.sha256(got).hexdigest() if got else None), marker
            assert response["ending"] == "complete", marker


@pytest.mark.parametrize("door", DOORS)
async def test_the_request_arrives_as_it_was_sent_less_what_is_ours(place: Place, door: str) -> None:
    """Body byte for byte, the client's headers and no others, and nothing of x-ledger-*."""
    body = b'{"model" : "gpt-4o",\n "messages":[{"role":"user","content":"\\u00e9 1.50"}],"seed":12345678901234567890}'
    async with client(place.door(door)) as http:
        answer = await http.post("/chat/completions?a=%2F&b", content=body, headers={**JSON, "X-Own": "kept", "X-Ledger-Run": "run-1"})
    assert answer.status_code == 200
    (seen,) = place.official.seen
    assert seen.body == body
    assert seen.target == "/v1/chat/completions?a=%2F&b"
    assert seen.header("x-own") == "kept"
    sent = {name.lower() for name, _ in answer.request.headers.multi_items() if not name.lower().startswith("x-ledger")}
    assert {name.lower() for name, _ in seen.headers} <= sent
    (request,) = recorded(place.home, "request")
    assert json.loads(str(request["headers"]))["x-ledger-run"] == "run-1"


async def test_the_gateway_adds_its_request_id_and_nothing_else(place: Place) -> None:
    """Every header of the answer is upstream's, but for the id; the forward door adds nothing."""
    async with client(place.gateway) as gateway, client(place.forward) as forward:
        through = (await gateway.post("/chat/completions", json=BODY)).headers
        tunnel = (await forward.post("/chat/completions", json=BODY)).headers
    assert through["x-ledger-request-id"] == recorded(place.home, "request")[0]["request_id"]
    assert set(through) - set(tunnel) == {"x-ledger-request-id"}
    assert set(tunnel) - set(through) == set()


@pytest.mark.parametrize("door", DOORS)
async def test_the_first_token_passes_before_the_second_exists(place: Place, door: str) -> None:
    """The upstream holds after one token until the client has seen it: nothing waits for the end."""
    async with streaming(place.door(door), said("hold=1", stream=True)) as answer:
        pieces = answer.aiter_raw()
        seen = b""
        while b"The" not in seen:
            seen += await asyncio.wait_for(anext(pieces), 10)
        await place.official.until_held("1")
        place.official.release("1")
        rest = b"".join([piece async for piece in pieces])
    assert rest.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("door", DOORS)
async def test_an_error_of_any_status_reaches_the_client_and_the_record(place: Place, door: str) -> None:
    """The last upstream's answer is the client's, and each try is a record."""
    async with client(place.door(door)) as http:
        for status in (400, 401, 403, 404, 413, 422, 429, 500, 503, 529):
            already = len(place.official.seen)
            body = said(f"status={status} retry-after-ms=1").replace(b"gpt-4o-mini", b"gpt-4o")
            answer = await http.post("/chat/completions", content=body, headers=JSON)
            assert answer.status_code == status
            assert "error" in answer.json()
            tries = len(place.official.seen) - already
            responses = (await closed(place, already + tries))[already:]
            assert [response["http_status"] for response in responses] == [status] * tries
            assert [response["relayed"] for response in responses] == [False] * (tries - 1) + [True]
    assert len(recorded(place.home, "attempt")) == len(place.official.seen)


async def test_retries_then_fallback_then_the_backups_answer(place: Place) -> None:
    """Three tries on the primary by its rules, one on the backup under its own model id; the client sees one answer."""
    async with client(place.gateway) as http:
        answer = await http.post("/chat/completions", content=said("status=503 retry-after-ms=1 only=official"), headers=JSON)
    assert answer.status_code == 200
    assert json.loads(place.routed.seen[0].body)["model"] == "cheap/gpt-4o-mini"
    attempts = recorded(place.home, "attempt")
    assert [(one["ordinal"], one["channel"], one["role"], one["reason"], one["sent_model"]) for one in attempts] == [
        (1, "official", "primary", "first", "gpt-4o-mini"),
        (2, "official", "primary", "retry", "gpt-4o-mini"),
        (3, "official", "primary", "retry", "gpt-4o-mini"),
        (4, "routed", "backup", "fallback", "cheap/gpt-4o-mini"),
    ]
    assert attempts[3]["modified"] == ["model"]


@pytest.mark.parametrize("size", [1000, 300_000, 17 << 20], ids=["small", "beyond one read", "held in a file"])
async def test_a_form_that_sends_its_file_first_goes_by_its_model(place: Place, size: int) -> None:
    """As curl sends it: routed and renamed by the field behind the file, and no other byte is another; recorded at both doors."""
    file = bytes(range(256)) * (size // 256)
    head = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
    start = head % (b"file", b'; filename="a.wav"') + file + b"\r\n" + head % (b"model", b"")
    end = b"\r\n" + head % (b"response_format", b"") + b"json\r\n--b--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    for name in DOORS:
        async with client(place.door(name)) as http:
            await http.post(
                "/audio/transcriptions?stub=status=503%20retry-after-ms=1%20only=official",
                content=start + b"gpt-4o-mini" + end,
                headers=form,
            )
    assert [seen.body == start + b"gpt-4o-mini" + end for seen in place.official.seen] == [True] * len(place.official.seen)
    assert [seen.body == start + b"cheap/gpt-4o-mini" + end for seen in place.routed.seen] == [True]
    requests = recorded(place.home, "request")
    assert [one["api_model"] for one in requests] == ["gpt-4o-mini"] * 2
    assert [json.loads(str(one["body_facts"])) for one in requests] == [{"response_format": "json"}] * 2


async def test_a_stream_that_breaks_before_its_first_byte_falls_back(place: Place) -> None:
    """Headers alone have not gone to the client yet, so the backup may still answer."""
    async with client(place.gateway) as http:
        answer = await http.post("/chat/completions", content=said("drop=headers only=official", stream=True), headers=JSON)
    assert answer.status_code == 200
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert [one["ending"] for one in await closed(place, 4)] == ["upstream_truncated"] * 3 + ["complete"]


@pytest.mark.parametrize("door", DOORS)
async def test_after_the_first_byte_there_is_no_way_back(place: Place, door: str) -> None:
    """A stream cut after two tokens is cut for the client too; the record keeps what was seen."""
    with pytest.raises(httpx2.RemoteProtocolError):
        async with streaming(place.door(door), said("drop=2", stream=True)) as answer:
            await answer.aread()
    (response,) = await closed(place, 1)
    assert (response["ending"], response["output_seen"], response["terminal"]) == ("upstream_truncated", True, None)
    assert place.routed.seen == []


async def test_an_upstream_that_is_down_is_a_502_and_a_row_for_each_try(place: Place) -> None:
    """Nobody listens: an OpenAI-shaped 502 from the gateway, with connect errors as evidence."""
    await place.official.stop()
    await place.routed.stop()
    async with client(place.gateway) as http:
        answer = await http.post("/chat/completions", json=BODY)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    responses = await closed(place, 7)
    assert [response["ending"] for response in responses] == ["connect_error"] * 6 + ["exhausted"]
    assert [one["reason"] for one in recorded(place.home, "attempt")] == ["first", "retry", "retry", "fallback", "retry", "retry"]


async def test_an_upstream_that_is_down_behind_the_forward_door(place: Place) -> None:
    """The same through HTTPS_PROXY: an OpenAI-shaped 502, and the attempt is a row."""
    await place.official.stop()
    async with client(place.forward) as http:
        answer = await http.post("/chat/completions", json=BODY)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    (response,) = await closed(place, 1)
    assert (response["ending"], response["http_status"]) == ("connect_error", None)


async def test_a_host_that_is_no_channel_is_tunnelled_untouched(place: Place, authority: Authority) -> None:
    """The client speaks TLS with the other server itself: its certificate, and not ours, is what the client sees."""
    async with Upstream(name="elsewhere", tls=authority.issue("127.0.0.1")) as other:
        verify = ssl.create_default_context(cafile=str(authority.cert))
        async with httpx2.AsyncClient(proxy=place.sidecar.forward, verify=verify, trust_env=False) as http:
            answer = await http.post(f"{other.base_url}/chat/completions", json=BODY, headers={"Authorization": "Bearer x"})
    assert answer.status_code == 200
    assert recorded(place.home, "request") == []


async def test_a_tunnel_to_no_channel_stands_before_it_is_said_to(place: Place) -> None:
    """The other side may be first to speak; where nobody listens the client hears 502, as from any proxy."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await writer.drain()
        writer.close()

    proxy = urlsplit(place.sidecar.forward)
    server = await asyncio.start_server(greet, "127.0.0.2", 0)
    port = server.sockets[0].getsockname()[1]
    for expected in (b"HTTP/1.1 200 Connection established\r\n\r\n220 hello\r\n", b"HTTP/1.1 502 Bad Gateway\r\n"):
        reader, writer = await asyncio.open_connection(proxy.hostname, proxy.port)
        writer.write(b"CONNECT 127.0.0.2:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port)
        assert await asyncio.wait_for(reader.readexactly(len(expected)), 10) == expected
        writer.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("door", DOORS)
async def test_any_path_is_relayed_and_recorded(place: Place, door: str) -> None:
    """An endpoint nobody understands yet is still a complete record."""
    async with client(place.door(door)) as http:
        for count, path in enumerate(("/responses", "/something/else", "/models", "/files"), 1):
            answer = await http.get(path)
            request = recorded(place.home, "request")[-1]
            response = (await closed(place, count))[-1]
            assert (request["method"], request["path"]) == ("GET", f"/v1{path}")
            assert response["http_status"] == answer.status_code == place.official.seen[-1].status


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_answer_is_in_the_record(place: Place, door: str, stream: bool) -> None:
    """The record closes with the client's leaving; the gateway reads on, the forward door cannot."""
    async with client(place.door(door)) as http:
        asking = asyncio.create_task(http.post("/chat/completions", content=said("hold=request", stream=stream), headers=JSON))
        await place.official.until_held("request")
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    if door == "gateway":
        await asyncio.sleep(0.1)  # the upstream answers after the client has left: that is the case
        place.official.release("request")
    (response,) = await closed(place, 1)
    assert response["client_gone_at"] is not None
    assert response["ending"] == ("complete" if door == "gateway" else "client_gone")


@pytest.mark.parametrize("door", DOORS)
async def test_a_client_that_leaves_mid_stream(place: Place, door: str) -> None:
    """Behind the gateway the rest is read for its usage; behind the forward door upstream is closed at once."""
    async with streaming(place.door(door), said("hold=2", stream=True, stream_options={"include_usage": True})) as answer:
        await asyncio.wait_for(anext(answer.aiter_raw()), 10)
        await place.official.until_held("2")
    await asyncio.sleep(0.1)  # the rest comes after the client has left: that is the case
    place.official.release("2")
    (response,) = await closed(place, 1)
    assert response["client_gone_at"] is not None
    if door == "gateway":
        assert (response["ending"], response["terminal"]) == ("complete", "[DONE]")
        assert response["usage"][0]["path"] == "usage"
    else:
        assert (response["ending"], response["terminal"], response["usage"]) == ("client_gone", None, [])


@pytest.mark.parametrize("door", DOORS)
async def test_a_client_that_closes_right_after_done_has_succeeded(place: Place, door: str) -> None:
    """openai-python closes its socket at [DONE], before the end of the HTTP body."""
    reply = await ask_async(place.door(door), Ask(message="hello", stream=True))
    assert reply.text
    (response,) = await closed(place, 1)
    assert (response["ending"], response["terminal"]) == ("complete", "[DONE]")
    assert response["client_gone_at"] is None


@pytest.mark.parametrize("door", DOORS)
async def test_200_streams_at_once_leave_200_complete_records(place: Place, door: str) -> None:
    """Rows = requests, attempts = what the upstream saw, each with its usage and its terminal marker."""
    asks = [Ask(message=f"question {number} [[stub: delay-each=1 usage=always]]", stream=True) for number in range(200)]
    replies = await ask_many(place.door(door), asks)
    assert [reply.error for reply in replies if reply.error] == []
    assert all(reply.text for reply in replies)
    responses = await closed(place, 200)
    assert len(recorded(place.home, "request")) == len(recorded(place.home, "attempt")) == len(place.official.seen) == 200
    assert {(one["terminal"], one["ending"], len(one["usage"])) for one in responses} == {("[DONE]", "complete", 1)}
    assert len({one["request_id"] for one in responses}) == 200
    # A question is 2 words + 3 = 5 prompt tokens, of which 5 // 4 = 1 cached, and 8 completion tokens: 4 x 0.15 + 1 x 0.075 + 8 x 0.60
    # = 5.475 millionths; 200 of them are 0.001095.
    await asyncio.to_thread(place.sidecar.stop)
    build(place.home)
    with duckdb.connect(str(place.home.ledger_file), read_only=True) as con:
        told = con.execute("select count(*), sum(attempt_count), sum(final_charge) from ledger").fetchone()
        assert told == (200, 200, Decimal("0.001095"))
        assert con.execute("select sum(amount) from journal where account like 'wallet:%'").fetchone() == (Decimal("-0.001095"),)


async def test_sigterm_lets_a_live_stream_end(place: Place) -> None:
    """Stop accepting, let the stream run to its end, exit 0."""
    async with streaming(place.gateway, said("hold=1", stream=True)) as answer:
        await place.official.until_held("1")
        stopping = asyncio.create_task(asyncio.to_thread(place.sidecar.stop))
        await asyncio.sleep(0.3)
        assert not stopping.done()
        place.official.release("1")
        rest = b"".join([piece async for piece in answer.aiter_raw()])
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await stopping == 0


async def started(*arguments: str) -> tuple[int | None, bytes, bytes]:
    """Exit code, stdout and stderr of a command that should not start."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    return process.returncode, out, err


async def test_a_second_proxy_on_the_same_home_is_told_so(place: Place) -> None:
    """One clear line and exit 2."""
    code, out, err = await started(*command(place.home, "proxy", "--gateway-port", "0", "--forward-port", "0", "--admin-port", "0"))
    assert (code, out) == (2, b"")
    assert b"another process is writing the journal" in err


@pytest.mark.parametrize("door", DOORS)
async def test_a_port_in_use_is_told_in_one_line(place: Place, tmp_path: Path, door: str) -> None:
    """Which door, which address, which option cures it."""
    other = Home(tmp_path / "other")
    shutil.copytree(place.home.book, other.book)
    port = place.sidecar.doors[door].rpartition(":")[2]
    ports = {"gateway": "0", "forward": "0", "admin": "0", door: port}
    code, _, err = await started(*command(other, "proxy", *[word for name, number in ports.items() for word in (f"--{name}-port", number)]))
    assert code == 2
    assert f"the {door} door cannot listen on 127.0.0.1:{port}".encode() in err
    assert f"--{door}-port".encode() in err
