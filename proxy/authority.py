"""The forward door's certificate authority, and the bundle that makes clients trust it beside the system's roots."""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import tempfile
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.targets import address_of
from schemas.errors import UsageError
from schemas.home import Home

# mitmproxy's TLS layer looks for its authority under this name in its confdir, which is `home.ca`.
BASENAME = "mitmproxy"
ORGANIZATION = "tokenledger"
KEY_BITS = 2048
VALID = timedelta(days=3653)
KEY = f"{BASENAME}-ca.pem"
CERTIFICATE = f"{BASENAME}-ca-cert.pem"
BUNDLE = "bundle.pem"


class AuthorityError(UsageError):
    """The authority's folder is there but its files are not all in it."""


def ensure_ca(home: Home, hosts: Collection[str]) -> Path:
    """The authority's certificate (PEM), made at first use; its folder is 0700 and its key 0600.

    It is good for these hosts and no others (unless one is an address), so that whoever takes its key can play none but them. For other hosts it is
    issued anew under the same key: what trusted it before goes on doing so for the hosts of then. It is made aside and
    renamed in, so that two commands starting at once end with one authority.
    """
    certificate = home.ca / CERTIFICATE
    try:
        if _constraints(x509.load_pem_x509_certificate(certificate.read_bytes())) != constraints(hosts):
            key = serialization.load_pem_private_key((home.ca / KEY).read_bytes(), None)
            assert isinstance(key, rsa.RSAPrivateKey)
            _write(home.ca, key, hosts)
    except FileNotFoundError:
        _make(home, hosts)
    return certificate


def _make(home: Home, hosts: Collection[str]) -> None:
    home.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="ca.", dir=home.secrets))
    try:
        _write(aside, rsa.generate_private_key(65537, KEY_BITS), hosts)
        aside.rename(home.ca)
    except OSError:
        if not (home.ca / CERTIFICATE).exists():  # else another command was first, and its authority is the one
            raise AuthorityError(f"{home.ca} holds no {CERTIFICATE}", f"restore it from a copy, or move {home.ca} away") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(folder: Path, key: rsa.RSAPrivateKey, hosts: Collection[str]) -> None:
    """Key and certificate for mitmproxy, then the certificate alone for clients; each is replaced whole."""
    public = _certificate(key, hosts).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    for name, content in ((KEY, private + public), (CERTIFICATE, public)):
        aside = folder / f"{name}.{os.getpid()}"
        aside.touch(mode=0o600)
        aside.write_bytes(content)
        aside.replace(folder / name)


def _certificate(key: rsa.RSAPrivateKey, hosts: Collection[str]) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(kind, ORGANIZATION) for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=2), now + VALID)
    signing = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(signing, critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    narrow = constraints(hosts)
    return (made.add_extension(narrow, critical=True) if narrow is not None else made).sign(key, hashes.SHA256())


def constraints(hosts: Collection[str]) -> x509.NameConstraints | None:
    """The names that the authority may certify (RFC 5280, 4.2.1.10): these, and no address.

    None where one of them is an address: OpenSSL then holds the common name, which is that address, to the rules for names.
    """
    if any(address_of(host) is not None for host in hosts):
        return None
    everywhere = [x509.IPAddress(ipaddress.ip_network(network)) for network in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints([x509.DNSName(host) for host in sorted(set(hosts))] or [x509.DNSName("invalid")], everywhere)


def _constraints(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def fingerprint_of(certificate: Path) -> str:
    """SHA-256 of a certificate (PEM), as browsers and `openssl x509 -fingerprint` show it."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex(":").upper()


def system_roots(environment: Mapping[str, str], bundle: Path) -> Path:
    """The trust store that clients would use without us: SSL_CERT_FILE unless that is our own bundle, else the default."""
    named = environment.get("SSL_CERT_FILE")
    default = ssl.get_default_verify_paths().openssl_cafile
    debian = "/etc/ssl/certs/ca-certificates.crt"  # OpenSSL's compiled-in file is often absent where this one is
    for candidate in (named, default, debian):
        if candidate and Path(candidate).is_file() and Path(candidate).absolute() != bundle:
            return Path(candidate)
    return Path(certifi.where())


def write_bundle(home: Home, certificate: Path, environment: Mapping[str, str]) -> Path:
    """System roots and our authority in one PEM file: clients that read such a variable replace their store by it."""
    ours = certificate.read_bytes()
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
