"""`/v1/kv/{key}`: one key, with its type, its revision as an ETag, conditions, ranges, expiry, patches and counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, overload

from falcon.asgi import Request, Response

from kvserver.access.grants import Grants
from kvserver.api import conditions, query, ranges
from kvserver.api.conditions import Preconditions
from kvserver.api.query import EXPIRY, INTEGER, SECONDS, YES, Parameter, one_of, table
from kvserver.http import idempotency, responses
from kvserver.http.idempotency import RequestMark
from kvserver.http.responses import BehindTheEnd, NoMergePatch
from kvserver.http.scope import GRANTS, SCRIPT
from kvserver.http.value_headers import CACHE_CONTROL, OCTETS, choose_stored_type, item_headers, revision_headers
from kvserver.rest import bodies
from kvserver.rest.values import (
    answer_body,
    check_answer_budget,
    encode_body,
    find_item,
    redacting_errors,
)
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from shards.maps.reader import Item
from shards.wire.errors import BadRequest, Forbidden, KeyTooLong, NotFound, PreconditionFailed
from shards.wire.keys import MAX_KEY, is_content_type
from shards.wire.protocol import Condition, Delete, Done, Incr, Patch, Put, Replaced, Replayed, Touch, Value

PUT: Final = EXPIRY | table(
    Parameter("return", one_of("previous"), "Answer 200 with what was replaced, instead of 204."),
)
POST: Final = (
    table(
        Parameter("incr", INTEGER, "Add this to the whole number that the key holds; an absent key holds 0."),
        Parameter("ttl_if_new", SECONDS, "With `incr`: seconds until the key expires, if it was absent."),
    )
    | EXPIRY
    | table(Parameter("persist", YES, "The key no longer expires."))
)
_CHOICES: Final = ("incr", "ttl", "expires", "persist")


Mark = RequestMark | None
NEVER: Final = Condition(if_match=[])
"""A condition that never holds."""


class NoChange(BadRequest):
    """A POST without a change: its sender may have tried to store a value."""

    hint = "To store a value use PUT. POST adds to a counter (?incr=1) or changes when the key expires (?ttl=60)."


class KeyOfVersion1:
    """`/v1/kv/{key}`. Errors are raised as `KVError`."""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value; 206 with a range of it; 304 if the client has it."""
        _read_parameters(req, key, query.NOTHING)
        req.scope[GRANTS].require("read", key)
        if SCRIPT in req.scope:
            raise Forbidden("values are not served as service workers")
        wanted = conditions.read_conditions(req.get_header)
        if req.method == "GET":
            check_answer_budget(req, self._store, self._context, key)
        item = find_item(req, self._store, key)
        if item is None:
            raise NotFound
        _check_conditions(wanted, item)
        known = wanted.fresh_codings(item.revision, item.modified_ms // 1000)
        if known is not None:
            coding, resp.status = await _coding_of_known(req, item, known), 304
        elif (span := _wanted_span(req, item)) is not None:
            coding, resp.status = "", 206
            resp.content_type = item.content_type or OCTETS
            resp.set_header("Content-Range", ranges.content_range(span, item.size))
            resp.data = item.value[slice(*span)]
        else:
            coding = await _give_body(req, resp, item.value, item.content_type)
            if req.method == "HEAD" and not coding:
                resp.content_length = item.size
        resp.set_headers(item_headers(item, coding))

    on_head = on_get

    async def on_put(self, req: Request, resp: Response, key: bytes) -> None:
        """201 or 204; with `return=previous` 200 with what was replaced."""
        parameters = _read_parameters(req, key, PUT)
        grants, want_previous = _require_write(req, key), "return" in parameters
        if want_previous:
            grants.require("read", key)
            check_answer_budget(req, self._store, self._context, key)
        ttl_ms, expires_ms = query.read_expiry(parameters)
        bodies.refuse_coded(req)
        if req.get_header("Content-Range") is not None:
            raise BadRequest("Content-Range: a PUT replaces the whole value")
        content_type = _content_type(req)
        given = idempotency.read_key(req.scope["headers"])
        body = await req.stream.read()
        mark = await bodies.mark_request(req, given, key, content_type, body)
        with redacting_errors(grants, key):
            condition = self._shard_condition(req, key, mark)
            put = Put(key, body, content_type, ttl_ms, expires_ms, want_previous, condition)
            done, withheld = await self._change(resp, put, mark)
        resp.set_headers(revision_headers(done.revision, expires_ms=done.expires_ms))
        if isinstance(done, Replaced) and not withheld:
            resp.set_header("KV-Previous-Revision", str(done.previous_revision))
            await _give_body(req, resp, done.previous or b"", done.previous_type)
        else:
            resp.status = 204 if done.existed else 201

    async def on_patch(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the patched JSON; 201 if the key was absent; 204 without the right to read."""
        _read_parameters(req, key, query.NOTHING)
        grants = _require_write(req, key)
        bodies.refuse_coded(req)
        kind = bodies.media_type(req)
        if kind.encode() != responses.MERGE_PATCH:
            raise NoMergePatch(f"{kind or 'no type'}: only {responses.MERGE_PATCH.decode()} is known")
        check_answer_budget(req, self._store, self._context, key)
        given = idempotency.read_key(req.scope["headers"])
        body = await bodies.read_json(req)
        mark = await bodies.mark_request(req, given, key, kind, body)
        with redacting_errors(grants, key):
            patch = Patch(key, body, self._shard_condition(req, key, mark))
            result, withheld = await self._change(resp, patch, mark)
        await _give_result(req, resp, key, result, withheld)

    async def on_post(self, req: Request, resp: Response, key: bytes) -> None:
        """`incr`: 200 or 201 with the sum, 204 without the right to read. `ttl`, `expires`, `persist`: 204, or 404."""
        parameters = _read_parameters(req, key, POST)
        grants = _require_write(req, key)
        if not parameters:
            raise NoChange(f"a POST needs one of the query parameters {', '.join(_CHOICES)}; to store a value use PUT")
        if len([name for name in _CHOICES if name in parameters]) != 1:
            raise BadRequest(f"give exactly one of the query parameters {', '.join(_CHOICES)}")
        ttl_if_new = parameters.get("ttl_if_new", 0)
        if ttl_if_new and "incr" not in parameters:
            raise BadRequest("the query parameter ttl_if_new belongs to incr")
        ttl_ms, expires_ms = query.read_expiry(parameters)
        given = idempotency.read_key(req.scope["headers"])
        await bodies.refuse_any(req)
        mark = await bodies.mark_request(req, given, key)
        if "incr" in parameters:
            with redacting_errors(grants, key):
                incr = Incr(key, parameters["incr"], ttl_if_new, self._shard_condition(req, key, mark))
                result, withheld = await self._change(resp, incr, mark)
            await _give_result(req, resp, key, result, withheld)
            return
        with redacting_errors(grants, key):
            touch = Touch(key, ttl_ms, expires_ms, self._shard_condition(req, key, mark))
            done, _ = await self._change(resp, touch, mark)
        if not done.existed:
            raise NotFound
        resp.set_headers(revision_headers(done.revision, expires_ms=done.expires_ms))
        resp.status = 204

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """204; 404 if the key is absent."""
        _read_parameters(req, key, query.NOTHING)
        grants = _require_write(req, key)
        given = idempotency.read_key(req.scope["headers"])
        await bodies.refuse_any(req)
        mark = await bodies.mark_request(req, given, key)
        with redacting_errors(grants, key):
            delete = Delete(key, condition=self._shard_condition(req, key, mark))
            done, _ = await self._change(resp, delete, mark)
        if not done.existed:
            raise NotFound
        resp.set_header("KV-Revision", str(done.revision))
        resp.status = 204

    @overload
    async def _change(self, resp: Response, operation: Put | Delete | Touch, mark: Mark) -> tuple[Done, bool]: ...

    @overload
    async def _change(self, resp: Response, operation: Incr | Patch, mark: Mark) -> tuple[Value, bool]: ...

    async def _change(
        self, resp: Response, operation: Put | Delete | Touch | Incr | Patch, mark: Mark
    ) -> tuple[Done | Value, bool]:
        """Execute an operation, once if its request has a mark; return its reply, and whether that lacks its value.

        Sets the header of an answer that was given before. Raises `KVError`.
        """
        if mark is None:
            return await self._store.request(operation), False
        reply, withheld = await self._store.request_once(mark.mark_operation(operation)), False
        if isinstance(reply, Replayed):
            resp.set_header(idempotency.REPLAYED, "true")
            withheld, reply = reply.withheld, reply.reply
        assert isinstance(reply, Done | Value)
        return reply, withheld

    def _shard_condition(self, req: Request, key: bytes, mark: Mark) -> Condition | None:
        """Return the condition for the shard to check before it writes. Raises `BadRequest`, `PreconditionFailed`."""
        wanted = conditions.read_conditions(req.get_header)
        if wanted.unmodified_since is not None:
            # Shards compare revisions, not dates: what is unmodified now must not change until the write is decided.
            # An absent key has no date, so the write proceeds, but not over a value that is created in the meantime.
            item = self._store.describe(key)
            if item is None:
                return wanted._replace(if_none_match="*").for_shard()
            try:
                _check_conditions(wanted, item)
            except PreconditionFailed:
                if mark is None:
                    raise
                return NEVER  # it may hold no more because of this very write: the shard knows whether it was done
            wanted = wanted._replace(if_match=[conditions.Tag(item.revision)])
        return wanted.for_shard()


def _read_parameters(req: Request, key: bytes, allowed: query.Table) -> dict[str, Any]:
    """Read the query of a request. Raises `BadRequest`; `KeyTooLong` for its key."""
    if len(key) > MAX_KEY:
        raise KeyTooLong(f"{len(key)} bytes")
    return query.parse(req.scope["query_string"], allowed)


def _require_write(req: Request, key: bytes) -> Grants:
    grants: Grants = req.scope[GRANTS]
    grants.require("write", key)
    return grants


def _check_conditions(wanted: Preconditions, item: Item) -> None:
    """Raise `PreconditionFailed` unless If-Match and If-Unmodified-Since hold for `item`."""
    since = wanted.unmodified_since
    if not wanted.holds_for(item.revision):
        raise PreconditionFailed("the key has another revision", item.revision)
    if since is not None and item.modified_ms // 1000 > since:
        raise PreconditionFailed("the key was modified since", item.revision)


async def _coding_of_known(req: Request, item: Item, known: Sequence[str]) -> str:
    """Return the coding for the ETag of a 304, of the codings that the client has: the one that a 200 would have.

    A shared cache may have several, and selects by this ETag (RFC 9110, 15.4.5).
    """
    if len(known) == 1:
        return known[0]
    sent, _ = await encode_body(req, item.value, item.content_type)
    return known[0] if known and sent not in known else sent


def _wanted_span(req: Request, item: Item) -> tuple[int, int] | None:
    """Return the requested range, None for the whole value. Raises `BehindTheEnd`."""
    if req.method != "GET" or not conditions.may_join(req.get_header("If-Range"), item.revision):
        return None
    try:
        return ranges.parse_range(req.get_header("Range"), item.size)
    except ranges.Unsatisfiable:
        raise BehindTheEnd(item.size) from None


def _content_type(req: Request) -> str:
    """Return the type to store, empty for octets. Raises `BadRequest`."""
    given = bodies.content_type(req)
    if not is_content_type(given):
        raise BadRequest("Content-Type: expected a media type of at most 255 ASCII characters, like text/plain")
    return choose_stored_type(given)


# Answers


async def _give_result(req: Request, resp: Response, key: bytes, result: Value, withheld: bool) -> None:
    """Answer with the value that a change made; 204 without the right to read, and 201 or 204 if it is `withheld`."""
    if not req.scope[GRANTS].may("read", key):
        resp.set_headers(revision_headers(result.revision))
        resp.status = 204
        return
    if withheld:
        resp.set_headers(revision_headers(result.revision, expires_ms=result.expires_ms))
        resp.status = 204 if result.existed else 201
        return
    coding = await _give_body(req, resp, result.value, result.content_type)
    resp.set_headers(revision_headers(result.revision, coding, result.expires_ms))
    resp.status = 200 if result.existed else 201


async def _give_body(req: Request, resp: Response, value: bytes, content_type: str) -> str:
    """Make a value the body; return its coding, empty for none."""
    resp.content_type = content_type or OCTETS
    resp.set_header("Cache-Control", CACHE_CONTROL)
    return await answer_body(req, resp, value, content_type)
