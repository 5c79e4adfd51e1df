"""The hot path: plain reads and writes of one key, answered without the parser and the application.

A buffer that is exactly one request of the subset below, and comes where a request begins, is answered from the map or
sent to its shard at once. Everything else, and whatever has an answer that is not plain, takes the ordinary road. The
subset leaves nothing to interpret: GET, PUT or DELETE of a key that needs no decoding, no query, HTTP/1.1, exactly one
Host, and only header fields that change nothing or are looked at here as they are there. So both roads answer alike,
but for Date, X-Request-Id and revisions.

Clients repeat their header fields from request to request: what a block of them means is remembered.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from kvserver.resources import bodies, memorykv
from kvserver.resources.values import of_revision, of_value
from kvserver.web import coding, target
from kvserver.web.exchange import ROUTE, Exchange
from kvserver.web.http import IDLE_S
from kvserver.web.traffic import LARGE_ANSWER, MOST_BYTES, Traffic
from shards.errors import KVError, NotFound, Unauthorized, Unavailable
from shards.limits import is_content_type
from shards.mapfile import HEADER, HEADER_SIZE, parse
from shards.protocol import Delete, Done, Failed, Put, Reply

if TYPE_CHECKING:
    from kvserver.router import Router
    from kvserver.web.http import Protocol

_REQUEST = re.compile(
    rb"(GET|PUT|DELETE) (/(?:v1/kv/([A-Za-z0-9._~!$&'()*+,;=:@/-]{1,511})|([A-Za-z0-9._~!$&'()*+,;=:@-]{1,511})))"
    rb" HTTP/1\.1\r\n"
)
_FIELD = re.compile(rb"([A-Za-z-]+): ?([!-~](?:[\t -~]*[!-~])?)?")
_HOST = re.compile(rb"[A-Za-z0-9.:\[\]_-]*")
_LENGTH = re.compile(rb"[0-9]{1,10}")

_LOOKED_AT: Final = frozenset(
    (b"host", b"accept", b"accept-encoding", b"authorization", b"content-type", b"content-length", b"connection")
)
_IGNORED: Final = frozenset(
    (
        b"accept-language", b"cache-control", b"cookie", b"dnt", b"origin", b"pragma", b"priority", b"referer",
        b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform", b"sec-fetch-dest", b"sec-fetch-mode",
        b"sec-fetch-site", b"sec-fetch-user", b"sec-gpc", b"upgrade-insecure-requests", b"user-agent",
    )
)  # fmt: skip
"""What browsers, curl and other clients send and what changes no answer."""
_RESERVED: Final = frozenset((b"ping", b"keys", b"wal", b"docs", b"console"))
"""Paths of one segment that are no key, or not only one."""
_OCTETS: Final = [("content-type", memorykv.OCTETS)]
_unpack = HEADER.unpack_from
_LONGEST_BLOCK: Final = 2 << 10
_MOST_BLOCKS: Final = 512


class Fields(NamedTuple):
    """What a block of header fields says of its request; empty where there is no such field.

    `content_type`: as it is stored. `length`: of the body.
    """

    accept: bytes
    accept_encoding: str
    authorization: bytes
    content_type: str
    length: int
    has_body: bool


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
    length = found.get(b"content-length", b"")
    if _HOST.fullmatch(found.get(b"host", b"/")) is None or not (length == b"" or _LENGTH.fullmatch(length)):
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
        bodies.stored_type(content_type),
        int(length or b"0"),
        length != b"",
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
        method, path, key_of_v1, key = request.groups()
        if key in _RESERVED or len(data) != end + 2 + fields.length:
            return False
        if self._traffic.tokens.required and not self._may(fields.authorization, method, key_of_v1 or key):
            return False
        if method == b"GET":
            return not fields.has_body and self._get(connection, key_of_v1 or key, key is None, fields, begun_at)
        if (method == b"PUT") != fields.has_body or not self._has_room(fields.length):
            return False
        write = Write(connection, self._traffic, method, path, key is None, fields.accept, fields.length, begun_at)
        connection.answering = write
        if method == b"PUT":
            operation = Put(key_of_v1 or key, data[end + 2 :], fields.content_type, 0, 0, key is not None)
            self._router.submit(operation, write.answer)
        else:
            write.router, write.end = self._router, self._router.board.end()
            self._router.submit(Delete(key_of_v1 or key, key is not None), write.answer_delete)
        return True

    def _read(self, block: bytes) -> Fields | None:
        if len(block) > _LONGEST_BLOCK:
            return None
        fields = read_fields(block)
        if fields is not None:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = fields
        return fields

    def _may(self, authorization: bytes, method: bytes, key: bytes) -> bool:
        """Whether the client may do this, and see what comes of it."""
        try:
            grants = self._traffic.tokens.authenticate(authorization)
        except Unauthorized:
            return False
        return grants.may("read", key) and (method == b"GET" or grants.may("write", key))

    def _has_room(self, length: int) -> bool:
        traffic = self._traffic
        return length <= traffic.max_value and traffic.bytes_held + length <= MOST_BYTES

    def _get(self, connection: Protocol, key: bytes, v1: bool, fields: Fields, begun_at: float) -> bool:
        """A small value that is there, or at the root the emptiness of one that is not."""
        router, traffic = self._router, self._traffic
        try:
            record = router.record(key)
        except Unavailable:
            return False
        if v1:
            item = None if record is None else parse(memoryview(record))
            if item is None or not self._is_plain(item.value, item.expires_ms, item.content_type, fields):
                return False
            value, head = item.value, b"%bcontent-type: %b\r\n%b" % (
                traffic.head_of_value, (item.content_type or memorykv.OCTETS).encode(), _lines(of_value(item)),
            )  # fmt: skip
        elif record is None:
            value, head = b"", traffic.head_of_octets
        else:
            _, _, expires_ms, _, _, length = _unpack(record)
            value, head = record[HEADER_SIZE + length :], traffic.head_of_octets
            kind = record[HEADER_SIZE : HEADER_SIZE + length]
            special = expires_ms or len(value) >= coding.SMALLEST
            if special and not self._is_plain(value, expires_ms, kind.decode(), fields):
                return False
        router.seen(key, record is not None)
        connection.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(value), value))
        connection.deadline = traffic.clock + IDLE_S
        seconds = perf_counter() - begun_at
        traffic.counts.add("GET", target.KV if v1 else target.KEY, 200, seconds)
        if traffic.access_log is not None:
            traffic.access_log(connection.client, "GET", (b"/v1/kv/" if v1 else b"/") + key, 200, seconds)
        return True

    def _is_plain(self, value: bytes, expires_ms: int, content_type: str, fields: Fields) -> bool:
        """Whether the ordinary road would send `value`, as it is and at once."""
        if len(value) >= LARGE_ANSWER or (expires_ms and expires_ms <= self._router.board.now_ms()):
            return False
        if len(value) < coding.SMALLEST or not fields.accept_encoding:
            return True
        return coding.choose(fields.accept_encoding) is None or not coding.is_codable(content_type)


class Write:
    """A write whose answer is due. Its connection answers it; where the answer is not plain, by an `Exchange`.

    Attributes:
        disconnected: set by the connection when its client has left.
    """

    __slots__ = (
        "_accept", "_begun_at", "_connection", "_length", "_method", "_path", "_traffic", "_v1", "disconnected", "end",
        "router",
    )  # fmt: skip

    router: Router
    end: int

    def __init__(
        self, connection: Protocol, traffic: Traffic, method: bytes, path: bytes, v1: bool, accept: bytes, length: int,
        begun_at: float,
    ) -> None:  # fmt: skip
        self._connection, self._traffic, self._method, self._path = connection, traffic, method, path
        self._v1, self._accept, self._length, self._begun_at = v1, accept, length, begun_at
        self.disconnected = False
        traffic.enter()
        traffic.bytes_held += length

    def answer(self, reply: Reply | KVError) -> None:
        """Tell the client what became of its write."""
        if isinstance(reply, Failed):
            reply = reply.error()
        if isinstance(reply, KVError):
            self._exchange().answer_error(reply)
            return
        assert isinstance(reply, Done)
        if not self._v1:
            self._tell(200, _OCTETS, reply.previous or b"")
        elif self._method == b"DELETE":
            self._tell(204, [("kv-revision", str(reply.revision))], b"")
        else:
            self._tell(204 if reply.existed else 201, of_revision(reply.revision), b"")

    def answer_delete(self, reply: Reply | KVError) -> None:
        """`answer`; a key that was not there is shown as activity."""
        if isinstance(reply, Done) and not reply.existed:
            self.router.absent(self._path[8:] if self._v1 else self._path[1:], self.end)
            reply = NotFound()
        self.answer(reply)

    def _tell(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        connection, traffic = self._connection, self._traffic
        if self.disconnected or traffic.stopping or len(body) >= LARGE_ANSWER:
            self._exchange().answer(status, [(name.encode(), value.encode()) for name, value in headers], body)
            return
        head = traffic.head_of_octets if headers is _OCTETS else traffic.head(status) + _lines(headers)
        if status == 204:
            connection.transport.write(head + b"\r\n")
        else:
            connection.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        traffic.leave()
        traffic.bytes_held -= self._length
        route = target.KV if self._v1 else target.KEY
        method, seconds = self._method.decode(), perf_counter() - self._begun_at
        traffic.counts.add(method, route, status, seconds)
        if traffic.access_log is not None:
            traffic.access_log(connection.client, method, self._path, status, seconds)
        connection.answered_plainly()

    def _exchange(self) -> Exchange:
        """What the ordinary road would have in this request's place."""
        connection = self._connection
        exchange = Exchange(connection)
        exchange.method, exchange.path, exchange.accept = self._method.decode(), self._path, self._accept
        exchange.scope = {ROUTE: target.KV if self._v1 else target.KEY}
        exchange.begun_at, exchange.disconnected = self._begun_at, self.disconnected
        exchange.keep_alive = exchange.counted = True
        exchange.bytes_held = self._length
        connection.answering = exchange
        return exchange


def _lines(headers: list[tuple[str, str]]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("ascii")
