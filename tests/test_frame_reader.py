"""Messages out of a WebSocket's bytes, against frames that another implementation wrote."""

from __future__ import annotations

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from proxy.websocket import BINARY, CLOSE, MAX_MESSAGE_BYTES, TEXT, Deflate, FrameReader, Message, agreed

DEFLATES = ["", "permessage-deflate", "permessage-deflate; client_no_context_takeover; server_no_context_takeover"]


def protocol(client: bool, extensions: str) -> FrameProtocol:
    """The writing side, with what was agreed."""
    if not extensions:
        return FrameProtocol(client, [])
    deflate = PerMessageDeflate()
    deflate.finalize(extensions)
    return FrameProtocol(client, [deflate])


MESSAGES: list[str | bytes] = ["héllo " * 40, b"\x00\xff" * 300, "", "héllo " * 40, os.urandom(70_000), "x" * 200]


def written(client: bool, extensions: str) -> tuple[bytes, list[Message]]:
    """The bytes of all messages, with a ping between the fragments of each, and a close; and the messages."""
    writer = protocol(client, extensions)
    out = []
    for message in MESSAGES:
        out += [writer.send_data(message[:7], fin=False), writer.ping(b"there?"), writer.send_data(message[7:], fin=True)]
    expected = [Message(TEXT, one.encode()) if isinstance(one, str) else Message(BINARY, one) for one in MESSAGES]
    return b"".join([*out, writer.close(4000, "done")]), [*expected, Message(CLOSE, b"\x0f\xa0done")]


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("extensions", DEFLATES)
def test_every_message_is_read(client: bool, extensions: str) -> None:
    """Masked or not, compressed or not, in fragments with a ping between them, of all three lengths of a header."""
    data, expected = written(client, extensions)
    reader = FrameReader(agreed(extensions, "client" if client else "server"))
    assert reader.feed(data) == expected
    assert not reader.blind


@given(data=st.data())
def test_any_cutting_gives_the_same_messages(data: st.DataObject) -> None:
    """Down to single bytes."""
    stream, expected = written(client=True, extensions=DEFLATES[1])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = FrameReader(Deflate(context_takeover=True))
    found = [one for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True) for one in reader.feed(stream[start:end])]
    assert found == expected


@given(st.binary(max_size=400), st.booleans())
def test_nothing_raises(noise: bytes, deflate: bool) -> None:
    """Bytes without sense leave the reader waiting or blind."""
    reader = FrameReader(Deflate(context_takeover=True) if deflate else None)
    reader.feed(noise)
    reader.feed(noise)


def frame(first: int, payload: bytes) -> bytes:
    return bytes((first, 127)) + len(payload).to_bytes(8) + payload


@pytest.mark.parametrize(
    "data",
    [
        frame(0x80, b"a continuation of nothing"),
        frame(0x01, b"begun") + frame(0x81, b"begun again"),
        frame(0xA1, b"an extension that nobody agreed on"),
        frame(0xC1, b"compressed, and that was not agreed"),
        bytes((0x82, 127)) + (MAX_MESSAGE_BYTES + 1).to_bytes(8),
    ],
)
def test_what_cannot_be_read_blinds_the_reader_for_good(data: bytes) -> None:
    """After it nothing can be trusted, not even where a frame begins."""
    reader = FrameReader(None)
    assert reader.feed(data) == []
    assert reader.blind
    assert reader.feed(frame(0x81, b"well formed")) == []


def test_a_bomb_is_not_inflated() -> None:
    """Few bytes that stand for more than a message may hold."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(65)] + [packer.flush(zlib.Z_SYNC_FLUSH)])[:-4]
    reader = FrameReader(Deflate(context_takeover=True))
    assert reader.feed(frame(0xC2, bomb)) == []
    assert reader.blind
