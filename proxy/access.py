"""Who may use the doors: on loopback everybody on this machine, beyond it those on the book's list who know the token."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from proxy.permissions import Refusal
from schemas.errors import UsageError
from schemas.hosts import is_loopback

TOKEN_VARIABLE = "TOKENLEDGER_PROXY_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_CHARACTERS = 16
# HTTPS_PROXY=http://anyone:TOKEN@host:port says the first; an SDK with a base URL is given the second as a default header.
_HEADERS = ("proxy-authorization", "x-ledger-token")


class OpenBindError(UsageError):
    """The doors would be open to the network."""


class Access:
    """The rule of one bind address. Without a token everybody may in."""

    def __init__(self, token: str | None, networks: Sequence[str]) -> None:
        self._token = token.encode() if token else None
        self._networks = [ipaddress.ip_network(network) for network in networks]

    @classmethod
    def of(cls, host: str, allowed: Sequence[str], environment: Mapping[str, str]) -> Access:
        """The rule for a bind address; raises OpenBindError for one beyond loopback that lacks the token or the list."""
        if is_loopback(host):
            return cls(None, ())
        token = environment.get(TOKEN_VARIABLE, "")
        if len(token) < TOKEN_CHARACTERS:
            what = f"{host} is not a loopback address, and {TOKEN_VARIABLE} holds no token of {TOKEN_CHARACTERS} characters or more"
            raise OpenBindError(what, f"export {TOKEN_VARIABLE}=$(openssl rand -hex 16), then start again; or leave --host out")
        if not allowed:
            what = f"{host} is not a loopback address, and book.toml says of no client that it may come"
            raise OpenBindError(what, 'write for example allowed_clients = ["10.0.0.0/8"] into book.toml; or leave --host out')
        return cls(token, allowed)

    def knows(self, address: str) -> bool:
        """Whether a client's address is on the list."""
        if self._token is None:
            return True
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return found.is_loopback or any(found in network for network in self._networks)

    def admits(self, headers: Iterable[tuple[str, str]]) -> bool:
        """Whether a request's headers carry the token."""
        if self._token is None:
            return True
        said = [value for name, value in headers if name.lower() in _HEADERS]
        return any(hmac.compare_digest(_secret(value), self._token) for value in said)

    def refusal(self, address: str, headers: Iterable[tuple[str, str]]) -> Refusal | None:
        """What a client is told that may not in."""
        if not self.knows(address):
            return Refusal(403, "client_not_allowed", "this address is not among allowed_clients")
        if not self.admits(headers):
            return Refusal(407, "proxy_token_required", "this proxy asks for its token: in the proxy's URL, or as x-ledger-token")
        return None


def _secret(value: str) -> bytes:
    """The secret in a header's value: bare, as a bearer token, or as the password of any user."""
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return (rest if scheme.lower() == "bearer" else value).strip().encode()
