"""5,000 generated streams through both doors: the client's bytes are the upstream's, and the cutting is in no record."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
from typing import Any

import pytest

from tests.conftest import Place
from tests.sidecar import recorded
from tests.test_relay import JSON, client
from tests.vendor import Answer

STREAMS = 1250  # by two cuttings, by two doors: 5,000
SEED = 20261123
USAGES: list[Any] = [None, {"prompt_tokens": 3, "completion_tokens": 1}, {"prompt_tokens": "x"}, {"prompt_tokens": 2**70}, [], 7]
BODY = b'{"model":"gpt-4o","stream":true,"messages":[]}'


def stream(draw: random.Random) -> bytes:
    """A stream as a vendor, a broken vendor or a broken network might send it."""
    ending = draw.choice([b"\n", b"\n", b"\r\n", b"\r"])
    events: list[bytes] = [b"\xef\xbb\xbf"] if draw.random() < 0.05 else []
    for _ in range(draw.randint(0, 8)):
        kind = draw.random()
        if kind < 0.6:
            text = draw.choice(["a", "é", "\u2028", "𝄞", '"', "\\"])
            chunk = {"id": "c", "model": "m", "choices": [{"delta": {"content": text}}], "usage": draw.choice(USAGES)}
            events.append(b"data: " + json.dumps(chunk, ensure_ascii=draw.random() < 0.5).encode())
        elif kind < 0.7:
            events.append(b": keep-alive")
        elif kind < 0.8:
            events.append(b"event: error" + ending + b'data: {"message":"boom"}')
        elif kind < 0.9:
            events.append(b"data: " + draw.randbytes(draw.randint(0, 30)))
        else:
            events.append(draw.choice([b"data:", b"id: 1", b"retry: 5", b"data: [DONE]", b"data: [1,", b"data: {\ndata: }"]))
    whole = b"".join(event + ending * 2 for event in events)
    if draw.random() < 0.5:
        whole += b"data: [DONE]" + ending * 2
    if draw.random() < 0.2:
        whole = whole[: draw.randint(0, len(whole))]
    damaged = bytearray(whole)
    if damaged and draw.random() < 0.2:
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
    return bytes(damaged)


def cut(draw: random.Random, whole: bytes) -> tuple[bytes, ...]:
    """The same bytes in pieces."""
    cuts = sorted({draw.randint(0, len(whole)) for _ in range(draw.randint(0, 5))} | {0, len(whole)})
    return tuple(whole[a:b] for a, b in itertools.pairwise(cuts)) if whole else ()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("door", ["gateway", "forward"])
async def test_generated_streams_pass_unchanged_and_leave_one_record_each(place: Place, door: str) -> None:
    """Any line ending, chunking, truncation and damage; the parser never raises into a stream."""
    draw = random.Random(SEED)
    answers = (("content-type", "text/event-stream"),)
    sent: list[bytes] = []
    async with client(place.door(door)) as http:
        for number in range(STREAMS):
            whole = stream(draw)
            for _ in range(2):
                place.official.queue.append(Answer(200, answers, cut(draw, whole)))
                answer = await http.post("/chat/completions", content=BODY, headers=JSON)
                assert answer.content == whole, f"stream {number} of seed {SEED}"
                sent.append(whole)
    responses: list[dict[str, Any]] = []
    for _ in range(100):
        responses = recorded(place.home, "response")
        if len(responses) == len(sent):
            break
        await asyncio.sleep(0.05)
    assert [one["body_sha256"] for one in responses] == [hashlib.sha256(whole).hexdigest() if whole else None for whole in sent]
    # The response's headers carry the upstream's Date.
    timeless = [
        {name: one[name] for name in one if not name.endswith("_at") and name not in ("request_id", "headers")} for one in responses
    ]
    assert timeless[0::2] == timeless[1::2]
