"""Server-sent events out of bytes, however the bytes were cut; knows no socket and never raises.

The grammar is the WHATWG one (lines end in LF, CRLF or CR; `data:` lines join with LF; a colon begins a comment),
with two allowances for a recorder that must not miss the usage in a damaged stream: a byte order mark is skipped,
and an event that the end of the stream left without its blank line is still given, marked unterminated.
"""

from __future__ import annotations

from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One dispatched event: its `event:` name (empty if none) and its data lines joined."""

    name: bytes
    data: bytes
    unterminated: bool = False


class SseDecoder:
    """Bytes in, events out. Any cutting of the same bytes gives the same events."""

    def __init__(self) -> None:
        self.comments = 0
        self.bom = False
        self.oversized = 0
        self._line: list[bytes] = []  # the pieces of a line whose end has not come yet
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name = b""
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Every event that `chunk` completes."""
        events: list[SseEvent] = []
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if not chunk:
            return events
        lines = chunk.splitlines(keepends=True)  # bytes split on LF, CRLF and CR only
        rest = b"" if lines[-1][-1] in b"\r\n" else lines.pop()
        for line in lines:
            event = self._take(line.rstrip(b"\r\n"))
            if event is not None:
                events.append(event)
        if rest:
            self._keep(rest)
        else:
            self._after_cr = chunk.endswith(b"\r")
        return events

    def notes(self) -> list[str]:
        """What was odd about the framing."""
        return ["bom"] * self.bom + ["oversized_event"] * (self.oversized > 0)

    def end(self) -> list[SseEvent]:
        """What the end of the stream leaves: an event without its blank line, if there is one."""
        events = []
        if self._line:
            event = self._take(b"")
            if event is not None:
                events.append(event)
        if self._data:
            events.append(SseEvent(self._name, b"\n".join(self._data), unterminated=True))
            self._reset()
        return events

    def _keep(self, piece: bytes) -> None:
        self._line_bytes += len(piece)
        if self._line_bytes <= MAX_EVENT_BYTES:
            self._line.append(piece)

    def _take(self, piece: bytes) -> SseEvent | None:
        """One finished line; the event it dispatches, if it is blank and there is data."""
        if self._line:
            self._keep(piece)
            oversized = self._line_bytes > MAX_EVENT_BYTES
            line = b"" if oversized else b"".join(self._line)
            self._line.clear()
            self._line_bytes = 0
            if oversized:
                self.oversized += 1
                return None
        else:
            line = piece
        if self._at_start:
            self._at_start = False
            if line.startswith(_BOM):
                self.bom = True
                line = line[3:]
        if not line:
            return self._dispatch()
        if line[0] == 0x3A:
            self.comments += 1
            return None
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data_bytes += len(value)
            if self._data_bytes <= MAX_EVENT_BYTES:
                self._data.append(value)
        elif field == b"event":
            self._name = value
        return None

    def _dispatch(self) -> SseEvent | None:
        if not self._data:
            self._reset()
            return None
        event = SseEvent(self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
        if self._data_bytes > MAX_EVENT_BYTES:
            self.oversized += 1
        self._reset()
        return event

    def _reset(self) -> None:
        self._data = []
        self._data_bytes = 0
        self._name = b""


class LineDecoder:
    """NDJSON: one event a line, with the same calls as SseDecoder."""

    def __init__(self) -> None:
        self._rest = b""
        self._oversized = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Every line that `chunk` completes, blank ones left out."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            self._rest = b""
            self._oversized = True
        return [SseEvent(b"", line) for line in (line.strip() for line in lines) if line]

    def notes(self) -> list[str]:
        """What was odd about the framing."""
        return ["oversized_event"] * self._oversized

    def end(self) -> list[SseEvent]:
        """The last line, if it had no line end."""
        rest, self._rest = self._rest.strip(), b""
        return [SseEvent(b"", rest, unterminated=True)] if rest else []
