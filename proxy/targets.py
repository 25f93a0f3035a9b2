"""Where the proxy may connect to: each name is resolved once, what it resolves to is judged, and the connection goes to just that.

Who reaches a proxy reaches what the proxy's machine reaches: its own services, its network, its cloud's metadata. So private,
link-local, loopback and metadata addresses are open only where the book says so: to a channel whose host is itself written as a
private one, and to the names in `private_hosts`. A public name that resolves to a private address is refused, whoever owns it.
The one exception: a door on loopback serves only its own machine, whose clients reach that without it, so loopback plainly
written (127.0.0.1, [::1], localhost) is open there.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from schemas.book import Book
from schemas.hosts import is_loopback, split_host

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Connected = TypeVar("Connected")
REMEMBERED_S = 30.0
REMEMBERED = 1024
# Names that no public zone holds: RFC 6761, RFC 8375, RFC 6762, and what ICANN has reserved for private use.
_PRIVATE_ZONES = ("localhost", "local", "internal", "lan", "home.arpa")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class ForbiddenTargetError(OSError):
    """This target is not open to clients; a connection to it fails as one that cannot be made."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EACCES, words)


def address_of(host: str) -> IPAddress | None:
    """The address that a host is written as; None for a name. Only the full forms: `0x7f.1` is a name that a resolver may know."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def is_public(address: IPAddress) -> bool:
    """Whether an address is everybody's; one that wraps an IPv4 address (mapped, 6to4, Teredo, NAT64) is as public as that."""
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo
        inner = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:  # what is now fd00::/8, and some networks still have
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def names_private_host(host: str) -> bool:
    """Whether a host is written as a private one: such an address, a name without a dot, or one in a private zone."""
    address = address_of(host)
    if address is not None:
        return not is_public(address)
    name = host.lower().rstrip(".")
    return "." not in name or name.endswith(tuple("." + zone for zone in _PRIVATE_ZONES))


class Targets:
    """What the book opens, and the resolver that holds to it. `is_local`: only this machine's clients reach the doors."""

    def __init__(self, book: Book, *, is_local: bool) -> None:
        self._is_local = is_local
        self._private: set[tuple[str, int | None]] = {split_host(host) for host in book.settings.private_hosts}
        for channel in book.channels:
            base = urlsplit(channel.base_url)
            hosts = [(str(base.hostname), base.port or (443 if base.scheme == "https" else 80)), *map(split_host, channel.hosts)]
            self._private |= {(host, port) for host, port in hosts if names_private_host(host)}
        self._known: dict[tuple[str, int], tuple[float, list[str]]] = {}

    def open_to(self, host: str, port: int) -> None:
        """Open one more, which an option of the command names."""
        self._private.add((host.lower(), port))

    def may_be_private(self, host: str, port: int) -> bool:
        """Whether the book, or where the doors listen, opens this host to private addresses."""
        name = host.strip("[]").lower().rstrip(".")
        return (name, port) in self._private or (name, None) in self._private or (self._is_local and is_loopback(host.strip("[]").lower()))

    async def resolve(self, host: str, port: int) -> list[str]:
        """The addresses that a connection may go to, in the resolver's order. Raises ForbiddenTargetError, or OSError for no such name.

        A name stays what it was for half a minute; one with a single forbidden address is forbidden whole.
        """
        if not 0 < port < 65536 or not host.isprintable() or not host.isascii() or " " in host:
            raise ForbiddenTargetError(f"{host!r} port {port} is no target")
        known = self._known.get((host, port))
        if known is not None and known[0] > time.monotonic():
            return known[1]
        found = await asyncio.to_thread(socket.getaddrinfo, host.strip("[]"), port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if not self.may_be_private(host, port):
            for text in addresses:
                address = address_of(text)
                if address is None or not is_public(address):
                    raise ForbiddenTargetError(
                        f"{host} is {text}, which the book does not open: channels.toml and private_hosts say what is"
                    )
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[host, port] = (time.monotonic() + REMEMBERED_S, addresses)
        return addresses

    async def connected(self, host: str, port: int, connect: Callable[[str], Awaitable[Connected]]) -> Connected:
        """What `connect` makes of the first of the host's addresses that takes a connection. Raises OSError."""
        failed: OSError | None = None
        for address in await self.resolve(host, port):
            try:
                return await connect(address)
            except OSError as error:
                failed = error
        raise failed or OSError(f"{host} has no address")

    async def open_connection(
        self, host: str, port: int, *, local_addr: tuple[str, int] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Such a connection as a pair of streams."""
        return await self.connected(host, port, lambda address: asyncio.open_connection(address, port, local_addr=local_addr))


class Resolver(AbstractResolver):
    """The same for aiohttp's client, which asks only for what is written as a name."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of a channel's host."""
        return [self._result(host, port, address) for address in await self._targets.resolve(host, port)]

    @staticmethod
    def _result(host: str, port: int, address: str) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags: Any = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)

    async def close(self) -> None:
        """Nothing is held."""
