"""Where the server is, how to reach it, and with which token: arguments, else the environment."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl as tls

URL_VARIABLE: Final = "KVSERVER_URL"
TOKEN_VARIABLE: Final = "KVSERVER_TOKEN"
DEFAULT_URL: Final = "http://localhost:8080"
ENVIRONMENT: Final = "environment"
"""Of `proxy`: as the environment says (http_proxy, https_proxy, no_proxy)."""


@dataclass(frozen=True)
class Address:
    """A server's scheme, host and port, and the path before its own paths: empty, or without a slash at its end."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def url(self) -> str:
        """The URL of the server, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, so that no proxy can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")


def find_address(url: str | None, environ: Mapping[str, str] = os.environ) -> Address:
    """Return the address that `url` names, else the environment. Raises `ValueError`."""
    if url is not None and not url.strip():
        raise ValueError("the URL of a server is like http://localhost:8080, not empty")
    text = (url or environ.get(URL_VARIABLE) or DEFAULT_URL).strip()
    if "://" not in text:
        text = f"http://{text}"
    like = "the URL of a server is like http://localhost:8080"
    if "@" in text:  # what is before it may be a password, and is not repeated
        raise ValueError(f"{like}, without user and password; a token is an argument of its own")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{like}, not {text!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{like}, not {text!r}")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    return Address(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


def find_proxy(address: Address, proxy: str | None) -> str | None:
    """Return the URL of the proxy for `address`, or None: never one for this machine."""
    if proxy != ENVIRONMENT:
        return proxy
    if address.is_loopback or not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # slow to import, and seldom needed

    if proxy_bypass(address.host):
        return None
    found = getproxies()
    return found.get(address.scheme) or found.get("all")


def find_token(token: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the token, else that of the environment, else None. Raises `ValueError` without saying what it was."""
    text = (environ.get(TOKEN_VARIABLE, "") if token is None else token).strip()
    return checked_token(text) if text else None


def checked_token(text: str) -> str:
    """Return `text` if a header can have it. Raises `ValueError` without saying what it was."""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a token is a word of printable ASCII characters")
    return text


def untrusted(error: tls.SSLCertVerificationError) -> str:
    """Return why the server's certificate is refused."""
    return f"its certificate is not trusted: {error.verify_message}"
