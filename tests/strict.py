"""An upstream that takes no byte for granted: it counts only requests that every server would count alike, and notes what is ambiguous.

And raw clients: bytes out as they stand, bytes back as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,15}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,12})(?:;[\x20-\x7e]*)?\r\n")
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n"


class AmbiguousError(Exception):
    """Bytes that two servers could read in two ways."""


@dataclass
class Strict:
    """Listens on a free port of `host`, over TLS if it has a context; `targets` are the requests it saw, `faults` what it could not count."""

    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    port: int = 0
    targets: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.tls, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    @property
    def base_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except asyncio.IncompleteReadError as error:
            if error.partial.strip():
                self.faults.append(f"cut off: {error.partial!r}")
        except AmbiguousError as error:
            self.faults.append(str(error))
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        line, fields = _LINE.fullmatch(first), [_FIELD.fullmatch(one) for one in lines]
        if line is None or None in fields:
            raise AmbiguousError(f"head {head!r}")
        headers = [(found[1].lower(), found[2].strip()) for found in fields if found]
        self.targets.append(line[2].decode())
        lengths = [value for name, value in headers if name == b"content-length"]
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        if (
            len(lengths) + len(codings) > 1
            or not all(map(_LENGTH.fullmatch, lengths))
            or [coding.lower() for coding in codings] not in ([], [b"chunked"])
        ):
            raise AmbiguousError(f"framing {head!r}")
        if len([name for name, _ in headers if name == b"host"]) != 1:
            raise AmbiguousError(f"host {head!r}")
        if codings:
            await self._chunks(reader)
        elif lengths:
            await reader.readexactly(int(lengths[0]))
        switching = any(name == b"upgrade" for name, _ in headers)
        writer.write(_SWITCH if switching else _ANSWER)
        await writer.drain()
        return True

    @staticmethod
    async def _chunks(reader: asyncio.StreamReader) -> None:
        size = 1
        while size:
            line = await reader.readuntil(b"\n")
            found = _CHUNK.fullmatch(line)
            if found is None:
                raise AmbiguousError(f"chunk {line!r}")
            size = int(found[1], 16)
            if (await reader.readexactly(size + 2))[-2:] != b"\r\n":
                raise AmbiguousError("no line end after a chunk")


async def answered(url: str, *parts: bytes, quiet_s: float = 1.0, limit: int = 1 << 16) -> bytes:
    """Send bytes to a door, each part after the answer to the one before, and read until it closes or has said nothing more for a while."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    got = b""
    try:
        *first, last = [part for part in parts if part]
        for part in first:
            writer.write(part)
            got += await reader.readuntil(b"\r\n\r\n")
        writer.write(last)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while len(got) < limit and (chunk := await asyncio.wait_for(reader.read(limit), quiet_s if got else 10)):
                got += chunk
    finally:
        writer.close()
    return got


def statuses(answer: bytes) -> list[int]:
    """The status of each answer in the bytes that came back."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]
