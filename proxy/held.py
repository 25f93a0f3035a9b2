"""A request's body until it is sent: in memory while it is small, beyond that in a file without a name, read anew for each try.

What lies in that file is encrypted (AES-256 in counter mode) under a key that is used once and never written: blocks of a disk
that once held it tell nobody anything, whatever the book says of bodies.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

MEMORY_BYTES = 16 << 20  # as much as the record keeps, in the same pieces
PIECE_BYTES = 256 << 10
BLOCK_BYTES = 16


class HeldBody:
    """Takes pieces, then gives them out as often as asked. The file vanishes with the process, however that ends."""

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        self.size = 0
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._key = b""
        self._written: CipherContext | None = None

    def take(self, data: bytes) -> None:
        """The next bytes. Raises OSError where the file cannot be written."""
        self.size += len(data)
        if self._file is None and self.size > self._memory_bytes:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the body
            self._key = os.urandom(32)
            self._written = self._stream(0)
            self._file.writelines(map(self._written.update, self._pieces))
            self._pieces.clear()
        if self._file is None or self._written is None:
            self._pieces.append(data)
        else:
            self._file.write(self._written.update(data))

    def whole(self) -> bytes | None:
        """The body in one piece; None if it is too large for that."""
        if self._file is not None:
            return None
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    def pieces(self, at: int = 0, until: int | None = None) -> Iterator[bytes]:
        """Its bytes from one place to before another (None: to its end), a piece at a time."""
        if self._file is None:
            yield (self.whole() or b"")[at:until]
            return
        stream, left = self._stream(at), (self.size if until is None else until) - at
        self._file.seek(at)
        while left > 0 and (piece := self._file.read(min(left, PIECE_BYTES))):
            left -= len(piece)
            yield stream.update(piece)

    def close(self) -> None:
        """Let go of it."""
        self._pieces.clear()
        if self._file is not None:
            self._file.close()

    def _stream(self, at: int) -> CipherContext:
        """The key stream from a place in the file on: the same to write and to read."""
        stream = Cipher(AES256(self._key), CTR((at // BLOCK_BYTES).to_bytes(BLOCK_BYTES))).encryptor()
        stream.update(bytes(at % BLOCK_BYTES))
        return stream


@dataclass(frozen=True, slots=True)
class Spliced:
    """A held body that is sent with `words` in the place of its bytes from `start` to before `end`."""

    body: HeldBody
    start: int = 0
    end: int = 0
    words: bytes = b""

    @property
    def size(self) -> int:
        """How many bytes are sent."""
        return self.body.size - (self.end - self.start) + len(self.words)

    def pieces(self) -> Iterator[bytes]:
        """What is sent, a piece at a time."""
        if self.words:
            yield from self.body.pieces(0, self.start)
            yield self.words
        yield from self.body.pieces(self.end)
