"""Messages of Amazon's event stream out of bytes, however the bytes were cut; knows no socket and never raises.

A message is: its length and that of its headers (4 bytes each, big-endian), a CRC-32 of those 8 bytes, the headers, the payload, and
a CRC-32 of all before it (AWS, "Amazon event stream encoding"). A header is a name and a value, each behind its length, with the
value's type between them. What follows a message that is damaged cannot be found again and is not read.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator

import orjson

from schemas.sse import MAX_EVENT_BYTES, SseEvent

MEDIA_TYPE = "application/vnd.amazon.eventstream"
_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_TEXT = 7  # the type of a header whose value is text
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # of values whose length is known by their type: true, false, numbers, ids


class EventStreamDecoder:
    """Bytes in, events out, with the same calls as SseDecoder. Any cutting of the same bytes gives the same events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._damaged = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Every message that `chunk` completes; its name is its event type, or `error` where it is an exception."""
        self._rest += chunk
        events: list[SseEvent] = []
        while not self._damaged and len(self._rest) >= _PRELUDE.size:
            total, headers, crc = _PRELUDE.unpack_from(self._rest)
            if crc != zlib.crc32(self._rest[:8]) or not _PRELUDE.size + headers + _CRC.size <= total <= MAX_EVENT_BYTES:
                self._damaged = True
            elif len(self._rest) < total:
                break
            else:
                message = bytes(self._rest[:total])
                del self._rest[:total]
                if _CRC.unpack_from(message, total - _CRC.size)[0] != zlib.crc32(message[: -_CRC.size]):
                    self._damaged = True
                else:
                    payload = _PRELUDE.size + headers
                    events.append(_event(dict(_headers(message[_PRELUDE.size : payload])), message[payload : -_CRC.size]))
        if self._damaged:
            self._rest.clear()
        return events

    def notes(self) -> list[str]:
        """What was odd about the framing."""
        return ["damaged_event"] * self._damaged

    def end(self) -> list[SseEvent]:
        """Nothing: a message without its end has no checksum to be held to."""
        return []


def _headers(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and texts; values of other types are left out."""
    at = 0
    while at < len(data):
        name, at = data[at + 1 : at + 1 + data[at]], at + 1 + data[at]
        kind, at = data[at] if at < len(data) else -1, at + 1
        if kind in _SIZES:
            at += _SIZES[kind]
        elif kind in (6, _TEXT) and at + _LENGTH.size <= len(data):
            start = at + _LENGTH.size
            at = start + _LENGTH.unpack_from(data, at)[0]
            if kind == _TEXT:
                yield name, data[start:at]
        else:
            return


def _event(headers: dict[bytes, bytes], payload: bytes) -> SseEvent:
    if headers.get(b":message-type", b"event") != b"event":
        return SseEvent(b"error", payload or headers.get(b":error-message") or headers.get(b":error-code") or b"error")
    return SseEvent(headers.get(b":event-type", b""), _unwrapped(payload))


def _unwrapped(payload: bytes) -> bytes:
    """InvokeModel's stream wraps each of the model's own events in base64."""
    try:
        return base64.b64decode(orjson.loads(payload)["bytes"], validate=True)
    except (orjson.JSONDecodeError, KeyError, TypeError, binascii.Error, ValueError):
        return payload
