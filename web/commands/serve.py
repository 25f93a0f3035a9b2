"""`tokenledger web`: the pages until stopped."""

from __future__ import annotations

import asyncio
import os
import signal

import click
from aiohttp import web as aiohttp_web

from schemas.home import Home
from web.app import application
from web.guard import TOKEN_VARIABLE, Guard

GRACE_S = 5.0  # how long a stopping server waits for answers under way


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8790, show_default=True, help="0 takes a free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help=f"Any address beyond loopback needs a token in {TOKEN_VARIABLE}.")
@click.option("--name", "names", multiple=True, metavar="HOST", help="A further host name that browsers use for this server; repeatable.")
@click.option(
    "--gateway", default="http://127.0.0.1:8780", show_default=True, metavar="URL", help="The gateway door that the playground asks."
)
@click.pass_obj
def web(home: Home, port: int, host: str, names: tuple[str, ...], gateway: str) -> int:
    """Serve the pages over the published ledger, until SIGTERM. Prints `ready web=http://...` on stdout."""
    rules = Guard.of(host, names, os.environ.get(TOKEN_VARIABLE))
    asyncio.run(_serve(application(home, rules, gateway), host, port))
    return 0


async def _serve(app: aiohttp_web.Application, host: str, port: int) -> None:
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    runner = aiohttp_web.AppRunner(app, access_log=None, shutdown_timeout=GRACE_S)
    await runner.setup()
    try:
        site = aiohttp_web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        click.echo(f"ready web=http://{f'[{host}]' if ':' in host else host}:{bound}")
        await stopped.wait()
    finally:
        await runner.cleanup()
