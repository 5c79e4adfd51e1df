"""The routes at the root, as MemoryKV serves them: ping, one key, lists of keys, prefix deletes, the feed's door.

Everything is `application/octet-stream`, an absent key reads as empty, and a write answers what it replaced.
"""

from __future__ import annotations

from falcon.asgi import Request, Response

from kvserver.access.grants import Grants
from kvserver.http import compression, handshake, routes
from kvserver.http.responses import HTML, WrongMethod, names
from kvserver.http.scope import GRANTS, SCRIPT, SHARE
from kvserver.http.value_headers import OCTETS, stored_type
from kvserver.rest.lists import answer_list, json_array, nothing, refused_if_full, spooled
from kvserver.rest.values import answer, check_room
from kvserver.store.client import Router
from kvserver.web.traffic import Traffic
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

    Values that were replaced or deleted are never coded: of what type they were is not known here.
    While there is no room for large answers, 503 where the value, or the one that is replaced, is large.
    """

    def __init__(self, router: Router, traffic: Traffic) -> None:
        self._router, self._traffic = router, traffic

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value, empty if there is none."""
        may_lead = key in routes.PAGES and wants_page(req)
        if may_lead and not req.scope[GRANTS].may("read", key):  # whether there is such a key is not told
            lead(resp, routes.PAGES[key])
            resp.data = b""
            return
        req.scope[GRANTS].require("read", key)
        if SCRIPT in req.scope:
            raise Forbidden("a value is not given out as a service worker")
        resp.content_type = OCTETS
        if len(key) > MAX_KEY:
            self._router.activity("read", key)
            resp.data = b""
            return
        check_room(req, self._router, self._traffic, key)
        item = self._router.get(key)
        if item is None:
            resp.data = b""
            if may_lead:
                lead(resp, routes.PAGES[key])
        elif len(item.value) < compression.SMALLEST:
            resp.data = item.value
        else:
            await answer(req, resp, item.value, item.content_type)

    on_head = on_get

    async def on_put(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value that was replaced, empty if there was none."""
        _require_both(req, key)
        if len(key) > MAX_KEY:
            raise KeyTooLong(f"{len(key)} bytes")
        check_room(req, self._router, self._traffic, key)
        value = await req.stream.read()
        done = await self._router.request(Put(key, value, _content_type(req), want_previous=True))
        resp.content_type = OCTETS
        resp.data = done.previous or b""

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value that was deleted, 404 if there was none."""
        _require_both(req, key)
        if len(key) > MAX_KEY:
            self._router.activity("delete", key)
            raise NotFound
        check_room(req, self._router, self._traffic, key)
        done = await self._router.request(Delete(key, want_previous=True))
        if not done.existed:
            raise NotFound
        resp.content_type = OCTETS
        resp.data = done.previous or b""


def wants_page(req: Request) -> bool:
    """Whether a browser asks, for something to show: HTML is named, and wanted (RFC 9110, 12.5.1)."""
    return names(req.accept.encode(), HTML)


def lead(resp: Response, page: str) -> None:
    """Lead a browser to `page`, for once: who stores a value there is shown that."""
    resp.content_type, resp.status = None, 302
    resp.set_header("Location", page)


def _require_both(req: Request, key: bytes) -> None:
    """These writes answer with what was there."""
    grants: Grants = req.scope[GRANTS]
    grants.require("read", key)
    grants.require("write", key)


def _content_type(req: Request) -> str:
    """The type to store: "" where none is given that could be used. These routes refuse no type."""
    given: str = req.content_type or ""
    return stored_type(given) if is_content_type(given) else ""


class Keys:
    """`/keys`"""

    def __init__(self, router: Router, traffic: Traffic) -> None:
        self._router, self._traffic = router, traffic

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the JSON array of all keys."""
        req.scope[GRANTS].require_all("read", b"")
        keys = json_array(self._router.keys(b""))
        await answer_list(req, resp, refused_if_full(keys, self._traffic, req.scope[SHARE]))

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response) -> None:
        """Delete everything: 200, empty."""
        req.scope[GRANTS].require_all("write", b"")
        async for _ in self._router.delete_prefix(b""):
            pass
        resp.data = b""


class Prefix:
    """`/keys/{prefix}`"""

    def __init__(self, router: Router, traffic: Traffic) -> None:
        self._router, self._traffic = router, traffic

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the JSON array of the keys that start with the prefix."""
        req.scope[GRANTS].require_all("read", key)
        if len(key) > MAX_KEY:
            self._router.activity("list_prefix", key)
            await answer_list(req, resp, json_array(nothing()))
        else:
            keys = json_array(self._router.keys(key))
            await answer_list(req, resp, refused_if_full(keys, self._traffic, req.scope[SHARE]))

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """Delete the keys that start with the prefix: 200 with the JSON array of them.

        It goes on to its end however slowly its client reads.
        """
        grants: Grants = req.scope[GRANTS]
        grants.require_all("read", key)
        grants.require_all("write", key)
        if len(key) > MAX_KEY:
            self._router.activity("delete_prefix", key)
            await answer_list(req, resp, json_array(nothing()))
        else:
            share = req.scope[SHARE]
            self._traffic.check_room(share)
            await answer_list(req, resp, spooled(json_array(self._router.delete_prefix(key)), self._traffic, share))


class Feed:
    """`/v1/feed`: what is a GET goes to the gateway before it comes here; nothing has a head without a body."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """400, naming what is missing."""
        why = handshake.refusal(req.scope["http_version"], req.scope["headers"])
        raise why or BadRequest("this connection cannot be given to the gateway")


class Wal(Feed):
    """`/wal`: what comes here is no WebSocket handshake. Its Allow names HEAD, as MemoryKV's does."""

    async def on_head(self, req: Request, resp: Response) -> None:
        """405, nevertheless."""
        raise WrongMethod("GET")
