"""Values in answers: coded if their client wants that, and nothing of them for who may only write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from falcon.asgi import Request, Response

from kvserver.access.grants import Grants
from kvserver.router import Router
from kvserver.web import coding
from shards.errors import Conflict, KVError, PreconditionFailed
from shards.maps import Item


def find(req: Request, router: Router, key: bytes) -> Item | None:
    """What `key` holds, None if it is absent or expired. For a HEAD without the value, unless that may be coded: then
    only coding it tells its length. Raises `Unavailable`."""
    if req.method != "HEAD":
        return router.get(key)
    item = router.describe(key)
    if item is not None and coding.SMALLEST <= item.size <= coding.LARGEST and req.get_header("Accept-Encoding"):
        return router.get(key)
    router.activity("read", key)
    return item


async def answer(req: Request, resp: Response, body: bytes, content_type: str = "") -> str:
    """Make `body` the answer's, coded if the client accepts that, and if a body of `content_type` is worth it.

    Returns the coding, empty for none.
    """
    if coding.SMALLEST <= len(body) <= coding.LARGEST and (accepted := req.get_header("Accept-Encoding")):
        name = coding.choose(accepted)
        if name is not None and coding.is_codable(content_type):
            coder = coding.CODERS[name]
            if len(body) < coding.LARGE:
                coded = coder(body)
            else:
                coded = await asyncio.get_running_loop().run_in_executor(None, coder, body)
            if len(coded) < len(body):
                resp.set_header("Content-Encoding", name)
                resp.data = coded
                return name
    resp.data = body
    return ""


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
