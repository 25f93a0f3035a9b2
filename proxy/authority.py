"""The forward door's certificate authority, and the bundle that makes clients trust it beside the system's roots."""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path

import certifi
from mitmproxy.certs import CertStore

from schemas.errors import UsageError
from schemas.home import Home

# mitmproxy's TLS layer looks for its authority under this name in its confdir, which is `home.ca`.
BASENAME = "mitmproxy"
ORGANIZATION = "tokenledger"
KEY_BITS = 2048
CERTIFICATE = f"{BASENAME}-ca-cert.pem"
BUNDLE = "bundle.pem"


class AuthorityError(UsageError):
    """The authority's folder is there but its files are not all in it."""


def ensure_ca(home: Home) -> Path:
    """The authority's certificate (PEM), made at first use; its folder is 0700 and its key 0600.

    It is made aside and renamed in, so that two commands starting at once end with one authority.
    """
    certificate = home.ca / CERTIFICATE
    if certificate.exists():
        return certificate
    home.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="ca.", dir=home.secrets))
    try:
        CertStore.create_store(aside, BASENAME, KEY_BITS, organization=ORGANIZATION, cn=ORGANIZATION)
        for path in aside.iterdir():
            path.chmod(0o600)
        aside.rename(home.ca)
    except OSError:
        if not certificate.exists():  # else another command was first, and its authority is the one
            raise AuthorityError(f"{home.ca} holds no {CERTIFICATE}", f"restore it from a copy, or move {home.ca} away") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return certificate


def system_roots(environment: Mapping[str, str], bundle: Path) -> Path:
    """The trust store that clients would use without us: SSL_CERT_FILE unless that is our own bundle, else the default."""
    named = environment.get("SSL_CERT_FILE")
    default = ssl.get_default_verify_paths().openssl_cafile
    debian = "/etc/ssl/certs/ca-certificates.crt"  # OpenSSL's compiled-in file is often absent where this one is
    for candidate in (named, default, debian):
        if candidate and Path(candidate).is_file() and Path(candidate).absolute() != bundle:
            return Path(candidate)
    return Path(certifi.where())


def write_bundle(home: Home, environment: Mapping[str, str]) -> Path:
    """System roots and our authority in one PEM file: clients that read such a variable replace their store by it."""
    ours = ensure_ca(home).read_bytes()
    bundle = home.ca / BUNDLE
    roots = system_roots(environment, bundle).read_bytes().rstrip(b"\n")
    aside = bundle.with_suffix(f".{os.getpid()}")
    aside.write_bytes(roots + b"\n" + ours)
    aside.chmod(0o644)
    aside.replace(bundle)
    return bundle


def upstream_roots(home: Home, environment: Mapping[str, str], extra: Path | None) -> Path:
    """What the proxy itself trusts of its upstreams: the system's roots, and those in `extra` if it is given."""
    roots = system_roots(environment, home.ca / BUNDLE)
    if extra is None:
        return roots
    bundle = home.ca / "upstream.pem"
    bundle.write_bytes(roots.read_bytes().rstrip(b"\n") + b"\n" + extra.read_bytes())
    return bundle
