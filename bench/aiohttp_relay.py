"""A bare relay of aiohttp on uvloop, which records nothing: what a gateway would cost if it did only that.

`python -m bench.aiohttp_relay PORT UPSTREAM` serves until SIGTERM.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

UPSTREAM = web.AppKey("upstream", str)
CLIENT = web.AppKey("client", aiohttp.ClientSession)
_HOP = frozenset(("connection", "content-length", "host", "keep-alive", "transfer-encoding"))


async def relay(request: web.Request) -> web.StreamResponse:
    """Pass one request on and its answer back, as it comes."""
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
    body = await request.read()
    async with request.app[CLIENT].request(
        request.method, request.app[UPSTREAM] + request.raw_path, headers=headers, data=body or None
    ) as answer:
        kept = {
            name: value for name, value in answer.headers.items() if name.lower() not in ("connection", "keep-alive", "transfer-encoding")
        }
        relayed = web.StreamResponse(status=answer.status, headers=kept)
        await relayed.prepare(request)
        async for chunk in answer.content.iter_any():
            await relayed.write(chunk)
        await relayed.write_eof()
        return relayed


async def _client(app: web.Application) -> Any:
    app[CLIENT] = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))
    yield
    await app[CLIENT].close()


def main() -> None:
    """Serve on a loopback port."""
    app = web.Application()
    app[UPSTREAM] = sys.argv[2]
    app.cleanup_ctx.append(_client)
    app.router.add_route("*", "/{path:.*}", relay)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
