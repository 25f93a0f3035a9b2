"""The gateway's own HTTP/1.1, byte by byte from both sides: what is refused, what is answered, and how it is framed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from schemas.home import Home
from tests.sidecar import Sidecar, Way, recorded, sidecar, write_book

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BIG = 48 << 20
ANSWERS = {
    b"/v1/ok": OK,
    b"/v1/repeated": b"HTTP/1.1 207 Odd Words\r\nB: 2\r\nA: 1\r\nset-cookie: x\r\nSet-Cookie: y\r\nContent-Length: 2\r\n\r\nok",
    b"/v1/behind": b"HTTP/1.1 200 OK\r\nX-Ledger-Request-Id: another's\r\nContent-Length: 2\r\n\r\nok",
    b"/v1/head": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
    b"/v1/204": b"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n",
    b"/v1/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
    b"/v1/early": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    b"/v1/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"/v1/close": b"HTTP/1.1 200 OK\r\nX-Until: the end\r\n\r\nok",
    b"/v1/long": b"HTTP/1.1 200 OK\r\nX-Long: " + b"v" * 60_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    b"/v1/long/head": b"HTTP/1.1 200 OK\r\n" + b"X-Long: v\r\n" * 40_000 + b"\r\n",
    b"/v1/two/lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"/v1/both": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"/v1/gzip/coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    b"/v1/more": OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    b"/v1/big": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG,
}
CLOSES = (b"/v1/close", b"/v1/gzip/coding")


@dataclass
class Raw:
    """A server that answers bytes by path, and what it was sent."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    sent: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        asked = 0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked += 1
                lengths = [int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(sum(lengths)))
                path = head.split(b" ")[1]
                if path.endswith(b"/once") and asked > 1:
                    break
                writer.write(ANSWERS.get(path, OK))
                if path == b"/v1/big":
                    for _ in range(BIG >> 16):
                        writer.write(b"x" * (1 << 16))
                        await writer.drain()
                        self.sent += 1 << 16
                if path in CLOSES:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@dataclass
class Line:
    """A gateway between raw bytes on both sides."""

    upstream: Raw
    running: Sidecar
    home: Home

    async def say(self, data: bytes, *, until: bytes | None = None) -> bytes:
        """Send bytes; all that comes back until the connection ends, or until these bytes have come."""
        reader, writer = await self.open()
        writer.write(data)
        got = b""
        async with asyncio.timeout(20):
            while not (until and until in got) and (piece := await reader.read(1 << 16)):
                got += piece
        writer.close()
        return got

    async def endings(self, answer: bytes, count: int) -> list[str]:
        """How the tries of an answered request ended, once so many are on record."""
        request_id = answer.partition(b"x-ledger-request-id: ")[2][:36].decode()
        found: list[str] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                await asyncio.sleep(0.02)
                found = [row["ending"] for row in recorded(self.home, "response") if row["request_id"] == request_id]
        return found

    async def open(self, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", int(self.running.gateway.rpartition(":")[2]), limit=limit)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Line]:
    raw = Raw()
    home = Home(Path(tmp_path_factory.mktemp("http")) / "home")
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    async with server:
        write_book(home, [Way("official", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", rules="max_retries = 0")])
        with sidecar(home, "--no-forward") as running:
            yield Line(raw, running, home)


def post(*fields: bytes, body: bytes = b"", path: bytes = b"/v1/ok", version: bytes = b"1.1") -> bytes:
    """A request with these lines in its head."""
    return b"\r\n".join([b"POST " + path + b" HTTP/" + version, b"Host: gate", *fields, b"", body])


REFUSED = {
    "a length and chunks": (400, post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "chunks and a length": (400, post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n")),
    "two lengths": (400, post(b"Content-Length: 1", b"Content-Length: 2", body=b"ab")),
    "the same length twice": (400, post(b"Content-Length: 1", b"Content-Length: 1", body=b"a")),
    "a list of lengths": (400, post(b"Content-Length: 1, 1", body=b"a")),
    "a signed length": (400, post(b"Content-Length: +1", body=b"a")),
    "another coding before chunked": (400, post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "a coding that is nearly chunked": (400, post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "chunked twice": (400, post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "chunks before HTTP/1.1": (400, post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", version=b"1.0")),
    "a folded line": (400, post(b"X-Own: a", b" b", b"Content-Length: 0")),
    "a bare line feed": (400, post(b"X-Own: a\nContent-Length: 1", body=b"a")),
    "a bare carriage return": (400, post(b"X-Own: a\rContent-Length: 1", body=b"a")),
    "a NUL": (400, post(b"X-Own: a\0b")),
    "a space before the colon": (400, post(b"Content-Length : 1", body=b"a")),
    "a chunk's size with a prefix": (400, post(b"Transfer-Encoding: chunked", body=b"0x1\r\na\r\n0\r\n\r\n")),
    "a chunk that ends in a bare line feed": (400, post(b"Transfer-Encoding: chunked", body=b"1\r\na\n0\r\n\r\n")),
    "a length among the trailers": (400, post(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nContent-Length: 1\r\n\r\n")),
    "two hosts": (400, post(b"Host: other")),
    "no host": (400, b"GET /v1/ok HTTP/1.1\r\n\r\n"),
    "another version": (400, b"GET /v1/ok HTTP/1.7\r\nHost: gate\r\n\r\n"),
    "a tunnel": (405, b"CONNECT gate:443 HTTP/1.1\r\nHost: gate:443\r\n\r\n"),
    "an expectation that nobody knows": (417, post(b"Expect: wonders", b"Content-Length: 0")),
    "a field beyond 64 KiB": (431, post(b"X-Long: " + b"v" * 70_000)),
    "a head without end": (431, b"POST /v1/ok HTTP/1.1\r\nHost: gate\r\n" + b"X-Own: abcdefgh\r\n" * 60_000),
    "something else": (400, b"\x16\x03\x01\x02\x00\x01\x00"),
}


async def test_what_two_readers_could_take_for_different_messages_is_refused(line: Line) -> None:
    """Each is answered with its status and the end of the connection; nothing of it goes upstream, nor of what follows it."""
    before = len(line.upstream.heads)
    got = {name: await line.say(data + post(b"Content-Length: 0", path=b"/v1/smuggled")) for name, (_, data) in REFUSED.items()}
    wrong = {
        name: answer[:80]
        for name, answer in got.items()
        if not answer.startswith(b"HTTP/1.1 %d " % REFUSED[name][0])
        or answer.count(b"HTTP/1.1 4") != 1
        or b"HTTP/1.1 2" in answer
        or b"Connection: close" not in answer
    }
    assert wrong == {}
    assert line.upstream.heads[before:] == []


async def test_requests_sent_ahead_are_answered_in_order(line: Line) -> None:
    """Twenty in one piece, the last of which ends the connection; then a good one before a bad one."""
    ahead = b"".join(post(b"Content-Length: 2", body=b"%02d" % number) for number in range(19))
    got = await line.say(ahead + post(b"Content-Length: 2", b"Connection: close", body=b"19"))
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 20
    assert line.upstream.bodies[-20:] == [b"%02d" % number for number in range(20)]
    got = await line.say(post(b"Content-Length: 0") + b"nonsense\r\n\r\n")
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


async def test_an_answer_keeps_its_reason_its_fields_and_their_order(line: Line) -> None:
    """Repeated names and their case too; the gateway's id stands behind them."""
    got = await line.say(post(b"Content-Length: 0", b"Connection: close", path=b"/v1/repeated"))
    lines = got.split(b"\r\n")
    assert lines[:5] == [b"HTTP/1.1 207 Odd Words", b"B: 2", b"A: 1", b"set-cookie: x", b"Set-Cookie: y"]
    assert lines[5] == b"Content-Length: 2"
    assert lines[6].startswith(b"x-ledger-request-id: ")
    assert lines[7:] == [b"Connection: close", b"", b"ok"]


async def test_of_two_gateways_in_a_row_the_nearer_ones_id_is_told(line: Line) -> None:
    """One header of that name, so that a client that joins repeated ones can look its request up."""
    got = await line.say(post(b"Content-Length: 0", b"Connection: close", path=b"/v1/behind"))
    assert got.lower().count(b"x-ledger-request-id:") == 1
    assert b"another's" not in got


@pytest.mark.parametrize(
    ("method", "path", "version", "last", "body"),
    [
        (b"HEAD", b"/v1/head", b"1.1", b"Content-Length: 5000", b""),
        (b"GET", b"/v1/204", b"1.1", b"X-Own: 1", b""),
        (b"GET", b"/v1/304", b"1.1", b"Content-Length: 77", b""),
        (b"GET", b"/v1/early", b"1.1", b"Content-Length: 2", b"ok"),
        (b"GET", b"/v1/chunks", b"1.1", b"Transfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n"),
        (b"GET", b"/v1/close", b"1.1", b"Transfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n"),
        (b"GET", b"/v1/chunks", b"1.0", b"", b"ok"),
        (b"GET", b"/v1/close", b"1.0", b"", b"ok"),
        (b"GET", b"/v1/ok", b"1.0", b"Content-Length: 2", b"ok"),
        (b"GET", b"/v1/long", b"1.1", b"Content-Length: 2", b"ok"),
    ],
)
async def test_each_answer_is_framed_for_the_client_that_asked(
    line: Line, method: bytes, path: bytes, version: bytes, last: bytes, body: bytes
) -> None:
    """No body where there can be none, chunks where no length is known, the end of the connection before HTTP/1.1; whole by record."""
    end = b"" if version == b"1.0" else b"Connection: close\r\n"
    head, _, got = (await line.say(method + b" " + path + b" HTTP/" + version + b"\r\nHost: gate\r\n" + end + b"\r\n")).partition(
        b"\r\n\r\n"
    )
    assert got == body
    assert last in head.split(b"\r\n") or not last
    assert (b"Transfer-Encoding" in head) == (last == b"Transfer-Encoding: chunked")
    assert await line.endings(head, 1) == ["complete"]


@pytest.mark.parametrize("path", [b"/v1/two/lengths", b"/v1/both", b"/v1/gzip/coding", b"/v1/long/head"])
async def test_an_answer_that_could_be_read_in_two_ways_is_none(line: Line, path: bytes) -> None:
    """Two lengths, a length and chunks, an unknown coding, a head without end: 502, recorded as cut."""
    got = await line.say(post(b"Content-Length: 0", b"Connection: close", path=path))
    assert got.startswith(b"HTTP/1.1 502 ")
    assert await line.endings(got, 2) == ["upstream_truncated", "exhausted"]


async def test_what_an_upstream_sends_beyond_its_answer_reaches_nobody(line: Line) -> None:
    """The connection is given up; the next request has one of its own and its own answer."""
    both = post(b"Content-Length: 0", path=b"/v1/more") + post(b"Content-Length: 0", b"Connection: close")
    got = await line.say(both)
    assert (got.count(b"HTTP/1.1 200 OK\r\n"), got.count(b"poison")) == (2, 0)


async def test_a_client_that_waits_for_100_is_told_to_go_on(line: Line) -> None:
    """Its body is asked for, arrives whole, and the expectation stays here."""
    reader, writer = await line.open()
    writer.write(post(b"Content-Length: 5", b"Expect: 100-continue", b"Connection: close"))
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    assert line.upstream.bodies[-1] == b"hello"
    assert b"expect" not in line.upstream.heads[-1].lower()


async def test_a_wish_for_another_protocol_is_passed_over(line: Line) -> None:
    """As Java's client wishes for h2c with its first request: answered over HTTP/1.1, body and all."""
    wish = post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", b"Content-Length: 5", body=b"hello")
    got = await line.say(wish, until=b"ok")
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert line.upstream.bodies[-1] == b"hello"
    assert b"upgrade" not in line.upstream.heads[-1].lower()


async def test_a_connection_that_upstream_closes_under_a_request(line: Line) -> None:
    """A GET is sent again on a new one; a POST may have had its effect, and is not."""
    await line.say(b"GET /v1/get/once HTTP/1.1\r\nHost: gate\r\n\r\n", until=b"ok")
    before = line.upstream.connections
    got = await line.say(b"GET /v1/get/once HTTP/1.1\r\nHost: gate\r\n\r\n", until=b"ok")
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert line.upstream.connections == before + 1
    got = await line.say(post(b"Content-Length: 0", b"Connection: close", path=b"/v1/post/once"))
    assert got.startswith(b"HTTP/1.1 502 ")


async def test_a_client_that_does_not_read_holds_the_upstream_back(line: Line) -> None:
    """Of 48 MB, buffers' worth is under way while the client looks elsewhere; then all of it comes, to the byte."""
    reader, writer = await line.open(limit=1 << 14)
    writer.write(post(b"Content-Length: 0", b"Connection: close", path=b"/v1/big"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    sent = -1
    while sent != line.upstream.sent:  # until nothing moves any more
        sent = line.upstream.sent
        await asyncio.sleep(0.5)
    assert sent < BIG // 2
    size = 0
    while piece := await asyncio.wait_for(reader.read(1 << 20), 20):
        size += len(piece)
    writer.close()
    assert size == BIG
