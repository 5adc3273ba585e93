"""Access control and security headers, before any other code sees a request."""

import ipaddress
import re
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
ORIGIN = re.compile(  # RFC 6454: scheme, host and port; `null` is opaque
    r"null|[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._~!$&'()*+,;=%-]+)(:[0-9]{1,5})?", re.IGNORECASE
)
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    """Whether an address, to bind to or in a Host header, can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SecurityMiddleware:
    """Refuses requests that do not come from the page itself, and adds security headers to each answer.

    - Without a token the page serves this machine only: the Host header has to name it. This stops DNS rebinding, where
      the name of a page from the internet points here.
    - With a token every request has to bring it: as `?token=`, which a cookie then replaces, or as
      `Authorization: Bearer`.
    - A request that changes something has to come from the page itself.

    Args:
        app: the application behind it.
        token: the token that requests need; None where the page is bound to the loopback address.
        port: part of the cookie's name, because browsers share cookies between ports.
    """

    def __init__(self, app: ASGIApp, token: str | None, port: int) -> None:
        self.app, self.token, self.cookie = app, token, f"leukemia_token_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._refusal(scope)
            await (answer or self.app)(scope, receive, _with_headers(send, scope["path"]))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self.token is None and not is_loopback(_host_name(headers.get("host", ""))):
            return _answer(
                403, "This page answers on localhost only: open the address that `leukemia app` printed."
            )
        if scope["method"] not in SAFE_METHODS and not ORIGIN.fullmatch(headers.get("origin", "null")):
            return _answer(400, "The header Origin is not a scheme, a host and a port.")
        if scope["method"] not in SAFE_METHODS and not _is_same_origin(headers):
            return _answer(403, "Refused: this request does not come from the review page itself.")
        if self.token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in query if key == "token"]
        if given and self._is_valid(given) and scope["method"] == "GET":
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            path = "/" + scope["path"].lstrip("/\\")  # //name would redirect to another machine
            answer = RedirectResponse(path + ("?" + rest if rest else ""), status_code=303)
            answer.set_cookie(
                self.cookie, self.token, httponly=True, samesite="lax", secure=scope["scheme"] == "https"
            )
            return answer
        bearer = headers.get("authorization", "").partition(" ")
        brought = [
            *given,
            *_cookies(headers, self.cookie),
            bearer[2] if bearer[0].lower() == "bearer" else "",
        ]
        if self._is_valid(brought):
            return None
        return _answer(
            401, "This page needs its token: open the complete address that `leukemia app` printed."
        )

    def _is_valid(self, brought: Iterable[str]) -> bool:
        assert self.token is not None
        expected = self.token.encode()
        return any(secrets.compare_digest(value.encode(), expected) for value in brought)


def _is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this address, or from a program that is not a browser."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    return origin.partition("://")[2] == headers.get("host")


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _cookies(headers: Headers, name: str) -> list[str]:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return []
    return [morsel.value] if morsel else []


def _answer(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status_code=status)


def _with_headers(send: Send, path: str) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-cache" if path.startswith("/static/") else "no-store")
        await send(message)

    return send_with_headers
