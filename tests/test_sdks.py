"""More real clients at both doors: Anthropic's SDK, openai over aiohttp, and a client that compresses its requests as Codex does."""

from __future__ import annotations

import json
import ssl
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import zstandard

from tests.clients import Door
from tests.conftest import Place
from tests.sidecar import recorded
from tests.test_relay import BODY, JSON, client, closed
from tests.vendor import Answer

DOORS = ["gateway", "forward"]
KEY = "sk-test-0123456789abcdef"
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test-1",
    "content": [{"type": "text", "text": "Hi."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 3},
}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 9, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
]


def trust(door: Door) -> Any:
    return ssl.create_default_context(cafile=str(door.ca)) if door.ca else True


@pytest.mark.parametrize("stream", [False, True], ids=["body", "stream"])
@pytest.mark.parametrize("name", DOORS)
async def test_anthropics_sdk(place: Place, name: str, stream: bool) -> None:
    """Messages through either door: the SDK is content, and the record has the usage of the first and the last event apart."""
    door = place.door(name)
    if stream:
        body = b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in EVENTS)
        place.official.queue.append(Answer(200, (("content-type", "text/event-stream; charset=utf-8"),), (body,)))
    else:
        place.official.queue.append(Answer(200, (("content-type", "application/json"),), (json.dumps(MESSAGE).encode(),)))
    http = httpx2.AsyncClient(proxy=door.proxy, verify=trust(door), trust_env=False)
    async with anthropic.AsyncAnthropic(base_url=door.base_url.removesuffix("/v1"), api_key=KEY, http_client=http) as sdk:
        asked: dict[str, Any] = {"model": "claude-test-1", "max_tokens": 16, "messages": [{"role": "user", "content": "Say hi."}]}
        if stream:
            async with sdk.messages.stream(**asked) as events:
                assert [text async for text in events.text_stream] == ["Hi."]
        else:
            answer = await sdk.messages.create(**asked)
            assert answer.usage.output_tokens == 3
    (request,) = recorded(place.home, "request")
    (response,) = await closed(place, 1)
    assert (request["path"], request["api_model"]) == ("/v1/messages", "claude-test-1")
    assert request["credential_in"] in ("x-api-key", "authorization")
    assert (response["ending"], response["terminal"]) == ("complete", "message_stop" if stream else "body")
    assert {seen["path"]: json.loads(seen["object"]) for seen in response["usage"]} == (
        {"message.usage": {"input_tokens": 9, "output_tokens": 1}, "usage": {"output_tokens": 3}} if stream else {"usage": MESSAGE["usage"]}
    )


@pytest.mark.parametrize("name", DOORS)
async def test_openai_over_aiohttp(place: Place, name: str) -> None:
    """The SDK's other transport streams through either door."""
    door = place.door(name)
    http = openai.DefaultAioHttpClient(proxy=door.proxy, verify=trust(door), trust_env=False)
    async with openai.AsyncOpenAI(base_url=door.base_url, api_key=KEY, http_client=http) as sdk:
        stream = await sdk.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], stream=True)
        text = "".join([(chunk.choices[0].delta.content or "") if chunk.choices else "" async for chunk in stream])
    assert text
    (response,) = await closed(place, 1)
    assert (response["ending"], response["terminal"], response["client_gone_at"]) == ("complete", "[DONE]", None)


@pytest.mark.parametrize("name", DOORS)
async def test_a_request_compressed_with_zstd(place: Place, name: str) -> None:
    """The bytes pass as they came; the model and the stream wish are read from a copy."""
    body = zstandard.ZstdCompressor().compress(json.dumps({**BODY, "model": "gpt-4o", "stream": True}).encode())
    async with client(place.door(name)) as http:
        answer = await http.post("/chat/completions", content=body, headers={**JSON, "Content-Encoding": "zstd"})
    assert answer.status_code == 200
    (seen,) = place.official.seen
    assert (seen.body, seen.header("content-encoding")) == (body, "zstd")
    (request,) = recorded(place.home, "request")
    assert (request["api_model"], request["stream"], request["body_state"]) == ("gpt-4o", True, "read")


async def test_a_compressed_request_whose_model_has_another_id_upstream(place: Place) -> None:
    """Where the gateway must change the body, it sends it plain and says so."""
    await place.official.stop()
    body = zstandard.ZstdCompressor().compress(json.dumps(BODY).encode())
    async with client(place.gateway) as http:
        answer = await http.post("/chat/completions", content=body, headers={**JSON, "Content-Encoding": "zstd"})
    assert answer.status_code == 200
    (seen,) = place.routed.seen
    assert seen.header("content-encoding") is None
    assert json.loads(seen.body)["model"] == "cheap/gpt-4o-mini"
    assert recorded(place.home, "attempt")[-1]["modified"] == ["model", "content_encoding"]
