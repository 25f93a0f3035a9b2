"""Who may look: the Host header, the origin of whatever changes something, a token beyond loopback, and what a browser may load.

A page on another site can make a browser ask loopback addresses (DNS rebinding, cross-site forms): the Host header must name
this server, and a request that does something must come from one of its own pages. (Fetch metadata: W3C; Host check: OWASP.)
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from schemas.errors import UsageError
from schemas.hosts import is_loopback

_log = logging.getLogger(__name__)

COOKIE = "tokenledger"
TOKEN_VARIABLE = "TOKENLEDGER_WEB_TOKEN"  # noqa: S105  the name of a variable
LOGIN = "/login"
OPEN = (LOGIN, "/static/")  # what may be had without the token
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::\d{1,5})?", re.ASCII)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser says `Origin: null` even to its own server
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class OpenBindError(UsageError):
    """The pages would be open to the network without a token."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} is not a loopback address, and {TOKEN_VARIABLE} holds no token of 16 characters or more",
            f"export {TOKEN_VARIABLE}=$(openssl rand -hex 16), then start again; or leave --host out",
        )


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of one server: the names it answers to and, beyond loopback, the token it asks for."""

    names: frozenset[str]
    token: str | None

    @classmethod
    def of(cls, host: str, names: tuple[str, ...], token: str | None) -> Guard:
        """The guard of a bind address; raises OpenBindError for one beyond loopback without a token."""
        if is_loopback(host):
            return cls(frozenset({"127.0.0.1", "localhost", "[::1]", *names}), token or None)
        if token is None or len(token) < 16:
            raise OpenBindError(host)
        return cls(frozenset({host if ":" not in host else f"[{host}]", *names}), token)

    def fault(self, request: web.Request) -> str | None:
        """Why a request is refused, None if it is not."""
        host = request.headers.get("Host", "")
        if _name(host) not in self.names:
            return "the Host header names another server"
        origin = request.headers.get("Origin")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        if request.method not in ("GET", "HEAD"):
            is_ours = origin is not None and urlsplit(origin).netloc == host and site == "same-origin"
        else:  # a link from elsewhere may lead here; a script, a frame or a picture elsewhere may not ask
            is_link = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
            is_ours = is_link or (site in ("same-origin", "none") and origin in (None, f"http://{host}", f"https://{host}"))
        return None if is_ours else "it does not come from one of these pages"

    def admits(self, request: web.Request) -> bool:
        """Whether no token is asked for, or the right one was shown."""
        if self.token is None or request.path == LOGIN or request.path.startswith(OPEN[1]):
            return True
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        shown = request.cookies.get(COOKIE, "")
        return hmac.compare_digest(shown.encode(), self.mark().encode()) or hmac.compare_digest(bearer.encode(), self.token.encode())

    def mark(self) -> str:
        """What the cookie holds: not the token itself."""
        return hmac.new((self.token or "").encode(), b"tokenledger pages", hashlib.sha256).hexdigest()


def _name(host: str) -> str | None:
    named = _HOST.fullmatch(host)
    return named[1].lower() if named else None


def middleware(guard: Guard) -> Middleware:
    """The guard in front of every handler; its headers on every answer."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = guard.fault(request)
        if fault is not None:
            return web.Response(status=403, text=f"refused: {fault}\n", headers=HEADERS)
        if not guard.admits(request):
            return web.Response(status=303, headers={**HEADERS, "Location": LOGIN})
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        except ConnectionError:  # the browser has left
            raise
        except Exception:  # noqa: BLE001  whatever it is, it is told without its insides and with the same headers
            _log.exception("the pages failed at %s", request.path)
            return web.Response(status=500, text="this page failed; the reason is in the server's log\n", headers=HEADERS)
        if not answer.prepared:
            answer.headers.update(HEADERS)
        return answer

    return guarded


async def login(request: web.Request, guard: Guard) -> bool:
    """Whether the posted token is the right one."""
    form = await request.post()
    given = form.get("token", "")
    return isinstance(given, str) and guard.token is not None and secrets.compare_digest(given.encode(), guard.token.encode())


def sign_in(answer: web.Response, guard: Guard) -> None:
    """Remember the browser: strict, and out of reach for scripts."""
    answer.set_cookie(COOKIE, guard.mark(), httponly=True, samesite="Strict", path="/")
