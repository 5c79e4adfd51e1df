"""From bytes to requests: the callbacks of httptools, and the limits of a head and a body.

A head is kept as it arrives, and parsed when it is whole: half a head takes no more memory than its bytes. httptools
never gets a byte after the request that it is at, so what a client sends ahead waits unparsed.

What is refused here never reaches the application: targets and headers that are malformed or too long, bodies that are
too large, and two readings of where a body ends. `head_checks` has what a head alone decides.
"""

from __future__ import annotations

import contextlib
import logging
from time import perf_counter
from typing import Final

import httptools

from kvserver.access.grants import EVERYTHING
from kvserver.http import handshake, head_rules, routes
from kvserver.http.head_rules import HEADERS, MOST_HEADERS
from kvserver.http.scope import GRANTS
from kvserver.web.context import WorkerContext
from kvserver.web.limits.peer import Peer
from kvserver.web.parsing import body_rules, head_checks
from kvserver.web.parsing.body_end import BodyCutter
from kvserver.web.parsing.request import NOTED_HEADERS, IncomingRequest, RequestHead, create_scope
from shards.wire.errors import BadRequest, HeadersTooLarge, KVError, ValueTooLarge

log = logging.getLogger("kvserver.web.http")

_OVERHEAD: Final = 64 << 10
"""Bytes of chunk headers and trailers that may come without any body between them: httptools keeps such bytes."""
_FIELD: Final = 150
"""Bytes of memory that a header field takes in addition to its own."""
_PIECES: Final = 64
"""Pieces of a chunked body that are parsed before other connections have their turn: there can be very many."""


class Upgrade(Exception):
    """A request asks for another protocol, or for a feed; the bytes after its head begin at `at`."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at = at


class _FeedRequested(Exception):
    """Raised in a callback to stop httptools: the gateway answers, and no request can follow on this connection."""


_NO_HEAD: Final = RequestHead(b"", False)


class RequestParser:
    """Produces the requests of one connection, one at a time.

    Attributes:
        partial_head: what has arrived of a head that is not whole yet.
        receiving: the request whose head is whole, and whose body is still to come; None if there is none.
        completed: the request that has just arrived whole; the connection takes it, and sets None.
        message: what is noted of the latest request.
    """

    __slots__ = (
        "_begun_at",
        "_context",
        "_httptools",
        "_ignored_upgrade",
        "_is_malformed",
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
            before = message.body_bytes
            self._feed_httptools(data if end - at == len(data) else memoryview(data)[at:end])
            if self.receiving is not None and message.body_bytes == before:
                message.overhead += end - at
                if message.overhead > _OVERHEAD:
                    raise ValueTooLarge
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
            self.message.format_head(request, [header for header in request.headers if header[0] != b"upgrade"]), 0
        )

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
        # Bytes after a request that ends the connection are not its fault: it is answered, they are ignored.
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
            self.message = RequestHead(b"", False)
        self.message.target = target
        self.receiving.method = method.decode()

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        """First byte of a head."""
        self.receiving = request = IncomingRequest(self._begun_at, self._other_method)
        self.message = RequestHead(self.message.known_host, self._context.tokens.required)
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
        note = NOTED_HEADERS.get(name)
        if note is not None:
            note(message, request, value.strip())

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
        self._peer.identify(b",".join(message.forwarded))
        request.scope = create_scope(request, query, self._peer.address, self._peer.quota)
        if message.is_upgrade:
            return
        if request.method == "GET" and request.path == handshake.FEED:
            raise _FeedRequested
        self._admit(request, message)

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
