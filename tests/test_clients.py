"""The client helpers give back what each real client's application sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import clients
from tests.certs import make_authority
from tests.clients import Ask, Door, Reply
from tests.upstream import Upstream, serving

TEXT = "The answer is here and it works well"

needs_node = pytest.mark.skipif(clients.node() is None, reason="no Node under tests/node: run `make test`, or `npm ci` there")
needs_curl = pytest.mark.skipif(clients.curl() is None, reason="no curl on this machine")
EVERY_CLIENT = [
    pytest.param(clients.ask_sync, id="python"),
    pytest.param(clients.ask_python, id="python-process"),
    pytest.param(clients.ask_node, id="node", marks=needs_node),
    pytest.param(clients.ask_curl, id="curl", marks=needs_curl),
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as vendor:
        yield vendor


@pytest.mark.parametrize("ask_with", EVERY_CLIENT)
def test_chat_stream_and_failure(upstream: Upstream, ask_with: Callable[[Door, Ask], Reply]) -> None:
    """Text, usage and headers of a chat and of a stream, and the error of a refused call."""
    door = Door(upstream.base_url)
    plain = ask_with(door, Ask("one two three", headers={"x-ledger-user": "ann"}))
    assert (plain.text, plain.status, plain.model, plain.error) == (TEXT, 200, "gpt-4o-mini-2024-07-18", None)
    assert plain.usage is not None
    assert plain.usage["total_tokens"] == 14
    assert plain.headers["x-request-id"].startswith("req_stub_")
    assert upstream.seen[-1].header("x-ledger-user") == "ann"
    stream = ask_with(door, Ask("one two three", stream=True, include_usage=True))
    assert (stream.text, stream.chunks) == (TEXT, 11)
    assert stream.usage is not None
    assert stream.usage["total_tokens"] == 14
    assert ask_with(door, Ask(stream=True)).usage is None
    refused = ask_with(door, Ask("hi [[stub: status=401]]"))
    assert refused.status == 401
    assert "Incorrect API key" in (refused.error or "")


@pytest.mark.parametrize("ask_with", EVERY_CLIENT[:3])
def test_sdks_retry_and_other_endpoints(upstream: Upstream, ask_with: Callable[[Door, Ask], Reply], request: pytest.FixtureRequest) -> None:
    """Each SDK gets through a 429, and reads embeddings, completions and models."""
    door = Door(upstream.base_url)
    name = request.node.callspec.id
    assert ask_with(door, Ask(f"hi [[stub: id=retry-{name} status=429 times=1 retry-after-ms=5]]")).text == TEXT
    vectors = ask_with(door, Ask("a b c", "text-embedding-3-small", "embeddings"))
    assert vectors.usage == {"prompt_tokens": 3, "total_tokens": 3}
    assert ask_with(door, Ask("a b", "gpt-3.5-turbo-instruct", "completions", extra={"max_tokens": 2})).text == "The answer"
    assert ask_with(door, Ask(endpoint="models")).error is None


async def test_async_clients_together() -> None:
    """Twenty at once, one of which leaves after two chunks."""
    async with Upstream() as upstream:
        asks = [Ask(f"call {i}", stream=True, leave_after=2 if i == 0 else 0) for i in range(20)]
        replies = await clients.ask_many(Door(upstream.base_url), asks)
        assert [reply.text for reply in replies] == ["The"] + [TEXT] * 19
        assert len(upstream.seen) == 20


@pytest.mark.parametrize("ask_with", EVERY_CLIENT)
def test_https_by_the_environment(tmp_path: Path, ask_with: Callable[[Door, Ask], Reply]) -> None:
    """With the door's CA each client accepts the private certificate; without it each refuses."""
    authority = make_authority(tmp_path)
    with serving(Upstream(tls=authority.issue())) as upstream:
        assert ask_with(Door(upstream.base_url, ca=authority.cert), Ask()).text == TEXT
        refused = ask_with(Door(upstream.base_url), Ask(max_retries=0))
        assert refused.status is None
        assert refused.error
