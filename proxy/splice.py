"""Change one member of a JSON object and no other byte of it."""

from __future__ import annotations

import json
from typing import Any

_WHITESPACE = " \t\n\r"
_DECODER = json.JSONDecoder()  # its raw_decode reads one value and says where it ended


def set_member(body: bytes, name: str, value: Any) -> bytes:
    """The JSON object `body` with its top-level member `name` set to `value`; all else stays as it was written.

    A member that is there is replaced where it stands (each time, should it stand twice: parsers differ on which
    counts); one that is not is added at the end. Raises ValueError where `body` is no JSON object in UTF-8.
    """
    text = body.decode("utf-8")
    written = json.dumps(value, ensure_ascii=False)
    spans, end, empty = _members(text, name)
    if not spans:
        comma = "" if empty else ","
        return f"{text[:end]}{comma}{json.dumps(name)}:{written}{text[end:]}".encode()
    for start, stop in reversed(spans):
        text = text[:start] + written + text[stop:]
    return text.encode()


def _members(text: str, name: str) -> tuple[list[tuple[int, int]], int, bool]:
    """Where the values of `name` lie in the object, where its last value ends, and whether it is empty."""
    spans: list[tuple[int, int]] = []
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("not a JSON object")
    at = end = at + 1
    at = _skip(text, at)
    if text[at : at + 1] == "}":
        return spans, end, True
    while True:
        if text[at : at + 1] != '"':
            raise ValueError(f"no member name at {at}")
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise ValueError(f"no colon at {at}")
        start = _skip(text, at + 1)
        _, end = _DECODER.raw_decode(text, start)
        if key == name:
            spans.append((start, end))
        at = _skip(text, end)
        if text[at : at + 1] == "}":
            return spans, end, False
        if text[at : at + 1] != ",":
            raise ValueError(f"neither a comma nor the end at {at}")
        at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at
