"""Whether a request's head says one thing to everybody: where two servers may read it in two ways, neither door lets it through.

What one server takes for a body is another's next request, and that one would go upstream unrecorded (RFC 9112, section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HEAD_BYTES = 64 << 10
Fields = Iterable[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE = re.compile(rb"([^ ]+) ([^ ]+) HTTP/1\.([01])")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(rb"(?:0|[1-9][0-9]{0,17})")
_END = re.compile(rb"\r?\n\r?\n")
_FRAMING = {b"content-length": 0, b"transfer-encoding": 1, b"host": 2, b"connection": 3}
_LENGTHS = frozenset(map(len, _FRAMING))
# What Connection may not name: a proxy behind us would take it out, and the framing or the target with it.
_END_TO_END = frozenset((b"content-length", b"transfer-encoding", b"host"))


def end_of_head(data: bytes) -> int | None:
    """Where the first head in these bytes ends, by the most generous reading; None if it has not yet."""
    found = _END.search(data)
    return found.end() if found else None


def raw_fault(head: bytes) -> str | None:
    """What is wrong with an HTTP/1 request's head as it came, its empty line included; None where every server reads it alike."""
    if not head.endswith(b"\r\n\r\n"):
        return "a line ends in a bare line feed"
    first, *lines = head[:-4].lstrip(b"\r\n").split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        return "the request line is not METHOD TARGET HTTP/1.1"
    fields = []
    for one in lines:
        name, colon, value = one.partition(b":")
        if not colon:
            return "a line of the head is no field"
        fields.append((name, value.strip(b" \t")))
    return parsed_fault(line[1], line[2], fields, chunks=line[3] == b"1")


def parsed_fault(method: bytes, target: bytes, fields: Fields, *, chunks: bool) -> str | None:
    """The same of an HTTP/1 head that a parser has taken apart; `chunks`: its version knows them."""
    if not chunks and any(name.lower() == b"transfer-encoding" for name, _ in fields):
        return "HTTP/1.0 knows no Transfer-Encoding"
    path = target if target.startswith((b"/", b"*")) else b"/"  # the other forms are their reader's to check
    return fault(method, path, fields) if _TARGET.fullmatch(target) else "the target has a byte that does not belong there"


def fault(method: bytes, path: bytes, fields: Fields) -> str | None:
    """The same of a head that has been taken apart, by whichever version of HTTP."""
    fields = list(fields)
    names = [name for name, _ in fields]
    names.append(method)
    if not _TARGET.fullmatch(path) or not path.startswith((b"/", b"*")):
        return "the target has a byte that does not belong there"
    # Each byte stands for itself, so all names are looked at in one go, and all values.
    if not (all(names) and _TOKEN.fullmatch(b"".join(names)) and _VALUE.fullmatch(b"".join([value for _, value in fields]))):
        return "the method or a field has a byte that does not belong there, or is folded"
    seen: tuple[list[bytes], ...] = ([], [], [], [])
    for name, value in fields:
        if len(name) in _LENGTHS and (place := _FRAMING.get(name.lower())) is not None:
            seen[place].append(value)
    lengths, codings, hosts, connections = seen
    if len(lengths) + len(codings) > 1 or len(hosts) > 1:
        return "Content-Length, Transfer-Encoding or Host is there more than once, or one beside the other"
    if not all(map(_LENGTH.fullmatch, lengths)):
        return "Content-Length is no number"
    if codings and codings[0].lower() != b"chunked":
        return "no Transfer-Encoding but chunked is known here"
    named = {part.strip().lower() for value in connections for part in value.split(b",")}
    return "Connection names a field that is not the hop's" if named & _END_TO_END else None
