"""A vendor over TLS that answers every call with the same bytes in the same pieces, and the ways to it: through either door."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from schemas.home import Home
from tests.certs import Authority, Leaf
from tests.sidecar import Way, sidecar, write_book

PAUSE_S = 0.02  # between two pieces, so that each arrives alone


@asynccontextmanager
async def verbatim(
    home: Home, authority: Authority, leaf: Leaf, pieces: Sequence[bytes]
) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """The gateway's and the forward door's base URL to it, each with what httpx needs to get there; the proxy stops at the end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.lower().split(b"\r\n")
                await reader.readexactly(next(int(line[15:]) for line in lines if line.startswith(b"content-length:")))
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(PAUSE_S)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=leaf.server_context())
    async with server:
        base = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        write_book(home, [Way("official", base, rules="max_retries = 0")])
        with sidecar(home, "--upstream-ca", str(authority.cert)) as running:
            trusted = ssl.create_default_context(cafile=str(home.ca / "mitmproxy-ca-cert.pem"))
            yield [(running.base_url, {}), (base, {"proxy": running.forward, "verify": trusted})]
