"""The routes at the root, as MemoryKV serves them: ping, one key, lists of keys, prefix deletes, the feeds.

Everything is `application/octet-stream`, an absent key reads as empty, and a write answers what it replaced.
"""

from __future__ import annotations

from falcon.asgi import Request, Response

from kvserver.access.grants import Grants
from kvserver.http import compression, handshake, routes
from kvserver.http.responses import HTML, WrongMethod, accepts_type
from kvserver.http.scope import GRANTS, QUOTA, SCRIPT
from kvserver.http.value_headers import OCTETS, choose_stored_type
from kvserver.rest.lists import answer_list, encode_array, no_pages, refuse_if_full, spool_chunks
from kvserver.rest.values import answer_body, check_answer_budget
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from shards.wire.errors import BadRequest, Forbidden, KeyTooLong, NotFound
from shards.wire.keys import MAX_KEY, is_content_type
from shards.wire.protocol import Delete, Put


class Ping:
    """`/ping`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 `pong`."""
        resp.content_type = OCTETS
        resp.data = b"pong"

    on_head = on_get


class Key:
    """`/{key}`

    Values that were replaced or deleted are never compressed: their type is not known here.
    While there is no room for large answers, 503 if the value, or the replaced one, is large.
    """

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value; empty for an absent key."""
        may_lead = key in routes.PAGES and wants_page(req)
        if may_lead and not req.scope[GRANTS].may("read", key):  # must not disclose whether the key exists
            lead_to_page(resp, routes.PAGES[key])
            resp.data = b""
            return
        req.scope[GRANTS].require("read", key)
        if SCRIPT in req.scope:
            raise Forbidden("values are not served as service workers")
        resp.content_type = OCTETS
        if len(key) > MAX_KEY:
            self._store.report_activity("read", key)
            resp.data = b""
            return
        check_answer_budget(req, self._store, self._context, key)
        item = self._store.get(key)
        await self._store.settle(item)
        if item is None:
            resp.data = b""
            if may_lead:
                lead_to_page(resp, routes.PAGES[key])
        elif len(item.value) < compression.SMALLEST:
            resp.data = item.value
        else:
            await answer_body(req, resp, item.value, item.content_type)

    on_head = on_get

    async def on_put(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the replaced value, empty if the key was absent."""
        _require_both(req, key)
        if len(key) > MAX_KEY:
            raise KeyTooLong(f"{len(key)} bytes")
        check_answer_budget(req, self._store, self._context, key)
        value = await req.stream.read()
        done = await self._store.request(Put(key, value, _content_type(req), want_previous=True))
        resp.content_type = OCTETS
        resp.data = done.previous or b""

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the deleted value; 404 if the key was absent."""
        _require_both(req, key)
        if len(key) > MAX_KEY:
            self._store.report_activity("delete", key)
            raise NotFound
        check_answer_budget(req, self._store, self._context, key)
        done = await self._store.request(Delete(key, want_previous=True))
        if not done.existed:
            raise NotFound
        resp.content_type = OCTETS
        resp.data = done.previous or b""


def wants_page(req: Request) -> bool:
    """Whether a browser navigates here: Accept names HTML, not with quality 0 (RFC 9110, 12.5.1)."""
    return accepts_type(req.accept.encode(), HTML)


def lead_to_page(resp: Response, page: str) -> None:
    """Redirect to `page`, temporarily: a value may be stored under this key later."""
    resp.content_type, resp.status = None, 302
    resp.set_header("Location", page)


def _require_both(req: Request, key: bytes) -> None:
    """Raise `Forbidden` without the rights to write and to read: the answer holds the old value."""
    grants: Grants = req.scope[GRANTS]
    grants.require("read", key)
    grants.require("write", key)


def _content_type(req: Request) -> str:
    """Return the type to store, empty without a usable one: these routes refuse no type."""
    given: str = req.content_type or ""
    return choose_stored_type(given) if is_content_type(given) else ""


class Keys:
    """`/keys`"""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the JSON array of all keys."""
        req.scope[GRANTS].require_all("read", b"")
        keys = encode_array(self._store.list_keys(b""))
        await answer_list(req, resp, refuse_if_full(keys, self._context, req.scope[QUOTA]))

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response) -> None:
        """Delete everything: 200, empty."""
        req.scope[GRANTS].require_all("write", b"")
        async for _ in self._store.delete_prefix(b""):
            pass
        resp.data = b""


class Prefix:
    """`/keys/{prefix}`"""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the JSON array of the keys that start with the prefix."""
        req.scope[GRANTS].require_all("read", key)
        if len(key) > MAX_KEY:
            self._store.report_activity("list_prefix", key)
            await answer_list(req, resp, encode_array(no_pages()))
        else:
            keys = encode_array(self._store.list_keys(key))
            await answer_list(req, resp, refuse_if_full(keys, self._context, req.scope[QUOTA]))

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """Delete the keys that start with the prefix: 200 with the JSON array of them.

        The delete is completed however slowly its client reads.
        """
        grants: Grants = req.scope[GRANTS]
        grants.require_all("read", key)
        grants.require_all("write", key)
        if len(key) > MAX_KEY:
            self._store.report_activity("delete_prefix", key)
            await answer_list(req, resp, encode_array(no_pages()))
        else:
            quota = req.scope[QUOTA]
            self._context.load.check_answer_budget(quota)
            await answer_list(
                req, resp, spool_chunks(encode_array(self._store.delete_prefix(key)), self._context, quota)
            )


class Feed:
    """`/v1/feed`: valid GETs are handed to the gateway before they arrive here. There is no HEAD."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """400: says what is missing."""
        why = handshake.find_handshake_fault(req.scope["http_version"], req.scope["headers"])
        raise why or BadRequest("this connection cannot be given to the gateway")


class Wal(Feed):
    """`/wal`: receives requests that are not WebSocket handshakes. Allow names HEAD, as MemoryKV's does."""

    async def on_head(self, req: Request, resp: Response) -> None:
        """405, nevertheless."""
        raise WrongMethod("GET")
