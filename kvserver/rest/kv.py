"""`/v1/kv/{key}`: one key, with its type, its revision as an ETag, conditions, ranges, expiry, patches and counters.

What requests mean and what they answer is decided in `kvserver.one_key`, for the hot path as well. Here bodies are
waited for, and what takes long is done in threads or in turns.
"""

from __future__ import annotations

from falcon.asgi import Request, Response

from kvserver.api import conditions
from kvserver.http import idempotency
from kvserver.http.scope import GRANTS, SCRIPT
from kvserver.one_key import changes, reads
from kvserver.one_key.answers import answer_change, redact
from kvserver.one_key.asked import Asked
from kvserver.one_key.changes import CHANGES
from kvserver.rest import bodies
from kvserver.rest.values import check_answer_budget, find_item, give_answer
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from shards.wire.errors import Forbidden, KVError, PreconditionFailed
from shards.wire.protocol import Patch, Put, Reply


class KeyOfVersion1:
    """`/v1/kv/{key}`. Errors are raised as `KVError`."""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value; 206 with a range of it; 304 if the client has it."""
        asked = _ask(req, key)
        reads.check_read(asked)
        if SCRIPT in req.scope:
            raise Forbidden("values are not served as service workers")
        wanted = conditions.read_conditions(asked.header)
        if req.method == "GET":
            check_answer_budget(req, self._store, self._context, key)
        item = find_item(req, self._store, key)
        await self._store.settle(item)
        await give_answer(req, resp, reads.answer_read(asked, wanted, item))

    on_head = on_get

    async def on_put(self, req: Request, resp: Response, key: bytes) -> None:
        """201 or 204; with `return=previous` 200 with what was replaced."""
        await self._change(req, resp, key)

    async def on_patch(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the patched JSON; 201 if the key was absent; 204 without the right to read."""
        await self._change(req, resp, key)

    async def on_post(self, req: Request, resp: Response, key: bytes) -> None:
        """`incr`: 200 or 201 with the sum, 204 without the right to read. `ttl`, `expires`, `persist`: 204, or 404."""
        await self._change(req, resp, key)

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """204; 404 if the key is absent."""
        await self._change(req, resp, key)

    async def _change(self, req: Request, resp: Response, key: bytes) -> None:
        """Execute what the request asks for, once if it has an Idempotency-Key, and answer."""
        asked = _ask(req, key)
        change = CHANGES[req.method](asked)
        if changes.may_answer_value(change):
            check_answer_budget(req, self._store, self._context, key)
        given = idempotency.read_key(req.scope["headers"])
        if isinstance(change, Put | Patch):
            changes.set_body(change, await req.stream.read())
        else:
            await bodies.refuse_any(req)
        if isinstance(change, Patch):
            await bodies.refuse_large_doubles(change.patch)
        mark = await bodies.mark_request(req, given, key, *changes.fingerprinted_body(change))
        try:
            try:
                change.condition = changes.find_condition(asked, mark is not None, self._store.describe)
            except PreconditionFailed:  # it says what the key holds
                await self._store.settle_all()
                raise
            reply: Reply
            if mark is None:
                reply = await self._store.request(change)
            else:
                reply = await self._store.request_once(mark.mark_operation(change))
        except KVError as error:
            raise redact(asked.grants, key, error) from None
        await give_answer(req, resp, answer_change(asked.grants, change, reply))


def _ask(req: Request, key: bytes) -> Asked:
    scope = req.scope
    types = bodies.content_types(req)
    return Asked(req.method, key, scope["query_string"], types, req.get_header, scope[GRANTS])
