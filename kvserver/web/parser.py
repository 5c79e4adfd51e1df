"""From bytes to requests: httptools' callbacks, with the guards that need no more than a request's head and size.

A head is kept as it comes, and parsed when it is whole: half a head takes no more memory than its bytes. The parser is
never given a byte that stands behind the request it is at, so what a client sends ahead waits as it came.

What is refused here never reaches the application: targets and headers that are malformed or too long, bodies that are
too large (before they are read, and before `100 Continue`), two readings of where a body ends, and requests beyond
what the server works on at a time. While a body is still to come, the application is asked what it would refuse by the
head alone.
"""

from __future__ import annotations

import contextlib
import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import httptools

from kvserver.access.grants import EVERYTHING, NOTHING
from kvserver.http import handshake, head_rules, routes
from kvserver.http.head_rules import HEADERS, MOST_HEADERS
from kvserver.http.responses import HTML, REQUEST_ID, Headers, lines, names
from kvserver.http.scope import GIVEN_ID, GRANTS, SCRIPT, SHARE
from kvserver.web import body_rules
from kvserver.web.body_end import Cutter
from kvserver.web.exchange import Exchange
from shards.wire.errors import BadRequest, HeadersTooLarge, KVError, Overloaded, Unauthorized, ValueTooLarge

if TYPE_CHECKING:
    from kvserver.web.connection import Protocol

log = logging.getLogger("kvserver.web.http")

_OVERHEAD: Final = 64 << 10
"""Bytes of chunk headers and trailers that may come without any body between them: the parser keeps such bytes."""
_FIELD: Final = 150
"""Bytes of memory that a header field takes beside its own."""
_PIECES: Final = 64
"""Pieces of a chunked body that are parsed before others have their turn: there can be very many."""
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class Refused(Exception):
    """Raised in a callback to stop the parser; `Intake._failure` says why."""


class Upgrade(Exception):
    """A request asks for another protocol, or for a feed; what is behind its head begins at `at`."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at = at


class Intake:
    """Makes the requests of one connection, one at a time.

    Attributes:
        head: what has arrived of a head that is not whole yet.
        receiving: the request whose head is whole, and whose body is still to come; None if there is none.
        body_bytes: what has arrived of that body, kept or not.
        is_followed: something is behind what the parser is given.
        url: target of the latest request.
    """

    __slots__ = (
        "_allowance",
        "_begun_at",
        "_connection",
        "_cutter",
        "_encodings",
        "_expects",
        "_failure",
        "_fields",
        "_forwarded",
        "_head_done",
        "_header_bytes",
        "_host",
        "_hosts",
        "_ids",
        "_ignored_upgrade",
        "_is_feed",
        "_length",
        "_malformed",
        "_method",
        "_overhead",
        "_parser",
        "_traffic",
        "_upgrading",
        "body_bytes",
        "head",
        "is_followed",
        "receiving",
        "url",
    )

    def __init__(self, connection: Protocol) -> None:
        self._connection, self._traffic = connection, connection.traffic
        self._parser: httptools.HttpRequestParser | None = None
        self._failure: KVError | None = None
        self._ignored_upgrade: bytes | None = None
        self._is_feed = self._malformed = False
        self._begun_at = 0.0
        self._method = ""  # if it is one that the parser is not told
        self.head: bytes | bytearray = b""
        self.receiving: Exchange | None = None
        self.url = self._host = b""
        self.is_followed = False
        self.body_bytes = 0

    @property
    def unfinished(self) -> bool:
        """Whether there is a request that has not arrived whole."""
        return bool(self.head) or self.receiving is not None

    @property
    def size(self) -> int:
        """About how many bytes of memory such a request takes."""
        if self.receiving is None:
            return len(self.head)
        return self._header_bytes + _FIELD * self._fields + len(self.receiving.body) + self._overhead

    def feed(self, data: bytes, at: int) -> int:
        """Take in `data` from `at` on, up to the end of one request at most, and return where the rest begins.

        Raises `KVError` if the connection cannot go on, `Upgrade`.
        """
        if self.receiving is None:
            at = self._take_head(data, at)
        pieces = 0
        while self.receiving is not None and at < len(data) and pieces < _PIECES:
            end = self._cutter.end(data, at)
            self.is_followed = end < len(data)
            self._parse_body(data if end - at == len(data) else memoryview(data)[at:end])
            at, pieces = end, pieces + 1
        return at

    def _take_head(self, data: bytes, at: int) -> int:
        """Returns where what is behind the head begins in `data`."""
        known = len(self.head)
        if not known:
            self._begun_at = perf_counter()
            self.head = (data[at:] if at else data).lstrip(b"\r\n")
            at = len(data) - len(self.head)
        else:
            if type(self.head) is bytes:
                self.head = bytearray(self.head)
            self.head += data[at:]
            at -= known
        end = head_rules.end(self.head, known)
        if end:
            head = self.head if end == len(self.head) else self.head[:end]
            self.head = b""
            at += end
            self.is_followed = at < len(data)
            self._parse_head(bytes(head), at)
            self._look_ahead(len(data) - at)
            return at
        if self.head and head_rules.is_malformed(self.head, known):
            self._malformed = True
            self._parse_head(bytes(self.head), 0)
            raise BadRequest("malformed request")
        return len(data)

    def _parse_head(self, head: bytes, at: int) -> None:
        """Parse the head of the next request. Raises `KVError`, `Upgrade`."""
        if self._parser is None:
            self._new_parser()
        assert self._parser is not None
        self._method = head_rules.other_method(head).decode()
        try:
            self._parse(head if not self._method else head_rules.STAND_IN + head[len(self._method) :], at)
        except KVError:
            self._identify(head)
            raise

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # Bytes behind a request that ends the connection are not its fault: it is answered, they are ignored.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _parse(self, data: bytes | memoryview, at: int = 0) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise Upgrade(at) from None
        except httptools.HttpParserError as error:
            if self._is_feed:
                raise Upgrade(at) from None
            raise self._why(error) from None

    def _why(self, error: httptools.HttpParserError) -> KVError:
        failure, self._failure = self._failure, None
        if failure is not None:
            return failure
        if isinstance(error, httptools.HttpParserCallbackError):
            log.error("a request could not be taken", exc_info=error)
            return KVError()
        return BadRequest(f"malformed request: {error}")

    def _parse_body(self, piece: bytes | memoryview) -> None:
        before = self.body_bytes
        self._parse(piece)
        if self.receiving is not None and self.body_bytes == before:
            self._overhead += len(piece)
            if self._overhead > _OVERHEAD:
                raise ValueTooLarge

    def _identify(self, head: bytes) -> None:
        """Find method and target of a request that is refused, whatever the parser has told of it."""
        self.receiving = self.receiving or Exchange(self._connection)
        method, self.url = head_rules.beginning(head)
        self.receiving.method = method.decode()

    def drop(self) -> None:
        """Forget what has arrived of a request."""
        self.head, self.receiving = b"", None

    def take(self) -> Exchange:
        """What has arrived of a request, if anything: it goes no further."""
        if self.head:
            self._take_beginning()
        exchange, self.receiving = self.receiving or Exchange(self._connection), None
        exchange.path = exchange.path or routes.without_authority(self.url)
        return exchange

    def _take_beginning(self) -> None:
        """Find in a part of a head what its refusal needs: what the client accepts, for instance."""
        head, self.head = bytes(self.head), b""
        self._malformed = True  # it must not become a request
        with contextlib.suppress(KVError, Upgrade):
            self._parse_head(head + b"\r\n", 0)  # the parser tells of a field when its line is over for sure
        self._identify(head)

    def ignore_upgrade(self, more: int) -> None:
        """Start again with the request that asked for another protocol. `more`: as many bytes behind its head are here.
        Raises as `feed` does.

        The parser skips the body of such a request, and would take it for the next one. So it is given the request
        without its Upgrade header. (curl --http2 and Java's client offer h2c with every request.)
        """
        exchange = self.take()
        self._ignored_upgrade = b", ".join(value for name, value in exchange.headers if name == b"upgrade")
        self._new_parser()
        self._parse_head(self.raw_head(exchange, [header for header in exchange.headers if header[0] != b"upgrade"]), 0)
        self._look_ahead(more)

    def raw_head(self, exchange: Exchange, headers: Headers) -> bytes:
        """The head of the latest request with `headers`, as it is sent."""
        request_line = b"%b %b HTTP/%b\r\n" % (exchange.method.encode(), self.url, exchange.version.encode())
        return request_line + lines(headers) + b"\r\n"

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """First byte of a head."""
        self.receiving = exchange = Exchange(self._connection)
        exchange.begun_at, exchange.method = self._begun_at, self._method
        self.url = b""
        self._header_bytes = self._fields = self._overhead = self._hosts = self._encodings = self._ids = 0
        self.body_bytes = 0
        self._head_done = self._expects = self._upgrading = False
        self._length: int | None = None
        self._forwarded: list[bytes] = []
        if self._ignored_upgrade is not None:
            exchange.headers.append((b"upgrade", self._ignored_upgrade))
            self._ignored_upgrade = None

    def on_url(self, url: bytes) -> None:
        """The request target."""
        assert self.receiving is not None and self._parser is not None
        self.receiving.method = self._method or self._parser.get_method().decode()
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        self._header_bytes += len(name) + len(value) + 4
        self._fields += 1
        if self._header_bytes > HEADERS or self._fields > MOST_HEADERS:
            self._fail(HeadersTooLarge())
        if self._head_done:
            return
        name = name.lower()
        assert self.receiving is not None
        self.receiving.headers.append((name, value))
        note = _NOTED.get(name)
        if note is not None:
            note(self, self.receiving, value.strip())

    def _note_host(self, exchange: Exchange, value: bytes) -> None:
        self._hosts += 1
        if value != self._host:  # it seldom changes on a connection
            if head_rules.HOST.fullmatch(value) is None:
                self._fail(BadRequest(head_rules.NOT_A_HOST))
            self._host = value

    def _note_expect(self, exchange: Exchange, value: bytes) -> None:
        self._expects = value.lower() == b"100-continue"

    def _note_length(self, exchange: Exchange, value: bytes) -> None:
        if not value.isdigit():
            self._fail(BadRequest(head_rules.NOT_A_LENGTH))
        self._length = int(value)  # the parser has seen to it that it is the only one

    def _note_encoding(self, exchange: Exchange, value: bytes) -> None:
        self._encodings += 1
        if value.lower() != b"chunked" or self._encodings > 1:
            self._fail(BadRequest(head_rules.UNKNOWN_CODING))

    def _note_forwarded(self, exchange: Exchange, value: bytes) -> None:
        self._forwarded.append(value)

    def _note_accept(self, exchange: Exchange, value: bytes) -> None:
        exchange.accept += b"," + value

    def _note_origin(self, exchange: Exchange, value: bytes) -> None:
        exchange.origin += b", " + value if exchange.origin else value  # several are none that is listed

    def _note_request_id(self, exchange: Exchange, value: bytes) -> None:
        self._ids += 1
        if self._ids == 1 and REQUEST_ID.fullmatch(value):
            exchange.request_id = value

    def _note_service_worker(self, exchange: Exchange, value: bytes) -> None:
        exchange.script = value.lower() == b"script"

    def _note_authorization(self, exchange: Exchange, value: bytes) -> None:
        if exchange.authorization is not None and self._traffic.tokens.required:
            self._fail(BadRequest(head_rules.ONE_AUTHORIZATION))
        exchange.authorization = value

    def on_headers_complete(self) -> None:
        """The head is whole. What asks for an upgrade is looked at when the parser lets go of it."""
        exchange, parser = self.receiving, self._parser
        assert exchange is not None and parser is not None
        if self._malformed:
            self._fail(BadRequest("malformed request"))
        self._head_done = True
        self._cutter = Cutter(self._length)
        self._overhead = 0
        self._upgrading = parser.should_upgrade()
        exchange.version = parser.get_http_version()
        fault = head_rules.fault(exchange.version, self._hosts, self._encodings, self._length is not None)
        if fault is not None:
            self._fail(BadRequest(fault))
        try:
            exchange.path, query = routes.split(self.url)
        except BadRequest as error:
            self._fail(error)
        exchange.keep_alive = parser.should_keep_alive()
        self._connection.asked_for(self._forwarded)
        exchange.scope = self._scope(exchange, query)
        if self._upgrading:
            return
        if exchange.method == "GET" and exchange.path == handshake.FEED:
            self._is_feed = True
            raise Refused  # by the parser alone: the gateway answers, and nothing can follow on this connection
        self._admit(exchange)

    def _scope(self, exchange: Exchange, query: bytes) -> dict[str, Any]:
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": exchange.version,
            "method": exchange.method,
            "scheme": "http",
            "path": exchange.path.decode(),  # not decoded further: whoever routes by it would be wrong
            "raw_path": exchange.path,
            "query_string": query,
            "root_path": "",
            "headers": exchange.headers,
            "client": self._connection.client,
            "server": None,
            SHARE: self._connection.stake.share,
        }
        if exchange.script:
            scope[SCRIPT] = True
        if exchange.request_id:
            scope[GIVEN_ID] = exchange.request_id
        return scope

    def _admit(self, exchange: Exchange) -> None:
        """Who asks, from where, and how much body there may be."""
        has_body = bool(self._length) or self._encodings > 0
        exchange.error = self._traffic.pages.refusal(exchange.method, self.url, exchange.headers)
        if exchange.error is not None:
            if has_body:  # it is not waited for
                self._fail(exchange.error)
            return
        if self._traffic.tokens.required:
            self._authenticate(exchange, has_body)
        else:
            exchange.scope[GRANTS] = EVERYTHING
        if has_body:
            traffic = self._traffic
            self._allowance = body_rules.allowance(exchange.method, exchange.path, traffic.max_value, traffic.max_batch)

    def _look_ahead(self, more: int) -> None:
        """Refuse a request by its head, if that is enough, and its body is not among the `more` bytes that are here.

        A body that is there is no burden: then its request is answered in its turn, and another may follow.
        """
        exchange, length = self.receiving, self._length
        if exchange is None:
            return
        allowed, too_large = self._allowance, (length or 0) > self._allowance.most
        if length is not None and length <= more and not too_large and not self._expects:
            return
        failure = self._traffic.foresee(exchange.scope)
        if failure is None and (allowed.forbidden or too_large):
            failure = allowed.too_large()
        if failure is not None:
            raise failure
        exchange.check_places()
        self._connection.stake.check(length or 0)
        if self._expects and exchange.version == "1.1":
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _authenticate(self, exchange: Exchange, has_body: bool) -> None:
        """Who lacks a token is told so in its turn; its body is not waited for."""
        exchange.judged_by = self._traffic.tokens.generation
        try:
            exchange.scope[GRANTS] = self._traffic.tokens.authenticate(exchange.authorization)
        except Unauthorized as error:
            exchange.scope[GRANTS] = NOTHING
            if exchange.method == "OPTIONS" or routes.is_open(exchange.path) or _is_for_a_page(exchange):
                return
            if has_body:
                self._fail(error)
            exchange.error = error

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        exchange, allowed = self.receiving, self._allowance
        assert exchange is not None
        self._overhead = 0
        self.body_bytes += len(body)
        if self.body_bytes > allowed.most:
            self._fail(allowed.too_large())
        if not exchange.body:
            exchange.body = body if len(body) <= allowed.kept else body[: allowed.kept]
        elif allowed.kept == allowed.most:
            if type(exchange.body) is bytes:
                exchange.body = bytearray(exchange.body)
            exchange.body += body
        try:
            self._connection.stake.check_bytes(len(exchange.body) - self._connection.stake.size)
        except Overloaded as failure:
            self._fail(failure)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._upgrading:
            return
        exchange, self.receiving = self.receiving, None
        assert exchange is not None
        self._connection.arrived(exchange)

    def _fail(self, failure: KVError) -> None:
        self._failure = failure
        raise Refused


def _is_for_a_page(exchange: Exchange) -> bool:
    """Whether a browser asks for what leads it to a page; see `memorykv.Key`, which judges it by its grants."""
    is_read = exchange.method in ("GET", "HEAD")
    return is_read and routes.is_page_name(exchange.path) and names(exchange.accept, HTML)


_NOTED: Final = {
    b"host": Intake._note_host,
    b"expect": Intake._note_expect,
    b"content-length": Intake._note_length,
    b"transfer-encoding": Intake._note_encoding,
    b"accept": Intake._note_accept,
    b"authorization": Intake._note_authorization,
    b"origin": Intake._note_origin,
    b"x-request-id": Intake._note_request_id,
    b"service-worker": Intake._note_service_worker,
    b"x-forwarded-for": Intake._note_forwarded,
}
"""Headers that are looked at here."""
