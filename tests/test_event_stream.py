"""Amazon's event stream: messages out of bytes, however they are cut or damaged."""

from __future__ import annotations

import itertools
import json
import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st

from proxy.event_stream import EventStreamDecoder
from schemas.sse import SseEvent
from tests.journey import FOLDER

STREAM = (FOLDER / "bedrock-converse-stream" / "response.bin").read_bytes()


def read(*pieces: bytes) -> tuple[list[SseEvent], list[str]]:
    decoder = EventStreamDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.end(), decoder.notes()


def message(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


def test_the_events_have_their_types_as_names() -> None:
    """In the order of the wire, each with its JSON."""
    events, notes = read(STREAM)
    assert [event.name for event in events] == [b"messageStart", b"contentBlockDelta", b"contentBlockStop", b"messageStop", b"metadata"]
    assert json.loads(events[-1].data)["usage"]["inputTokens"] == 10
    assert notes == []


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_cutting_changes_nothing(places: list[int]) -> None:
    """Any cutting of the same bytes gives the same events."""
    bounds = [0, *sorted(places), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in itertools.pairwise(bounds))) == read(STREAM)


@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255))
def test_a_damaged_message_is_told_and_what_came_before_it_stands(place: int, flip: int) -> None:
    """One byte turned anywhere: the events before it are those that were sent, none is made up, and nothing raises."""
    damaged = bytearray(STREAM)
    damaged[place] ^= flip
    events, notes = read(bytes(damaged))
    whole, _ = read(STREAM)
    assert events == whole[: len(events)]
    assert len(events) < len(whole)
    assert notes == ["damaged_event"]


@given(st.binary(max_size=200))
def test_no_headers_and_no_payload_raise(data: bytes) -> None:
    """Whatever stands inside a message whose checksums are right."""
    assert len(read(message(data, b""))[0]) == 1
    assert len(read(message(b"", data))[0]) == 1


def test_values_that_are_no_text_are_passed_over() -> None:
    """A true, a number and bytes before the type."""
    headers = b"\x01a\x00" + b"\x01b\x04" + b"\x00\x00\x00\x01" + b"\x01c\x06\x00\x02xy" + b"\x0b:event-type\x07\x00\x04chat"
    assert read(message(headers, b"{}"))[0] == [SseEvent(b"chat", b"{}")]
