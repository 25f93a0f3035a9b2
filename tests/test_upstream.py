"""The stand-in vendor speaks as documented: proven with the real SDKs and with raw bytes."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import zstandard

from etl.encodings import encoding
from tests.certs import make_authority
from tests.upstream import Upstream, process, seen_by, serving
from tests.vendor import Answer, Call, Drop, Hold, Pause, plan, usage, visible_words

MINI = "gpt-4o-mini"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as vendor:
        yield vendor


def client(upstream: Upstream, retries: int = 2) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=upstream.base_url, api_key="sk-test", max_retries=retries)


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def raw(upstream: Upstream, text: str, **fields: Any) -> tuple[aiohttp.ClientResponse, bytes]:
    """The response and its body exactly as sent, nothing decoded."""
    body = {"model": MINI, "messages": say(text), **fields}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(f"{upstream.base_url}/chat/completions", json=body) as reply,
    ):
        return reply, await reply.read()


def events(body: bytes) -> list[Any]:
    """The JSON objects of a stream with LF line ends, `[DONE]` left out."""
    return [json.loads(part[6:]) for part in body.decode().split("\n\n") if part.startswith("data: {")]


async def test_usage_follows_the_documented_formula(upstream: Upstream) -> None:
    """Four words and three more are 7 prompt tokens; 8 come back; the model is the dated snapshot."""
    reply = await client(upstream).chat.completions.create(model=MINI, messages=say("one two three four"))
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 8, 15)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 1
    assert reply.model == "gpt-4o-mini-2024-07-18"
    assert reply.choices[0].message.content == "The answer is here and it works well"
    assert (reply.id, reply._request_id) == ("chatcmpl-stub-000001", "req_stub_000001")


@pytest.mark.parametrize(
    ("fields", "completion", "reasoning"),
    [
        ({"model": MINI, "max_tokens": 5}, 5, 0),
        ({"model": MINI, "n": 2}, 16, 0),
        ({"model": "gpt-5"}, 8, 2),
        ({"model": "o3", "max_completion_tokens": 4}, 4, 1),
    ],
)
def test_completion_tokens_by_hand(fields: dict[str, Any], completion: int, reasoning: int) -> None:
    """Limits cap, `n` multiplies, and reasoning models think for a quarter of what they emit."""
    numbers = usage("chat", {"messages": say("hi"), **fields}, {})
    assert numbers["completion_tokens"] == completion
    assert numbers["completion_tokens_details"]["reasoning_tokens"] == reasoning


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_each_word_is_one_token(name: str) -> None:
    """A recount of the visible text gives the vendor's own completion tokens, whatever the length."""
    for count in (1, 8, 9, 200):
        text = "".join(visible_words(usage("chat", {"messages": say("hi")}, {"tokens": str(count)})))
        assert len(encoding(name).encode_ordinary(text)) == count


async def test_stream_usage_only_when_asked(upstream: Upstream) -> None:
    """With include_usage every earlier chunk says null and the last has no choices; without it no chunk has the field."""
    _, asked = await raw(upstream, "hi", stream=True, stream_options={"include_usage": True})
    *earlier, last = events(asked)
    assert all(chunk["usage"] is None for chunk in earlier)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 12)
    assert asked.endswith(b"data: [DONE]\n\n")
    _, silent = await raw(upstream, "hi", stream=True)
    assert all("usage" not in chunk for chunk in events(silent))


async def test_sdk_reads_every_line_ending_and_cut(upstream: Upstream) -> None:
    """The visible text is the same for LF, CRLF and CR, for comments, and for pieces of seven bytes."""
    for words in ("eol=lf", "eol=crlf cut=7", "eol=cr cut=7", "comments no-space", "encoding=gzip cut=5"):
        stream = await client(upstream).chat.completions.create(model=MINI, messages=say(f"hi [[stub: {words}]]"), stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "The answer is here and it works well", words


async def test_cut_pieces_are_the_same_bytes(upstream: Upstream) -> None:
    """Cutting changes how the bytes travel and nothing else."""
    _, whole = await raw(upstream, "hi [[stub: model=m eol=crlf bom]]", stream=True)
    _, cut = await raw(upstream, "hi [[stub: model=m eol=crlf bom cut=3]]", stream=True)
    assert whole.replace(b"000001", b"000002") == cut
    assert whole.startswith(b"\xef\xbb\xbfdata: ")
    assert whole.count(b"\r\n\r\n") == whole.count(b"data:")


@pytest.mark.parametrize("stream", [False, True])
async def test_encoded_bodies_decode_to_the_plain_ones(upstream: Upstream, stream: bool) -> None:
    """gzip, deflate and zstd carry the same bytes that an unencoded answer has."""
    _, plain = await raw(upstream, "hi [[stub: id=x]]", stream=stream)
    decoders: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "zstd": zstandard.ZstdDecompressor().decompressobj().decompress,
    }
    for ordinal, (name, decode) in enumerate(decoders.items(), 2):
        reply, body = await raw(upstream, f"hi [[stub: encoding={name}]]", stream=stream)
        assert reply.headers["content-encoding"] == name
        assert decode(body) == plain.replace(b"000001", f"{ordinal:06d}".encode())


async def test_times_counts_and_the_sdk_retries_through_it(upstream: Upstream) -> None:
    """Two 429 with retry-after-ms, then the answer: three requests seen, retry count 0, 1, 2, the bodies identical."""
    await client(upstream).chat.completions.create(model=MINI, messages=say("hi [[stub: status=429 times=2 retry-after-ms=5]]"))
    assert [seen.status for seen in upstream.seen] == [429, 429, 200]
    assert [seen.header("x-stainless-retry-count") for seen in upstream.seen] == ["0", "1", "2"]
    assert len({seen.body for seen in upstream.seen}) == 1
    assert upstream.seen[1].started - (upstream.seen[0].ended or 0) < 0.2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_error_statuses_are_openai_shaped(upstream: Upstream, status: int, error: type[openai.APIStatusError]) -> None:
    """The SDK turns each status into its own exception and finds the error object."""
    with pytest.raises(error) as caught:
        await client(upstream, retries=0).chat.completions.create(model=MINI, messages=say(f"hi [[stub: status={status}]]"))
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


async def test_connection_dropped_before_the_head_is_a_connection_error(upstream: Upstream) -> None:
    """A drop before the head is retried by the SDK and then raised; the log says who did it."""
    with pytest.raises(openai.APIConnectionError):
        await client(upstream, retries=1).chat.completions.create(model=MINI, messages=say("hi [[stub: drop=request]]"))
    assert [seen.outcome for seen in upstream.seen] == ["dropped", "dropped"]
    assert [seen.status for seen in upstream.seen] == [None, None]


@pytest.mark.parametrize(("point", "texts", "has_usage"), [("headers", 0, False), ("3", 3, False), ("usage", 8, True), ("done", 8, True)])
async def test_stream_dropped_at_a_point(upstream: Upstream, point: str, texts: int, has_usage: bool) -> None:
    """Everything before the point arrives, nothing after it, and the HTTP body is left unfinished."""
    body = {"model": MINI, "messages": say(f"hi [[stub: drop={point}]]"), "stream": True, "stream_options": {"include_usage": True}}
    got = b""
    async with aiohttp.ClientSession() as session, session.post(f"{upstream.base_url}/chat/completions", json=body) as reply:
        with pytest.raises(aiohttp.ClientPayloadError):  # noqa: PT012 - what came before it is asserted on
            async for piece in reply.content.iter_any():
                got += piece
    chunks = events(got)
    assert sum(bool(chunk["choices"] and chunk["choices"][0]["delta"].get("content")) for chunk in chunks) == texts
    assert any(chunk["usage"] for chunk in chunks) is has_usage
    assert upstream.seen[0].outcome == "dropped"
    assert upstream.seen[0].sent_bytes == len(got)


async def test_body_dropped_half_way(upstream: Upstream) -> None:
    """A body that is no stream is cut after so many bytes."""
    with pytest.raises(aiohttp.ClientPayloadError):
        await raw(upstream, "hi [[stub: drop=40]]")
    assert (upstream.seen[0].outcome, upstream.seen[0].sent_bytes) == ("dropped", 40)


async def test_hold_waits_for_the_release(upstream: Upstream) -> None:
    """The first token arrives while the rest is held; nothing more comes until the test says so."""
    stream = await client(upstream).chat.completions.create(model=MINI, messages=say("hi [[stub: hold=1 hold-name=gate]]"), stream=True)
    pieces = stream.__aiter__()
    assert (await pieces.__anext__()).choices[0].delta.content == ""
    assert (await pieces.__anext__()).choices[0].delta.content == "The"
    await upstream.until_held("gate")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(rest := asyncio.ensure_future(pieces.__anext__())), 0.05)
    upstream.release("gate")
    assert (await rest).choices[0].delta.content == " answer"
    assert len([chunk async for chunk in stream]) == 7


async def test_head_arrives_before_a_held_body(upstream: Upstream) -> None:
    """The response head goes out by itself, not together with the first body byte."""
    body = {"model": MINI, "messages": say("hi [[stub: hold=headers]]"), "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{upstream.base_url}/chat/completions", json=body) as reply:
        assert reply.status == 200
        upstream.release("headers")
        assert b"[DONE]" in await reply.read()


async def test_a_client_that_leaves_is_seen(upstream: Upstream) -> None:
    """When the peer goes while an answer is held, the log says so at once."""
    stream = await client(upstream).chat.completions.create(model=MINI, messages=say("hi [[stub: hold=2]]"), stream=True)
    await upstream.until_held("2")
    await stream.close()
    await upstream.until_ended()
    assert upstream.seen[0].client_gone


async def test_delays_are_kept(upstream: Upstream) -> None:
    """80 ms before the first body byte and seven times 10 ms between tokens."""
    begun = time.monotonic()
    await raw(upstream, "hi [[stub: delay-first=80 delay-each=10]]", stream=True)
    assert 0.15 <= time.monotonic() - begun < 1.0


async def test_error_inside_a_stream_raises_in_the_sdk(upstream: Upstream) -> None:
    """Two tokens, then an error object: the SDK raises after delivering them."""
    texts = []
    stream = await client(upstream).chat.completions.create(model=MINI, messages=say("hi [[stub: error=2]]"), stream=True)
    with pytest.raises(openai.APIError, match="had an error"):  # noqa: PT012 - what came before it is asserted on
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)  # noqa: PERF401
    assert texts == ["", "The", " answer"]


async def test_usage_in_odd_places(upstream: Upstream) -> None:
    """No usage, null usage, usage on the finish chunk, on every chunk, and after [DONE]."""
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

    async def totals(words: str) -> tuple[list[int | None], bytes]:
        _, body = await raw(upstream, f"hi [[stub: {words}]]", **asked)
        return [chunk["usage"] and chunk["usage"]["total_tokens"] for chunk in events(body) if "usage" in chunk], body

    assert (await totals("usage=no"))[0] == []
    assert (await totals("usage=null"))[0] == [None] * 11
    assert (await totals("usage=finish"))[0] == [None] * 9 + [12]
    assert (await totals("usage=every"))[0] == [None, 5, 6, 7, 8, 9, 10, 11, 12, 12]
    late, body = await totals("usage=after-done")
    assert late[-1] == 12
    assert body.index(b"[DONE]") < body.index(b'"total_tokens"')


async def test_ends_that_are_not_clean(upstream: Upstream) -> None:
    """No [DONE]; no blank line after it; a JSON error in place of the stream; an empty body."""
    assert b"[DONE]" not in (await raw(upstream, "hi [[stub: no-done]]", stream=True))[1]
    assert (await raw(upstream, "hi [[stub: no-last-blank]]", stream=True))[1].endswith(b"data: [DONE]\n")
    reply, body = await raw(upstream, "hi [[stub: json-error]]", stream=True)
    assert (reply.status, reply.content_type, "error" in json.loads(body)) == (200, "application/json", True)
    assert (await raw(upstream, "hi [[stub: body=empty]]", stream=True))[1] == b""
    with pytest.raises(ValueError, match="Expecting"):
        json.loads((await raw(upstream, "hi [[stub: body=malformed]]"))[1])
    with pytest.raises(UnicodeDecodeError):
        (await raw(upstream, "hi [[stub: body=utf8]]"))[1].decode()


async def test_filtered_and_refused(upstream: Upstream) -> None:
    """finish_reason and refusal come as asked."""
    chat = client(upstream).chat.completions
    filtered = await chat.create(model=MINI, messages=say("hi [[stub: finish=content_filter tokens=0]]"))
    assert (filtered.choices[0].finish_reason, filtered.choices[0].message.content) == ("content_filter", "")
    refused = await chat.create(model=MINI, messages=say("hi [[stub: refusal tokens=2]]"))
    assert (refused.choices[0].message.content, refused.choices[0].message.refusal) == (None, "The answer")


async def test_other_endpoints(upstream: Upstream) -> None:
    """Completions, embeddings in both encodings, models, and any other path."""
    sdk = client(upstream)
    text = await sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="a b c", max_tokens=2)
    assert text.usage is not None
    assert (text.choices[0].text, text.usage.total_tokens) == ("The answer", 5)
    packed = await sdk.embeddings.create(model="text-embedding-3-small", input=["a b", "c"])
    plain = await sdk.embeddings.create(model="text-embedding-3-small", input=["a b", "c"], encoding_format="float")
    assert packed.usage.prompt_tokens == plain.usage.prompt_tokens == 3
    assert [pytest.approx(item.embedding) for item in packed.data] == [item.embedding for item in plain.data]
    assert MINI in [model.id async for model in sdk.models.list()]
    other = await sdk.post("/rerank", body={"model": "m"}, cast_to=object)
    assert isinstance(other, dict)
    assert (other["path"], other["received_bytes"]) == ("/v1/rerank", len(upstream.seen[-1].body))


async def test_compressed_requests_are_understood_and_kept_as_sent(upstream: Upstream) -> None:
    """A zstd request body steers the answer by its marker and is logged as the bytes that came."""
    body = zstandard.compress(json.dumps({"model": MINI, "messages": say("one two [[stub: tokens=3]]")}).encode())
    headers = {"content-encoding": "zstd", "content-type": "application/json"}
    url = f"{upstream.base_url}/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as reply:
        assert (await reply.json())["usage"]["total_tokens"] == 8
    assert upstream.seen[0].body == body


async def test_ready_made_answers_go_out_byte_for_byte(upstream: Upstream) -> None:
    """A stored answer keeps status, header order and doubles, and its pieces, pauses, gates and drop."""
    headers = (("x-b", "1"), ("x-a", "2"), ("x-b", "3"), ("content-type", "text/event-stream"))
    upstream.queue.append(Answer(201, headers, (b"data: \xff\x00", Pause(0.01), b"\r\r")))
    reply, body = await raw(upstream, "hi")
    assert (reply.status, body) == (201, b"data: \xff\x00\r\r")
    assert reply.headers.getall("x-b") == ["1", "3"]
    upstream.stored["mine"] = Answer(200, headers, (b"ab", Hold("g"), b"c", Drop()))
    upstream.release("g")
    with pytest.raises(aiohttp.ClientPayloadError):
        await raw(upstream, "hi [[stub: answer=mine]]")
    assert (upstream.seen[1].outcome, upstream.seen[1].sent_bytes) == ("dropped", 3)


async def test_a_typing_error_in_a_marker_is_loud(upstream: Upstream) -> None:
    """An unknown word is 418 with its name, and no SDK retries it."""
    with pytest.raises(openai.APIStatusError, match="stauts"):
        await client(upstream).chat.completions.create(model=MINI, messages=say("hi [[stub: stauts=429]]"))
    assert len(upstream.seen) == 1


async def test_only_the_named_upstream_misbehaves(upstream: Upstream) -> None:
    """`only=` leaves the others alone, so that a fallback has somewhere to go."""
    async with Upstream("primary") as primary:
        text = "hi [[stub: only=primary status=503]]"
        assert (await raw(primary, text))[0].status == 503
        assert (await raw(upstream, text))[0].status == 200


def test_the_same_request_is_answered_alike() -> None:
    """Planning has no clock and no chance in it."""
    call = Call("v", 7, "POST", "/v1/chat/completions", body=json.dumps({"model": "o3", "messages": say("x"), "stream": True}).encode())
    assert plan(call, {}) == plan(call, {})


async def test_two_hundred_streams_at_once(upstream: Upstream) -> None:
    """Each of 200 concurrent streams is whole and logged once."""
    replies = await asyncio.gather(*[raw(upstream, f"call {i} [[stub: delay-each=2]]", stream=True) for i in range(200)])
    assert all(body.endswith(b"[DONE]\n\n") for _, body in replies)
    assert len({seen.ordinal for seen in upstream.seen}) == 200
    assert {seen.outcome for seen in upstream.seen} == {"complete"}


def test_https_with_a_private_root(tmp_path: Path) -> None:
    """A client that trusts the root connects by address and by name; one that does not is refused."""
    authority = make_authority(tmp_path)
    leaf = authority.issue("127.0.0.1", "localhost", "api.vendor.test")
    with serving(Upstream(tls=leaf)) as upstream:
        trusting = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(authority.cert)))
        for base in (upstream.base_url, upstream.base_url.replace("127.0.0.1", "localhost")):
            sdk = openai.OpenAI(base_url=base, api_key="sk", http_client=trusting)
            assert sdk.chat.completions.create(model=MINI, messages=say("hi")).usage is not None
        with pytest.raises(openai.APIConnectionError):
            openai.OpenAI(base_url=upstream.base_url, api_key="sk", max_retries=0).models.list()


def test_as_a_process_it_can_be_watched_and_released() -> None:
    """The process prints where it is; its log and gates are reached over HTTP."""
    with process("far") as far:
        sdk = openai.OpenAI(base_url=far.base_url, api_key="sk")
        assert sdk.chat.completions.create(model=MINI, messages=say("hi")).id == "chatcmpl-far-000001"
        assert [(seen["target"], seen["outcome"]) for seen in seen_by(far.url)] == [("/v1/chat/completions", "complete")]
    assert far.process.returncode == 0
