"""A request as it arrived, and what is noted of it until it is whole. Pure."""

from __future__ import annotations

from typing import Any, Final

from kvserver.http import head_rules
from kvserver.http.responses import REQUEST_ID, Headers, format_headers
from kvserver.http.scope import GIVEN_ID, QUOTA, SCRIPT
from kvserver.web.limits.address_quotas import Quota
from kvserver.web.parsing.body_end import BodyCutter
from kvserver.web.parsing.body_rules import BodyAllowance
from shards.wire.errors import BadRequest, KVError

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


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
        known_host: the latest valid Host of the connection.
    """

    __slots__ = (
        "_needs_token",
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
        "known_host",
        "length",
        "overhead",
        "size",
        "target",
    )

    allowance: BodyAllowance
    cutter: BodyCutter

    def __init__(self, known_host: bytes, needs_token: bool) -> None:
        """`known_host`: of the message before. `needs_token`: requests are answered by their token's grants."""
        self.known_host, self._needs_token = known_host, needs_token
        self.target = b""
        self.size = self.fields = self.hosts = self.codings = self.ids = self.body_bytes = self.overhead = 0
        self.length: int | None = None
        self.forwarded: list[bytes] = []
        self.expects_continue = self.is_upgrade = self.is_whole = False

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return bool(self.length) or self.codings > 0

    def format_head(self, request: IncomingRequest, headers: Headers) -> bytes:
        """The head of `request`, which is this message's, with `headers`, as it is sent."""
        request_line = b"%b %b HTTP/%b\r\n" % (request.method.encode(), self.target, request.version.encode())
        return request_line + format_headers(headers) + b"\r\n"

    # Headers that are noted. Each raises `BadRequest` if its value is refused.

    def note_host(self, request: IncomingRequest, value: bytes) -> None:
        """Check the name of the server, as far as any server could have it."""
        self.hosts += 1
        if value != self.known_host:  # it seldom changes on a connection
            if head_rules.HOST.fullmatch(value) is None:
                raise BadRequest(head_rules.NOT_A_HOST)
            self.known_host = value

    def note_expect(self, request: IncomingRequest, value: bytes) -> None:
        """Note whether the client waits for `100 Continue`."""
        self.expects_continue = value.lower() == b"100-continue"

    def note_length(self, request: IncomingRequest, value: bytes) -> None:
        """Note the length of the body."""
        if not value.isdigit():
            raise BadRequest(head_rules.NOT_A_LENGTH)
        self.length = int(value)  # httptools has refused a second one

    def note_coding(self, request: IncomingRequest, value: bytes) -> None:
        """Note that the body is chunked."""
        self.codings += 1
        if value.lower() != b"chunked" or self.codings > 1:
            raise BadRequest(head_rules.UNKNOWN_CODING)

    def note_forwarded(self, request: IncomingRequest, value: bytes) -> None:
        """Keep what proxies say of the client."""
        self.forwarded.append(value)

    def note_accept(self, request: IncomingRequest, value: bytes) -> None:
        """Add to what the client accepts."""
        request.accept += b"," + value

    def note_origin(self, request: IncomingRequest, value: bytes) -> None:
        """Note the origin of the page that asks."""
        request.origin += b", " + value if request.origin else value  # a list of several is in no list of origins

    def note_request_id(self, request: IncomingRequest, value: bytes) -> None:
        """Take over the client's id of the request, if it is valid."""
        self.ids += 1
        if self.ids == 1 and REQUEST_ID.fullmatch(value):
            request.id = value

    def note_service_worker(self, request: IncomingRequest, value: bytes) -> None:
        """Note whether the script of a service worker is asked for."""
        request.is_script = value.lower() == b"script"

    def note_authorization(self, request: IncomingRequest, value: bytes) -> None:
        """Note the token; where tokens are required, a second one is refused."""
        if request.authorization is not None and self._needs_token:
            raise BadRequest(head_rules.ONE_AUTHORIZATION)
        request.authorization = value


NOTED_HEADERS: Final = {
    b"host": RequestHead.note_host,
    b"expect": RequestHead.note_expect,
    b"content-length": RequestHead.note_length,
    b"transfer-encoding": RequestHead.note_coding,
    b"accept": RequestHead.note_accept,
    b"authorization": RequestHead.note_authorization,
    b"origin": RequestHead.note_origin,
    b"x-request-id": RequestHead.note_request_id,
    b"service-worker": RequestHead.note_service_worker,
    b"x-forwarded-for": RequestHead.note_forwarded,
}
"""Headers that the parser looks at, by their name in lower case."""


def create_scope(
    request: IncomingRequest, query: bytes, client: tuple[str, int] | None, quota: Quota | None
) -> dict[str, Any]:
    """The ASGI scope of `request`. `client`: its address; `quota`: that of the address."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": _ASGI,
        "http_version": request.version,
        "method": request.method,
        "scheme": "http",
        "path": request.path.decode(),  # still percent-encoded: nothing may route by a decoded path
        "raw_path": request.path,
        "query_string": query,
        "root_path": "",
        "headers": request.headers,
        "client": client,
        "server": None,
        QUOTA: quota,
    }
    if request.is_script:
        scope[SCRIPT] = True
    if request.id:
        scope[GIVEN_ID] = request.id
    return scope
