"""Secrets sent through both doors, and everything that is written or said afterwards: none is in it, and nobody else may read it."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import pyarrow.parquet as pq
import pytest
import zstandard

from etl.export.month import FORMATS
from schemas.home import Home
from tests.sidecar import ROOT, Priced, Way, command, free_port, sidecar, write_book
from tests.upstream import Upstream, serving
from tests.vendor import Answer

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hi."}]}


def secret(number: int, door: str) -> str:
    return f"sk-{door}{number:02d}planted0123456789abcdef"


@dataclass(frozen=True)
class Left:
    """A home after traffic and every command, what the commands and the proxy said, and the secrets that were sent."""

    home: Home
    said: dict[str, bytes]
    secrets: list[str]


def asks(door: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Twenty places of a secret in a request: its query, and the rest of it."""
    plain = iter(secret(number, door) for number in range(1, 21))
    for name in ("authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization", "referer", "user-agent"):
        value = next(plain)
        said = {"authorization": f"Bearer {value}", "cookie": f"session={value}", "referer": f"https://ada:{value}@a.example/p"}
        yield "", {"json": ASK, "headers": {name: said.get(name, value)}}
    for name in ("x-title", "x-ledger-user", "x-ledger-tag-team", "helicone-property-app", "x-portkey-metadata", "x-unknown-header"):
        yield "", {"json": ASK, "headers": {name: f'{{"a": "{next(plain)}"}}'}}
    yield f"?key={next(plain)}", {"json": ASK}
    yield f"?page={next(plain)}", {"json": ASK}
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
        write_book(home, [Way("official", upstream.base_url)], prices=prices, settings='[capture]\nbodies = "digest"')
        port = free_port()
        with sidecar(home, "--admin-port", str(port)) as running:
            for door, base_url, proxy in (("gw", running.base_url, None), ("fw", upstream.base_url, running.forward)):
                with httpx2.Client(proxy=proxy, trust_env=False, timeout=30) as http:
                    for query, request in asks(door):
                        http.post(f"{base_url}/chat/completions{query}", **request)
                    echoed = secret(21, door)
                    error = json.dumps({"error": {"message": f"Incorrect API key provided: {echoed}", "code": echoed}}).encode()
                    headers = (("content-type", "application/json"), ("x-request-id", "r-1"), ("x-litellm-note", echoed))
                    upstream.queue.append(Answer(401, headers, (error,)))
                    assert http.post(f"{base_url}/chat/completions", json=ASK).status_code == 401
                secrets += [secret(number, door) for number in range(1, 22)]
            said["metrics"] = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).content
            spooled = b"".join(path.read_bytes() for path in home.spool.rglob("*") if path.is_file())
    said["spool"] = spooled
    said["ledger"] = run(home, "ledger", "--as-of", "2040-01-05T00:00:00Z")
    with duckdb.connect(str(home.ledger_file), read_only=True) as connection:
        found = connection.execute("SELECT request_id, period FROM ledger ORDER BY request_id").fetchall()
        tables = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        for table in tables:
            said[f"table {table}"] = repr(connection.execute(f'FROM "{table}"').fetchall()).encode()
    assert len(found) == 42
    assert list(home.ledger.glob("*/seal.json")), said["ledger"].decode()
    for form in ("text", "json", "html"):
        for request_id in (found[0][0], found[-1][0]):
            said[f"receipt {form} {request_id}"] = run(home, "receipt", request_id, "--format", form)
    (home.root / "out").mkdir(mode=0o700)
    for form in FORMATS:
        run(home, "export", form, "--period", found[0][1], "--out", str(home.root / "out" / form))
    said["statement"] = run(home, "statement", "--period", found[0][1], "--out", str(home.root / "out" / "statement.html"))
    return Left(home, said, secrets)


def test_no_planted_secret_is_found_anywhere(left: Left, record_property: Any) -> None:
    """Every file, every column unpacked, every table and everything said is without each of the secrets that both doors were sent."""
    sinks = dict(left.said)
    for path in left.home.root.rglob("*"):
        if path.is_file():
            sinks[str(path.relative_to(left.home.root))] = path.read_bytes()
            if path.suffix == ".parquet":
                sinks[f"{path.name} unpacked {len(sinks)}"] = repr(pq.ParquetFile(path).read().to_pylist()).encode()
    assert sum("unpacked" in name for name in sinks) > 4
    found = [(name, value) for name, content in sinks.items() for value in left.secrets if value.encode() in content]
    assert found == []
    record_property("trust: planted secrets x sinks with none found", len(left.secrets) * len(sinks))


def test_nobody_else_may_read_a_home(left: Left) -> None:
    """Under umask 0, whatever proxy, sealer, builder, close and exports wrote is 0600, and each folder 0700."""
    made = [path for path in left.home.root.rglob("*") if left.home.book not in (path, *path.parents)]
    modes = {str(path.relative_to(left.home.root)): stat.S_IMODE(path.stat().st_mode) for path in made}
    right = {name: 0o700 if Path(left.home.root / name).is_dir() else 0o600 for name in modes}
    assert {name: oct(mode) for name, mode in modes.items() if mode != right[name]} == {}
