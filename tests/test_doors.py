"""Real clients through both doors of the real proxy: what the application sees, what the upstream saw, and what was recorded agree."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.home import Home
from tests import clients
from tests.certs import make_authority
from tests.clients import Ask, Door, Reply
from tests.sidecar import Sidecar, Way, command, recorded, sidecar, write_book
from tests.upstream import Upstream, serving

TEXT = "The answer is here and it works well"
# Not 127.0.0.1: NO_PROXY exempts that, and the client would go round the forward door.
HOST = "127.0.0.2"

needs_node = pytest.mark.skipif(clients.node() is None, reason="no Node under tests/node: run `make test`, or `npm ci` there")
needs_curl = pytest.mark.skipif(clients.curl() is None, reason="no curl on this machine")
CLIENTS = [
    pytest.param(clients.ask_python, id="python"),
    pytest.param(clients.ask_node, id="node", marks=needs_node),
    pytest.param(clients.ask_curl, id="curl", marks=needs_curl),
]
SDKS = CLIENTS[:2]


Row = dict[str, object]


@dataclass(frozen=True)
class Story:
    """The records of one name."""

    requests: list[Row]
    attempts: list[Row]
    responses: list[Row]


@dataclass(frozen=True)
class Road:
    """A vendor over HTTPS with a private root, the proxy before it, and a client's way through each door."""

    upstream: Upstream
    proxy: Sidecar
    doors: dict[str, Door]

    def story(self, name: str, responses: int) -> Story:
        """What was recorded for the calls with this x-client-request-id, once so many responses are: a record follows the last byte."""
        deadline = time.monotonic() + 10
        while len((story := self._story(name)).responses) < responses:
            assert time.monotonic() < deadline, f"{responses} responses were to be recorded: {story}"
            time.sleep(0.02)
        return story

    def _story(self, name: str) -> Story:
        rows = {kind: recorded(self.proxy.home, kind) for kind in ("request", "attempt", "response")}
        ids = {row["request_id"] for row in rows["request"] if json.loads(str(row["headers"])).get("x-client-request-id") == name}
        return Story(*[_once([row for row in rows[kind] if row["request_id"] in ids]) for kind in rows])


def _once(rows: list[Row]) -> list[Row]:
    """The rows in order of request id (which begins with its time) and ordinal."""
    found = {(str(row["request_id"]), int(str(row.get("ordinal", 0)))): row for row in rows}
    return [found[place] for place in sorted(found)]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("road")
    authority = make_authority(folder / "ca")
    home = Home(folder / "home")
    with serving(Upstream(host=HOST, tls=authority.issue(HOST))) as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, "--upstream-ca", str(authority.cert)) as proxy:
            yield Road(upstream, proxy, {"gateway": Door(proxy.base_url), "forward": _forward(home, proxy, upstream)})


def _forward(home: Home, proxy: Sidecar, upstream: Upstream) -> Door:
    """The environment that `tokenledger env` prints, and nothing else."""
    words = command(home, "env", "--json", "--forward-port", proxy.forward.rpartition(":")[2])
    printed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=clients.ROOT)
    return Door(upstream.base_url, env=json.loads(printed.stdout))


@pytest.mark.parametrize("door", ["gateway", "forward"])
@pytest.mark.parametrize("ask_with", CLIENTS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_the_same_reply_and_one_record(
    road: Road, ask_with: Callable[[Door, Ask], Reply], door: str, stream: bool, request: pytest.FixtureRequest
) -> None:
    """Text and usage come through unchanged; one request, one attempt and one response are recorded, and they say what the upstream saw."""
    before = len(road.upstream.seen)
    name = f"case-{request.node.callspec.id}"
    ask = Ask("one two three", stream=stream, include_usage=stream, headers={"x-client-request-id": name, "x-ledger-user": "ann"})
    reply = ask_with(road.doors[door], ask)
    assert (reply.text, reply.error, reply.status) == (TEXT, None, 200)
    assert reply.usage is not None
    assert reply.usage["total_tokens"] == 14
    assert (reply.request_id is not None) == (door == "gateway")

    (seen,) = road.upstream.seen[before:]
    assert seen.header("x-ledger-user") is None, "x-ledger headers never leave the proxy"
    story = road.story(name, 1)
    (asked,), (attempt,), (response,) = story.requests, story.attempts, story.responses
    assert (asked["door"], asked["api_model"], asked["path"]) == (door, "gpt-4o-mini", "/v1/chat/completions")
    assert (attempt["ordinal"], attempt["channel"], attempt["sent_model"]) == (1, "official", "gpt-4o-mini")
    assert (response["http_status"], response["ending"], response["streamed"]) == (200, "complete", stream)
    assert (response["body_bytes"], response["served_model"]) == (seen.sent_bytes, "gpt-4o-mini-2024-07-18")
    assert reply.request_id in {None, asked["request_id"]}


@pytest.mark.parametrize("ask_with", SDKS)
def test_sdk_retries_pass_the_forward_door_one_by_one(
    road: Road, ask_with: Callable[[Door, Ask], Reply], request: pytest.FixtureRequest
) -> None:
    """Two 429, then the answer: three requests of one attempt each, retry count 0, 1 and 2, the same body."""
    name = f"retry-{request.node.callspec.id}"
    before = len(road.upstream.seen)
    ask = Ask(f"hi [[stub: id={name} status=429 times=2 retry-after-ms=5]]", headers={"x-client-request-id": name})
    assert ask_with(road.doors["forward"], ask).text == TEXT
    seen = road.upstream.seen[before:]
    assert [one.header("x-stainless-retry-count") for one in seen] == ["0", "1", "2"]
    story = road.story(name, 3)
    assert [json.loads(str(row["headers"]))["x-stainless-retry-count"] for row in story.requests] == ["0", "1", "2"]
    assert len({row["match_sha256"] for row in story.requests}) == 1
    assert [row["http_status"] for row in story.responses] == [429, 429, 200]


@pytest.mark.parametrize("ask_with", SDKS)
def test_the_gateway_tries_again_so_that_the_sdk_need_not(
    road: Road, ask_with: Callable[[Door, Ask], Reply], request: pytest.FixtureRequest
) -> None:
    """One 429 upstream: one request of two attempts, and the SDK never knew."""
    name = f"again-{request.node.callspec.id}"
    before = len(road.upstream.seen)
    ask = Ask(f"hi [[stub: id={name} status=429 times=1 retry-after-ms=5]]", headers={"x-client-request-id": name})
    assert ask_with(road.doors["gateway"], ask).text == TEXT
    seen = road.upstream.seen[before:]
    assert [one.status for one in seen] == [429, 200]
    story = road.story(name, 2)
    assert len(story.requests) == 1
    assert [row["reason"] for row in story.attempts] == ["first", "retry"]


@pytest.mark.parametrize("door", ["gateway", "forward"])
@pytest.mark.parametrize("ask_with", SDKS)
def test_a_refused_key_is_the_vendors_own_answer(road: Road, ask_with: Callable[[Door, Ask], Reply], door: str) -> None:
    """401 reaches the application as the vendor wrote it."""
    reply = ask_with(road.doors[door], Ask("hi [[stub: status=401]]"))
    assert reply.status == 401
    assert "Incorrect API key" in (reply.error or "")


def test_no_credential_is_on_disk(road: Road) -> None:
    """Nothing under the home folder holds a key that clients sent or a cookie that the vendor set."""
    assert clients.ask_sync(Door(road.proxy.base_url), Ask("hi", api_key="sk-never-on-disk-4711")).text == TEXT
    assert any("sk-never-on-disk-4711" in (seen.header("authorization") or "") for seen in road.upstream.seen)
    files = [path for path in Path(road.proxy.home.root).rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_bytes()
        assert b"sk-never-on-disk" not in content, path
        assert b"__cf_bm=" not in content, path
