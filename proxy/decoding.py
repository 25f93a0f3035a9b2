"""Content decoding of a copy, piece by piece and bounded; the bytes that are relayed are never touched.

`br` is not decoded in the proxy's process (its decoder has had memory holes): such a body is recorded as it is, and
read later from the recorded bytes.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import zstandard

MAX_DECODED_BYTES = 256 << 20
MAX_CODINGS = 4  # each one more multiplies what a small body costs to unpack; in earnest two are rare


class DecodingError(Exception):
    """The body is not what its Content-Encoding says, or it unpacks to more than MAX_DECODED_BYTES."""


class Decoder(Protocol):
    """Bytes as sent in, bytes of content out."""

    def feed(self, data: bytes) -> bytes:
        """What `data` decodes to; raises DecodingError."""


class _Gzip:
    """gzip, also in several members; or deflate in the given zlib framing."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._inner = zlib.decompressobj(window_bits)
        self._total = 0

    def feed(self, data: bytes) -> bytes:
        parts = []
        try:
            while data:
                part = self._inner.decompress(data, MAX_DECODED_BYTES - self._total + 1)
                self._total += len(part)
                if self._total > MAX_DECODED_BYTES:
                    raise DecodingError(f"unpacks to more than {MAX_DECODED_BYTES} bytes")
                parts.append(part)
                data = self._inner.unused_data
                if self._inner.eof and data:
                    self._inner = zlib.decompressobj(self._window_bits)
        except zlib.error as error:
            raise DecodingError(str(error)) from None
        return b"".join(parts)


class _Deflate:
    """deflate with the zlib wrapper, or without it, as some send it (RFC 9110 8.4.1.2): its first two bytes tell."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Gzip | None = None

    def feed(self, data: bytes) -> bytes:
        if self._inner is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            wrapped = self._head[0] & 0x0F == 8 and int.from_bytes(self._head[:2], "big") % 31 == 0
            self._inner = _Gzip(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            data = self._head
        return self._inner.feed(data)


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj(read_across_frames=True)
        self._total = 0

    def feed(self, data: bytes) -> bytes:
        parts = []
        # Small bites keep one call's output small: a zstd frame can unpack ten-thousandfold.
        for start in range(0, len(data), 4096):
            try:
                part = self._inner.decompress(data[start : start + 4096])
            except zstandard.ZstdError as error:
                raise DecodingError(str(error)) from None
            self._total += len(part)
            if self._total > MAX_DECODED_BYTES:
                raise DecodingError(f"unpacks to more than {MAX_DECODED_BYTES} bytes")
            parts.append(part)
        return b"".join(parts)


class _Chain:
    """Several codings, undone one after the other, each bounded by itself."""

    def __init__(self, layers: list[Decoder]) -> None:
        self._layers = layers

    def feed(self, data: bytes) -> bytes:
        for layer in self._layers:
            data = layer.feed(data)
        return data


def decoder(content_encoding: str) -> Decoder | None:
    """The decoder for a Content-Encoding value; None where the proxy must not or cannot decode it.

    Codings are named in the order in which they were applied (RFC 9110 8.4), so the last is undone first.
    """
    names = [name for name in content_encoding.lower().replace(",", " ").split() if name != "identity"]
    layers = [layer for name in reversed(names) if (layer := _layer(name)) is not None]
    if len(layers) < len(names) or len(names) > MAX_CODINGS:
        return None
    return layers[0] if len(layers) == 1 else _Chain(layers)


def _layer(coding: str) -> Decoder | None:
    match coding:
        case "gzip" | "x-gzip":
            return _Gzip(16 + zlib.MAX_WBITS)
        case "deflate":
            return _Deflate()
        case "zstd":
            return _Zstd()
        case _:
            return None


def decoded(content_encoding: str, body: bytes) -> bytes:
    """A whole body without its encoding; raises DecodingError, also for an encoding that is not decoded here."""
    inner = decoder(content_encoding)
    if inner is None:
        raise DecodingError(f"{content_encoding} is not decoded in the proxy")
    return inner.feed(body)
