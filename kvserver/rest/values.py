"""Values in answers: coded if their client wants that, and nothing of them for who may only write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from falcon.asgi import Request, Response

from kvserver.access.grants import Grants
from kvserver.http import compression
from kvserver.http.scope import SHARE
from kvserver.store.client import Router
from kvserver.web.traffic import LARGE_ANSWER, Traffic
from shards.maps.layout import Item
from shards.wire.errors import Conflict, KVError, PreconditionFailed


def find(req: Request, router: Router, key: bytes) -> Item | None:
    """What `key` holds, None if it is absent or expired. For a HEAD without the value, unless that may be coded: then
    only coding it tells its length. Raises `Unavailable`."""
    if req.method != "HEAD":
        return router.get(key)
    item = router.describe(key)
    fits = item is not None and compression.SMALLEST <= item.size <= compression.LARGEST
    if fits and req.get_header("Accept-Encoding"):
        return router.get(key)
    router.activity("read", key)
    return item


def check_room(req: Request, router: Router, traffic: Traffic, key: bytes) -> None:
    """Raise `Overloaded` if the value of `key` is a large answer for which there is no room."""
    share = req.scope[SHARE]
    if traffic.is_full(share) and router.size(key) >= LARGE_ANSWER:
        traffic.check_room(share)


async def answer(req: Request, resp: Response, body: bytes, content_type: str = "") -> str:
    """Make `body` the answer's, coded if the client accepts that, and if a body of `content_type` is worth it.

    Returns the coding, empty for none.
    """
    name, resp.data = await coded(req, body, content_type)
    if name:
        resp.set_header("Content-Encoding", name)
    return name


async def coded(req: Request, body: bytes, content_type: str) -> tuple[str, bytes]:
    """The coding in which `answer` sends `body`, empty for none, and `body` in it."""
    if compression.SMALLEST <= len(body) <= compression.LARGEST and (accepted := req.get_header("Accept-Encoding")):
        name = compression.choose(accepted)
        if name is not None and compression.is_codable(content_type):
            coder = compression.CODERS[name]
            if len(body) < compression.LARGE:
                small = coder(body)
            else:
                small = await asyncio.get_running_loop().run_in_executor(None, coder, body)
            if len(small) < len(body):
                return name, small
    return "", body


@contextmanager
def seen_by(grants: Grants, key: bytes) -> Iterator[None]:
    """What is raised inside about `key` goes on as `told_to` tells it."""
    try:
        yield
    except KVError as error:
        raise told_to(grants, key, error) from None


def told_to(grants: Grants, key: bytes, error: KVError) -> KVError:
    """`error` about `key` for the bearer of `grants`: who may not read learns that it is as it is, and nothing else of
    what is there."""
    if isinstance(error, Conflict | PreconditionFailed) and not grants.may("read", key):
        return type(error)()
    return error
