"""brotli, decoded in a process of its own with little memory: its decoder has had memory holes, and a small body may unpack to a huge one.

The child reads bodies from stdin and answers on stdout, each behind its length in 8 bytes; a length of -1 says that it is
no brotli or too large. A child that dies costs the one body it was reading.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from typing import IO

import brotli  # type: ignore[import-untyped]  # it ships no types

MEMORY_BYTES = 1 << 30
_PIECE = 1 << 16
_LENGTH = struct.Struct(">q")


class BrotliError(Exception):
    """A body that is no brotli, that unpacks to more than it may, or whose decoder died."""


class Unbrotli:
    """A child process that decodes; started when it is first needed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, content: bytes) -> bytes:
        """The content without its coding; raises BrotliError."""
        child = self._child = self._child or _start(self._limit)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(_LENGTH.pack(len(content)) + content)
            child.stdin.flush()
            decoded = _read(child.stdout)
        except (BrokenPipeError, EOFError):
            self.close()
            raise BrotliError("its decoder died") from None
        if decoded is None:
            raise BrotliError(f"no brotli, or more than {self._limit} bytes of it")
        return decoded

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def _start(limit: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "etl.unbrotli", str(limit)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _read(source: IO[bytes]) -> bytes | None:
    """One body behind its length, None for a length of -1; raises EOFError."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    if length < 0:
        return None
    content = source.read(length)
    if len(content) < length:
        raise EOFError
    return content


def unpacked(content: bytes, limit: int) -> bytes | None:
    """The content without its coding, as far as it goes; None where it is no brotli or exceeds `limit` bytes."""
    decoder = brotli.Decompressor()
    pieces: list[bytes] = []
    size = 0
    try:
        for at in range(0, len(content), _PIECE):
            pieces.append(decoder.process(content[at : at + _PIECE], output_buffer_limit=limit - size + 1))
            size += len(pieces[-1])
            if size > limit:
                return None
        while not decoder.can_accept_more_data() and size <= limit:
            pieces.append(decoder.process(b"", output_buffer_limit=limit - size + 1))
            size += len(pieces[-1])
    except brotli.error:
        return None
    return b"".join(pieces) if size <= limit else None


def main() -> None:
    """The child: bodies in, bodies out, until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    limit = int(sys.argv[1])
    while True:
        try:
            content = _read(sys.stdin.buffer)
        except EOFError:
            return
        decoded = unpacked(content or b"", limit)
        sys.stdout.buffer.write(_LENGTH.pack(-1) if decoded is None else _LENGTH.pack(len(decoded)) + decoded)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
