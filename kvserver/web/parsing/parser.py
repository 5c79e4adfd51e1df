"""From bytes to requests: the callbacks of httptools, and the limits of a head and a body.

A head is kept as it arrives, and parsed when it is whole: half a head takes no more memory than its bytes. httptools
never gets a byte behind the request that it is at, so what a client sends ahead waits unparsed.

What is refused here never reaches the application: targets and headers that are malformed or too long, bodies that are
too large, and two readings of where a body ends. `head_checks` has what a head alone decides.
"""

from __future__ import annotations

import contextlib
import logging
from time import perf_counter
from typing import Any, Final

import httptools

from kvserver.access.grants import EVERYTHING
from kvserver.http import handshake, head_rules, routes
from kvserver.http.head_rules import HEADERS, MOST_HEADERS
from kvserver.http.responses import REQUEST_ID, Headers, format_headers
from kvserver.http.scope import GIVEN_ID, GRANTS, QUOTA, SCRIPT
from kvserver.web.context import WorkerContext
from kvserver.web.limits.peer import Peer
from kvserver.web.parsing import body_rules, head_checks
from kvserver.web.parsing.body_end import BodyCutter
from kvserver.web.parsing.request import IncomingRequest, RequestHead
from shards.wire.errors import BadRequest, HeadersTooLarge, KVError, ValueTooLarge

log = logging.getLogger("kvserver.web.http")

_OVERHEAD: Final = 64 << 10
"""Bytes of chunk headers and trailers that may come without any body between them: httptools keeps such bytes."""
_FIELD: Final = 150
"""Bytes of memory that a header field takes in addition to its own."""
_PIECES: Final = 64
"""Pieces of a chunked body that are parsed before other connections have their turn: there can be very many."""
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class Upgrade(Exception):
    """A request asks for another protocol, or for a feed; the bytes behind its head begin at `at`."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at = at


class _FeedRequested(Exception):
    """Raised in a callback to stop httptools: the gateway answers, and no request can follow on this connection."""


_NO_HEAD: Final = RequestHead()


class RequestParser:
    """Produces the requests of one connection, one at a time.

    Attributes:
        partial_head: what has arrived of a head that is not whole yet.
        receiving: the request whose head is whole, and whose body is still to come; None if there is none.
        completed: a request that has arrived whole; whoever takes it sets None.
        message: what is noted of the latest request.
    """

    __slots__ = (
        "_begun_at",
        "_context",
        "_httptools",
        "_ignored_upgrade",
        "_is_malformed",
        "_known_host",
        "_other_method",
        "_peer",
        "completed",
        "message",
        "partial_head",
        "receiving",
    )

    def __init__(self, context: WorkerContext, peer: Peer) -> None:
        self._context, self._peer = context, peer
        self._httptools: httptools.HttpRequestParser | None = None
        self._ignored_upgrade: bytes | None = None
        self._is_malformed = False
        self._begun_at = 0.0
        self._other_method = ""  # if httptools is given a stand-in for it
        self._known_host = b""  # the latest valid Host
        self.partial_head: bytes | bytearray = b""
        self.receiving: IncomingRequest | None = None
        self.completed: IncomingRequest | None = None
        self.message = _NO_HEAD

    @property
    def is_unfinished(self) -> bool:
        """Whether a request has arrived in part."""
        return bool(self.partial_head) or self.receiving is not None

    @property
    def size(self) -> int:
        """About how many bytes of memory a request takes that has arrived in part."""
        if self.receiving is None:
            return len(self.partial_head)
        message = self.message
        return message.size + _FIELD * message.fields + len(self.receiving.body) + message.overhead

    def feed_head(self, data: bytes, at: int) -> int:
        """Take in `data` from `at` on, up to the end of a head at most; return where the rest begins.

        Afterwards `receiving` is the request if a body follows, `completed` if none does. Raises
        `KVError` if the request is refused and the connection cannot continue, `Upgrade`.
        """
        known = len(self.partial_head)
        if not known:
            self._begun_at = perf_counter()
            self.partial_head = (data[at:] if at else data).lstrip(b"\r\n")
            at = len(data) - len(self.partial_head)
        else:
            if type(self.partial_head) is bytes:
                self.partial_head = bytearray(self.partial_head)
            self.partial_head += data[at:]
            at -= known
        end = head_rules.find_end(self.partial_head, known)
        if end:
            head = self.partial_head if end == len(self.partial_head) else self.partial_head[:end]
            self.partial_head = b""
            self._parse_head(bytes(head), at + end)
            return at + end
        if self.partial_head and head_rules.is_malformed(self.partial_head, known):
            self._is_malformed = True
            self._parse_head(bytes(self.partial_head), 0)
            raise BadRequest("malformed request")
        return len(data)

    def feed_body(self, data: bytes, at: int) -> int:
        """Take in `data` from `at` on, up to the end of the body of `receiving` at most, and not too many pieces of it.

        Returns where the rest begins. Raises as `feed_head` does.
        """
        pieces, message = 0, self.message
        while self.receiving is not None and at < len(data) and pieces < _PIECES:
            end = message.cutter.find_end(data, at)
            self._parse_body(data if end - at == len(data) else memoryview(data)[at:end])
            at, pieces = end, pieces + 1
        return at

    def take_partial(self) -> IncomingRequest:
        """What has arrived of a request, if anything: it goes no further."""
        if self.partial_head:
            self._parse_partial_head()
        request, self.receiving = self.receiving or IncomingRequest(perf_counter()), None
        request.path = request.path or routes.without_authority(self.message.target)
        return request

    def drop_partial(self) -> None:
        """Forget what has arrived of a request."""
        self.partial_head, self.receiving = b"", None

    def ignore_upgrade(self) -> None:
        """Parse the request that asked for another protocol again, without its Upgrade header. Raises as `feed_head`.

        httptools skips the body of such a request, and would take it for the next one. (curl --http2 and Java's client
        offer h2c with every request.)
        """
        request = self.take_partial()
        self._ignored_upgrade = b", ".join(value for name, value in request.headers if name == b"upgrade")
        self._create_httptools()
        self._parse_head(
            self.format_head(request, [header for header in request.headers if header[0] != b"upgrade"]), 0
        )

    def format_head(self, request: IncomingRequest, headers: Headers) -> bytes:
        """The head of the latest request with `headers`, as it is sent."""
        request_line = b"%b %b HTTP/%b\r\n" % (request.method.encode(), self.message.target, request.version.encode())
        return request_line + format_headers(headers) + b"\r\n"

    def _parse_head(self, head: bytes, at: int) -> None:
        """Parse the head of the next request; `at`: where the rest of the buffer begins. Raises as `feed_head`."""
        if self._httptools is None:
            self._create_httptools()
        self._other_method = method = head_rules.find_other_method(head).decode()
        try:
            self._feed_httptools(head if not method else head_rules.STAND_IN + head[len(method) :], at)
        except KVError:
            self._identify(head)
            raise

    def _create_httptools(self) -> None:
        self._httptools = httptools.HttpRequestParser(self)
        # Bytes behind a request that ends the connection are not its fault: it is answered, they are ignored.
        self._httptools.set_dangerous_leniencies(lenient_data_after_close=True)

    def _feed_httptools(self, data: bytes | memoryview, at: int = 0) -> None:
        assert self._httptools is not None
        try:
            self._httptools.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise Upgrade(at) from None
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__  # what a callback has raised
            if isinstance(cause, _FeedRequested):
                raise Upgrade(at) from None
            if isinstance(cause, KVError):
                raise cause from None
            log.error("a request could not be taken", exc_info=error)
            raise KVError from None
        except httptools.HttpParserError as error:
            raise BadRequest(f"malformed request: {error}") from None

    def _parse_body(self, piece: bytes | memoryview) -> None:
        message = self.message
        before = message.body_bytes
        self._feed_httptools(piece)
        if self.receiving is not None and message.body_bytes == before:
            message.overhead += len(piece)
            if message.overhead > _OVERHEAD:
                raise ValueTooLarge

    def _parse_partial_head(self) -> None:
        """Find in a part of a head what its refusal needs: what the client accepts, for instance."""
        head, self.partial_head = bytes(self.partial_head), b""
        self._is_malformed = True  # it must not become a request
        with contextlib.suppress(KVError, Upgrade):
            self._parse_head(head + b"\r\n", 0)  # httptools reports a field only when its line has ended
        self._identify(head)

    def _identify(self, head: bytes) -> None:
        """Find method and target of a request that is refused, whatever httptools has reported of it."""
        self.receiving = self.receiving or IncomingRequest(perf_counter())
        method, target = head_rules.find_beginning(head)
        if self.message is _NO_HEAD:
            self.message = RequestHead()
        self.message.target = target
        self.receiving.method = method.decode()

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        """First byte of a head."""
        self.receiving = request = IncomingRequest(self._begun_at, self._other_method)
        self.message = RequestHead()
        if self._ignored_upgrade is not None:
            request.headers.append((b"upgrade", self._ignored_upgrade))
            self._ignored_upgrade = None

    def on_url(self, url: bytes) -> None:
        """The request target, or a part of it."""
        assert self.receiving is not None and self._httptools is not None
        self.receiving.method = self._other_method or self._httptools.get_method().decode()
        self.message.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped. Raises `HeadersTooLarge`, `BadRequest`."""
        message, request = self.message, self.receiving
        message.size += len(name) + len(value) + 4
        message.fields += 1
        if message.size > HEADERS or message.fields > MOST_HEADERS:
            raise HeadersTooLarge
        if message.is_whole:
            return
        name = name.lower()
        assert request is not None
        request.headers.append((name, value))
        note = _NOTED.get(name)
        if note is not None:
            note(self, request, value.strip())

    def _note_host(self, request: IncomingRequest, value: bytes) -> None:
        self.message.hosts += 1
        if value != self._known_host:  # it seldom changes on a connection
            if head_rules.HOST.fullmatch(value) is None:
                raise BadRequest(head_rules.NOT_A_HOST)
            self._known_host = value

    def _note_expect(self, request: IncomingRequest, value: bytes) -> None:
        self.message.expects_continue = value.lower() == b"100-continue"

    def _note_length(self, request: IncomingRequest, value: bytes) -> None:
        if not value.isdigit():
            raise BadRequest(head_rules.NOT_A_LENGTH)
        self.message.length = int(value)  # httptools has refused a second one

    def _note_encoding(self, request: IncomingRequest, value: bytes) -> None:
        self.message.codings += 1
        if value.lower() != b"chunked" or self.message.codings > 1:
            raise BadRequest(head_rules.UNKNOWN_CODING)

    def _note_forwarded(self, request: IncomingRequest, value: bytes) -> None:
        self.message.forwarded.append(value)

    def _note_accept(self, request: IncomingRequest, value: bytes) -> None:
        request.accept += b"," + value

    def _note_origin(self, request: IncomingRequest, value: bytes) -> None:
        request.origin += b", " + value if request.origin else value  # a list of several is in no list of origins

    def _note_request_id(self, request: IncomingRequest, value: bytes) -> None:
        self.message.ids += 1
        if self.message.ids == 1 and REQUEST_ID.fullmatch(value):
            request.id = value

    def _note_service_worker(self, request: IncomingRequest, value: bytes) -> None:
        request.is_script = value.lower() == b"script"

    def _note_authorization(self, request: IncomingRequest, value: bytes) -> None:
        if request.authorization is not None and self._context.tokens.required:
            raise BadRequest(head_rules.ONE_AUTHORIZATION)
        request.authorization = value

    def on_headers_complete(self) -> None:
        """The head is whole. Raises `KVError` if it is refused, `_FeedRequested` if it asks for a feed.

        A request for another protocol is looked at when httptools has reported the upgrade.
        """
        request, message, parser = self.receiving, self.message, self._httptools
        assert request is not None and parser is not None
        if self._is_malformed:
            raise BadRequest("malformed request")
        message.is_whole = True
        message.overhead = 0
        message.is_upgrade = parser.should_upgrade()
        request.version = parser.get_http_version()
        fault = head_rules.find_fault(request.version, message.hosts, message.codings, message.length is not None)
        if fault is not None:
            raise BadRequest(fault)
        request.path, query = routes.split_target(message.target)
        request.keep_alive = parser.should_keep_alive()
        self._peer.identify(message.forwarded)
        request.scope = self._create_scope(request, query)
        if message.is_upgrade:
            return
        if request.method == "GET" and request.path == handshake.FEED:
            raise _FeedRequested
        self._admit(request, message)

    def _create_scope(self, request: IncomingRequest, query: bytes) -> dict[str, Any]:
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
            "client": self._peer.address,
            "server": None,
            QUOTA: self._peer.quota,
        }
        if request.is_script:
            scope[SCRIPT] = True
        if request.id:
            scope[GIVEN_ID] = request.id
        return scope

    def _admit(self, request: IncomingRequest, message: RequestHead) -> None:
        """Check the page and the token that ask. A refused request without a body is answered in its turn; a body that
        would follow is not waited for: raises `KVError`."""
        context = self._context
        request.error = context.pages.find_refusal(request.method, message.target, request.headers)
        if request.error is None:
            if context.tokens.required:
                head_checks.authenticate(context.tokens, request)
            else:
                request.scope[GRANTS] = EVERYTHING
        if message.has_body:
            if request.error is not None:
                raise request.error
            message.cutter = BodyCutter(message.length)
            message.allowance = body_rules.find_allowance(
                request.method, request.path, context.max_value, context.max_batch
            )

    def on_body(self, body: bytes) -> None:
        """A part of the body. Raises `KVError` if it is too large, `Overloaded` if there are too many bytes of all."""
        request, message = self.receiving, self.message
        assert request is not None
        allowed = message.allowance
        message.overhead = 0
        message.body_bytes += len(body)
        if message.body_bytes > allowed.most:
            raise allowed.too_large()
        if not request.body:
            request.body = body if len(body) <= allowed.kept else body[: allowed.kept]
        elif allowed.kept == allowed.most:
            if type(request.body) is bytes:
                request.body = bytearray(request.body)
            request.body += body
        self._peer.check_bytes(len(request.body) - self._peer.size)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self.message.is_upgrade:
            self.completed, self.receiving = self.receiving, None


_NOTED: Final = {
    b"host": RequestParser._note_host,
    b"expect": RequestParser._note_expect,
    b"content-length": RequestParser._note_length,
    b"transfer-encoding": RequestParser._note_encoding,
    b"accept": RequestParser._note_accept,
    b"authorization": RequestParser._note_authorization,
    b"origin": RequestParser._note_origin,
    b"x-request-id": RequestParser._note_request_id,
    b"service-worker": RequestParser._note_service_worker,
    b"x-forwarded-for": RequestParser._note_forwarded,
}
"""Headers that the parser looks at."""
