"""`tokenledger env`: the shell lines that put a team's environment behind the forward door."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import click
import orjson

from proxy.authority import ensure_ca, write_bundle
from schemas.home import Home

LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Which kind of client reads which variable (observed, wire.md 5.5). A bundle replaces the client's own store, so it
# holds the system's roots too; NODE_EXTRA_CA_CERTS adds, so our single certificate is enough.
BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
SINGLE_CA_VARIABLES = ("NODE_EXTRA_CA_CERTS",)
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
NO_PROXY_VARIABLES = ("NO_PROXY", "no_proxy")


def variables(proxy_url: str, certificate: Path, bundle: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Name -> value. Hosts that NO_PROXY exempts already stay exempt; loopback always is, or local calls would pass twice."""
    exempt = dict.fromkeys(LOOPBACK)
    for name in NO_PROXY_VARIABLES:
        exempt.update(dict.fromkeys(host for host in environment.get(name, "").replace(" ", "").split(",") if host))
    return {
        **dict.fromkeys(PROXY_VARIABLES, proxy_url),
        **dict.fromkeys(NO_PROXY_VARIABLES, ",".join(exempt)),
        **dict.fromkeys(BUNDLE_VARIABLES, str(bundle)),
        **dict.fromkeys(SINGLE_CA_VARIABLES, str(certificate)),
        "NODE_USE_ENV_PROXY": "1",  # Node 22 and later ignore the proxy variables without it
    }


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the forward door listens.")
@click.option("--forward-port", type=click.IntRange(1, 65535), default=8781, show_default=True, help="Its port.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of shell lines.")
@click.pass_obj
def env(home: Home, host: str, forward_port: int, as_json: bool) -> None:
    """Print shell lines for `eval "$(tokenledger env)"`: proxy variables and CA bundle."""
    authority = f"[{host}]" if ":" in host else host
    certificate = ensure_ca(home)
    values = variables(f"http://{authority}:{forward_port}", certificate, write_bundle(home, os.environ), os.environ)
    if as_json:
        click.echo(orjson.dumps(values, option=orjson.OPT_INDENT_2))
        return
    for name, value in values.items():
        click.echo(f"export {name}={shlex.quote(value)}")
