"""Where doors listen: a port of one process, or one that worker processes share."""

from __future__ import annotations

import socket

from schemas.errors import UsageError


class PortInUseError(UsageError):
    """The address is taken, or is not this machine's."""


def reserve(door: str, host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket that holds the address and does not listen; `shared` lets those who ask for it too listen there (SO_REUSEPORT).

    Port 0 takes a free one. Raises PortInUseError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise PortInUseError(f"the {door} door cannot listen on {host}:{port}: {error.strerror}", f"choose another --{door}-port") from None
    return held
