"""Ask a stream for its usage where the client did not, and hide from the client the one frame that this causes.

Without `stream_options.include_usage` an OpenAI-compatible stream tells nobody what it cost. The gateway may ask on
the client's behalf (`inject_usage` in channels.toml); an explicit wish of the client, also a false, is respected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.splice import set_member

_PATHS = ("/chat/completions", "/completions")
# One line end is CRLF, LF or CR and never half of a CRLF; an event ends with two.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r){2}")
_REJECTIONS = frozenset((400, 404, 415, 422))
_REJECTED_NAMES = (b"stream_options", b"include_usage")


def wanted(path: str, message: Mapping[str, Any] | None) -> bool:
    """Whether this request streams from an endpoint that knows the option, and leaves it open."""
    if message is None or message.get("stream") is not True or not path.endswith(_PATHS):
        return False
    options = message.get("stream_options")
    return options is None or (isinstance(options, dict) and "include_usage" not in options)


def asked(body: bytes, message: Mapping[str, Any]) -> bytes:
    """The body with the option set and every other byte as it was."""
    options = message.get("stream_options")
    return set_member(body, "stream_options", {**(options if isinstance(options, dict) else {}), "include_usage": True})


def rejected(status: int, body: bytes) -> bool:
    """Whether an upstream's error says that it does not take the option."""
    return status in _REJECTIONS and any(name in body for name in _REJECTED_NAMES)


class UsageFrameFilter:
    """A stream's bytes in, the same bytes without the usage frame out; holds back no more than an unfinished event."""

    def __init__(self) -> None:
        self._pending = b""
        self._after_cr: bool | None = None  # the last event ended in a CR at the end of the data: was it passed on?

    def feed(self, chunk: bytes) -> bytes:
        """What of these bytes (and those held back) is the client's."""
        out = []
        if self._after_cr is not None and chunk:
            if chunk[:1] == b"\n":
                if self._after_cr:
                    out.append(b"\n")
                chunk = chunk[1:]
            self._after_cr = None
        data = self._pending + chunk
        start = 0
        for boundary in _EVENT_END.finditer(data):
            event = data[start : boundary.end()]
            passed = not _is_usage_frame(event)
            if passed:
                out.append(event)
            start = boundary.end()
            if start == len(data) and event.endswith(b"\r"):
                self._after_cr = passed
        self._pending = data[start:]
        return b"".join(out)

    def end(self) -> bytes:
        """What the end of the stream leaves."""
        rest, self._pending = self._pending, b""
        return b"" if _is_usage_frame(rest) else rest


def _is_usage_frame(event: bytes) -> bool:
    """A chunk with usage and no choices: what include_usage adds, and nothing that a client without it would see."""
    if b'"usage"' not in event:
        return False
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    try:
        chunk = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
