"""Requests of version 1 for one key that are not plain: with a query, conditions, a range, or of another method.

The rules are those of `kvserver.one_key`, which the application asks as well. What is large, takes long or would be
sent in a coding is left to the ordinary road, before anything is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.api.conditions import read_conditions
from kvserver.http import compression, idempotency
from kvserver.http.idempotency import mark_request
from kvserver.one_key import changes
from kvserver.one_key.answers import redact
from kvserver.one_key.asked import Asked
from kvserver.one_key.changes import CHANGES, Change
from kvserver.one_key.reads import answer_read, check_read
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from kvserver.web.hot.hot_request import HotRequest
from kvserver.web.hot.hot_write import KeyChange
from kvserver.web.limits.load import LARGE_ANSWER
from shards.maps.layout import Item, parse_record, parse_without_value, with_wall_times
from shards.wire.clock import is_live
from shards.wire.errors import IdempotencyMismatch, KVError
from shards.wire.protocol import Once, Patch, Put

_KEY: Final = idempotency.HEADER
_UNMODIFIED: Final = "If-Unmodified-Since"
_WITH_BODY: Final = ("PUT", "PATCH")
LONGEST_RECORD: Final = 2 * LARGE_ANSWER
"""Bytes of a record that certainly has a value which is not answered here: it is not even copied out of its record."""


class OneKeyRoad:
    """One per worker."""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    def take(
        self,
        request: HotRequest,
        key: bytes,
        query: bytes,
        varying: Mapping[str, str],
        grants: Grants | None,
        body: bytes,
    ) -> bool:
        """Answer a request, or send it to its shard; return False, with nothing done, if it has to take the ordinary
        road.

        Args:
            request: what was taken.
            key, query: of its target, the query as sent.
            varying: header fields that are not in `request.fields`.
            grants: the client's rights; None: all.
            body: of the request, whole.
        """
        asked = Asked(
            request.method,
            key,
            query,
            request.fields.content_types,
            varying.get,
            EVERYTHING if grants is None else grants,
        )
        try:
            if request.method in CHANGES:
                return self._take_change(request, asked, varying, body)
            return not request.fields.has_body and self._answer_read(request, asked)
        except KVError as error:
            request.write_error(redact(asked.grants, key, error))
            request.connection.finish_read()
            return True

    def _take_change(self, request: HotRequest, asked: Asked, varying: Mapping[str, str], body: bytes) -> bool:
        """Send a change to its shard. Raises `KVError`."""
        if not self._is_body_plain(request, varying):
            return False
        connection, key = request.connection, asked.key
        change = CHANGES[request.method](asked)
        if changes.may_answer_value(change) and self._context.load.answers_full(connection.peer.quota):
            return False
        given = idempotency.check_key(varying[_KEY].encode()) if _KEY in varying else b""
        if isinstance(change, Put | Patch):
            changes.set_body(change, body)
        if self._store.reading is not None and _UNMODIFIED in varying:  # it may be refused by what the key holds
            return False
        change.condition = changes.find_condition(asked, given != b"", self._store.describe)
        once = _mark_change(asked, change, given, varying) if given else None
        if once is not None and self._store.maps.is_used_elsewhere(once):
            raise IdempotencyMismatch
        write = KeyChange(request, self._store, asked.grants, change, len(key) + len(body), once)
        connection.answering = write
        self._store.enqueue(key, write)
        return True

    def _is_body_plain(self, request: HotRequest, varying: Mapping[str, str]) -> bool:
        """Whether there is a body exactly where one is read, that takes neither long to look at nor the last room."""
        method, length = request.method, request.fields.length
        if method not in _WITH_BODY:
            return not length
        if length >= LARGE_ANSWER and (method == "PATCH" or _KEY in varying):  # to be scanned, or hashed
            return False
        return request.fields.has_body and has_room(self._context, length)

    def _answer_read(self, request: HotRequest, asked: Asked) -> bool:
        """Answer a GET or HEAD. Raises `KVError`."""
        store, key = self._store, asked.key
        check_read(asked)
        wanted = read_conditions(asked.header)
        item = store.describe(key) if request.method == "HEAD" else find_item(store, self._context, key)
        if store.reading is not None and not store.reading.may_show(0 if item is None else item.revision):
            return False
        try:
            answer = answer_read(asked, wanted, item)
        except KVError:
            store.record_read(key, item is not None)
            raise
        assert item is not None
        if item.size >= LARGE_ANSWER and answer.status != 304 and request.method == "GET":
            return False
        if answer.coded_type is not None and compression.choose_for(
            request.fields.accept_encoding, answer.coded_type, item.size
        ):
            return False
        store.record_read(key, True)
        request.write_answer(answer)
        request.connection.finish_read()
        return True


def find_item(store: StoreClient, context: WorkerContext, key: bytes) -> Item | None:
    """Return what `key` holds, None if it is absent or expired. A value that is large for certain is left out.

    Reports nothing. Raises `Unavailable`.
    """
    record = store.maps.get_record(key)
    if record is None:
        return None
    item = (parse_record if len(record) <= LONGEST_RECORD else parse_without_value)(memoryview(record))
    if item.expires_ms or item.modified_ms > context.unix_ms:  # its times are shown by the store's clock
        now = store.board.now()
        if not is_live(item.expires_ms, now):
            return None
        item = with_wall_times(item, now)
    return item


def has_room(context: WorkerContext, length: int) -> bool:
    """Whether a body of this length is taken without a look at quotas."""
    load = context.load
    return length <= context.max_value and load.bytes_held + length <= load.relaxed_bytes


def _mark_change(asked: Asked, change: Change, given: bytes, varying: Mapping[str, str]) -> Once:
    """Return `change`, to be done once for the Idempotency-Key `given`."""
    kind, content = changes.fingerprinted_body(change)
    conditions = [(name.lower().encode(), value.encode()) for name, value in varying.items() if name != _KEY]
    mark = mark_request(given, asked.grants.name, asked.method, asked.key, asked.query, kind, conditions, content)
    return mark.mark_operation(change)
