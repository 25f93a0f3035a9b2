"""Where clients may be taken to: no private, link-local or metadata address, however it is written, unless the book opens it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import pytest

from proxy.targets import Targets, address_of, is_public, names_private_host
from schemas.book import load_book
from schemas.home import Home
from tests.sidecar import Way, recorded, sidecar, write_book
from tests.strict import Strict, answered, statuses
from tests.test_relay import JSON, said
from tests.upstream import Upstream

# A resolver of a hostile zone: the first answer is public, every later one is not; and names whose address tells what they are after.
ZONE = """
import socket
real, asked = socket.getaddrinfo, {}
def resolve(host, port, *args, **kwargs):
    asked[host] = asked.get(host, 0) + 1
    names = {"metadata.google.internal": "169.254.169.254", "127.0.0.1.nip.example.com": "127.0.0.1", "ten.example.com": "10.0.0.1"}
    names["both.example.com"] = "127.0.0.1" if asked[host] > 1 else "198.18.0.1"
    return real(names.get(host, host), port, *args, **kwargs)
socket.getaddrinfo = resolve
"""

# PORT is one on which somebody listens, who must not be reached.
FORBIDDEN = """
127.1:PORT 2130706433:PORT 0x7f000001:PORT 0x7f.1:PORT 0177.0.0.1:PORT 017700000001:PORT 0:PORT
0.0.0.0:PORT localhost.:PORT [::]:PORT [::ffff:127.0.0.1]:PORT [::ffff:7f00:1]:PORT
[0:0:0:0:0:ffff:7f00:0001]:PORT [::127.0.0.1]:PORT [64:ff9b::7f00:1]:PORT [2002:7f00:1::]:PORT
169.254.169.254:80 169.254.170.2:80 100.100.100.200:80 [fd00:ec2::254]:80 2852039166:80 0xa9fea9fe:80 metadata.google.internal:80
10.0.0.1:443 172.16.0.1:443 192.168.0.1:443 100.64.0.1:443 192.0.0.1:443 198.18.0.1:443 [fe80::1]:443 [fc00::1]:443 [fd00::1]:443
[fec0::1]:443 224.0.0.1:443 255.255.255.255:443 127.0.0.1.nip.example.com:PORT both.example.com:PORT ten.example.com:443
user@127.0.0.1:PORT 127.0.0.1:PORT@example.com:443 127.0.0.1:0 127.0.0.1:65536 127.0.0.1:-1 127.0.0.1%00.example.com:PORT
[::1%25lo]:PORT
"""


async def test_forbidden_targets_are_refused(home: Home, record_property: Callable[[str, object], None]) -> None:
    """As a tunnel and as a plain request: an error of ours, and nobody behind it hears of it."""
    async with Upstream() as upstream, Upstream(name="trap") as trap:
        targets = [target.replace("PORT", str(trap.port)) for target in FORBIDDEN.split()]
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, "--no-gateway", before=ZONE) as running:
            asked = {f"CONNECT {target}": f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n" for target in targets}
            for target in targets:
                asked[f"GET {target}"] = f"GET http://{target}/v1/models HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
                asked[f"Host {target}"] = f"GET /v1/models HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
            answers = dict(
                zip(asked, await asyncio.gather(*[answered(running.forward, one.encode()) for one in asked.values()]), strict=True)
            )
    taken = {what: answer for what, answer in answers.items() if not statuses(answer) or min(statuses(answer)) < 400}
    assert taken == {}
    assert trap.seen + upstream.seen == []
    record_property("trust: forbidden targets refused", len(answers))


async def test_a_channel_whose_public_name_turns_private_is_a_connect_error(home: Home) -> None:
    """At both doors: the name of the book is public, its zone says 10.0.0.1 or changes its mind, and the record says what was refused."""
    write_book(home, [Way("official", "http://ten.example.com/v1", rules="max_retries = 0")])
    with sidecar(home, before=ZONE) as running:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=20) as direct,
            httpx2.AsyncClient(proxy=running.forward, timeout=20) as through,
        ):
            assert (await direct.post(f"{running.base_url}/chat/completions", content=said(""), headers=JSON)).status_code == 502
            assert (await through.post("http://ten.example.com/v1/chat/completions", content=said(""), headers=JSON)).status_code == 502
    ends = [row for row in recorded(home, "response") if row["ordinal"] > 0]
    assert [row["ending"] for row in ends] == ["connect_error"] * 2
    assert all("10.0.0.1" in row["error"] for row in ends)


async def test_what_the_book_opens_is_reached(home: Home) -> None:
    """A host of `private_hosts` is tunnelled, also under a public name, and on the port that stands there alone."""
    async with Strict() as inside, Strict() as other:
        settings = f'private_hosts = ["127.0.0.1.nip.example.com:{inside.port}"]'
        write_book(home, [Way("official", "https://api.example.com/v1")], settings=settings)
        with sidecar(home, "--no-gateway", before=ZONE) as running:
            name = "127.0.0.1.nip.example.com"
            for there, status in ((inside, 200), (other, 403)):
                tunnel = f"CONNECT {name}:{there.port} HTTP/1.1\r\n\r\n"
                inner = f"GET /through HTTP/1.1\r\nHost: {name}\r\n\r\n" if status == 200 else ""
                assert statuses(await answered(running.forward, (tunnel + inner).encode()))[:1] == [status]
    assert (inside.targets, other.targets) == (["/through"], [])


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("localhost", True),
        ("vllm", True),
        ("gpu.internal", True),
        ("10.1.2.3", True),
        ("::1", True),
        ("api.openai.com", False),
        ("8.8.8.8", False),
        ("internal.example.com", False),
        ("2606:4700::1111", False),
    ],
)
def test_a_host_written_as_a_private_one_is_known_by_its_name(host: str, private: bool) -> None:
    """Such a channel needs no further word in the book; a public name does."""
    assert names_private_host(host) is private


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"])
def test_a_public_address_is_public_however_it_is_wrapped(text: str) -> None:
    """An address inside another one counts as itself."""
    address = address_of(text)
    assert address is not None
    assert is_public(address)


async def test_a_channel_opens_its_own_port_and_no_other(home: Home) -> None:
    """127.0.0.1:9000 in the book is not the whole machine."""
    write_book(home, [Way("local", "http://127.0.0.1:9000/v1")])
    targets = Targets(load_book(home.book), is_local=False)
    assert await targets.resolve("127.0.0.1", 9000) == ["127.0.0.1"]
    with pytest.raises(OSError, match="does not open"):
        await targets.resolve("127.0.0.1", 22)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "[::1]"])
async def test_this_machine_is_open_to_its_own_clients_alone(home: Home, host: str) -> None:
    """A door on loopback takes a client where it gets without it; one that others reach takes nobody there."""
    write_book(home, [Way("official", "https://api.example.com/v1")])
    book = load_book(home.book)
    assert await Targets(book, is_local=True).resolve(host, 9)
    with pytest.raises(OSError, match="does not open"):
        await Targets(book, is_local=False).resolve(host, 9)


async def test_another_server_on_this_machine_is_tunnelled_untouched(home: Home) -> None:
    """No channel names it and nothing is recorded: the tunnel passes its bytes as they are."""
    async with Strict() as inside:
        write_book(home, [Way("official", "https://api.example.com/v1")])
        with sidecar(home, "--no-gateway") as running:
            asked = f"CONNECT 127.0.0.1:{inside.port} HTTP/1.1\r\n\r\nGET /through HTTP/1.1\r\nHost: here\r\n\r\n"
            assert statuses(await answered(running.forward, asked.encode()))[:1] == [200]
    assert inside.targets == ["/through"]
    assert recorded(home, "request") == []
