"""The driver of the Python client: `conform_py.py sync` uses `Client`, `conform_py.py async` uses `AsyncClient`.

Reads one JSON request a line, and writes one JSON answer a line. Both kinds run the same handlers: where `Client` has
the result, `result_of` returns it, where `AsyncClient` has a coroutine, it awaits it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from conform_watch import watch

from kvserver.client import (
    DELETE,
    KEEP,
    UNCHANGED,
    AnswerWithheld,
    AsyncClient,
    BatchFailed,
    Client,
    DeleteOp,
    Entry,
    GetOp,
    Grant,
    IncrOp,
    Item,
    KVError,
    OutcomeUnknown,
    PatchOp,
    PreconditionFailed,
    PutOp,
    Refused,
    Result,
    TouchOp,
)
from kvserver.client.core.values import moment_text

Args = dict[str, Any]
AnyClient = Any
"""`Client` or `AsyncClient`."""

_HANDLERS: dict[str, Callable[[AnyClient, Args], Awaitable[Any]]] = {}


def handler(function: Callable[[AnyClient, Args], Awaitable[Any]]) -> Callable[[AnyClient, Args], Awaitable[Any]]:
    """Register the handler of the request that has the function's name, without the underscore at its end."""
    _HANDLERS[function.__name__.rstrip("_")] = function
    return function


async def result_of(value: Any) -> Any:
    """Return a value, awaited if it is awaitable."""
    return await value if inspect.isawaitable(value) else value


async def list_of(values: Any) -> list[Any]:
    """Return the elements of an iterator, asynchronous or not."""
    if hasattr(values, "__aiter__"):
        return [value async for value in values]
    return list(values)


@handler
async def get(kv: AnyClient, args: Args) -> Any:
    span = args.get("range")
    return entry_document(await result_of(kv.get(args["key"], range=tuple(span) if span else None)))


@handler
async def head(kv: AnyClient, args: Args) -> Any:
    meta = await result_of(kv.head(args["key"]))
    return meta and {
        "size": meta.size,
        "revision": meta.revision,
        "content_type": meta.content_type,
        "expires": time_text(meta.expires),
    }


@handler
async def get_if_changed(kv: AnyClient, args: Args) -> Any:
    found = await result_of(kv.get_if_changed(args["key"], args["revision"]))
    return "unchanged" if found is UNCHANGED else entry_document(found)


@handler
async def get_many(kv: AnyClient, args: Args) -> Any:
    found = await result_of(kv.get_many(args["keys"]))
    return {key: entry_document(entry) for key, entry in found.items()}


@handler
async def put(kv: AnyClient, args: Args) -> Any:
    written = await result_of(kv.put(args["key"], **content(args), **given(args, "if_revision")))
    return {"revision": written.revision, "created": written.created}


@handler
async def create(kv: AnyClient, args: Args) -> Any:
    written = await result_of(kv.create(args["key"], **content(args)))
    return {"revision": written.revision}


@handler
async def exchange(kv: AnyClient, args: Args) -> Any:
    done = await result_of(kv.exchange(args["key"], **content(args), **given(args, "if_revision")))
    return {"revision": done.revision, "previous": entry_document(done.previous)}


@handler
async def patch(kv: AnyClient, args: Args) -> Any:
    done = await result_of(kv.patch(args["key"], args["patch"], **given(args, "if_revision")))
    return {"revision": done.revision, "value": done.value}


@handler
async def incr(kv: AnyClient, args: Args) -> Any:
    options = given(args, "by", "ttl_if_new")
    return {"value": str(await result_of(kv.incr(args["key"], **options)))}


@handler
async def touch(kv: AnyClient, args: Args) -> Any:
    options = given(args, "ttl", "expires", "persist", "if_revision")
    return {"revision": await result_of(kv.touch(args["key"], **options))}


@handler
async def delete(kv: AnyClient, args: Args) -> Any:
    return {"deleted": await result_of(kv.delete(args["key"], **given(args, "if_revision")))}


@handler
async def page(kv: AnyClient, args: Args) -> Any:
    found = await result_of(kv.page(**args))
    return {
        "items": [item_document(item) for item in found.items],
        "prefixes": list(found.prefixes),
        "next": found.next,
        "cursor": found.cursor,
    }


@handler
async def scan(kv: AnyClient, args: Args) -> Any:
    return {"items": [item_document(item) for item in await list_of(kv.scan(**args))]}


@handler
async def count(kv: AnyClient, args: Args) -> Any:
    return {"count": await result_of(kv.count(**args))}


@handler
async def delete_prefix(kv: AnyClient, args: Args) -> Any:
    options = given(args, "dry_run", "limit", "all")
    done = await result_of(kv.delete_prefix(args.get("prefix", ""), **options))
    return {"deleted": done.count, "complete": done.complete}


@handler
async def batch(kv: AnyClient, args: Args) -> Any:
    results = await result_of(kv.batch([op_of(op) for op in args["ops"]]))
    return {"results": [result_document(op, result) for op, result in zip(args["ops"], results, strict=True)]}


@handler
async def atomic(kv: AnyClient, args: Args) -> Any:
    builder = kv.atomic()
    for op in args["ops"]:
        options = {name: value for name, value in op.items() if name not in ("op", "key")}
        if op["op"] == "get" and "if_revision" in op:
            builder.check(op["key"], op["if_revision"])
        elif op["op"] == "put":
            builder.put(op["key"], **content(op), **given(op, "if_revision"))
        elif op["op"] == "patch":
            builder.patch(op["key"], options.pop("patch"), **options)
        else:
            getattr(builder, op["op"])(op["key"], **options)
    results = await result_of(builder.commit())
    return {"results": [result_document(op, result) for op, result in zip(args["ops"], results, strict=True)]}


@handler
async def update(kv: AnyClient, args: Args) -> Any:
    def change(entry: Entry | None) -> Any:
        old = entry.value if entry else b""
        if args["with"] == "append":
            return old + args["text"].encode()
        if args["with"] == "increment":
            return str(int(old or b"0") + 1)
        return {"delete": DELETE, "keep": KEEP}[args["with"]]

    return entry_document(await result_of(kv.update(args["key"], change)))


@handler
async def status(kv: AnyClient, args: Args) -> Any:
    return dict((await result_of(kv.status())).raw)


@handler
async def ping(kv: AnyClient, args: Args) -> Any:
    await result_of(kv.ping())
    return {}


@handler
async def repeat(kv: AnyClient, args: Args) -> Any:
    """Get or put a key `count` times, by so many `tasks` at a time, for benchmarks."""
    key, value, tasks = args["key"], base64.b64decode(args.get("value_base64", "")), args.get("tasks", 1)

    async def work() -> None:
        for _ in range(args["count"] // tasks):
            await result_of(kv.get(key) if args["verb"] == "get" else kv.put(key, value))

    begun = time.perf_counter()
    await (work() if tasks == 1 else asyncio.gather(*(work() for _ in range(tasks))))
    return {"seconds": time.perf_counter() - begun}


@handler
async def whoami(kv: AnyClient, args: Args) -> Any:
    found = await result_of(kv.whoami())
    return {
        "name": found.name,
        "grants": [{"prefix": grant.prefix, "allow": list(grant.allow)} for grant in found.grants],
    }


@handler
async def ticket(kv: AnyClient, args: Args) -> Any:
    asked = [Grant(each["prefix"], each["allow"]) for each in args["grants"]] if "grants" in args else None
    found = await result_of(kv.ticket(args["for"], grants=asked, ttl=args.get("ttl")))
    return {"ticket": found.ticket, "expires": time_text(found.expires)}


def given(args: Args, *names: str) -> Args:
    """Return the arguments of these names that the request has."""
    return {name: args[name] for name in names if name in args}


def content(args: Args) -> Args:
    """Return the arguments of a put."""
    value = {"json": args["json"]} if "json" in args else {"value": value_of(args)}
    return value | given(args, "content_type", "ttl", "expires")


def value_of(args: Args) -> bytes:
    """Return the value of a put, which may be text in operations of batches."""
    return base64.b64decode(args["value_base64"]) if "value_base64" in args else args["value"].encode()


def op_of(op: Args) -> Any:
    """Return an operation of a batch."""
    options = {name: value for name, value in op.items() if name not in ("op", "key")}
    if op["op"] == "put":
        return PutOp(op["key"], **content(op), **given(op, "if_revision"))
    if op["op"] == "patch":
        return PatchOp(op["key"], options.pop("patch"), **options)
    return {"get": GetOp, "incr": IncrOp, "touch": TouchOp, "delete": DeleteOp}[op["op"]](op["key"], **options)


def entry_document(entry: Entry | None) -> Any:
    return entry and {
        "key": entry.key,
        "value_base64": base64.b64encode(entry.value).decode(),
        "revision": entry.revision,
        "content_type": entry.content_type,
        "expires": time_text(entry.expires),
        "modified": time_text(entry.modified),
    }


def item_document(item: Item) -> Args:
    value = {} if item.value is None else {"value_base64": base64.b64encode(item.value).decode()}
    return {
        "key": item.key,
        "revision": item.revision,
        "size": item.size,
        "content_type": item.content_type,
        "expires": time_text(item.expires),
        **value,
    }


def result_document(op: Args, result: Result) -> Args:
    """Return the result of an operation: the sum of an incr as decimal digits, the value of a patch as it is."""
    document: Args = {"status": result.status}
    if result.revision is not None:
        document["revision"] = result.revision
    if result.error is not None:
        document["code"] = result.error.code
    if result.entry is not None:
        document["value_base64"] = base64.b64encode(result.entry.value).decode()
    if result.value is not None:
        document["result"] = str(result.value) if op["op"] == "incr" else result.value
    return document


def error_document(args: Args, error: KVError) -> Args:
    half = "refused" if isinstance(error, Refused) else "unknown" if isinstance(error, OutcomeUnknown) else "other"
    revision = error.revision if isinstance(error, (PreconditionFailed, AnswerWithheld)) else None
    document = {
        "half": half,
        "code": error.code,
        "status": error.status,
        "revision": revision,
        "detail": str(error),
    }
    if isinstance(error, BatchFailed):
        results = [result_document(op, result) for op, result in zip(args["ops"], error.results, strict=True)]
        document |= {"failed": error.failed, "results": results}
    return document


def time_text(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)


def write(document: Args) -> None:
    """Write a line of an answer."""
    print(json.dumps(document), flush=True)


async def serve(kv: AnyClient) -> None:
    """Carry out the requests of standard input, one after another, until it ends."""
    loop = asyncio.get_running_loop() if isinstance(kv, AsyncClient) else None
    while line := sys.stdin.readline() if loop is None else await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        args = request["args"]
        if request["do"] == "options":
            kv = kv.with_options(**args)
            write({"id": request["id"], "ok": {}})
        elif request["do"] == "watch" and args.get("transport", "lines") == "lines":
            await answer(request, watch(kv, args, lambda part, id=request["id"]: write({"id": id, **part})))
        elif request["do"] not in _HANDLERS:
            write({"id": request["id"], "unsupported": True})
        else:
            await answer(request, _HANDLERS[request["do"]](kv, args))


async def answer(request: Args, result: Awaitable[Any]) -> None:
    """Write the last line of the answer to a request."""
    try:
        write({"id": request["id"], "ok": await result})
    except KVError as error:
        write({"id": request["id"], "error": error_document(request["args"], error)})


def main() -> None:
    """Run with the client that the command line names."""
    if sys.argv[1] == "sync":
        with Client() as kv, contextlib.suppress(StopIteration):
            serve(kv).send(None)  # nothing in it waits: it runs to its end
    else:
        asyncio.run(run_asynchronously())


async def run_asynchronously() -> None:
    async with AsyncClient() as kv:
        await serve(kv)


if __name__ == "__main__":
    main()
