"""The Exchange machine: scripts of bytes and times in, records out."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import KEPT_BYTES, AttemptCapture, Client, Exchange, Recording, RequestHead
from proxy.redact import request_headers, response_headers
from schemas.records import Body, Instant, Request, Response

KEY = b"k" * 32
SSE = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)


def exchange(
    body: bytes = b'{"model":"m","stream":true}',
    headers: Sequence[tuple[str, str]] = (("Authorization", "Bearer sk-secret-0123456789"), ("Content-Type", "application/json")),
    query: str = "",
) -> tuple[Exchange, Request]:
    head = RequestHead("POST", "api.test", "/v1/chat/completions", query, headers)
    machine = Exchange("id-1", head, Client("gateway", "127.0.0.1", "c1"), Recording(KEY, keep_bodies=True), Instant(1))
    machine.request_chunk(body)
    return machine, machine.request_end()


def attempt() -> AttemptCapture:
    machine, _ = exchange()
    return machine.attempt(channel="c", role="primary", reason="first", url="u", sent_model="m", modified=(), at=Instant(2))


def answered(chunks: Iterable[bytes], headers: Sequence[tuple[str, str]] = SSE, status: int = 200, ending: str = "complete") -> Response:
    """The record of an upstream that sent these chunks at 10, 11, 12, ..."""
    capture = attempt()
    capture.head(status, headers, Instant(9))
    for place, chunk in enumerate(chunks):
        capture.chunk(chunk, Instant(10 + place))
    response = capture.close(ending, Instant(99), relayed=True)[0]
    assert isinstance(response, Response)
    return response


def event(message: Any) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"


CHAT = [
    event({"id": "r1", "model": "m-2026", "choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": None}),
    b": keep-alive\n\n",
    event({"id": "r1", "model": "m-2026", "choices": [{"delta": {"content": "Hi"}}], "usage": None}),
    event({"id": "r1", "model": "m-2026", "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None}),
    event({"id": "r1", "model": "m-2026", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "service_tier": "default"}),
    b"data: [DONE]\n\n",
]


def test_a_chat_stream_leaves_usage_ids_and_the_first_token() -> None:
    """The role chunk and the comment are no token; the last usage is kept as it was written."""
    response = answered(CHAT)
    assert response.first_byte_at == 10
    assert response.first_token_at == 12
    assert [(seen.path, json.loads(seen.object), seen.count) for seen in response.usage] == [
        ("usage", {"prompt_tokens": 9, "completion_tokens": 1}, 1)
    ]
    assert (response.response_id, response.served_model, response.service_tier) == ("r1", "m-2026", "default")
    assert (response.terminal, response.events, response.finish_reasons, response.output_seen) == ("[DONE]", 5, ("stop",), True)


@given(data=st.data())
def test_any_chunking_gives_the_same_record(data: st.DataObject) -> None:
    """Only the times of bytes depend on how they were cut."""
    stream = b"".join(CHAT)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert timeless(answered(pieces)) == timeless(answered([stream]))


def timeless(response: Response) -> dict[str, Any]:
    return {name: getattr(response, name) for name in response.__struct_fields__ if not name.endswith("_at")}


@given(noise=st.binary(max_size=300), kind=st.sampled_from([SSE, JSON, (("content-type", "application/x-ndjson"),), ()]))
def test_no_answer_makes_the_machine_raise(noise: bytes, kind: Sequence[tuple[str, str]]) -> None:
    """Damaged streams and bodies are evidence: counted, hashed, and at worst unreadable."""
    response = answered([b'data: {"usage": ', noise, b"\n\n"], kind)
    assert response.body_bytes == len(noise) + 18


@given(noise=st.binary(max_size=300))
def test_no_request_makes_the_machine_raise(noise: bytes) -> None:
    """A body that is no JSON is unreadable, never an exception."""
    _, request = exchange(noise)
    assert request.body_bytes == len(noise)
    assert request.body_state in ("none", "read", "unreadable")


@pytest.mark.parametrize("number", ["12345678901234567890123", "1.50e3", "9007199254740993", "0.10"])
def test_usage_numbers_keep_the_digits_they_were_written_with(number: str) -> None:
    """No float and no 64-bit integer stands between the vendor's digits and the record."""
    response = answered([b'data: {"choices":[],"usage":{"prompt_tokens":%s}}\n\n' % number.encode()])
    assert response.usage[0].object == f'{{"prompt_tokens":{number}}}'


def test_the_last_usage_at_a_place_wins_and_places_are_kept_apart() -> None:
    """Cumulative usage on every chunk is not added up; a vendor that reports in two places is seen in both."""
    response = answered(
        [
            event({"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 1}}),
            event({"choices": [{"delta": {}, "usage": {"completion_tokens": 2}}], "usage": {"completion_tokens": 2}}),
        ]
    )
    assert [(seen.path, seen.object, seen.count) for seen in response.usage] == [
        ("choices[0].usage", '{"completion_tokens":2}', 1),
        ("usage", '{"completion_tokens":2}', 2),
    ]
    assert response.notes == ("no_terminal_marker",)


def test_a_bodys_usage_is_found_whose_name_is_escaped() -> None:
    """A body comes once, so every place in it is looked at; of a stream's chunks those that spell the name."""
    body = b'{"id":"r1","choices":[],"us\\u0061ge":{"prompt_tokens":9,"completion_tokens":1}}'
    response = answered([body], (("content-type", "application/json"),))
    assert [(seen.path, seen.object) for seen in response.usage] == [("usage", '{"prompt_tokens":9,"completion_tokens":1}')]


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (['{"a":100,"b":20}', '{"a":0,"b":0}'], '{"a":100,"b":20}'),
        (['{"a":1,"b":{"c":60}}', '{"a":2}', '{"a":3,"b":{}}'], '{"a":3,"b":{"c":60}}'),
        (['{"a":1,"cost":0.10}', '{"a":5,"cost":null}'], '{"a":5,"cost":0.10}'),
        (['{"a":1,"cost":1e-7}', '{"a":5}'], '{"a":5,"cost":1E-7}'),
        (['{"a":1}', '{"a":1.50}'], '{"a":1.50}'),
        (['{"a":12345678901234567890123}', '{"a":2,"b":"x"}'], '{"a":12345678901234567890123,"b":"x"}'),
        (['{"a":"x","b":true}', '{"a":"y","b":false}'], '{"a":"y","b":false}'),
    ],
)
def test_what_an_earlier_chunk_counted_is_not_taken_back(told: list[str], kept: str) -> None:
    """Of each count the most, exact to its digits; what is no number is as it was told last."""
    response = answered([b'data: {"choices":[],"usage":%s}\n\n' % usage.encode() for usage in told])
    (seen,) = response.usage
    assert orjson.loads(seen.object) == orjson.loads(kept)
    assert sorted(seen.object) == sorted(kept)
    assert seen.count == len(told)


def test_a_json_error_with_status_200_for_a_stream_is_an_error_event() -> None:
    """Both OpenAI SDKs give an empty stream for it; only the record tells."""
    response = answered([b'{"error":{"message":"overloaded","code":"busy"}}'], JSON)
    assert response.error_event
    assert response.error == "overloaded"
    assert not response.output_seen


def test_a_json_body_under_an_event_stream_type_is_read_all_the_same() -> None:
    """A server that mislabels its body loses nothing."""
    response = answered([b'{"id":"x","usage":{"prompt_tokens":3},"choices":[{"message":{"content":"a"}}]}'])
    assert response.usage[0].object == '{"prompt_tokens":3}'
    assert response.body_state == "read"


def test_an_error_event_after_output_keeps_what_was_seen() -> None:
    """Output, then an error: both are in the record, and there was no terminal marker."""
    response = answered([CHAT[2], event({"error": {"message": "boom"}})])
    assert (response.output_seen, response.error_event, response.error, response.terminal) == (True, True, "boom", None)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("zstd", lambda data: zstandard.ZstdCompressor().compress(data)),
        ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
        ("gzip, zstd", lambda data: zstandard.ZstdCompressor().compress(gzip.compress(data))),
    ],
)
def test_an_encoded_stream_is_read_from_a_copy(encoding: str, pack: Any) -> None:
    """gzip, deflate with and without its wrapper, zstd, and two one after the other: byte by byte, the same record as in the clear."""
    packed = pack(b"".join(CHAT))
    response = answered([packed[at : at + 1] for at in range(len(packed))], (*SSE, ("content-encoding", encoding)))
    assert response.usage == answered(CHAT).usage
    assert response.body_bytes == len(packed)


def test_brotli_is_never_decoded_here() -> None:
    """Its decoder stays out of the process that holds everybody's traffic."""
    response = answered([b"\x0b\x02\x80{}\x03"], (*JSON, ("content-encoding", "br")))
    assert response.body_state == "opaque"
    assert response.usage == ()


def test_a_bomb_is_undecodable_not_fatal() -> None:
    """What unpacks beyond the limit, at once or in two codings told in two lines, is recorded as unreadable; the bytes passed as they were."""
    bomb = zlib.compress(b"\0" * (300 << 20), 9)
    coding = ("content-encoding", "deflate")
    for response in (answered([bomb], (*SSE, coding)), answered([zlib.compress(bomb)], (*SSE, coding, coding))):
        assert response.body_state == "unreadable"
        assert "undecodable" in response.notes


def test_more_codings_than_anyone_means_are_not_undone() -> None:
    """Each coding multiplies the cost of a small body, so a long list is left as it is, and the record says so."""
    packed = b'{"usage": {"prompt_tokens": 1}}'
    for _ in range(5):
        packed = gzip.compress(packed)
    response = answered([packed], (*JSON, ("content-encoding", ", ".join(["gzip"] * 5))))
    assert (response.body_state, response.usage) == ("opaque", ())


def test_a_body_over_the_limit_is_hashed_whole_and_kept_in_part() -> None:
    """The record says how much passed and that only a part is kept."""
    capture = attempt()
    capture.head(200, (("content-type", "audio/mpeg"),), Instant(3))
    whole = hashlib.sha256()
    for place in range(18):
        piece = bytes([place]) * (1 << 20)
        whole.update(piece)
        capture.chunk(piece, Instant(4))
    response, body = capture.close("complete", Instant(5), relayed=True)
    assert isinstance(response, Response)
    assert isinstance(body, Body)
    assert (response.body_bytes, response.body_sha256) == (18 << 20, whole.hexdigest())
    assert (body.size, len(body.content), body.sha256) == (18 << 20, KEPT_BYTES, whole.hexdigest())
    assert "kept_in_part" in response.notes


def test_the_first_ending_stands() -> None:
    """Two hooks may report the end of one flow; the record is made once."""
    capture = attempt()
    assert len(capture.close("client_gone", Instant(5), relayed=True)) == 1
    assert capture.close("complete", Instant(6), relayed=True) == []


SECRETS = ["sk-secret-0123456789", "sk-proj-abcdefghijklmnopqrstu", "topsecretvalue123"]


def test_no_credential_reaches_a_record() -> None:
    """Header, query and error text: fingerprints and stars only."""
    machine, request = exchange(
        headers=[
            ("Authorization", f"Bearer {SECRETS[0]}"),
            ("Cookie", SECRETS[2]),
            ("X-Api-Key", SECRETS[1]),
            ("X-LiteLLM-Key-Alias", SECRETS[2]),
            ("x-ledger-run", "r1"),
        ],
        query=f"api-version=1&key={SECRETS[1]}",
    )
    capture = machine.attempt(channel="c", role="primary", reason="first", url="u", sent_model="m", modified=(), at=Instant(2))
    capture.head(401, [*JSON, ("set-cookie", SECRETS[2])], Instant(3))
    capture.chunk(json.dumps({"error": {"message": f"Incorrect API key provided: {SECRETS[1]}."}}).encode(), Instant(4))
    response = capture.close("complete", Instant(5), relayed=True)[0]
    assert not [secret for secret in SECRETS if secret in f"{request}{response}"]
    assert request.credential is not None
    assert request.credential_in == "authorization"
    assert request.query == "api-version=1&key=***"
    assert json.loads(request.headers)["x-ledger-run"] == "r1"


def test_a_multipart_retry_matches_though_its_boundary_changed() -> None:
    """The SDKs draw a new boundary for each try; the digest for linking does not see it."""

    def form(boundary: str) -> Request:
        body = f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--{boundary}--\r\n'.encode()
        return exchange(body, [("Content-Type", f"multipart/form-data; boundary={boundary}")])[1]

    first, second = form("aaaa1111"), form("bbbb2222")
    assert first.api_model == second.api_model == "whisper-1"
    assert first.match_sha256 == second.match_sha256
    assert first.body_sha256 != second.body_sha256


def test_a_vendor_that_echoes_a_key_in_its_own_id_leaves_none_on_the_disk() -> None:
    """What has the shape of a key in a response header is replaced; an id that has not is whole, and so is the client's own run."""
    kept = json.loads(
        response_headers(
            [("X-Request-Id", "req-sk-vendor-0123456789abcdef"), ("cf-ray", "8f1c2d3e4f5a6b7c-FRA"), ("x-ratelimit-reset", "1s")]
        )
    )
    assert kept == {"x-request-id": "req-***", "cf-ray": "8f1c2d3e4f5a6b7c-FRA", "x-ratelimit-reset": "1s"}
    assert json.loads(request_headers([("x-ledger-run", "key-rotation-2026")])) == {"x-ledger-run": "key-rotation-2026"}
