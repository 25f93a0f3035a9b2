"""WebSocket messages out of the bytes of one direction (RFC 6455, RFC 7692), for one who only looks on.

The bytes have gone their way untouched; nothing here raises. Where the bytes make no sense, or a message is larger than
a reader may hold, the reader goes blind: from there on it sees nothing, and says so.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 64 << 20

TEXT, BINARY, CLOSE = 1, 2, 8
_CONTINUATION = 0
_CONTROL = 8  # opcodes from here on: close, ping, pong; never fragmented, never compressed
_FIN, _RSV1, _OTHER_RSV, _MASKED = 0x80, 0x40, 0x30, 0x80
_DEFLATE_TAIL = b"\x00\x00\xff\xff"


@dataclass(frozen=True, slots=True)
class Message:
    """A whole text, binary or close message."""

    opcode: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Deflate:
    """permessage-deflate as it was agreed for one direction."""

    context_takeover: bool


def agreed(extensions: str, side: str) -> Deflate | None:
    """What the answer's Sec-WebSocket-Extensions means for the frames of `side` (client | server)."""
    for extension in extensions.lower().split(","):
        name, *parameters = [part.strip() for part in extension.split(";")]
        if name == "permessage-deflate":
            return Deflate(f"{side}_no_context_takeover" not in parameters)
    return None


class FrameReader:
    """Bytes in, messages out. Any cutting of the same bytes gives the same messages."""

    def __init__(self, deflate: Deflate | None) -> None:
        self.blind = False
        self._deflate = deflate
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._buffer = bytearray()
        self._parts: list[bytes] = []  # of a message whose last frame has not come yet
        self._parts_bytes = 0
        self._opcode: int | None = None
        self._compressed = False

    def feed(self, data: bytes) -> list[Message]:
        """Every message that these bytes complete, in order."""
        messages: list[Message] = []
        self._buffer += data
        while not self.blind:
            frame = self._frame()
            if frame is None:
                return messages
            message = self._take(*frame)
            if message is not None:
                messages.append(message)
        self._buffer.clear()
        return messages

    def _frame(self) -> tuple[int, bytes] | None:
        """The next whole frame's first byte and payload, taken off the buffer; None while it is not here."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        start = 2
        length = buffer[1] & 0x7F
        if length >= 126:
            start += 2 if length == 126 else 8
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start])
        masked = bool(buffer[1] & _MASKED)
        begin = start + 4 * masked
        if length > MAX_MESSAGE_BYTES:
            self.blind = True
            return None
        if len(buffer) < begin + length:
            return None
        payload = bytes(buffer[begin : begin + length])
        if masked:
            payload = _unmask(payload, bytes(buffer[start:begin]))
        first = buffer[0]
        del buffer[: begin + length]
        return first, payload

    def _take(self, first: int, payload: bytes) -> Message | None:
        opcode = first & 0x0F
        if first & _OTHER_RSV or (first & _RSV1 and self._deflate is None):
            self.blind = True  # an extension that is not ours to read
            return None
        if opcode >= _CONTROL:
            return Message(CLOSE, payload) if opcode == CLOSE else None
        if (opcode == _CONTINUATION) == (self._opcode is None):
            self.blind = True
            return None
        if opcode != _CONTINUATION:
            self._opcode = opcode
            self._compressed = bool(first & _RSV1)
        self._parts.append(payload)
        self._parts_bytes += len(payload)
        if self._parts_bytes > MAX_MESSAGE_BYTES:
            self.blind = True
        if not first & _FIN or self.blind:
            return None
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        opcode, self._opcode = self._opcode or opcode, None
        self._parts.clear()
        self._parts_bytes = 0
        if self._compressed:
            data = self._inflate(data)
        return None if self.blind else Message(opcode, data)

    def _inflate(self, data: bytes) -> bytes:
        inflater = self._inflater
        try:
            plain = inflater.decompress(data + _DEFLATE_TAIL, MAX_MESSAGE_BYTES)
        except zlib.error:
            self.blind = True
            return b""
        self.blind = bool(inflater.unconsumed_tail)
        if inflater.eof or (self._deflate is not None and not self._deflate.context_takeover):
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        return plain


def _unmask(payload: bytes, mask: bytes) -> bytes:
    """Exclusive or with the mask, as one large number: no loop over the bytes."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
