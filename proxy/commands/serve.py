"""`tokenledger proxy`: both doors until stopped."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from proxy import log, versions
from proxy.service import Settings, run
from proxy.workers import supervise
from schemas.home import Home

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address both doors listen on.")
@click.option("--gateway-port", type=_PORT, default=8780, show_default=True, help="Base-URL door; 0 takes a free port.")
@click.option("--forward-port", type=_PORT, default=8781, show_default=True, help="HTTPS_PROXY door; 0 takes a free port.")
@click.option("--admin-port", type=_PORT, default=8782, show_default=True, help="Loopback port of /healthz, /readyz and /metrics.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that share both ports.")
@click.option("--no-gateway", is_flag=True, help="Leave the gateway door shut.")
@click.option("--no-forward", is_flag=True, help="Leave the forward door shut.")
@click.option(
    "--upstream-ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file of authorities to trust upstream, beside the system's.",
)
@click.option(
    "--forward-mode",
    "forward_modes",
    multiple=True,
    default=("regular",),
    show_default=True,
    metavar="MODE",
    help="A mitmproxy mode for the forward door; repeatable.",
)
@click.pass_obj
def proxy(
    home: Home,
    /,
    host: str,
    gateway_port: int,
    forward_port: int,
    admin_port: int,
    workers: int,
    no_gateway: bool,
    no_forward: bool,
    upstream_ca: Path | None,
    forward_modes: tuple[str, ...],
) -> int:
    """Open both doors and record what passes, until SIGTERM.

    Prints `ready gateway=http://... forward=http://...` on stdout when both accept.
    """
    if no_gateway and no_forward:
        raise click.UsageError("--no-gateway and --no-forward together leave no door open")
    log.to_stderr()
    versions.check(versions.installed())
    for warning in versions.warnings():
        logging.getLogger("proxy").warning(warning)
    settings = Settings(
        home=home,
        host=host,
        gateway_port=None if no_gateway else gateway_port,
        forward_port=None if no_forward else forward_port,
        admin_port=admin_port,
        upstream_ca=upstream_ca,
        forward_modes=forward_modes,
        workers=workers,
    )
    return run(settings, click.echo) if workers == 1 else supervise(settings, click.echo)
