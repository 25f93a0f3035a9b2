"""Secrets sent through both doors, and everything that is written, shown or said afterwards: none is in it, and nobody else may read it."""

from __future__ import annotations

import gzip
import html
import io
import json
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import pyarrow.parquet as pq
import pypdf
import pytest
import zstandard

from etl.export.month import FORMATS
from schemas.home import Home
from tests.sidecar import ROOT, Priced, Sidecar, Way, command, free_port, sidecar, write_book
from tests.test_web import web
from tests.upstream import Upstream, serving
from tests.vendor import Answer

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hi."}]}


SOCKET = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}
IN_BODIES = range(18, 23)  # what a message holds is kept as it was sent, in files of its own and nowhere else
PLACES = 21
ECHOED = 22  # what the vendor says back


def secret(number: int, door: str) -> str:
    return f"sk-{door}{number:02d}planted0123456789abcdef"


@dataclass(frozen=True)
class Left:
    """A home after traffic and every command, what the commands, the pages and the proxy said, and the secrets that were sent."""

    home: Home
    said: dict[str, bytes]
    secrets: list[str]


def asks(door: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Places of a secret in a request: its query, and the rest of it. Those in bodies come last."""
    plain = iter(secret(number, door) for number in range(1, PLACES + 1))
    for name in ("authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization", "referer", "user-agent"):
        value = next(plain)
        said = {"authorization": f"Bearer {value}", "cookie": f"session={value}", "referer": f"https://ada:{value}@a.example/p"}
        yield "", {"json": ASK, "headers": {name: said.get(name, value)}}
    for name in ("x-title", "x-ledger-user", "x-ledger-tag-team", "helicone-property-app", "x-portkey-metadata", "x-unknown-header"):
        yield "", {"json": ASK, "headers": {name: f'{{"a": "{next(plain)}"}}'}}
    yield f"?key={next(plain)}", {"json": ASK}
    yield f"?page={next(plain)}", {"json": ASK}
    offered = f"realtime, openai-insecure-api-key.{next(plain)}"  # as a browser must, which can set no header
    yield "", {"json": ASK, "headers": SOCKET | {"sec-websocket-protocol": offered}}
    yield "", {"json": ASK | {"api_key": next(plain)}}
    yield "", {"files": {"model": (None, "whisper-1"), "api_key": (None, next(plain)), "file": ("a.wav", b"RIFF")}}
    for coding, pack in (("gzip", gzip.compress), ("zstd", zstandard.compress)):
        packed = pack(json.dumps(ASK | {"api_key": next(plain)}).encode())
        yield "", {"content": packed, "headers": {"content-encoding": coding, "content-type": "application/json"}}


def run(home: Home, *arguments: str) -> bytes:
    done = subprocess.run(command(home, *arguments), cwd=ROOT, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Everything written under umask 0; an upstream that echoes the key in an error's text and in headers too."""
    home = Home(tmp_path_factory.mktemp("planted") / "home")
    before = os.umask(0)
    try:
        return _left(home)
    finally:
        os.umask(before)


def _left(home: Home) -> Left:
    said: dict[str, bytes] = {}
    secrets: list[str] = []
    with serving(Upstream()) as upstream:
        prices = [Priced("official", "*", meter, "1") for meter in ("input", "output")]
        no_tls = f"https://localhost:{upstream.port}/v1"
        ways = [Way("official", upstream.base_url), Way("no-tls", no_tls)]
        write_book(home, ways, prices=prices, settings='[capture]\nbodies = "keep"')
        port = free_port()
        errors = home.root.with_name("stderr")
        with errors.open("wb") as said_aloud, sidecar(home, "--admin-port", str(port), said=said_aloud) as running:
            for door, base_url, proxy in (("gw", running.base_url, None), ("fw", upstream.base_url, running.forward)):
                with httpx2.Client(proxy=proxy, trust_env=False, timeout=30) as http:
                    for query, request in asks(door):
                        http.post(f"{base_url}/chat/completions{query}", **request)
                    echoed = secret(ECHOED, door)
                    error = json.dumps({"error": {"message": f"Incorrect API key provided: {echoed}", "code": echoed}}).encode()
                    headers = (("content-type", "application/json"), ("x-request-id", "r-1"), ("x-litellm-note", echoed))
                    upstream.queue.append(Answer(401, headers, (error,)))
                    assert http.post(f"{base_url}/chat/completions", json=ASK).status_code == 401
                secrets += [secret(number, door) for number in range(1, ECHOED + 1)]
            misled(running, f"{no_tls}/models", secrets[0])
            said["metrics"] = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).content
            spooled = b"".join(path.read_bytes() for path in home.spool.rglob("*") if path.is_file())
    said["spool"] = spooled
    said["stderr"] = errors.read_bytes()
    said["ledger"] = run(home, "ledger", "--as-of", "2040-01-05T00:00:00Z")
    with duckdb.connect(str(home.ledger_file), read_only=True) as connection:
        found = connection.execute("SELECT request_id, period FROM ledger ORDER BY request_id").fetchall()
        tables = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        for table in tables:
            said[f"table {table}"] = repr(connection.execute(f'FROM "{table}"').fetchall()).encode()
    assert len(found) == 2 * ECHOED + 1
    assert list(home.ledger.glob("*/seal.json")), said["ledger"].decode()
    for form in ("text", "json", "html"):
        for request_id in (found[0][0], found[-1][0]):
            said[f"receipt {form} {request_id}"] = run(home, "receipt", request_id, "--format", form)
    for request_id in (found[0][0], found[-1][0]):
        said[f"receipt pdf {request_id}"] = text_of(run(home, "receipt", request_id, "--format", "pdf"))
    (home.root / "out").mkdir(mode=0o700)
    for form in FORMATS:
        run(home, "export", form, "--period", found[0][1], "--out", str(home.root / "out" / form))
    said["statement"] = run(home, "statement", "--period", found[0][1], "--out", str(home.root / "out" / "statement.html"))
    run(home, "statement", "--period", found[0][1], "--format", "pdf", "--out", str(home.root / "out" / "statement.pdf"))
    said["statement pdf"] = text_of((home.root / "out" / "statement.pdf").read_bytes())
    with web(home) as url:
        said |= pages(url)
    return Left(home, said, secrets)


def misled(running: Sidecar, target: str, value: str) -> None:
    """Give the proxy something to complain of: an upstream that speaks no TLS, with a secret in what it is asked."""
    host, port = running.forward.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET {target}?key={value} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {value}\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 502")


def text_of(pdf: bytes) -> bytes:
    """The words of a PDF, whose streams are compressed."""
    return " ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages).encode()


def pages(url: str) -> dict[str, bytes]:
    """The pages that are reached from the first one, as far as a reader goes, and one that is none."""
    found: dict[str, bytes] = {}
    waiting = ["/", "/no-such-page"]
    with httpx2.Client(base_url=url, trust_env=False, timeout=30, follow_redirects=True) as http:
        while waiting and len(found) < 24:
            path = waiting.pop(0)
            found[f"page {path}"] = content = http.get(path).content
            links = {html.unescape(link.decode()) for link in re.findall(rb'href="(/[^"#]*)"', content)}
            waiting += sorted(links - {*waiting} - {name.removeprefix("page ") for name in found})
    return found


def test_no_planted_secret_is_found_anywhere(left: Left, record_property: Any) -> None:
    """Every file, every column unpacked, every table and everything said is without each of the secrets that both doors were sent."""
    sinks = dict(left.said)
    for path in left.home.root.rglob("*"):
        if path.is_file():
            sinks[str(path.relative_to(left.home.root))] = path.read_bytes()
            if path.suffix == ".parquet":
                sinks[f"{path.relative_to(left.home.root)} unpacked"] = repr(pq.ParquetFile(path).read().to_pylist()).encode()
    assert sum("unpacked" in name for name in sinks) > 4
    found = {(name, value) for name, content in sinks.items() for value in left.secrets if value.encode() in content}
    bodies = {secret(number, door) for number in IN_BODIES for door in ("gw", "fw")}
    kept = {(name, value) for name, value in found if value in bodies and name.startswith(("spool", "raw/body/"))}
    assert found - kept == set()
    assert sum(name.startswith("page ") for name in sinks) == 24
    record_property("trust: planted secrets x sinks with none found", len(left.secrets) * len(sinks))


def test_logs_are_json_without_what_passed(left: Left) -> None:
    """Each line of standard error is an object that says when, how bad, from whom and what; there is one of the upstream without TLS."""
    lines = [json.loads(line) for line in left.said["stderr"].splitlines()]
    assert all({"at", "level", "from", "message"} <= line.keys() for line in lines)
    assert any("TLS" in line["message"] for line in lines), lines


def test_nobody_else_may_read_a_home(left: Left) -> None:
    """Under umask 0, whatever proxy, sealer, builder, close and exports wrote is 0600, and each folder 0700."""
    made = [path for path in left.home.root.rglob("*") if left.home.book not in (path, *path.parents)]
    modes = {str(path.relative_to(left.home.root)): stat.S_IMODE(path.stat().st_mode) for path in made}
    right = {name: 0o700 if Path(left.home.root / name).is_dir() else 0o600 for name in modes}
    assert {name: oct(mode) for name, mode in modes.items() if mode != right[name]} == {}
