"""The gateway's connections to upstreams: how they are made, and what it means when they break."""

from __future__ import annotations

import ssl
from typing import Any

import aiohttp

from proxy.routing import Failure
from proxy.targets import Resolver, Targets

HEADER_LIMIT = 64 << 10
CONNECT_TIMEOUT_S = 30.0
BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


class NotConnectedError(ConnectionError):
    """No connection was made, so nothing was sent."""


def session(tls: ssl.SSLContext, targets: Targets, **more: Any) -> aiohttp.ClientSession:
    """The client for WebSockets, which adds nothing to what it sends and takes nothing away from what it gets."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls, resolver=Resolver(targets), use_dns_cache=False),
        auto_decompress=False,
        trust_env=False,  # our own traffic must not pass a proxy of the environment, which may be the other door
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        max_line_size=HEADER_LIMIT,
        max_field_size=HEADER_LIMIT,
        **more,
    )


def what_failed(error: BaseException) -> tuple[Failure, str]:
    """A broken attempt as the routing rules' failure and as the record's ending."""
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return "timeout", "timeout"
    if isinstance(error, NotConnectedError | aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return "connect", "connect_error"
    return "connect", "upstream_truncated"
