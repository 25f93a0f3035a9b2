"""The authority that clients are told to trust: good for the channels' hosts alone, and upstream nothing is trusted unseen."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import stat
import subprocess
from pathlib import Path

import duckdb
import httpx2
import pytest
from cryptography import x509
from mitmproxy.certs import CertStore

from etl.build import build
from proxy.authority import BASENAME, KEY, KEY_BITS, ensure_ca, fingerprint_of
from schemas.home import Home
from tests import clients
from tests.certs import Authority, make_authority
from tests.sidecar import ROOT, Way, command, recorded, seal_all, sidecar, write_book
from tests.test_relay import DOORS, JSON, said
from tests.upstream import Upstream

HOST = "vendor.example.com"
ZONE = f"""
import socket
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *args, **kwargs: real("127.0.0.1" if host == "{HOST}" else host, *args, **kwargs)
"""


def shake(home: Home, host: str, sans: list[str]) -> str:
    """A handshake with a server that has a certificate of our authority for these names: what the client says of it."""
    store = CertStore.from_store(home.ca, BASENAME, KEY_BITS)
    leaf = store.get_cert(sans[0], [x509.DNSName(san) for san in sans])
    pem = home.root / "leaf.pem"
    pem.write_bytes(leaf.cert.to_pem() + (home.ca / KEY).read_bytes())
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=str(home.ca / "mitmproxy-ca-cert.pem"))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return "ok"


def test_the_authority_is_good_for_the_channels_hosts_alone(home: Home) -> None:
    """OpenSSL, which Python, curl and Node use, takes a channel's name and refuses every other, and any address."""
    certificate = ensure_ca(home, ["api.example.com", "eu.example.org"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (home.ca, home.ca / KEY, certificate)] == [0o700, 0o600, 0o600]
    assert shake(home, "api.example.com", ["api.example.com"]) == "ok"
    assert shake(home, "eu.example.org", ["eu.example.org"]) == "ok"
    for host in ("example.com", "bank.example.net", "api.example.com.evil.net"):
        assert shake(home, host, [host]) == "permitted subtree violation"
    assert shake(home, "api.example.com", ["api.example.com", "bank.example.net"]) == "permitted subtree violation"


def test_another_host_in_the_book_changes_the_certificate_and_not_the_key(home: Home) -> None:
    """What trusted it before goes on doing so for the hosts of then; the same book changes nothing."""
    first = ensure_ca(home, ["api.example.com"]).read_bytes()
    assert ensure_ca(home, ["api.example.com"]).read_bytes() == first
    second = ensure_ca(home, ["api.example.com", "new.example.com"]).read_bytes()
    old, new = (x509.load_pem_x509_certificate(pem) for pem in (first, second))
    assert old != new
    assert old.public_key() == new.public_key()
    assert shake(home, "new.example.com", ["new.example.com"]) == "ok"
    (home.ca / "mitmproxy-ca-cert.pem").write_bytes(first)  # what an older shell still trusts
    (home.ca / KEY).write_bytes((home.ca / KEY).read_bytes().partition(b"-----BEGIN CERT")[0] + second)
    assert shake(home, "api.example.com", ["api.example.com"]) == "ok"


async def test_real_clients_take_the_narrow_authority(home: Home, tmp_path: Path) -> None:
    """A channel by name, through the door with what `tokenledger env` prints, whose fingerprint it shows: httpx, curl and Node."""
    vendor = make_authority(tmp_path)
    async with Upstream(tls=vendor.issue(HOST)) as upstream:
        url = f"https://{HOST}:{upstream.port}/v1"
        write_book(home, [Way("official", url)], settings=f'private_hosts = ["{HOST}"]')
        with sidecar(home, "--upstream-ca", str(vendor.cert), before=ZONE) as running:
            port = running.forward.rpartition(":")[2]
            words = command(home, "env", "--forward-port", port)
            printed = (await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True, cwd=ROOT)).stdout
            assert fingerprint_of(home.ca / "mitmproxy-ca-cert.pem") in printed
            ca = str(home.ca / "mitmproxy-ca-cert.pem")
            async with httpx2.AsyncClient(proxy=running.forward, verify=ssl.create_default_context(cafile=ca)) as http:
                assert (await http.get(f"{url}/models")).status_code == 200
            asking = [["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "--proxy", running.forward, "--cacert", ca, f"{url}/models"]]
            node = clients.node()
            if node:
                code = f"fetch('{url}/models').then(a => console.log(a.status))"
                asking.append([str(node), "-e", code])
            more = {"HTTPS_PROXY": running.forward, "NODE_USE_ENV_PROXY": "1", "NODE_EXTRA_CA_CERTS": ca}
            env = {**os.environ, **more}
            for words in asking:
                done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, env=env, check=False, timeout=60)
                assert done.stdout.strip() == "200", done.stderr
        assert len(upstream.seen) == 1 + len(asking)


@pytest.mark.parametrize("door", DOORS)
async def test_an_upstream_is_verified_unless_the_book_says_otherwise_aloud(home: Home, door: str, authority: Authority) -> None:
    """A certificate of nobody's is a connect error; with `tls_unverified = true` it passes, is told at the start and is in data_quality."""
    async with Upstream(tls=authority.issue("127.0.0.1")) as upstream:
        for rules, status in (("max_retries = 0", 502), ("max_retries = 0\ntls_unverified = true", 200)):
            write_book(home, [Way("official", upstream.base_url, rules=rules)])
            with sidecar(home) as running:
                ca = ssl.create_default_context(cafile=str(home.ca / "mitmproxy-ca-cert.pem"))
                way = {"base_url": running.base_url} if door == "gateway" else {"base_url": upstream.base_url, "proxy": running.forward}
                async with httpx2.AsyncClient(**way, verify=ca, trust_env=False, timeout=30) as http:  # type: ignore[arg-type]
                    assert (await http.post("/chat/completions", content=said(""), headers=JSON)).status_code == status
    told = [json.loads(row["facts"]) for row in recorded(home, "event") if row["event"] == "tls_unverified"]
    assert [fact["channel"] for fact in told] == ["official"]
    await asyncio.to_thread(seal_all, home)
    await asyncio.to_thread(build, home)
    with duckdb.connect(str(home.ledger_file), read_only=True) as con:
        ((detail, blocks),) = con.execute("select detail, blocks_close from data_quality where kind = 'tls_unverified'").fetchall()
    assert ("official" in detail, blocks) == (True, False)
