"""Values in answers: found, within the limit of large answers, compressed if the client accepts that."""

from __future__ import annotations

from falcon.asgi import Request, Response

from kvserver.http import compression
from kvserver.http.scope import QUOTA
from kvserver.one_key.answers import Answer
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from kvserver.web.encoding import encode_body
from kvserver.web.limits.load import LARGE_ANSWER
from shards.maps.reader import Item


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
    name, resp.data = await encode_body(req.get_header("Accept-Encoding"), body, content_type)
    if name:
        resp.set_header("Content-Encoding", name)
    return name


async def give_answer(req: Request, resp: Response, answer: Answer) -> None:
    """Answer a request for one key, with the body compressed if the client accepts that."""
    if answer.coded_type is not None:
        coding, coded = await encode_body(req.get_header("Accept-Encoding"), answer.body, answer.coded_type)
        if coding:
            answer = answer.with_coding(coding, coded)
    resp.status = answer.status
    resp.set_headers(answer.headers)
    resp.data = answer.body
