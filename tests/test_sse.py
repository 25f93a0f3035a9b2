"""The SSE decoder: whatever the line endings and however the bytes are cut, the same events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.sse import LineDecoder, SseDecoder, SseEvent


def decode(*chunks: bytes) -> list[SseEvent]:
    decoder = SseDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.end()


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_all_three_line_endings_give_the_same_events(ending: bytes) -> None:
    """LF, CRLF and a lone CR end a line."""
    stream = ending.join([b"event: note", b'data: {"a":1}', b"", b": keep-alive", b"", b"data:[DONE]", b"", b""])
    assert decode(stream) == [SseEvent(b"note", b'{"a":1}'), SseEvent(b"", b"[DONE]")]


def test_data_lines_join_with_a_line_feed_and_lose_one_space() -> None:
    """Several data lines are one value; only the first space after the colon belongs to the framing."""
    assert decode(b"data: a\ndata:  b\ndata:c\n\n") == [SseEvent(b"", b"a\n b\nc")]


def test_a_last_event_without_its_blank_line_is_given_and_marked() -> None:
    """An SDK drops it; a recorder must not, since it may carry the usage."""
    assert decode(b"data: 1\n\ndata: 2") == [SseEvent(b"", b"1"), SseEvent(b"", b"2", unterminated=True)]


def test_a_byte_order_mark_is_skipped_and_noted() -> None:
    """The first event is not lost to a BOM."""
    decoder = SseDecoder()
    assert decoder.feed(b"\xef\xbb\xbfdata: 1\n\n") == [SseEvent(b"", b"1")]
    assert decoder.notes() == ["bom"]


def test_comments_and_events_without_data_dispatch_nothing() -> None:
    """A comment is a heartbeat; an event with only an id is no event."""
    decoder = SseDecoder()
    assert decoder.feed(b": ping\n\nid: 7\n\nevent: x\n\ndata: 1\n\n") == [SseEvent(b"", b"1")]
    assert decoder.comments == 1


def test_line_separators_inside_data_are_data() -> None:
    """U+2028 and NEL end no line of an event stream."""
    text = 'data: {"t":"a\u2028b\u0085c"}\n\n'.encode()
    assert decode(text) == [SseEvent(b"", '{"t":"a\u2028b\u0085c"}'.encode())]


LINES = st.lists(
    st.one_of(
        st.binary(max_size=12).map(lambda raw: b"data: " + raw.replace(b"\r", b"").replace(b"\n", b"")),
        st.sampled_from([b"", b"", b": c", b"event: e", b"data", b"data:", b"id: 1", b"nonsense"]),
    ),
    max_size=12,
)


@given(lines=LINES, ending=st.sampled_from([b"\n", b"\r\n", b"\r"]), bom=st.booleans(), data=st.data())
def test_any_cutting_gives_the_same_events(lines: list[bytes], ending: bytes, bom: bool, data: st.DataObject) -> None:
    """The chunking of a stream is never visible in its events."""
    stream = (b"\xef\xbb\xbf" if bom else b"") + ending.join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*pieces) == decode(stream)


@given(stream=st.binary(max_size=200), data=st.data())
def test_no_bytes_make_it_raise(stream: bytes, data: st.DataObject) -> None:
    """Any bytes at all, in any pieces, are decoded without an exception and alike."""
    at = data.draw(st.integers(0, len(stream)))
    assert decode(stream[:at], stream[at:]) == decode(stream)


def test_json_lines_are_events_too() -> None:
    """NDJSON has one event a line, the last with or without its line end."""
    decoder = LineDecoder()
    assert decoder.feed(b'{"a":1}\r\n\n{"b"') == [SseEvent(b"", b'{"a":1}')]
    assert decoder.feed(b":2}") == []
    assert decoder.end() == [SseEvent(b"", b'{"b":2}', unterminated=True)]
