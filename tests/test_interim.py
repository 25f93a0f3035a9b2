"""Interim answers (1xx) before the final one, through both doors from a raw TLS server: the final one is the answer."""

from __future__ import annotations

import json

import httpx2
import pytest

from schemas.home import Home
from tests.certs import Authority, Leaf
from tests.sidecar import recorded
from tests.verbatim import verbatim

REPLY = json.dumps(
    {"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
).encode()
EARLY = b"HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY)
ANSWERS = {
    "one, ahead": [EARLY, FINAL + REPLY],
    "three, at once": [b"HTTP/1.1 100 Continue\r\n\r\n" + EARLY + b"HTTP/1.1 102 Processing\r\n\r\n" + FINAL + REPLY],
    "cut within": [EARLY[:12], EARLY[12:-2], EARLY[-2:] + EARLY + FINAL[:5], FINAL[5:], REPLY],
}


@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS)
async def test_the_final_answer_is_the_one_that_counts(home: Home, authority: Authority, leaf: Leaf, pieces: list[bytes]) -> None:
    """Its status, its body and its usage are relayed and recorded, and the connection serves the next call; over HTTP/2 too."""
    async with verbatim(home, authority, leaf, pieces) as (gateway, forward):
        for url, how in (gateway, forward, (forward[0], {**forward[1], "http2": True})):
            async with httpx2.AsyncClient(**how, trust_env=False, timeout=10) as http:
                for _ in range(2):
                    got = await http.post(f"{url}/chat/completions", json={"model": "m", "messages": []})
                    assert (got.status_code, got.content) == (200, REPLY)
    responses = recorded(home, "response")
    assert [(one["http_status"], one["ending"], one["body_bytes"], len(one["usage"])) for one in responses] == [
        (200, "complete", len(REPLY), 1)
    ] * 6
