"""Who may look at the page.

On loopback: every local user, but only under a loopback name, so that no web page elsewhere can reach it by a name that
points here (DNS rebinding). On a network (``--host``): whoever opens the printed link. Its token works once; it becomes a
session cookie, and a fresh link is printed for the next viewer. ``/health`` and ``/metrics`` answer without a session on
loopback connections only. Nothing here changes anything on the board: every route is a GET, other sites may not read or
embed it, and no CORS header is ever sent.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from typing import Awaitable, Callable

from aiohttp import web

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_OPEN_ON_LOOPBACK = {"/health", "/metrics"}
_COOKIE = "edge-derm-session"
_MOST_SESSIONS = 64
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Checks every request; ``middleware`` is aiohttp's."""

    def __init__(self, host: str, *, say: Callable[[str], None]) -> None:
        self._host, self._say = host, say
        self.needs_token = not is_loopback(host)
        self._token = secrets.token_urlsafe(16)
        self._sessions: list[str] = []
        self.port = 0

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._check(request, handler)

        self.middleware = middleware

    def link(self, port: int) -> str:
        """The address to open, with the token where one is needed."""
        host = _own_address() if self._host in ("0.0.0.0", "::") else self._host
        where = f"[{host}]" if ":" in host else host
        return f"http://{where}:{port}/" + (f"?token={self._token}" if self.needs_token else "")

    async def sign(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put the headers on every response (aiohttp's ``on_response_prepare``)."""
        response.headers.update(HEADERS)

    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._named_right(request.host):
            raise web.HTTPForbidden(text="this page is not known under that name\n")
        if (
            request.headers.get("Sec-Fetch-Site") == "cross-site"
            and request.headers.get("Sec-Fetch-Mode") != "navigate"
        ):
            raise web.HTTPForbidden(text="other sites may not read this page\n")
        if not self.needs_token or self._may_pass(request):
            return await handler(request)
        if hmac.compare_digest(request.query.get("token", "").encode(), self._token.encode()):
            raise self._welcome()
        raise web.HTTPUnauthorized(text="open the link that the program printed; each link works once\n")

    def _may_pass(self, request: web.Request) -> bool:
        if request.path in _OPEN_ON_LOOPBACK and is_loopback(request.remote or ""):
            return True
        shown = request.cookies.get(_COOKIE, "").encode()
        return any(hmac.compare_digest(shown, session.encode()) for session in self._sessions)

    def _welcome(self) -> web.HTTPException:
        session, self._token = secrets.token_urlsafe(24), secrets.token_urlsafe(16)
        self._sessions = [*self._sessions, session][-_MOST_SESSIONS:]
        self._say(f"a viewer joined; the next one opens {self.link(self.port)}")
        answer = web.HTTPSeeOther("/")
        answer.set_cookie(_COOKIE, session, httponly=True, samesite="Strict", path="/")
        return answer

    def _named_right(self, host: str) -> bool:
        name = (
            host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and host.count(":") != 2 else host
        )
        name = name.strip("[]").lower()
        if is_loopback(name):
            return True
        if not self.needs_token:
            return False
        own = socket.gethostname().lower()
        return _is_address(name) or name in {self._host.lower(), own, f"{own}.local"}


def is_loopback(host: str) -> bool:
    """Whether ``host`` is ``localhost`` or a loopback address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _own_address() -> str:
    """This machine's address on its network, without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # a documentation address (RFC 5737); UDP connect only picks a route
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()
