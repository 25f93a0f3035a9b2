"""What a host says about itself, before anything is resolved."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split_host(host: str) -> tuple[str, int | None]:
    """`host` or `host:port` as the book writes it, in small letters and without brackets."""
    name, _, number = host.rpartition(":") if host.rpartition(":")[2].isdigit() and not host.endswith("]") else (host, "", "")
    return name.strip("[]").lower(), int(number) if number else None
