"""The text fields of a multipart form (RFC 7578) as it passes, wherever they stand in it, and where in the body each value lies.

The SDKs send them ahead of a file, curl in the order of its arguments; a file of any size may stand between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VALUE_BYTES = 256
PART_HEAD_BYTES = 8 << 10
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;,]+))', re.IGNORECASE)
_DISPOSITION = re.compile(rb"\ncontent-disposition:[ \t]*form-data\b([^\r\n]*)", re.IGNORECASE)
_NAME = re.compile(rb';[ \t]*name=(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE)
_FILE_NAME = re.compile(rb";[ \t]*filename\*?=", re.IGNORECASE)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a multipart Content-Type names (RFC 2046, section 5.1.1)."""
    found = _BOUNDARY.search(content_type)
    return (found[1] or found[2]).encode("utf-8", "surrogateescape") if found else None


@dataclass(frozen=True, slots=True)
class Field:
    """The value of a text field, and where its bytes lie in the body: from `start` to before `end`."""

    value: bytes
    start: int
    end: int

    @property
    def text(self) -> str:
        """The value as text."""
        return self.value.decode("utf-8", "replace")


class FormReader:
    """Takes the bytes of a form in any pieces; of each name the first text field of 1 to VALUE_BYTES bytes on one line is kept."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, Field] = {}
        self._delimiter = b"\r\n--" + boundary
        self._rest = b"\r\n"  # so that the first boundary has a line's end before it, as all others do
        self._at = -len(self._rest)  # where in the body `_rest` begins
        self._name: str | None = None  # of the part that is being read, where it is a text field
        self._in_head = False
        self._is_over = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        if self._is_over:
            return
        data = self._rest + data
        place = 0
        while not self._is_over:
            end = self._head(data, place) if self._in_head else self._part(data, place)
            if end is None:
                break
            place = end
        self._rest = data[self._kept_from(data, place) :]
        self._at += len(data) - len(self._rest)

    def _part(self, data: bytes, start: int) -> int | None:
        """Read a part to the delimiter that ends it; where the next one's head begins."""
        end = data.find(self._delimiter, start)
        if end < 0:
            return None
        value = data[start:end]
        if self._name is not None and 0 < len(value) <= VALUE_BYTES and b"\n" not in value and b"\r" not in value:
            self.fields.setdefault(self._name, Field(value, self._at + start, self._at + end))
        self._name = None
        self._in_head = True
        return end + len(self._delimiter)

    def _head(self, data: bytes, start: int) -> int | None:
        """Read a part's head, from behind its delimiter on; where its value begins. Two hyphens there end the form."""
        if data.startswith(b"--", start):
            self._is_over = True
            return None
        end = data.find(b"\r\n\r\n", start, start + PART_HEAD_BYTES)
        if end < 0 and len(data) - start < PART_HEAD_BYTES:
            return None
        self._in_head = False
        if end < 0:
            return start  # no head that anybody sends: its part is passed over
        disposition = _DISPOSITION.search(data, start, end)
        if disposition is not None and _FILE_NAME.search(disposition[1]) is None and (name := _NAME.search(disposition[1])) is not None:
            self._name = (name[1] or name[2] or b"").decode("utf-8", "replace")
        return end + 4

    def _kept_from(self, data: bytes, place: int) -> int:
        """From where on the bytes are needed again: a head, a value that may yet be short enough, or what may be half a delimiter."""
        if self._in_head or (self._name is not None and len(data) - place <= VALUE_BYTES + len(self._delimiter)):
            return place
        self._name = None  # too long for a value
        return max(place, len(data) - len(self._delimiter) + 1)
