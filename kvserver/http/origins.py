"""Which web pages may use the store: by the origin that their browser sends, and by its name for the server. Pure.

CORS only keeps an answer from the page that asked. A browser sends what needs no preflight (Fetch, 2.2.2: a GET, a POST
without a type or with that of a form) to any server, whatever headers the answer will have. So a request is refused
before anything is done for it:

- `Origins`: where origins are listed, a page of another one gets 403. Browsers send the origin with every request that
  changes something, and where a request comes from another site, `Sec-Fetch-Site` says so (Fetch Metadata, 2.1).
- `Hosts`: a page may give its own name the address of this server (DNS rebinding) and then is of the server's origin.
  Its requests have that name as their Host, so a Host is accepted only if it is an address, `localhost` or listed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final, NamedTuple

from kvserver.http.responses import Headers
from kvserver.http.routes import find_authority
from shards.wire.errors import ForbiddenOrigin, KVError, Misdirected

ANY: Final = "*"
"""The entry of a list that means all origins, or all names."""

_ORIGIN = re.compile(r"(https?)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_PORTS: Final = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_-])?")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]*)\]|([^:\[\]]*))(?::([0-9]{0,5}))?")
_LAST_PORT: Final = 65_535
_LONGEST_HOST: Final = 300
_MOST_HOSTS: Final = 256


def normal_origin(text: str) -> str | None:
    """Normalize an origin as browsers do: lower case, without the default port (RFC 6454, 6.2). None if it is not an
    `http` or `https` origin."""
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port is None or int(port) == _PORTS[scheme] else f"{scheme}://{host}:{int(port)}"


def normal_name(text: str) -> str | None:
    """Normalize a host name: lower case, without a final dot. None if it is not a host name."""
    name = text.lower().removesuffix(".")
    return name if _NAME.fullmatch(name) else None


class Origins:
    """The origins whose pages may use the store.

    Attributes:
        all: every origin may, and requests without one.
    """

    def __init__(self, text: str) -> None:
        """`text`: `*`, or origins separated by commas."""
        given = [origin.strip() for origin in text.split(",")]
        self.all = ANY in given
        self._listed = frozenset(normal_origin(origin) for origin in given) - {None}

    def allow_header(self, origin: bytes) -> bytes:
        """Return the value of Access-Control-Allow-Origin for a page of `origin`; empty: no such header."""
        if self.all:
            return b"*"
        return origin if normal_origin(origin.decode("latin-1")) in self._listed else b""

    def is_refused(self, origins: list[bytes], sites: list[bytes]) -> bool:
        """Whether a request with these headers Origin and Sec-Fetch-Site comes from a page without access."""
        if self.all:
            return False
        if origins:
            return not all(self.allow_header(origin) for origin in origins)
        return any(_is_cross_site(site) for site in sites)


def _is_cross_site(value: bytes) -> bool:
    """Whether a header Sec-Fetch-Site, which should be one word, contains `cross-site`."""
    return any(word.partition(b";")[0].strip().lower() == b"cross-site" for word in value.split(b","))


class Hosts:
    """The names of the server that a Host may have. Addresses and `localhost` are always among them.

    Attributes:
        all: every name.
    """

    def __init__(self, names: Collection[str] = (ANY,)) -> None:
        listed = {normal_name(name) for name in names if name != ANY}
        self.all = ANY in names
        self._names = frozenset(listed - {None} | {"localhost"})
        self._known: dict[bytes, bool] = {}

    @classmethod
    def of(cls, listed: str | None, address: str, has_tokens: bool) -> Hosts:
        """Return the names of a server that listens on `address`. `listed`: the setting, names separated by commas.

        Without the setting, every name is accepted where a rebound one gains a page nothing: if tokens are required, or
        if other machines may ask without one.
        """
        if listed is not None:
            return cls(listed.split(","))
        return cls(() if ipaddress.ip_address(address).is_loopback and not has_tokens else (ANY,))

    def is_accepted(self, host: bytes) -> bool:
        """Whether a Host, with or without a port, is one of them. Earlier results are remembered."""
        if self.all:
            return True
        known = self._known.get(host)
        if known is None:
            if len(host) > _LONGEST_HOST:
                return False
            if len(self._known) >= _MOST_HOSTS:
                self._known.clear()
            known = self._known[host] = self._is_listed(host.decode("latin-1").strip(" \t"))
        return known

    def _is_listed(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None or int(found[3] or 0) > _LAST_PORT:
            return False
        bracketed, name, _ = found.groups()
        try:
            return ipaddress.ip_address(name if bracketed is None else bracketed).version == (6 if bracketed else 4)
        except ValueError:
            return normal_name(name or "") in self._names


class Pages(NamedTuple):
    """Which web pages may use the store, as far as browsers report it."""

    origins: Origins
    hosts: Hosts

    def find_refusal(self, method: str, target: bytes, headers: Headers) -> KVError | None:
        """Return why a request is refused: `Misdirected` or `ForbiddenOrigin`; None if it is not.

        `target` and `headers` as sent, names in lower case. An authority in the target counts instead of the Host (RFC
        9112, 3.2.2). A request of HTTP/1.0 may be without either, one of a browser never is. OPTIONS is answered to
        every origin: a preflight has to be, and does nothing.
        """
        if not self.hosts.all:
            named = find_authority(target)
            hosts = [value for name, value in headers if name == b"host"] if named is None else [named]
            for host in hosts:
                if not self.hosts.is_accepted(host):
                    return Misdirected(f"{_quote(host)} is not a name of this server")
        if self.origins.all or method == "OPTIONS":
            return None
        origins = [value.strip() for name, value in headers if name == b"origin"]
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        if not self.origins.is_refused(origins, sites):
            return None
        whose = f"of {_quote(origins[0])}" if origins else "of another site"
        return ForbiddenOrigin(f"pages {whose} may not use this store")


def _quote(value: bytes) -> str:
    return repr(value[:100].decode("ascii", "backslashreplace"))
