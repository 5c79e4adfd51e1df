"""Values in answers: compressed if the client accepts that, redacted for clients without the right to read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from falcon.asgi import Request, Response

from kvserver.access.grants import Grants
from kvserver.http import compression
from kvserver.http.scope import QUOTA
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from kvserver.web.limits.load import LARGE_ANSWER
from shards.maps.reader import Item
from shards.wire.errors import Conflict, KVError, PreconditionFailed


def find_item(req: Request, store: StoreClient, key: bytes) -> Item | None:
    """Return what `key` holds, None if it is absent or expired; report the read. Raises `Unavailable`.

    For a HEAD without the value, unless it may be compressed: its compressed length has to be measured.
    """
    if req.method != "HEAD":
        return store.get(key)
    item = store.describe(key)
    fits = item is not None and compression.SMALLEST <= item.size <= compression.LARGEST
    if fits and req.get_header("Accept-Encoding"):
        return store.get(key)
    store.report_activity("read", key)
    return item


def check_answer_budget(req: Request, store: StoreClient, context: WorkerContext, key: bytes) -> None:
    """Raise `Overloaded` if the value of `key` is a large answer and its address has no room for one."""
    quota = req.scope[QUOTA]
    if context.load.answers_full(quota):
        item = store.describe(key)
        if item is not None and item.size >= LARGE_ANSWER:
            context.load.check_answer_budget(quota)


async def answer_body(req: Request, resp: Response, body: bytes, content_type: str = "") -> str:
    """Answer with `body`, compressed if the client accepts that and bodies of `content_type` are worth it.

    Returns the coding, empty for none.
    """
    name, resp.data = await encode_body(req, body, content_type)
    if name:
        resp.set_header("Content-Encoding", name)
    return name


async def encode_body(req: Request, body: bytes, content_type: str) -> tuple[str, bytes]:
    """Return the coding in which `answer_body` sends `body`, empty for none, and `body` in it."""
    if compression.SMALLEST <= len(body) <= compression.LARGEST and (accepted := req.get_header("Accept-Encoding")):
        name = compression.choose_coding(accepted)
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
def redacting_errors(grants: Grants, key: bytes) -> Iterator[None]:
    """Redact the errors about `key` that are raised inside."""
    try:
        yield
    except KVError as error:
        raise redact(grants, key, error) from None


def redact(grants: Grants, key: bytes, error: KVError) -> KVError:
    """Return `error` about `key` for the bearer of `grants`.

    Without the right to read it gives the status only, no details of the stored value.
    """
    if isinstance(error, Conflict | PreconditionFailed) and not grants.may("read", key):
        return type(error)()
    return error
