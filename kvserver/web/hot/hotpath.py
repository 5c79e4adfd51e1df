"""The hot path: plain reads and writes of one key, answered without the parser and the application.

A buffer that is exactly one request of the subset below, and arrives where a request begins, is answered from the map
or sent to its shard at once. Everything else, and every answer that is not plain, takes the ordinary path. The subset
leaves nothing to interpret: GET, PUT or DELETE of one key, no query, HTTP/1.1, exactly one Host, and only the header
fields of `fields`. So both paths answer alike, except for Date, X-Request-Id and revisions.

A small batch that is not atomic, of gets alone or of puts, deletes, touches and increments, is taken as well:
`WorkerContext.small_batches` executes it by the code that `/v1/batch` uses, without Falcon.

Clients repeat their header fields from request to request: the meaning of a block of them is remembered.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.http import compression, routes
from kvserver.http.idempotency import mark_request
from kvserver.http.responses import Headers
from kvserver.http.value_headers import OCTETS, item_headers
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from kvserver.web.hot.fields import HeaderFields, read_fields, split_off_key
from kvserver.web.hot.hot_batch import HotBatch, write_answer
from kvserver.web.hot.hot_write import HotRemoval, HotWrite, format_lines
from kvserver.web.limits.load import LARGE_ANSWER
from kvserver.web.ports import IDLE_S, ConnectionPort
from shards.maps.layout import HEADER, HEADER_SIZE, parse_record, with_wall_times
from shards.wire.clock import is_live
from shards.wire.errors import BadKey, Unauthorized, Unavailable
from shards.wire.keys import MAX_KEY
from shards.wire.protocol import Delete, Once, Put

_REQUEST = re.compile(
    rb"(GET|PUT|DELETE) (/(?:v1/kv/([A-Za-z0-9._~!$&'()*+,;=:@%/-]{1,1533})|([A-Za-z0-9._~!$&'()*+,;=:@%-]{1,1533})))"
    rb" HTTP/1\.1\r\n"
)
_BATCH: Final = f"POST {routes.BATCH} HTTP/1.1\r\n".encode()
_LARGEST_BATCH: Final = 64 << 10
"""Bytes of a batch that may be executed here."""
_RESERVED: Final = frozenset((b"ping", b"keys", b"wal", *routes.PAGES))
"""Paths of one segment that are no key, or not only one."""
_unpack = HEADER.unpack_from
_LONGEST_BLOCK: Final = 2 << 10
_MOST_BLOCKS: Final = 512
_LONGEST_RECORD: Final = 2 * LARGE_ANSWER
"""Bytes of a record that certainly has a value which is not answered here: it is not even copied out of its record."""


class HotPath:
    """One per worker. Connections offer their buffers to `take`."""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context, self._load = store, context, context.load
        self._blocks: dict[bytes, HeaderFields] = {}

    def take(self, connection: ConnectionPort, data: bytes) -> bool:
        """Answer the request in `data`, or send it to its shard; return False, with nothing done, if it has to take the
        ordinary path.

        `connection` expects a request, has none to answer, and its client reads what is written.
        """
        request = _REQUEST.match(data)
        if request is None:
            return data.startswith(_BATCH) and self._take_batch(connection, data)
        begun_at, begin = perf_counter(), request.end()
        end = data.find(b"\r\n\r\n", begin - 2) + 2
        block = data[begin:end]
        fields = self._blocks.get(block) or self._read_block(block)
        if fields is None or not self._load.accepts_hot_path:
            return False
        method, path, of_v1, of_root = request.groups()
        # The buffer ends with the request: bytes after it would be taken for another one by the parser alone.
        if of_root in _RESERVED or len(data) != end + 2 + fields.length:
            return False
        key = of_v1 or of_root
        if len(key) > MAX_KEY or b"%" in key:
            key = _decode_key(path)
            if not key:
                return False
        grants = None
        if self._context.tokens.required:
            grants = self._find_grants(fields.authorization, method, key)
            if grants is None:
                return False
        if method == b"GET":
            return not fields.has_body and self._answer_get(connection, path, key, of_root is None, fields, begun_at)
        if (method == b"PUT") != fields.has_body or not self._has_room(fields.length):
            return False
        at_root, size = of_root is not None, len(key) + fields.length
        write: HotWrite
        if fields.idempotency_key and not at_root:
            if fields.length >= LARGE_ANSWER:  # it takes long to hash
                return False
            once = self._mark_write(method, key, fields, grants, data[end + 2 :])
            if self._store.maps.is_used_elsewhere(once):
                return False
            if method == b"PUT":
                write = HotWrite(connection, path, False, fields, begun_at, grants, once, size)
            else:
                write = HotRemoval(connection, path, False, fields, begun_at, grants, once, size, self._store)
        elif method == b"PUT":
            put = Put(key, data[end + 2 :], fields.content_type, 0, 0, at_root)
            write = HotWrite(connection, path, at_root, fields, begun_at, grants, put, size)
        else:
            delete = Delete(key, at_root)
            write = HotRemoval(connection, path, at_root, fields, begun_at, grants, delete, size, self._store)
        connection.answering = write
        self._store.enqueue(key, write)
        return True

    def _take_batch(self, connection: ConnectionPort, data: bytes) -> bool:
        """Do what `take` does with a batch."""
        begun_at, begin, context = perf_counter(), len(_BATCH), self._context
        end = data.find(b"\r\n\r\n", begin - 2) + 2
        block = data[begin:end]
        fields = self._blocks.get(block) or self._read_block(block)
        if fields is None or fields.idempotency_key or not self._load.accepts_hot_path:
            return False
        length, small_batches = fields.length, context.small_batches
        if len(data) != end + 2 + length or length > min(_LARGEST_BATCH, context.max_batch) or small_batches is None:
            return False
        if self._load.bytes_held + length > self._load.relaxed_bytes:
            return False
        grants = None
        if context.tokens.required:
            try:
                grants = context.tokens.authenticate(fields.authorization)
            except Unauthorized:
                return False
        answer = small_batches.take(
            fields.content_type, data[end + 2 :], grants or EVERYTHING, connection.peer.quota, fields.accept_encoding
        )
        if isinstance(answer, bytes):
            write_answer(connection, fields, answer, begun_at)
            connection.deadline = context.clock + IDLE_S
            return True
        if answer is None:
            return False
        connection.answering = batch = HotBatch(connection, fields, begun_at, grants)
        batch.start(answer)
        return True

    def _mark_write(self, method: bytes, key: bytes, fields: HeaderFields, grants: Grants | None, body: bytes) -> Once:
        """Return the write of version 1 of a request with an Idempotency-Key."""
        token, kind = "" if grants is None else grants.name, fields.content_type if method == b"PUT" else ""
        mark = mark_request(fields.idempotency_key, token, method.decode(), key, b"", kind, (), body)
        return mark.mark_operation(Put(key, body, kind) if method == b"PUT" else Delete(key))

    def _read_block(self, block: bytes) -> HeaderFields | None:
        """The meaning of a block of header fields, remembered; None if its requests take the ordinary path."""
        if len(block) > _LONGEST_BLOCK:
            return None
        key, rest = split_off_key(block)
        if key:
            fields = self._blocks.get(rest) or self._read_block(rest)
            return None if fields is None or fields.idempotency_key else fields._replace(idempotency_key=key)
        fields = read_fields(block)
        if fields is None or not self._is_open_to(fields.origin_fields):
            return None
        if len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        self._blocks[block] = fields
        return fields

    def _is_open_to(self, origin_fields: Headers) -> bool:
        """Whether the page that asks, if any, gets the same answer as everybody: where origins are listed, an answer
        names the page's own."""
        pages = self._context.pages
        if not pages.origins.all and any(name == b"origin" for name, _ in origin_fields):
            return False
        return pages.find_refusal("", b"/", origin_fields) is None

    def _find_grants(self, authorization: bytes, method: bytes, key: bytes) -> Grants | None:
        """The client's grants, if they allow the request and let its answer show the value; else None."""
        try:
            grants = self._context.tokens.authenticate(authorization)
        except Unauthorized:
            return None
        may = grants.may("read", key) and (method == b"GET" or grants.may("write", key))
        return grants if may else None

    def _has_room(self, length: int) -> bool:
        load = self._load
        return length <= self._context.max_value and load.bytes_held + length <= load.relaxed_bytes

    def _answer_get(
        self, connection: ConnectionPort, path: bytes, key: bytes, v1: bool, fields: HeaderFields, begun_at: float
    ) -> bool:
        """Answer with a small value, or at the root with the emptiness of a key that is not stored."""
        store, context = self._store, self._context
        heads = context.heads[fields.origin != b""]
        try:
            record = store.maps.get_record(key)
        except Unavailable:
            return False
        if record is not None and len(record) > _LONGEST_RECORD:
            return False
        if v1:
            item = None if record is None else parse_record(memoryview(record))
            if item is None or not self._is_plain(item.value, item.expires_ms, item.content_type, fields):
                return False
            if item.expires_ms or item.modified_ms > context.unix_ms:  # its times are shown by the store's clock
                item = with_wall_times(item, store.board.now())
            content_type = (item.content_type or OCTETS).encode()
            value, head = (
                item.value,
                b"%bcontent-type: %b\r\n%b" % (heads.of_value, content_type, format_lines(item_headers(item))),
            )
        elif record is None:
            value, head = b"", heads.of_octets
        else:
            # `parse`, unrolled: most GETs of the hot path need no more of the record than its value.
            _, _, expiry, _, _, length = _unpack(record)
            value, head = record[HEADER_SIZE + length :], heads.of_octets
            kind = record[HEADER_SIZE : HEADER_SIZE + length]
            special = expiry or len(value) >= compression.SMALLEST
            if special and not self._is_plain(value, expiry, kind.decode(), fields):
                return False
        store.record_read(key, record is not None)
        connection.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(value), value))
        connection.deadline = context.clock + IDLE_S
        route = routes.KV if v1 else routes.KEY
        context.record_answer(connection.peer.address, "GET", route, path, 200, begun_at)
        return True

    def _is_plain(self, value: bytes, expiry: int, content_type: str, fields: HeaderFields) -> bool:
        """Whether the ordinary path would send `value` unchanged and at once."""
        if len(value) >= LARGE_ANSWER or (expiry and not is_live(expiry, self._store.board.now())):
            return False
        if len(value) < compression.SMALLEST or not fields.accept_encoding:
            return True
        return compression.choose_coding(fields.accept_encoding) is None or not compression.is_codable(content_type)


def _decode_key(path: bytes) -> bytes:
    """The key that `path` names; empty if it names none."""
    try:
        key = routes.resolve_path(path).argument
    except BadKey:
        return b""
    return key if len(key) <= MAX_KEY else b""
