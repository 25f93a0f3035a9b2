"""The journal's frame: how one record lies in a spool file, and how a reader finds the good ones again.

A frame is a 24-byte head (magic, payload length, sequence number, CRC-32 of the three and the payload) followed by
the payload: the length of a JSON part, the JSON part `{"k": kind, ...fields}`, and for bodies the bytes as they are. A frame
whose bytes were erased says so in its head, and its CRC covers the rest.
Segments are preallocated, so zeros after the last frame are the normal end of a file. Damage is found by the CRC and
stays local: reading goes on at the next magic whose frame is whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import orjson

from schemas.records import KINDS, Body, Record

MAGIC = b"TLJ1"
_HEAD = struct.Struct("<4sIQII")  # magic, payload length, seq, crc32, 1 where its bytes were erased
_CHECKED = struct.Struct("<IQ")  # of the head, what its CRC covers
_JSON_LENGTH = struct.Struct("<I")
HEAD_BYTES = _HEAD.size
MAX_PAYLOAD_BYTES = 1 << 30


_STARTS = {kind: b'{"k":"%b","r":' % kind.encode() for kind in KINDS}
_KIND_AT = len('{"k":"')
_KIND_BYTES = 4  # enough to tell them apart
_KINDS = {kind.encode()[:_KIND_BYTES]: kind for kind in KINDS}
_write = msgspec.json.Encoder().encode
_BESIDE_CONTENT = [name for name in Body.__struct_fields__ if name != "content"]
_beside_content = attrgetter(*_BESIDE_CONTENT)


def payload(record: Record) -> bytes:
    """What a frame carries of one record. Raises UnicodeEncodeError for a text that is no Unicode (a lone surrogate)."""
    if isinstance(record, Body):
        text = _STARTS["body"] + _write(dict(zip(_BESIDE_CONTENT, _beside_content(record), strict=True))) + b"}"
        return b"".join((_JSON_LENGTH.pack(len(text)), text, record.content))
    text = _STARTS[record.kind] + _write(record) + b"}"
    return _JSON_LENGTH.pack(len(text)) + text


def frame(content: bytes, seq: int) -> bytes:
    """The frame of one payload."""
    return _HEAD.pack(MAGIC, len(content), seq, _crc(len(content), seq, content), 0) + content


def encode(record: Record, seq: int) -> bytes:
    """The frame of one record."""
    return frame(payload(record), seq)


def emptied(data: bytes | memoryview, found: Frame) -> tuple[bytes, int]:
    """The head that lets a frame of `data` stand without its bytes, and where those begin. Written first, it leaves no moment of damage."""
    content = memoryview(data)[found.offset + HEAD_BYTES : found.end]
    told = content[: _told(content)]
    return _HEAD.pack(MAGIC, len(content), found.seq, _crc(len(content), found.seq, told), 1), found.offset + HEAD_BYTES + len(told)


def _told(content: memoryview) -> int:
    """How many bytes of a payload are its JSON part, with its length."""
    return _JSON_LENGTH.size + int(_JSON_LENGTH.unpack_from(content)[0])


def _crc(length: int, seq: int, content: bytes | memoryview) -> int:
    return zlib.crc32(content, zlib.crc32(_CHECKED.pack(length, seq)))


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One whole frame: its record as it was written, where it lay and where it ends."""

    seq: int
    kind: str
    text: bytes  # the record's fields as JSON, without a body's bytes; instants are microseconds
    content: bytes  # a body's bytes, none where they were erased; of another kind always none
    offset: int
    end: int

    @property
    def fields(self) -> dict[str, Any]:
        """The record's fields by name, read anew each time."""
        fields: dict[str, Any] = orjson.loads(self.text)
        return fields | {"content": self.content} if self.kind == Body.kind else fields


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes between `offset` and `end` that are no whole frame; a torn tail ends at the end of the data."""

    offset: int
    end: int


def decode(data: bytes | memoryview) -> Iterator[Frame | Damage]:
    """Every frame of a segment in order, and every stretch of damage between or after them; never raises."""
    view = memoryview(data)
    end = len(view)
    offset = 0
    while offset < end:
        found = _frame_at(view, offset)
        if found is not None:
            yield found
            offset = found.end
            continue
        resume, clean = _next_frame(view, offset)
        if not clean:
            yield Damage(offset, resume)
        offset = resume


def _frame_at(view: memoryview, offset: int) -> Frame | None:
    start = offset + HEAD_BYTES
    if start + _JSON_LENGTH.size > len(view):
        return None
    magic, length, seq, crc, is_emptied = _HEAD.unpack_from(view, offset)
    end = start + length
    if magic != MAGIC or is_emptied > 1 or not _JSON_LENGTH.size <= length <= MAX_PAYLOAD_BYTES or end > len(view):
        return None
    part = start + _JSON_LENGTH.size
    told = min(part + _JSON_LENGTH.unpack_from(view, start)[0], end)
    if _crc(length, seq, view[start : told if is_emptied else end]) != crc:
        return None
    at = part + _KIND_AT
    kind = _KINDS.get(view[at : at + _KIND_BYTES].tobytes())
    if kind is None or (is_emptied and kind != Body.kind):  # a flipped bit: nothing else has bytes to lose
        return None
    content = b"" if is_emptied else view[told:end].tobytes()
    return Frame(seq, kind, view[part + len(_STARTS[kind]) : told - 1].tobytes(), content, offset, end)


def _next_frame(view: memoryview, offset: int) -> tuple[int, bool]:
    """Where the next whole frame begins (or the end), and whether all before it was preallocated zeros."""
    raw = bytes(view[offset:])
    at = raw.find(MAGIC, 1)
    while at != -1 and _frame_at(view, offset + at) is None:
        at = raw.find(MAGIC, at + 1)
    stop = len(raw) if at == -1 else at
    return offset + stop, not raw[:stop].strip(b"\0")
