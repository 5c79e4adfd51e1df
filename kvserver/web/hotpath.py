"""The hot path: plain reads and writes of one key, answered without the parser and the application.

A buffer that is exactly one request of the subset below, and comes where a request begins, is answered from the map or
sent to its shard at once. Everything else, and whatever has an answer that is not plain, takes the ordinary road. The
subset leaves nothing to interpret: GET, PUT or DELETE of one key, no query, HTTP/1.1, exactly one Host, and only header
fields that change nothing or are looked at here as they are there. So both roads answer alike, but for Date,
X-Request-Id and revisions.

Clients repeat their header fields from request to request: what a block of them means is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from time import monotonic_ns, perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from kvserver.access.grants import Grants
from kvserver.http import compression, routes
from kvserver.http.responses import Headers
from kvserver.http.scope import ROUTE
from kvserver.http.value_headers import OCTETS, of_revision, of_value, stored_type
from kvserver.store.client import DEADLINE_S, Router
from kvserver.store.link import Pending
from kvserver.web.connection import IDLE_S
from kvserver.web.exchange import Exchange
from kvserver.web.traffic import LARGE_ANSWER, Traffic
from shards.maps.layout import HEADER, HEADER_SIZE, parse_record, with_wall_times
from shards.wire.clock import is_live
from shards.wire.errors import BadKey, KVError, NotFound, Unauthorized, Unavailable
from shards.wire.keys import MAX_KEY, is_content_type
from shards.wire.protocol import Delete, Done, Failed, Put, Reply

if TYPE_CHECKING:
    from kvserver.web.connection import Protocol

_REQUEST = re.compile(
    rb"(GET|PUT|DELETE) (/(?:v1/kv/([A-Za-z0-9._~!$&'()*+,;=:@%/-]{1,1533})|([A-Za-z0-9._~!$&'()*+,;=:@%-]{1,1533})))"
    rb" HTTP/1\.1\r\n"
)
_FIELD = re.compile(rb"([A-Za-z-]+): ?([!-~](?:[\t -~]*[!-~])?)?")
_HOST = re.compile(rb"[A-Za-z0-9.:\[\]_-]*")
_LENGTH = re.compile(rb"[0-9]{1,10}")

_LOOKED_AT: Final = frozenset(
    (
        b"host",
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"content-type",
        b"content-length",
        b"connection",
        b"origin",
        b"sec-fetch-site",
    )
)
_ASKER: Final = (b"host", b"origin", b"sec-fetch-site")
_IGNORED: Final = frozenset(
    (
        b"accept-language",
        b"cache-control",
        b"cookie",
        b"dnt",
        b"pragma",
        b"priority",
        b"referer",
        b"sec-ch-ua",
        b"sec-ch-ua-mobile",
        b"sec-ch-ua-platform",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-user",
        b"sec-gpc",
        b"upgrade-insecure-requests",
        b"user-agent",
    )
)
"""What browsers, curl and other clients send and what changes no answer."""
_RESERVED: Final = frozenset((b"ping", b"keys", b"wal", b"docs", b"console"))
"""Paths of one segment that are no key, or not only one."""
_OCTETS: Final = [("content-type", OCTETS)]
_unpack = HEADER.unpack_from
_DEADLINE_NS: Final = int(DEADLINE_S * 1e9)
_LONGEST_BLOCK: Final = 2 << 10
_MOST_BLOCKS: Final = 512
_LONGEST_RECORD: Final = 2 * LARGE_ANSWER
"""Bytes of a record that surely has a value which is not answered here: it is not even copied out of its record."""


class Fields(NamedTuple):
    """What a block of header fields says of its request; empty where there is no such field.

    `content_type`: as it is stored. `length`: of the body. `asker`: those that `Pages` judges by.
    """

    accept: bytes
    accept_encoding: str
    authorization: bytes
    content_type: str
    length: int
    has_body: bool
    origin: bytes
    asker: Headers


def read_fields(block: bytes) -> Fields | None:
    """The header fields of a request, each line with its end; None if they are not of the subset. Pure."""
    found: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n")[:-1]:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name, value = field[1].lower(), field[2] or b""
        if name in _LOOKED_AT and name not in found:
            found[name] = value
        elif name not in _IGNORED:
            return None
    length = found.get(b"content-length")
    if _HOST.fullmatch(found.get(b"host", b"/")) is None or (length is not None and not _LENGTH.fullmatch(length)):
        return None
    if found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    content_type = found.get(b"content-type", b"").decode()
    if not is_content_type(content_type):
        return None
    return Fields(
        b"," + found[b"accept"] if b"accept" in found else b"",
        found.get(b"accept-encoding", b"").decode(),
        found.get(b"authorization", b""),
        stored_type(content_type),
        int(length or b"0"),
        length is not None,
        found.get(b"origin", b""),
        [(name, found[name]) for name in _ASKER if name in found],
    )


class HotPath:
    """One per worker. `take` is what connections offer their buffers to."""

    def __init__(self, router: Router, traffic: Traffic) -> None:
        self._router, self._traffic = router, traffic
        self._blocks: dict[bytes, Fields | None] = {}

    def take(self, connection: Protocol, data: bytes) -> bool:
        """Answer `data`, or see to its answer; False, and nothing done, if it has to take the ordinary road.

        `connection` expects a request, has none to answer, and its client takes what is written.
        """
        request = _REQUEST.match(data)
        if request is None:
            return False
        begun_at, begin = perf_counter(), request.end()
        end = data.find(b"\r\n\r\n", begin - 2) + 2
        block = data[begin:end]
        fields = self._blocks.get(block) or self._read(block)
        if fields is None or not self._traffic.at_ease:
            return False
        method, path, of_v1, of_root = request.groups()
        if of_root in _RESERVED or len(data) != end + 2 + fields.length:
            return False
        key = of_v1 or of_root
        if len(key) > MAX_KEY or b"%" in key:
            key = _decoded(path)
            if not key:
                return False
        grants = None
        if self._traffic.tokens.required and (grants := self._grants(fields.authorization, method, key)) is None:
            return False
        if method == b"GET":
            return not fields.has_body and self._get(connection, path, key, of_root is None, fields, begun_at)
        if (method == b"PUT") != fields.has_body or not self._has_room(fields.length):
            return False
        at_root = of_root is not None
        if method == b"PUT":
            write = Write(connection, self._traffic, path, at_root, fields, begun_at, grants)
            write.operations = (Put(key, data[end + 2 :], fields.content_type, 0, 0, at_root),)
        else:
            write = Removal(connection, self._traffic, path, at_root, fields, begun_at, grants)
            write.operations = (Delete(key, at_root),)
            write.router, write.end = self._router, self._router.board.last_revision()
        write.size = len(key) + fields.length
        connection.answering = write
        self._router.enqueue(key, write)
        return True

    def _read(self, block: bytes) -> Fields | None:
        if len(block) > _LONGEST_BLOCK:
            return None
        fields = read_fields(block)
        if fields is None or not self._is_open_to(fields.asker):
            return None
        if len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        self._blocks[block] = fields
        return fields

    def _is_open_to(self, asker: Headers) -> bool:
        """Whether who asks gets the same answer as everybody: where origins are listed, pages are told theirs."""
        pages = self._traffic.pages
        if not pages.origins.all and any(name == b"origin" for name, _ in asker):
            return False
        return pages.refusal("", b"/", asker) is None

    def _grants(self, authorization: bytes, method: bytes, key: bytes) -> Grants | None:
        """What the client may, if that is to do this, and see what comes of it."""
        try:
            grants = self._traffic.tokens.authenticate(authorization)
        except Unauthorized:
            return None
        may = grants.may("read", key) and (method == b"GET" or grants.may("write", key))
        return grants if may else None

    def _has_room(self, length: int) -> bool:
        traffic = self._traffic
        return length <= traffic.max_value and traffic.bytes_held + length <= traffic.easy_bytes

    def _get(self, connection: Protocol, path: bytes, key: bytes, v1: bool, fields: Fields, begun_at: float) -> bool:
        """A small value that is there, or at the root the emptiness of one that is not."""
        router, traffic = self._router, self._traffic
        heads = traffic.heads[fields.origin != b""]
        try:
            record = router.record(key)
        except Unavailable:
            return False
        if record is not None and len(record) > _LONGEST_RECORD:
            return False
        if v1:
            item = None if record is None else parse_record(memoryview(record))
            if item is None or not self._is_plain(item.value, item.expires_ms, item.content_type, fields):
                return False
            if item.expires_ms or item.modified_ms > traffic.unix_ms:  # else it is told as it stands
                item = with_wall_times(item, router.board.now())
            value, head = (
                item.value,
                b"%bcontent-type: %b\r\n%b"
                % (
                    heads.of_value,
                    (item.content_type or OCTETS).encode(),
                    _lines(of_value(item)),
                ),
            )
        elif record is None:
            value, head = b"", heads.of_octets
        else:
            _, _, expiry, _, _, length = _unpack(record)
            value, head = record[HEADER_SIZE + length :], heads.of_octets
            kind = record[HEADER_SIZE : HEADER_SIZE + length]
            special = expiry or len(value) >= compression.SMALLEST
            if special and not self._is_plain(value, expiry, kind.decode(), fields):
                return False
        router.seen(key, record is not None)
        connection.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(value), value))
        connection.deadline = traffic.clock + IDLE_S
        connection.note("GET", routes.KV if v1 else routes.KEY, path, 200, begun_at)
        return True

    def _is_plain(self, value: bytes, expiry: int, content_type: str, fields: Fields) -> bool:
        """Whether the ordinary road would send `value`, as it is and at once."""
        if len(value) >= LARGE_ANSWER or (expiry and not is_live(expiry, self._router.board.now())):
            return False
        if len(value) < compression.SMALLEST or not fields.accept_encoding:
            return True
        return compression.choose(fields.accept_encoding) is None or not compression.is_codable(content_type)


class Write(Pending):
    """A PUT whose answer is due. Its connection answers it; where the answer is not plain, by an `Exchange`.

    Attributes:
        disconnected: set by the connection when its client has left.
    """

    __slots__ = (
        "_at_root",
        "_begun_at",
        "_connection",
        "_fields",
        "_path",
        "_places",
        "_share",
        "_traffic",
        "disconnected",
    )

    method = "PUT"

    def __init__(
        self,
        connection: Protocol,
        traffic: Traffic,
        path: bytes,
        at_root: bool,
        fields: Fields,
        begun_at: float,
        grants: Grants | None,
    ) -> None:
        self._connection, self._traffic, self._path = connection, traffic, path
        self._at_root, self._fields, self._begun_at = at_root, fields, begun_at
        self.disconnected = False
        self.count, self.deadline_ns = 1, monotonic_ns() + _DEADLINE_NS
        self._share = share = connection.stake.share
        self._places = traffic.places(share, grants)
        traffic.enter(self._places)
        traffic.bytes_held += fields.length
        if share is not None:
            share.bytes += fields.length

    def answer(self, replies: Iterator[Reply]) -> None:
        """Tell the client what became of its write."""
        reply = next(replies)
        if isinstance(reply, Failed):
            self.fail(reply.error())
        else:
            assert isinstance(reply, Done)
            self.tell(reply)

    def fail(self, error: KVError) -> None:
        """Tell the client that nothing did, or that nobody knows."""
        self._exchange().answer_error(error)

    def tell(self, done: Done) -> None:
        """Answer with what is done."""
        if self._at_root:
            self.send(200, _OCTETS, done.previous or b"")
        else:
            self.tell_version1(done)

    def tell_version1(self, done: Done) -> None:
        """The same, at a path of version 1."""
        self.send(204 if done.existed else 201, of_revision(done.revision), b"")

    def send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """The answer, which is plain unless something has come up."""
        connection, traffic = self._connection, self._traffic
        if self.disconnected or traffic.stopping or len(body) >= LARGE_ANSWER:
            self._exchange().answer(status, [(name.encode(), value.encode()) for name, value in headers], body)
            return
        heads = traffic.heads[self._fields.origin != b""]
        head = heads.of_octets if headers is _OCTETS else heads.of(status) + _lines(headers)
        if status == 204:
            connection.transport.write(head + b"\r\n")
        else:
            connection.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        traffic.leave(self._places)
        traffic.bytes_held -= self._fields.length
        if self._share is not None:
            self._share.bytes -= self._fields.length
        route = routes.KEY if self._at_root else routes.KV
        connection.note(self.method, route, self._path, status, self._begun_at)
        connection.answered_plainly()

    def _exchange(self) -> Exchange:
        """What the ordinary road would have in this request's place."""
        connection = self._connection
        exchange = Exchange(connection)
        exchange.method, exchange.path, exchange.accept = self.method, self._path, self._fields.accept
        exchange.scope = {ROUTE: routes.KEY if self._at_root else routes.KV}
        exchange.origin = self._fields.origin
        exchange.begun_at, exchange.disconnected = self._begun_at, self.disconnected
        exchange.keep_alive = exchange.counted = True
        exchange.bytes_held = self._fields.length
        exchange.share, exchange.places = self._share, self._places
        connection.answering = exchange
        return exchange


class Removal(Write):
    """A DELETE whose answer is due. `end`: the history's end before it was sent."""

    __slots__ = ("end", "router")

    method = "DELETE"
    operations: tuple[Delete]
    router: Router
    end: int

    def tell(self, done: Done) -> None:
        """Answer with what is done; a key that was not there is shown as activity."""
        if done.existed:
            super().tell(done)
        else:
            self.router.absent(self.operations[0].key, self.end)
            self.fail(NotFound())

    def tell_version1(self, done: Done) -> None:
        """A deleted key has no ETag."""
        self.send(204, [("kv-revision", str(done.revision))], b"")


def _decoded(path: bytes) -> bytes:
    """The key that `path` names; empty if it is none."""
    try:
        key = routes.resolve(path).argument
    except BadKey:
        return b""
    return key if len(key) <= MAX_KEY else b""


def _lines(headers: list[tuple[str, str]]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("ascii")
