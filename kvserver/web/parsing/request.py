"""A request as it arrived, and what is noted of it until it is whole. Pure."""

from __future__ import annotations

from typing import Any

from kvserver.http.responses import Headers
from kvserver.web.parsing.body_end import BodyCutter
from kvserver.web.parsing.body_rules import BodyAllowance
from shards.wire.errors import KVError


class IncomingRequest:
    """One request: filled in by the parser while it arrives, read by its exchange.

    Attributes:
        method: as sent; empty while it is not known.
        path: of its target, as sent, without the query.
        version: of HTTP, "1.1" or "1.0".
        headers: as received, names in lower case.
        body: what has arrived of it, as far as it is kept.
        scope: the ASGI scope; empty until the head is whole.
        authorization: the header of that name; None without.
        accept, origin: values of these headers; empty without.
        id: the client's X-Request-Id; empty if it gave none that is valid.
        is_script: a browser asks for the script of a service worker.
        error: the refusal that is its answer; the application is not asked.
        keep_alive: whether another request may follow on the connection.
        begun_at: when its first byte arrived, by `perf_counter`.
        token_generation: of the tokens by which its grants were found; 0 if no token was looked at.
    """

    __slots__ = (
        "accept",
        "authorization",
        "begun_at",
        "body",
        "error",
        "headers",
        "id",
        "is_script",
        "keep_alive",
        "method",
        "origin",
        "path",
        "scope",
        "token_generation",
        "version",
    )

    def __init__(self, begun_at: float, method: str = "", path: bytes = b"") -> None:
        self.begun_at, self.method, self.path, self.version = begun_at, method, path, "1.1"
        self.headers: Headers = []
        self.body: bytes | bytearray = b""
        self.scope: dict[str, Any] = {}
        self.authorization: bytes | None = None
        self.accept = self.origin = self.id = b""
        self.error: KVError | None = None
        self.is_script = self.keep_alive = False
        self.token_generation = 0


class RequestHead:
    """What the parser counts and notes of one message, until it is whole.

    Attributes:
        target: as sent.
        size: bytes of header and trailer fields.
        fields: how many of them there are.
        hosts, codings, ids: how many headers Host, Transfer-Encoding and X-Request-Id there are.
        length: Content-Length, None without.
        forwarded: values of X-Forwarded-For.
        expects_continue: the client waits for `100 Continue`.
        is_upgrade: another protocol is asked for.
        is_whole: further fields are trailers.
        allowance: what of a body is taken.
        cutter: finds the end of the body.
        body_bytes: how many of the body have arrived, kept or not.
        overhead: bytes since the last one of the body.
    """

    __slots__ = (
        "allowance",
        "body_bytes",
        "codings",
        "cutter",
        "expects_continue",
        "fields",
        "forwarded",
        "hosts",
        "ids",
        "is_upgrade",
        "is_whole",
        "length",
        "overhead",
        "size",
        "target",
    )

    allowance: BodyAllowance
    cutter: BodyCutter

    def __init__(self) -> None:
        self.target = b""
        self.size = self.fields = self.hosts = self.codings = self.ids = self.body_bytes = self.overhead = 0
        self.length: int | None = None
        self.forwarded: list[bytes] = []
        self.expects_continue = self.is_upgrade = self.is_whole = False

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return bool(self.length) or self.codings > 0
