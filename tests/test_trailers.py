"""Fields that follow a chunked body (HTTP/1.1 trailers), through both doors from a raw TLS server."""

from __future__ import annotations

import json

import httpx2
import pytest

from schemas.home import Home
from tests.certs import Authority, Leaf
from tests.sidecar import recorded
from tests.verbatim import verbatim

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
EVENTS = [
    b'data: {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n',
    b'data: {"id": "c", "model": "m", "choices": [], "usage": ' + json.dumps(USAGE).encode() + b"}\n\n",
    b"data: [DONE]\n\n",
]
ENDS = {
    "in one piece": [b"0\r\nx-checksum: abc\r\nserver-timing: total;dur=3\r\n\r\n"],
    "in pieces": [b"0\r\nx-che", b"cksum: abc\r", b"\n\r\n"],
}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n"


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_an_answer_with_trailers_reaches_the_client_whole(home: Home, authority: Authority, leaf: Leaf, end: list[bytes]) -> None:
    """The body to the byte and a complete record with its usage; the trailers stay behind, and the connection serves the next call."""
    chunks = [f"{len(event):x}\r\n".encode() + event + b"\r\n" for event in EVENTS]
    async with verbatim(home, authority, leaf, [HEAD, *chunks, *end]) as ways:
        for url, how in ways:
            async with httpx2.AsyncClient(**how, trust_env=False, timeout=20) as http:
                for _ in range(2):
                    got = await http.post(f"{url}/chat/completions", json={"model": "m", "stream": True, "messages": []})
                    assert (got.status_code, got.content) == (200, b"".join(EVENTS))
    responses = recorded(home, "response")
    assert [(one["ending"], one["terminal"], one["error"]) for one in responses] == [("complete", "[DONE]", None)] * 4
    assert [json.loads(seen["object"]) for one in responses for seen in one["usage"]] == [USAGE] * 4
