"""`tokenledger env`: the shell lines that put a team's environment behind the forward door."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import click
import orjson

from proxy.access import TOKEN_VARIABLE
from proxy.authority import ensure_ca, fingerprint_of, write_bundle
from schemas.book import load_book
from schemas.errors import UsageError
from schemas.home import Home
from schemas.hosts import is_loopback

LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Which kind of client reads which variable (observed, wire.md 5.5). A bundle replaces the client's own store, so it
# holds the system's roots too; NODE_EXTRA_CA_CERTS adds, so our single certificate is enough.
BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
SINGLE_CA_VARIABLES = ("NODE_EXTRA_CA_CERTS",)
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
NO_PROXY_VARIABLES = ("NO_PROXY", "no_proxy")
NODE_VARIABLE = "NODE_USE_ENV_PROXY"
# Java reads none of the above: the proxy and a trust store of its own format are named to its virtual machine.
JAVA_VARIABLE = "JAVA_TOOL_OPTIONS"
JAVA_STORE = "bundle.p12"
JAVA_STORE_PASSWORD = "changeit"  # noqa: S105 - the format asks for one; the store holds public certificates only


class JavaStoreError(UsageError):
    """keytool could not make the trust store."""


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
        NODE_VARIABLE: "1",  # Node 22 and later ignore the proxy variables without it; Node 20 ignores it too
    }


def java_store(certificate: Path, keytool: str) -> Path:
    """A PKCS12 trust store beside the certificate: Java's own roots and our authority. Raises JavaStoreError."""
    store = certificate.with_name(JAVA_STORE)
    aside = store.with_suffix(f".{os.getpid()}")
    roots = Path(os.path.realpath(keytool)).parent.parent / "lib" / "security" / "cacerts"
    common = ["-noprompt", "-storepass", JAVA_STORE_PASSWORD]
    steps = [["-importcert", "-alias", "tokenledger", "-file", str(certificate), "-keystore", str(aside), "-storetype", "PKCS12", *common]]
    if roots.is_file():
        destination = ["-destkeystore", str(aside), "-deststoretype", "PKCS12", "-deststorepass", JAVA_STORE_PASSWORD]
        steps.insert(0, ["-importkeystore", "-srckeystore", str(roots), "-srcstorepass", JAVA_STORE_PASSWORD, "-noprompt", *destination])
    try:
        for step in steps:
            done = subprocess.run([keytool, *step], capture_output=True, text=True, check=False, timeout=120)
            if done.returncode:
                words = (done.stdout + done.stderr).strip().splitlines()
                raise JavaStoreError(f"keytool: {words[-1] if words else done.returncode}", "see `keytool -help`, or leave --java out")
        aside.replace(store)
    finally:
        aside.unlink(missing_ok=True)
    return store


def java_options(host: str, port: int, exempt: str, store: Path, environment: Mapping[str, str]) -> str:
    """The value of JAVA_TOOL_OPTIONS: what it was without our own words, then proxy and trust store."""
    ours = ("-Dhttps.proxy", "-Dhttp.proxy", "-Dhttp.nonProxyHosts", "-Djavax.net.ssl.trustStore")
    before = [word for word in environment.get(JAVA_VARIABLE, "").split() if not word.startswith(ours)]
    names = "|".join("[::1]" if name == "::1" else f"*{name}" if name.startswith(".") else name for name in exempt.split(","))
    words = [f"-D{scheme}.proxy{what}={value}" for scheme in ("https", "http") for what, value in (("Host", host), ("Port", port))]
    trust = [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={JAVA_STORE_PASSWORD}",
    ]
    return " ".join([*before, *words, f"-Dhttp.nonProxyHosts={names}", *trust])


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the forward door listens.")
@click.option("--forward-port", type=click.IntRange(1, 65535), default=8781, show_default=True, help="Its port.")
@click.option("--java", is_flag=True, help="Also JAVA_TOOL_OPTIONS, with a trust store made by keytool.")
@click.option("--remove", is_flag=True, help="The lines that take it all back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of shell lines.")
@click.pass_obj
def env(home: Home, host: str, forward_port: int, java: bool, remove: bool, as_json: bool) -> None:
    """Print shell lines for `eval "$(tokenledger env)"`: proxy variables and CA bundle.

    `--remove` unsets every variable that they set, those that were set before included.
    """
    if remove:
        names = [*PROXY_VARIABLES, *NO_PROXY_VARIABLES, *BUNDLE_VARIABLES, *SINGLE_CA_VARIABLES, NODE_VARIABLE, JAVA_VARIABLE]
        click.echo(
            orjson.dumps(dict.fromkeys(names), option=orjson.OPT_INDENT_2) if as_json else "\n".join(f"unset {name}" for name in names)
        )
        return
    authority = f"[{host}]" if ":" in host else host
    certificate = ensure_ca(home, load_book(home.book).tls_hosts)
    token = os.environ.get(TOKEN_VARIABLE)
    user = "" if is_loopback(host) or not token else f"tokenledger:{quote(token, safe='')}@"
    bundle = write_bundle(home, certificate, os.environ)
    values = variables(f"http://{user}{authority}:{forward_port}", certificate, bundle, os.environ)
    keytool = shutil.which("keytool")
    if java and keytool:
        store = java_store(certificate, keytool)
        values[JAVA_VARIABLE] = java_options(host, forward_port, values["NO_PROXY"], store, os.environ)
    if as_json:
        click.echo(orjson.dumps(values, option=orjson.OPT_INDENT_2))
        return
    for name, value in values.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo(f"# the authority's SHA-256 is {fingerprint_of(certificate)}")
    if not java:
        click.echo("# Java reads none of these: add --java")
    elif not keytool:
        click.echo("# no JAVA_TOOL_OPTIONS: keytool, which makes Java's trust store, is not on this machine (Debian: default-jre-headless)")
