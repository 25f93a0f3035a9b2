"""Asking for a stream's usage on the client's behalf: set where open, respected where said, hidden where we caused it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.splice import set_member
from proxy.usage_option import UsageFrameFilter, asked, rejected, wanted
from tests.clients import Door
from tests.conftest import Place
from tests.sidecar import recorded
from tests.test_relay import JSON, client, closed, said
from tests.vendor import Answer

FRAMES = [
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}',
    b": keep-alive",
    b'data: {"choices":[],"usage":{"prompt_tokens":1}}',
    b'data: {"choices":[],"prompt_filter_results":[]}',
    b"data: [DONE]",
]


def filtered(*chunks: bytes) -> bytes:
    hidden = UsageFrameFilter()
    return b"".join([hidden.feed(chunk) for chunk in chunks]) + hidden.end()


@given(ending=st.sampled_from([b"\n", b"\r\n", b"\r"]), last=st.booleans(), data=st.data())
def test_only_the_usage_frame_goes_however_the_bytes_are_cut(ending: bytes, last: bool, data: st.DataObject) -> None:
    """Every other byte of the stream stays, in any cutting and with any line ending."""

    def stream(frames: list[bytes]) -> bytes:
        return b"".join(frame + ending * 2 for frame in frames)

    whole = stream(FRAMES if last else FRAMES[:-1])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    kept = [frame for frame in (FRAMES if last else FRAMES[:-1]) if b'"usage":{' not in frame]
    assert filtered(*pieces) == stream(kept)


@given(pieces=st.lists(st.binary(max_size=40), max_size=8))
def test_bytes_without_usage_pass_unchanged(pieces: list[bytes]) -> None:
    """Whatever is no usage frame is the client's, damaged or not."""
    assert filtered(*pieces) == b"".join(pieces)


def test_an_event_is_passed_on_as_soon_as_it_is_whole() -> None:
    """Nothing waits for the next event."""
    hidden = UsageFrameFilter()
    assert hidden.feed(FRAMES[0] + b"\r\r") == FRAMES[0] + b"\r\r"
    assert hidden.feed(FRAMES[0] + b"\n\n") == FRAMES[0] + b"\n\n"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"stream": True}, True),
        ({"stream": True, "stream_options": None}, True),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({"stream": False}, False),
        ({}, False),
    ],
)
def test_the_option_is_set_only_where_the_client_left_it_open(message: dict[str, object], expected: bool) -> None:
    """A wish of the client, also a false, stands."""
    assert wanted("/v1/chat/completions", message) is expected
    assert wanted("/v1/responses", message) is False


def test_the_rest_of_the_body_is_not_touched() -> None:
    """Spacing, escapes and big numbers stay as they were written."""
    body = b'{ "stream":true, "seed":12345678901234567890,"x":"\\u00e9\xc3\xa9" }'
    expected = b'{ "stream":true, "seed":12345678901234567890,"x":"\\u00e9\xc3\xa9","stream_options":{"include_usage": true} }'
    assert asked(body, json.loads(body)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","x":1}', b'{"model":"b","x":1}'),
        (b'{"x":{"model":"a"},"model" :  "a"}', b'{"x":{"model":"a"},"model" :  "b"}'),
        (b'{"model":"a","model":"c"}', b'{"model":"b","model":"b"}'),
        (b"{}", b'{"model":"b"}'),
        (b' {"x":[1,2]} ', b' {"x":[1,2],"model":"b"} '),
    ],
)
def test_a_member_is_set_where_it_stands(body: bytes, expected: bytes) -> None:
    """Top level only, each time it stands there, at the end where it does not."""
    assert set_member(body, "model", "b") == expected


@pytest.mark.parametrize("body", [b"[]", b"", b"nonsense", b'{"a":1', b"\xff"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    """A body that cannot be changed is not changed."""
    with pytest.raises(ValueError, match=r"."):
        set_member(body, "model", "b")


def test_a_rejection_is_known_by_its_words() -> None:
    """Another 400 is an answer to the client, not to us."""
    assert rejected(400, b'{"error":{"param":"stream_options"}}')
    assert not rejected(400, b'{"error":{"param":"messages"}}')
    assert not rejected(200, b"stream_options")


async def test_the_gateway_learns_the_usage_and_the_client_sees_the_stream_it_asked_for(asking: Place) -> None:
    """The record has the usage; the client has no frame with it; an explicit false is left alone."""
    async with client(asking.gateway) as http:
        plain = await http.post("/chat/completions", content=said("cut=9", stream=True), headers=JSON)
        refused = await http.post(
            "/chat/completions", content=said("cut=9", stream=True, stream_options={"include_usage": False}), headers=JSON
        )
    assert b'"prompt_tokens"' not in plain.content
    assert plain.content.endswith(b"data: [DONE]\n\n")
    first, second = await closed(asking, 2)
    assert [seen["path"] for seen in first["usage"]] == ["usage"]
    assert second["usage"] == []
    assert recorded(asking.home, "attempt")[0]["modified"] == ["stream_options", "accept_encoding"]
    assert b"stream_options" in asking.official.seen[0].body
    assert refused.content.endswith(b"data: [DONE]\n\n")


async def test_an_upstream_that_rejects_the_option_is_asked_without_it(asking: Place) -> None:
    """Both tries are recorded; the client knows nothing of it."""
    complaint = b'{"error":{"message":"Unknown parameter: stream_options","type":"invalid_request_error","param":"stream_options"}}'
    asking.official.queue.append(Answer(400, (("content-type", "application/json"),), (complaint,)))
    async with client(Door(asking.sidecar.base_url)) as http:
        answer = await http.post("/chat/completions", content=said("id=x", stream=True), headers=JSON)
    assert answer.status_code == 200
    attempts = recorded(asking.home, "attempt")
    assert [(one["reason"], one["modified"]) for one in attempts] == [
        ("first", ["stream_options", "accept_encoding"]),
        ("without_usage_option", []),
    ]
    assert [one["http_status"] for one in await closed(asking, 2)] == [400, 200]
    assert b"stream_options" not in asking.official.seen[1].body
