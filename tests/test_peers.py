"""A server that somebody else wrote, behind both doors: its own way of speaking is relayed and recorded as it stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas import manifest
from schemas.home import Home
from tests.certs import make_authority
from tests.clients import Ask, Door, Reply, ask_sync
from tests.peer import ANSWER, LITELLM, MODEL, litellm
from tests.sidecar import Way, seal_all, sidecar, write_book

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not LITELLM.exists(), reason="the peer is not installed: run `make test-peers`"),
]

DOORS = ("gateway", "forward")
KINDS = {"plain": False, "stream": True}
CASES = [pytest.param(f"{door}-{kind}", id=f"{door}-{kind}") for door in DOORS for kind in KINDS]


@dataclass(frozen=True)
class Told:
    """What the application was told and the response rows that were recorded, both by the name that the application gave its call."""

    replies: dict[str, Reply]
    recorded: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One plain and one streamed question through each door; then the proxy has stopped and everything is sealed."""
    folder = tmp_path_factory.mktemp("peer")
    authority, home, replies = make_authority(folder / "ca"), Home(folder / "home"), {}
    with litellm(folder, authority.issue()) as peer:
        write_book(home, [Way("litellm", peer.base_url)])
        with sidecar(home, "--upstream-ca", str(authority.cert)) as running:
            ways = {"gateway": Door(running.base_url), "forward": Door(peer.base_url, running.forward, home.ca / "mitmproxy-ca-cert.pem")}
            for door in DOORS:
                for kind, stream in KINDS.items():
                    name = f"{door}-{kind}"
                    named = {"x-client-request-id": name}
                    ask = Ask(model=MODEL, stream=stream, include_usage=stream, api_key=peer.key, max_retries=0, headers=named)
                    replies[name] = ask_sync(ways[door], ask)
    seal_all(home)
    names = {row["request_id"]: json.loads(row["headers"])["x-client-request-id"] for row in sealed(home, "request")}
    responses = sealed(home, "response")
    return Told(replies, {name: [row for row in responses if names[row["request_id"]] == name] for name in replies})


def sealed(home: Home, kind: str) -> list[dict[str, Any]]:
    """The sealed rows of a kind, from the files that the manifest names."""
    files = [file for seal in manifest.read(home.manifest) for file in seal.files if file.kind == kind]
    return [row for file in files for row in pq.read_table(home.raw / file.path).to_pylist()]


def stated(value: Any) -> Any:
    """A JSON object without its nulls: the SDK's model adds one for every member that it knows and the peer did not send."""
    return {name: stated(member) for name, member in value.items() if member is not None} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", CASES)
def test_the_peers_answer_arrives_and_is_recorded_once(told: Told, name: str) -> None:
    """Through either door, streamed or not, the application reads the peer's text, and one response record says so."""
    reply = told.replies[name]
    assert (reply.error, reply.status, reply.text) == (None, 200, ANSWER)
    (row,) = told.recorded[name]
    assert (row["ending"], row["streamed"], row["served_model"]) == ("complete", name.endswith("stream"), MODEL)


@pytest.mark.parametrize("name", CASES)
def test_the_recorded_usage_is_what_the_application_was_told(told: Told, name: str) -> None:
    """The peer's usage object is kept whole: every member that it states is the one that the application read."""
    (row,) = told.recorded[name]
    (said,) = row["usage"]
    usage = json.loads(said["object"])
    assert stated(usage) == stated(told.replies[name].usage)


@pytest.mark.parametrize("name", CASES)
def test_the_peers_own_id_can_be_found_again(told: Told, name: str) -> None:
    """The id in the peer's answer, which its operator would ask for, is recorded as it was."""
    (row,) = told.recorded[name]
    assert row["response_id"] == told.replies[name].id
