"""Which of a client's headers the gateway sends on, and with whose credential."""

from __future__ import annotations

from collections.abc import Iterable

from multidict import CIMultiDict

from proxy.exchange import RequestHead
from proxy.http_rules import RawHeaders

ID_HEADER = "x-ledger-request-id"
# RFC 9110 7.6.1: what concerns one hop only. Content-Length and Host are written anew for the next hop.
HOP_HEADERS = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)
_NOT_SENT = HOP_HEADERS | {"host", "content-length", "expect"}
_ID_NAME = ID_HEADER.encode()
_HOP_NAMES = frozenset(name.encode() for name in HOP_HEADERS)
_OUR_HEADERS = "x-ledger-"
_CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


def sent_headers(head: RequestHead) -> CIMultiDict[str]:
    """The client's headers less the hop's (also those that Connection names) and ours."""
    kept = CIMultiDict[str]()
    named: list[str] = []
    for name, value in head.headers:
        lower = name.lower()
        if lower == "connection":
            named += [each.strip() for each in value.split(",")]
        elif lower not in _NOT_SENT and not lower.startswith(_OUR_HEADERS):
            kept.add(name, value)
    for name in named:
        kept.popall(name, None)
    return kept


def with_credential(headers: CIMultiDict[str], secret: str | None) -> CIMultiDict[str] | None:
    """The headers with the channel's credential where the client's stood; None if it is not set, or would break the line that it stands in."""
    if not secret or not secret.isprintable():
        return None
    place = next((name for name in _CREDENTIAL_HEADERS if name in headers), "authorization")
    for name in _CREDENTIAL_HEADERS:
        headers.popall(name, None)
    headers[place.title() if place == "authorization" else place] = f"Bearer {secret}" if place == "authorization" else secret
    return headers


def passed_on(headers: RawHeaders, *, hide_length: bool) -> tuple[RawHeaders, bool]:
    """An answer's headers less the hop's (also those that Connection names) and an id that another ledger's gateway behind us gave it,
    in whose place ours comes; and whether they say how long its body is.
    """
    kept: RawHeaders = []
    named: set[bytes] = set()
    sized = False
    for field in headers:
        lower = field[0].lower()
        if lower in _HOP_NAMES:
            if lower == b"connection":
                named.update(name.strip().lower() for name in field[1].split(b","))
        elif lower == _ID_NAME:
            continue
        elif lower == b"content-length":
            if not hide_length:
                sized = True
                kept.append(field)
        else:
            kept.append(field)
    if named - _HOP_NAMES:
        kept = [field for field in kept if field[0].lower() not in named]
        sized = sized and b"content-length" not in named
    return kept, sized


def pairs(raw_headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Raw headers as text; bytes that are no UTF-8 survive the round trip."""
    return [(name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")) for name, value in raw_headers]


def text(raw: bytes) -> str:
    """A header's bytes as text."""
    return raw.decode("utf-8", "surrogateescape")
