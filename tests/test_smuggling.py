"""Two servers that count requests differently let a request through unseen: whatever the bytes, what went upstream is what was recorded."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import pytest
import pytest_asyncio

from schemas.home import Home
from tests.certs import Authority, Leaf
from tests.sidecar import Sidecar, Way, recorded, sidecar, write_book
from tests.strict import Strict, answered

BODY = '{"a":1}'
CHUNKED = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
POST = "POST {t} HTTP/1.1\r\nHost: {h}\r\nContent-Type: application/json\r\n"
HIDDEN = "GET {t}/hidden HTTP/1.1\r\nHost: {h}\r\n\r\n"
LONG = f"Content-Length: {len(BODY)}\r\n"
TE = "Transfer-Encoding: chunked\r\n"
FF = "f" * 15 + "8"


def framed(fields: str, body: str = CHUNKED) -> str:
    """A POST with these framing fields, and a second request behind what one of the readings takes for its body."""
    return f"{POST}{fields}\r\n{body}{HIDDEN}"


# {t}: the request target; {h}: the host. Where a case is odd but unambiguous, both requests may pass, and both must be recorded.
CASES: dict[str, str] = {
    "length and chunked": framed(f"Content-Length: 5\r\n{TE}", "0\r\n\r\n"),
    "chunked and length": framed(f"{TE}Content-Length: 4\r\n", f"60\r\n{HIDDEN}\r\n0\r\n\r\n"),
    "chunked, space before colon": framed(f"{LONG}Transfer-Encoding : chunked\r\n"),
    "chunked, tab before value": framed("Transfer-Encoding:\tchunked\r\n"),
    "chunked, vertical tab": framed(f"{LONG}Transfer-Encoding: \x0bchunked\r\n"),
    "chunked, form feed": framed(f"{LONG}Transfer-Encoding: chunked\x0c\r\n"),
    "chunked with NUL": framed(f"{LONG}Transfer-Encoding: chunked\0\r\n"),
    "xchunked": framed(f"{LONG}Transfer-Encoding: xchunked\r\n"),
    "chunked twice in a row": framed(f"{TE}{TE}"),
    "chunked, chunked": framed("Transfer-Encoding: chunked, chunked\r\n"),
    "chunked then identity": framed(f"{TE}Transfer-Encoding: identity\r\n"),
    "chunked not last": framed("Transfer-Encoding: chunked, gzip\r\n"),
    "gzip, chunked": framed("Transfer-Encoding: gzip, chunked\r\n"),
    "identity": framed(f"{LONG}Transfer-Encoding: identity\r\n", BODY),
    "chunked folded": framed(f"{LONG}Transfer-Encoding:\r\n chunked\r\n"),
    "chunked quoted": framed(f'{LONG}Transfer-Encoding: "chunked"\r\n'),
    "chunked in capitals": framed("TRANSFER-ENCODING: CHUNKED\r\n"),
    "chunked with a Kelvin sign": framed(f"{LONG}Transfer-Encoding: chun\u212aed\r\n"),
    "chunked in HTTP/1.0": framed(TE).replace("HTTP/1.1", "HTTP/1.0", 1),
    "chunked behind a bare LF": framed(f"{LONG}X: y\nTransfer-Encoding: chunked\r\n"),
    "chunked behind a bare CR": framed(f"{LONG}X: y\rTransfer-Encoding: chunked\r\n"),
    "lengths that agree": framed(LONG + LONG, BODY),
    "lengths that differ": framed(LONG + "Content-Length: 0\r\n", BODY),
    "lengths in a list": framed(f"Content-Length: {len(BODY)}, {len(BODY)}\r\n", BODY),
    "length with a plus": framed(f"Content-Length: +{len(BODY)}\r\n", BODY),
    "length below zero": framed("Content-Length: -1\r\n", BODY),
    "length in hex": framed("Content-Length: 0x7\r\n", BODY),
    "length with an underscore": framed("Content-Length: 0_7\r\n", BODY),
    "length with leading zeros": framed("Content-Length: 007\r\n", BODY),
    "length in other digits": framed("Content-Length: \u0667\r\n", BODY),
    "length beyond 64 bits": framed("Content-Length: 18446744073709551623\r\n", BODY),
    "length empty": framed("Content-Length:\r\n", BODY),
    "length folded": framed("Content-Length:\r\n 7\r\n", BODY),
    "length of nothing": framed("Content-Length: 0\r\n", ""),
    "length by another name": framed("Content_Length: 7\r\n", ""),
    "length that Connection takes away": framed(f"{LONG}Connection: content-length\r\n", BODY),
    "chunked that Connection takes away": framed(f"{TE}Connection: transfer-encoding\r\n"),
    "chunk size in 0x": framed(TE, f"0x7\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk size with a plus": framed(TE, f"+7\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk size below zero": framed(TE, f"-7\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk size with an underscore": framed(TE, f"0_7\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": framed(TE, f"1{'0' * 15}7\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk size below zero in 64 bits": framed(TE, f"{FF}\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk size with spaces": framed(TE, f"7 \r\n{BODY}\r\n0\r\n\r\n"),
    "chunk size and a bare LF": framed(TE, f"7\n{BODY}\r\n0\r\n\r\n"),
    "chunk size and a bare CR": framed(TE, f"7\r{BODY}\r\n0\r\n\r\n"),
    "chunk extension": framed(TE, f"7;a=b\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk extension with a bare LF": framed(TE, f"7;a\n{BODY}\r\n0\r\n\r\n"),
    "chunk extension with a bare CR": framed(TE, f"7;a\rb\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk extension without end": framed(TE, f"7;{'a' * 70000}\r\n{BODY}\r\n0\r\n\r\n"),
    "chunk without a line end": framed(TE, f"7\r\n{BODY}0\r\n\r\n"),
    "chunk with another line end": framed(TE, f"7\r\n{BODY}XX0\r\n\r\n"),
    "last chunk with a bare LF": framed(TE, f"7\r\n{BODY}\r\n0\n\n"),
    "last chunk in many zeros": framed(TE, f"7\r\n{BODY}\r\n0000\r\n\r\n"),
    "trailers": framed(TE, f"7\r\n{BODY}\r\n0\r\nContent-Length: 50\r\n\r\n"),
    "trailer with a NUL": framed(TE, f"7\r\n{BODY}\r\n0\r\nX: \0\r\n\r\n"),
    "field folded": framed(f"{LONG}X: a\r\n b\r\n", BODY),
    "field folded with a tab first": f"POST {{t}} HTTP/1.1\r\n\tX: y\r\nHost: {{h}}\r\n{LONG}\r\n{BODY}{HIDDEN}",
    "field without colon": framed(f"{LONG}X\r\n", BODY),
    "field without name": framed(f"{LONG}: x\r\n", BODY),
    "field name with a space": framed(f"{LONG}X Y: z\r\n", BODY),
    "field name with a NUL": framed(f"{LONG}X\0: z\r\n", BODY),
    "field name beyond ASCII": framed(f"{LONG}X\u00e9: z\r\n", BODY),
    "field value with a NUL": framed(f"{LONG}X: a\0b\r\n", BODY),
    "field value with a bare CR": framed(f"{LONG}X: a\rb\r\n", BODY),
    "field value with an escape": framed(f"{LONG}X: a\x1b[1m\r\n", BODY),
    "head that ends in bare LFs": "GET {t} HTTP/1.1\nHost: {h}\n\n" + HIDDEN,
    "head that ends in CR CR LF": "GET {t} HTTP/1.1\r\nHost: {h}\r\r\n\r\n" + HIDDEN,
    "a request pipelined": f"GET {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "empty lines first": f"\r\n\r\nGET {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "GET with a body": f"GET {{t}} HTTP/1.1\r\nHost: {{h}}\r\n{LONG}\r\n{BODY}{HIDDEN}",
    "HEAD": f"HEAD {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "TRACE": f"TRACE {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "two hosts": f"GET {{t}} HTTP/1.1\r\nHost: {{h}}\r\nHost: other.example\r\n\r\n{HIDDEN}",
    "no host": f"GET {{t}} HTTP/1.1\r\n\r\n{HIDDEN}",
    "a host with a path": f"GET {{t}} HTTP/1.1\r\nHost: {{h}}/hidden\r\n\r\n{HIDDEN}",
    "another host": f"GET {{t}} HTTP/1.1\r\nHost: other.example\r\n\r\n{HIDDEN}",
    "HTTP/0.9": "GET {t}\r\n\r\n" + HIDDEN,
    "HTTP/1.1 twice": f"GET {{t}} HTTP/1.1 HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "HTTP/2.0": f"GET {{t}} HTTP/2.0\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "tabs in the request line": f"GET\t{{t}}\tHTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a target with a bare CR": f"GET {{t}}\rX HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a target with a NUL": f"GET {{t}}\0 HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a target with bytes beyond ASCII": f"GET {{t}}?\u00e9 HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a target with a fragment": f"GET {{t}}#x HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a target with CRLF in percent": f"GET {{t}}%0d%0aX:%20y HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a method with a NUL": f"GE\0T {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a method of its own": f"get-it {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "an upgrade to h2c": f"GET {{t}} HTTP/1.1\r\nHost: {{h}}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n{HIDDEN}",
    "an upgrade to something": f"GET {{t}} HTTP/1.1\r\nHost: {{h}}\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n{HIDDEN}",
    "a WebSocket of no version": f"GET {{t}} HTTP/1.1\r\nHost: {{h}}\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\n\r\n{HIDDEN}",
    "expecting the impossible": framed(f"{LONG}Expect: 200-ok\r\n", BODY),
    "bytes that are no HTTP first": f"\x01\x02\x03\r\n\r\nGET {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "a word and a line end first": f"HELLO\r\nGET {{t}} HTTP/1.1\r\nHost: {{h}}\r\n\r\n{HIDDEN}",
    "expecting to go on": framed(f"{LONG}Expect: 100-continue\r\n", BODY),
}

# What HTTP/2 can say and HTTP/1 cannot, inside a tunnel that the forward door opens.
H2_CASES: dict[str, dict[str, str]] = {
    "plain": {},
    "CRLF in a value": {"x": "y\r\n\r\nGET {t}/hidden HTTP/1.1\r\nHost: x"},
    "LF in a value": {"x": "y\nX: z"},
    "CR in a value": {"x": "y\rX: z"},
    "NUL in a value": {"x": "y\0z"},
    "CRLF in a name": {"x: y\r\nz": "w"},
    "a space in a name": {"x y": "z"},
    "a colon in a name": {"x:y": "z"},
    "CRLF in the path": {":path": "{t} HTTP/1.1\r\nHost: x\r\n\r\nGET {t}/hidden"},
    "a space in the path": {":path": "{t} HTTP/1.1"},
    "a path that is none": {":path": "other"},
    "CRLF in the method": {":method": "GET {t}/hidden HTTP/1.1\r\nHost: x\r\n\r\nGET"},
    "a space in the method": {":method": "GET {t}/hidden HTTP/1.1"},
    "CRLF in the authority": {":authority": "x\r\nX: y"},
    "another authority": {":authority": "other.example"},
    "a host beside the authority": {"host": "other.example"},
    "a scheme of its own": {":scheme": "http://x/ HTTP/1.1\r\n"},
    "transfer-encoding": {"transfer-encoding": "chunked"},
    "connection": {"connection": "upgrade"},
    "a length that is not true": {"content-length": "50"},
    "two lengths": {"content-length": "0", "Content-Length": "5"},
    "a protocol": {":protocol": "websocket"},
    "an unknown pseudo header": {":x": "y"},
}


@dataclass(frozen=True)
class Bench:
    """A proxy before a strict upstream over HTTP and one over HTTPS."""

    home: Home
    plain: Strict
    secure: Strict
    sidecar: Sidecar


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory, authority: Authority, leaf: Leaf) -> AsyncIterator[Bench]:
    home = Home(tmp_path_factory.mktemp("smuggling") / "home")
    async with Strict() as plain, Strict(leaf.server_context()) as secure:
        rules = "max_retries = 0"
        write_book(home, [Way("official", plain.base_url, rules=rules), Way("secure", secure.base_url, rules=rules)])
        with sidecar(home, "--upstream-ca", str(authority.cert)) as running:
            yield Bench(home, plain, secure, running)


async def sent_and_recorded(bench: Bench, upstream: Strict, prefix: str) -> tuple[Counter[str], Counter[str]]:
    """By path, the requests below `prefix` that reached the upstream, and the attempts on record for them."""
    await asyncio.sleep(0.5)  # what would be sent late is seen here
    sent = Counter(path for target in upstream.targets if (path := target.partition("?")[0].partition("#")[0]).startswith(prefix))
    paths = {row["request_id"]: row["path"] for row in recorded(bench.home, "request")}
    made = Counter(
        path for row in recorded(bench.home, "attempt") if (path := paths[row["request_id"]].partition("#")[0]).startswith(prefix)
    )
    return sent, made


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", ["gateway", "forward", "tunnel"])
async def test_no_request_passes_unrecorded(bench: Bench, way: str, record_property: Callable[[str, object], None]) -> None:
    """Each case on a connection of its own, at the gateway and at the forward door in full and inside a tunnel: the upstream saw nothing ambiguous, and exactly the requests that are on record."""
    host = f"127.0.0.1:{bench.plain.port}"
    prefix = f"/v1/{way}"
    base = f"http://{host}" if way == "forward" else ""
    url = bench.sidecar.gateway if way == "gateway" else bench.sidecar.forward
    tunnel = f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() if way == "tunnel" else b""
    cases = [
        case.replace("{t}", f"{base}{prefix}-{number}").replace("{h}", host).encode("utf-8") for number, case in enumerate(CASES.values())
    ]
    bench.plain.faults.clear()
    await asyncio.gather(*[answered(url, tunnel, case) for case in cases])
    sent, made = await sent_and_recorded(bench, bench.plain, prefix)
    assert bench.plain.faults == []
    assert sent == made
    assert len(sent) > 10
    record_property("trust: smuggling cases in which recorded = upstream", len(cases))
    record_property("trust: requests recorded = requests upstream", made.total())


@pytest.mark.asyncio(loop_scope="module")
async def test_a_head_that_comes_in_pieces_is_a_request_all_the_same(bench: Bench) -> None:
    """Two letters inside a tunnel do not look like HTTP; what follows them is recorded, not passed on unread."""
    host = f"127.0.0.1:{bench.plain.port}"
    parts = urlsplit(bench.sidecar.forward)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"CONNECT {host} HTTP/1.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    for piece in ("GE", "T /v1/piece", f"s HTTP/1.1\r\nHost: {host}\r\n\r\n"):
        writer.write(piece.encode())
        await asyncio.sleep(0.1)  # each in a segment of its own
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    sent, made = await sent_and_recorded(bench, bench.plain, "/v1/pieces")
    assert sent == made == {"/v1/pieces": 1}


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_that_only_http_2_can_say_passes(bench: Bench, record_property: Callable[[str, object], None]) -> None:
    """CRLF, NUL and spaces where HTTP/1 has none, false lengths and false pseudo headers: refused, or one request and one record."""
    prefix = "/v1/two"
    for number, fields in enumerate(H2_CASES.values()):
        await asyncio.to_thread(_ask_h2, bench, f"{prefix}-{number}", fields)
    sent, made = await sent_and_recorded(bench, bench.secure, prefix)
    assert bench.secure.faults == []
    assert sent == made
    assert f"{prefix}-0" in sent
    assert not any("hidden" in target for target in bench.secure.targets)
    record_property("trust: smuggling cases in which recorded = upstream", len(H2_CASES))
    record_property("trust: requests recorded = requests upstream", made.total())


def _ask_h2(bench: Bench, target: str, changed: dict[str, str]) -> None:
    """One request over HTTP/2 through a tunnel, its fields as they stand."""
    parts = urlsplit(bench.sidecar.forward)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), 10) as raw:
        raw.sendall(f"CONNECT 127.0.0.1:{bench.secure.port} HTTP/1.1\r\n\r\n".encode())
        assert b" 200 " in raw.recv(4096)
        context = ssl.create_default_context(cafile=str(bench.home.ca / "mitmproxy-ca-cert.pem"))
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
            assert tls.selected_alpn_protocol() == "h2"
            config = h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)
            connection = h2.connection.H2Connection(config)
            connection.initiate_connection()
            fields = {":method": "GET", ":scheme": "https", ":authority": f"127.0.0.1:{bench.secure.port}", ":path": target}
            fields |= {name: value.replace("{t}", target) for name, value in changed.items()}
            pairs = [
                (name.encode(), value.encode()) for name, value in sorted(fields.items(), key=lambda pair: not pair[0].startswith(":"))
            ]
            connection.send_headers(1, pairs, end_stream=True)
            tls.sendall(connection.data_to_send())
            tls.settimeout(3)
            try:
                while data := tls.recv(65536):
                    events = connection.receive_data(data)
                    tls.sendall(connection.data_to_send())
                    if any(
                        isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated)
                        for event in events
                    ):
                        return
            except (OSError, h2.exceptions.ProtocolError):
                return
