"""The hot path: requests for one key, answered without the parser and the application.

A buffer that is exactly one request of the subset below, and arrives where a request begins, is answered from the map
or sent to its shard at once. Everything else takes the ordinary path. The subset leaves nothing to interpret: HTTP/1.1,
exactly one Host, only the header fields of `fields`, each once and in one form; GET, PUT or DELETE of a key at the root
without a query, or any method of a key of version 1. So both paths answer alike, except for Date, X-Request-Id and
revisions.

What a request of version 1 means is decided by `kvserver.one_key` for both paths, and here by `one_key`. A GET, PUT or
DELETE without a query and without fields that vary is *plain*, as most are, and takes a short way to the same.

A small batch that is not atomic, of gets alone or of puts, deletes, touches and increments, is taken as well:
`WorkerContext.small_batches` executes it by the code that `/v1/batch` uses, without Falcon. So is a small page of a
list, which `WorkerContext.small_lists` makes.

Clients repeat their header fields from request to request: the meaning of a block of them is remembered. Fields that
vary are split off it first.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final

from kvserver.access.grants import Grants
from kvserver.http import compression, routes
from kvserver.http.responses import Headers
from kvserver.http.value_headers import OCTETS, item_headers
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from kvserver.web.hot.fields import NOTHING_VARIES, HeaderFields, VaryingFields, read_fields, split_varying
from kvserver.web.hot.hot_many import ManyRoad
from kvserver.web.hot.hot_request import HotRequest, format_lines
from kvserver.web.hot.hot_write import KeyChange, RootWrite
from kvserver.web.hot.one_key import LONGEST_RECORD, OneKeyRoad, find_item, has_room
from kvserver.web.limits.load import LARGE_ANSWER
from kvserver.web.ports import ConnectionPort
from shards.maps.layout import HEADER, HEADER_SIZE
from shards.wire.clock import is_live
from shards.wire.errors import BadKey, NotFound, Unauthorized, Unavailable
from shards.wire.keys import MAX_KEY
from shards.wire.protocol import Delete, Put

_REQUEST = re.compile(
    rb"(GET|PUT|POST|DELETE|HEAD|PATCH) "
    rb"(/(?:v1/kv/([A-Za-z0-9._~!$&'()*+,;=:@%/-]{1,1533})|([A-Za-z0-9._~!$&'()*+,;=:@%-]{1,1533})))"
    rb"(?:\?([A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,512}))?"
    rb" HTTP/1\.1\r\n"
)
_LIST = re.compile(
    rb"GET %b(?:\?([A-Za-z0-9._~!$&'()*+,;=:@%%/?-]{0,1024}))? HTTP/1\.1\r\n" % re.escape(routes.MANY.encode())
)
_BATCH: Final = f"POST {routes.BATCH} HTTP/1.1\r\n".encode()
_RESERVED: Final = frozenset((b"ping", b"keys", b"wal", *routes.PAGES))
"""Paths of one segment that are no key, or not only one."""
_METHODS: Final = {method.encode(): method for method in ("GET", "PUT", "POST", "DELETE", "HEAD", "PATCH")}
_PLAIN: Final = frozenset((b"GET", b"PUT", b"DELETE"))
_unpack = HEADER.unpack_from
_LONGEST_BLOCK: Final = 2 << 10
_MOST_BLOCKS: Final = 512


class HotPath:
    """One per worker. Connections offer their buffers to `take`."""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context, self._load = store, context, context.load
        self._one_key, self._many = OneKeyRoad(store, context), ManyRoad(context)
        self._blocks: dict[bytes, HeaderFields] = {}

    def take(self, connection: ConnectionPort, data: bytes) -> bool:
        """Answer the request in `data`, or send it to its shard; return False, with nothing done, if it has to take the
        ordinary path.

        `connection` expects a request, has none to answer, and its client reads what is written.
        """
        found = _REQUEST.match(data)
        if found is None:
            return self._take_many(connection, data)
        begun_at, begin = perf_counter(), found.end()
        end = data.find(b"\r\n\r\n", begin - 2) + 2
        block, varying = data[begin - 2 : end], NOTHING_VARIES
        fields = self._blocks.get(block)
        if fields is None:
            fields, varying = self._read_block(block)
        if fields is None or not self._load.accepts_hot_path:
            return False
        method, path, of_v1, of_root, query = found.groups()
        # The buffer ends with the request: bytes after it would be taken for another one by the parser alone.
        if of_root in _RESERVED or len(data) != end + 2 + fields.length:
            return False
        key, at_root = of_v1 or of_root, of_v1 is None
        if len(key) > MAX_KEY or b"%" in key:
            key = _decode_key(path)
            if not key:
                return False
        grants = None
        if self._context.tokens.required:
            grants = self._find_grants(fields.authorization)
            if grants is None:
                return False
        if connection.peer.is_proxy:
            connection.peer.identify(varying.forwarded)
        route = routes.KEY if at_root else routes.KV
        request = HotRequest(connection, _METHODS[method], route, path, fields, varying, begun_at)
        is_plain = query is None and method in _PLAIN and (at_root or not varying.asked)
        if not is_plain or (grants is not None and not _may(grants, method, key, at_root)):
            if at_root:
                return False
            return self._one_key.take(request, key, query or b"", varying.asked, grants, data[end + 2 :])
        if method == b"GET":
            if fields.has_body:
                return False
            return self._answer_at_root(request, key) if at_root else self._answer_value(request, key)
        if (method == b"PUT") != fields.has_body or not has_room(self._context, fields.length):
            return False
        change = (
            Put(key, data[end + 2 :], fields.stored_type, 0, 0, at_root) if fields.has_body else Delete(key, at_root)
        )
        write = (RootWrite if at_root else KeyChange)(request, self._store, grants, change, len(key) + fields.length)
        connection.answering = write
        self._store.enqueue(key, write)
        return True

    def _take_many(self, connection: ConnectionPort, data: bytes) -> bool:
        """Do what `take` does with a list or a batch."""
        begun_at = perf_counter()
        asked = _LIST.match(data)
        if asked is None and not data.startswith(_BATCH):
            return False
        begin = len(_BATCH) if asked is None else asked.end()
        end = data.find(b"\r\n\r\n", begin - 2) + 2
        block, varying = data[begin - 2 : end], NOTHING_VARIES
        fields = self._blocks.get(block)
        if fields is None:
            fields, varying = self._read_block(block)
        if fields is None or varying.asked or not self._load.accepts_hot_path or len(data) != end + 2 + fields.length:
            return False
        grants = None
        if self._context.tokens.required:
            grants = self._find_grants(fields.authorization)
            if grants is None:
                return False
        if connection.peer.is_proxy:
            connection.peer.identify(varying.forwarded)
        method, route = ("GET", routes.MANY) if asked is not None else ("POST", routes.BATCH)
        request = HotRequest(connection, method, route, route.encode(), fields, varying, begun_at)
        if asked is None:
            return self._many.take_batch(request, data[end + 2 :], grants)
        return self._many.take_list(request, asked[1] or b"", grants)

    def _read_block(self, block: bytes) -> tuple[HeaderFields | None, VaryingFields]:
        """The meaning of a block of header fields, which is remembered, and the fields that vary; None if its requests
        take the ordinary path."""
        split = split_varying(block) if len(block) <= _LONGEST_BLOCK else None
        if split is None:
            return None, NOTHING_VARIES
        block, varying = split
        fields = self._blocks.get(block)
        if fields is None:
            fields = read_fields(block)
            if fields is None or not self._is_open_to(fields.origin_fields):
                return None, NOTHING_VARIES
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = fields
        return fields, varying

    def _is_open_to(self, origin_fields: Headers) -> bool:
        """Whether the page that asks, if any, gets the same answer as everybody: where origins are listed, an answer
        names the page's own."""
        pages = self._context.pages
        if not pages.origins.all and any(name == b"origin" for name, _ in origin_fields):
            return False
        return pages.find_refusal("", b"/", origin_fields) is None

    def _find_grants(self, authorization: bytes) -> Grants | None:
        """The client's grants; None if its token is not known."""
        try:
            return self._context.tokens.authenticate(authorization)
        except Unauthorized:
            return None

    def _answer_at_root(self, request: HotRequest, key: bytes) -> bool:
        """Answer with a small value, or with the emptiness of a key that is not stored."""
        store, fields = self._store, request.fields
        try:
            record = store.maps.get_record(key)
        except Unavailable:
            return False
        head = self._context.heads[fields.origin != b""].of_octets
        if record is None:
            value = b""
        elif len(record) > LONGEST_RECORD:
            return False
        else:
            # `parse_record`, unrolled: most GETs at the root need no more of the record than its value.
            _, _, expiry, _, _, length = _unpack(record)
            value = record[HEADER_SIZE + length :]
            if expiry and not is_live(expiry, store.board.now()):
                return False
            if len(value) >= compression.SMALLEST:
                content_type = record[HEADER_SIZE : HEADER_SIZE + length].decode()
                if not _is_sent_at_once(len(value), content_type, fields):
                    return False
        if store.reading is not None and not store.reading.may_show(0 if record is None else _unpack(record)[0]):
            return False
        store.record_read(key, record is not None)
        varying, connection = request.varying, request.connection
        connection.transport.write(b"%bcontent-length: %d\r\n%b\r\n%b" % (head, len(value), varying.id_line, value))
        self._context.record_answer(
            connection.peer.address, "GET", routes.KEY, request.path, 200, request.begun_at, varying.request_id
        )
        connection.finish_read()
        return True

    def _answer_value(self, request: HotRequest, key: bytes) -> bool:
        """Answer at a path of version 1 with a small value, or that there is none."""
        store, context, fields = self._store, self._context, request.fields
        try:
            item = find_item(store, context, key)
        except Unavailable:
            return False
        if store.reading is not None and not store.reading.may_show(0 if item is None else item.revision):
            return False
        if item is None:
            store.record_read(key, False)
            request.write_error(NotFound())
            request.connection.finish_read()
            return True
        if item.size >= compression.SMALLEST and not _is_sent_at_once(item.size, item.content_type, fields):
            return False
        store.record_read(key, True)
        data = b"%bcontent-type: %b\r\n%bcontent-length: %d\r\n%b\r\n%b" % (
            context.heads[fields.origin != b""].of_value,
            (item.content_type or OCTETS).encode(),
            format_lines(item_headers(item)),
            item.size,
            request.varying.id_line,
            item.value,
        )
        request.write(200, data, request.varying.request_id)
        request.connection.finish_read()
        return True


def _may(grants: Grants, method: bytes, key: bytes, at_root: bool) -> bool:
    """Whether a plain request is allowed. A write at the root answers the value that was there."""
    if method == b"GET":
        return grants.may("read", key)
    return grants.may("write", key) and (not at_root or grants.may("read", key))


def _is_sent_at_once(size: int, content_type: str, fields: HeaderFields) -> bool:
    """Whether the ordinary path would send a value of `size` bytes unchanged and at once."""
    return size < LARGE_ANSWER and compression.choose_for(fields.accept_encoding, content_type, size) is None


def _decode_key(path: bytes) -> bytes:
    """The key that `path` names; empty if it names none."""
    try:
        key = routes.resolve_path(path).argument
    except BadKey:
        return b""
    return key if len(key) <= MAX_KEY else b""
