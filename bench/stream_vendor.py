"""An upstream whose streams are all open at once: each begins with one event, and goes on when as many as were announced have begun.

`python -m bench.stream_vendor PORT` serves until SIGTERM; the query `?together=N` of a request announces N.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

from bench.contenders import EVENTS

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


FIRST, _, _REST = EVENTS.encode().partition(b"\n\n")
FIRST += b"\n\n"


class Vendor:
    """What its connections share: how many streams have begun, and who waits for how many."""

    def __init__(self) -> None:
        self._begun = 0
        self._all_begun = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                together = re.search(rb"together=(\d+)", head)
                writer.write(_HEAD + chunk(FIRST))
                if together is not None:
                    self._begun += 1
                    if self._begun == int(together[1]):
                        self._all_begun.set()
                    await self._all_begun.wait()
                writer.write(chunk(_REST) + b"0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main() -> None:
    """Serve on a loopback port."""
    server = await asyncio.start_server(Vendor().serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
