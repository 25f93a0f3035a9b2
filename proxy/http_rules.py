"""What an HTTP/1.1 head must be so that two readers cannot take it for different messages, and how ours are written.

The parser refuses what is no HTTP (two lengths, a length beside chunks, folded lines, bare CR or LF, NUL); what it takes
and another reader may take otherwise is for `heads` to tell, the same for both doors; the rest is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from proxy import heads

RawHeaders = list[tuple[bytes, bytes]]

MAX_FIELD_BYTES = 64 << 10
MAX_HEAD_BYTES = 256 << 10
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_NO_BODY = frozenset((204, 205, 304))


def values(headers: RawHeaders, name: bytes) -> list[bytes]:
    """Every value of a field, in order; `name` in lower case."""
    return [value for key, value in headers if len(key) == len(name) and key.lower() == name]


def refused(method: bytes, target: bytes, version: str, headers: RawHeaders) -> tuple[int, str] | None:
    """The status and the words for a head that may not pass; None for one that may."""
    hosts = 0
    size = len(target)
    for name, value in headers:
        size += len(name) + len(value)
        if len(value) > MAX_FIELD_BYTES or len(name) > MAX_FIELD_BYTES:
            return 431, "a header field is longer than 64 KiB"
        match len(name):
            case 4 if name.lower() == b"host":
                hosts += 1
            case 6 if name.lower() == b"expect" and value.strip().lower() != b"100-continue":
                return 417, "nothing but 100-continue can be expected here"
    if hosts == 0 and version == "1.1":
        return 400, "a request has a Host header"
    if size > MAX_HEAD_BYTES:
        return 431, "the headers are longer than 256 KiB"
    if version not in ("1.0", "1.1"):
        return 505, "this door speaks HTTP/1.1"
    why = heads.parsed_fault(method, target, headers, chunks=version == "1.1")
    return None if why is None else (400, why)


def is_websocket(method: bytes, headers: RawHeaders) -> bool:
    """Whether a request asks for a WebSocket."""
    return method == b"GET" and any(value.strip().lower() == b"websocket" for value in values(headers, b"upgrade"))


def has_body(method: bytes, status: int) -> bool:
    """Whether an answer has a body, whatever its headers say."""
    return method != b"HEAD" and status >= 200 and status not in _NO_BODY


def head_of(status: int, reason: bytes | None, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An answer's head up to the blank line, which is left out."""
    phrase = _REASONS.get(status, b"") if reason is None else reason
    lines = [b"HTTP/1.1 %d %b" % (status, phrase)]
    lines += [name + b": " + value for name, value in headers]
    lines.append(b"")
    return b"\r\n".join(lines)
