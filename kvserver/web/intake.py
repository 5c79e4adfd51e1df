"""From bytes to requests: httptools' callbacks, with the guards that need no more than a request's head and size.

What is refused here never reaches the application: targets and headers that are malformed or too long, bodies that are
too large (before they are read, and before `100 Continue`), two readings of where a body ends, and requests beyond
what the server works on at a time.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final

import httptools

from kvserver.access.grants import EVERYTHING, NOTHING
from kvserver.web import handshake, heads, target
from kvserver.web.answers import REQUEST_ID, Headers, UnknownMethod, lines
from kvserver.web.exchange import GIVEN_ID, GRANTS, SCRIPT, Exchange
from kvserver.web.heads import HEADERS, MOST_HEADERS, REQUEST_LINE
from kvserver.web.traffic import MOST_BYTES
from shards.errors import BadRequest, HeadersTooLarge, KVError, Overloaded, Unauthorized, UriTooLong, ValueTooLarge

if TYPE_CHECKING:
    from kvserver.web.http import Protocol

log = logging.getLogger("kvserver.web.http")

_REQUEST_LINE = re.compile(rb"(?:\r?\n)*[!#$%&'*+.^_`|~0-9A-Za-z-]+ ([^ \r\n]+) HTTP/")
"""What the parser does not tell of a request whose method it does not know."""
_OVERHEAD: Final = 1 << 20
"""Bytes of chunk headers and trailers that may come without any body between them."""
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class Refused(Exception):
    """Raised in a callback to stop the parser; `Intake.failure` says why."""


class Upgrade(Exception):
    """A request asks for another protocol, or for a feed; `rest` is what came behind its head."""

    def __init__(self, rest: bytes) -> None:
        super().__init__()
        self.rest = rest


class Intake:
    """Makes the requests of one connection.

    Attributes:
        receiving: the request that arrives, None between requests.
        head_done: its head has arrived.
        expects: its client waits for `100 Continue`.
        url: its target.
    """

    def __init__(self, connection: Protocol) -> None:
        self._connection, self._traffic = connection, connection.traffic
        self._failure: KVError | None = None
        self._ignored_upgrade: bytes | None = None
        self._is_feed = False
        self.receiving: Exchange | None = None
        self.url = self._host = b""
        self.head_done = self.expects = False
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # Bytes behind a request that ends the connection are not its fault: it is answered, they are ignored.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed(self, data: bytes) -> KVError | None:
        """Parse. Returns why the connection cannot go on, raises `Upgrade`."""
        before = self.receiving
        progress = 0 if before is None else len(before.body)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            raise Upgrade(data[upgrade.args[0] :]) from None
        except httptools.HttpParserError as error:
            if self._is_feed:
                raise Upgrade(b"") from None
            return self._why(error, data)
        if before is not None and before is self.receiving and len(before.body) == progress:
            return self._count_overhead(len(data))
        return None

    def _why(self, error: httptools.HttpParserError, data: bytes) -> KVError | None:
        failure, self._failure = self._failure, None
        if failure is not None or self._connection.over:  # the parser was stopped behind the last request
            return failure
        if isinstance(error, httptools.HttpParserCallbackError):
            log.error("a request could not be taken", exc_info=error)
            return KVError()
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            if self.receiving is not None and (line := _REQUEST_LINE.match(data)) is not None:
                self.url = line[1]
            return UnknownMethod()
        if isinstance(error, httptools.HttpParserInvalidURLError) and self.receiving is not None:
            self.receiving.method = self._parser.get_method().decode()
            if (line := _REQUEST_LINE.match(data)) is not None:
                self.url = line[1]
        return BadRequest(f"malformed request: {error}")

    def _count_overhead(self, size: int) -> KVError | None:
        """Bound what is neither body nor a header we were told of: the parser keeps such bytes."""
        self._overhead += size
        if not self.head_done:
            return HeadersTooLarge() if self._overhead > HEADERS + REQUEST_LINE else None
        return ValueTooLarge() if self._overhead > _OVERHEAD else None

    def take(self) -> Exchange:
        """What has arrived of a request, if anything: it goes no further."""
        exchange, self.receiving = self.receiving or Exchange(self._connection), None
        exchange.path = exchange.path or target.without_authority(self.url)
        return exchange

    def ignore_upgrade(self, rest: bytes) -> bytes:
        """Start again with the request that asked for another protocol; returns the bytes to feed.

        The parser skips the body of such a request, and would take it for the next one. So it is given the request
        without its Upgrade header. (curl --http2 and Java's client offer h2c with every request.)
        """
        exchange = self.take()
        self._ignored_upgrade = b", ".join(value for name, value in exchange.headers if name == b"upgrade")
        self._new_parser()
        return self.raw_head(exchange, [header for header in exchange.headers if header[0] != b"upgrade"]) + rest

    def raw_head(self, exchange: Exchange, headers: Headers) -> bytes:
        """The head of the latest request with `headers`, as it is sent."""
        request_line = b"%b %b HTTP/%b\r\n" % (exchange.method.encode(), self.url, exchange.version.encode())
        return request_line + lines(headers) + b"\r\n"

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """First byte of a request."""
        if self._connection.over:
            raise Refused
        self.receiving = Exchange(self._connection)
        self.url = b""
        self._header_bytes = self._fields = self._overhead = self._hosts = self._encodings = self._ids = 0
        self.head_done = self.expects = self._upgrading = False
        self._length: int | None = None
        self._connection.begun()
        if self._ignored_upgrade is not None:
            self.receiving.headers.append((b"upgrade", self._ignored_upgrade))
            self._ignored_upgrade = None

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        if not self.url:  # before, the parser does not know the method
            assert self.receiving is not None
            self.receiving.method = self._parser.get_method().decode()
        self.url += url
        if len(self.url) > REQUEST_LINE - 64 and self._request_line() > REQUEST_LINE:
            self._fail(UriTooLong())

    def _request_line(self) -> int:
        assert self.receiving is not None
        return len(self.receiving.method) + len(self.url) + len(b"  HTTP/1.1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        self._header_bytes += len(name) + len(value) + 4
        self._fields += 1
        if self._header_bytes > HEADERS or self._fields > MOST_HEADERS:
            self._fail(HeadersTooLarge())
        if self.head_done:
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
            if heads.HOST.fullmatch(value) is None:
                self._fail(BadRequest(heads.NOT_A_HOST))
            self._host = value

    def _note_expect(self, exchange: Exchange, value: bytes) -> None:
        self.expects = value.lower() == b"100-continue"

    def _note_length(self, exchange: Exchange, value: bytes) -> None:
        if not value.isdigit():
            self._fail(BadRequest(heads.NOT_A_LENGTH))
        self._length = int(value)  # the parser has seen to it that it is the only one

    def _note_encoding(self, exchange: Exchange, value: bytes) -> None:
        self._encodings += 1
        if value.lower() != b"chunked" or self._encodings > 1:
            self._fail(BadRequest(heads.UNKNOWN_CODING))

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
            self._fail(BadRequest(heads.ONE_AUTHORIZATION))
        exchange.authorization = value

    def on_headers_complete(self) -> None:
        """The head is whole. What asks for an upgrade is looked at when the parser lets go of it."""
        exchange, parser = self.receiving, self._parser
        assert exchange is not None
        self.head_done = True
        self._overhead = 0
        self._upgrading = parser.should_upgrade()
        exchange.version = parser.get_http_version()
        fault = heads.fault(exchange.version, self._hosts, self._encodings, self._length is not None)
        if fault is not None:
            self._fail(BadRequest(fault))
        try:
            exchange.path, query = target.split(self.url)
        except BadRequest as error:
            self._fail(error)
        exchange.keep_alive = parser.should_keep_alive()
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
        }
        if exchange.script:
            scope[SCRIPT] = True
        if exchange.request_id:
            scope[GIVEN_ID] = exchange.request_id
        return scope

    def _admit(self, exchange: Exchange) -> None:
        """Who asks, and limits. A request that waits behind others is counted when its turn comes."""
        connection = self._connection
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
        if exchange.error is None and connection.is_next and not exchange.enter() and has_body:
            self._fail(Overloaded())
        if not has_body:
            return
        length = self._length or 0
        self._most = self._traffic.most_of_body(exchange.path)
        if length > self._most:
            self._fail(self._traffic.too_large(exchange.path))
        if self._traffic.bytes_held + length > MOST_BYTES:
            self._shed()
        if self.expects and exchange.version == "1.1" and connection.is_next:
            self.go_on()

    def _authenticate(self, exchange: Exchange, has_body: bool) -> None:
        """Who lacks a token is told so in its turn; its body is not waited for."""
        exchange.judged_by = self._traffic.tokens.generation
        try:
            exchange.scope[GRANTS] = self._traffic.tokens.authenticate(exchange.authorization)
        except Unauthorized as error:
            exchange.scope[GRANTS] = NOTHING
            if exchange.method == "OPTIONS" or target.is_open(exchange.path):
                return
            if has_body:
                self._fail(error)
            exchange.error = error

    def _shed(self) -> None:
        self._traffic.counts.overloads += 1
        self._fail(Overloaded())

    def go_on(self) -> None:
        """Tell the client to send its body, if it waits for that."""
        if self.head_done and self.expects:
            self.expects = False
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        exchange = self.receiving
        assert exchange is not None
        self._overhead = 0
        if not exchange.body:
            exchange.body = body
        else:
            if type(exchange.body) is bytes:
                exchange.body = bytearray(exchange.body)
            exchange.body += body
        exchange.hold(len(body))
        if len(exchange.body) > self._most:
            self._fail(self._traffic.too_large(exchange.path))
        if self._traffic.bytes_held > MOST_BYTES:
            self._shed()

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
}
"""Headers that are looked at here."""
