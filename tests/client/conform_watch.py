"""The request `watch` of the Python driver: a line for each change, until `count`, `Synced` or the end of input."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from kvserver.client import Activity, Delete, Put, Reset, Synced, Touch
from kvserver.client.changes import Change
from kvserver.client.core.values import moment_text

Args = dict[str, Any]
_OPTIONS = ("snapshot", "since", "ops", "values", "activity", "conflate", "on_gap")


async def watch(kv: Any, args: Args, write: Callable[[Args], None]) -> Args:
    """Carry out the request, and return its last answer. `write` writes an answer before it."""
    options = {name: args[name] for name in _OPTIONS if args.get(name) is not None}
    found = kv.watch(*args.get("prefixes", ()), keys=args.get("keys", ()), **options)
    is_sync = hasattr(found, "__enter__")
    left = args.get("count", -1)
    if left < 0 and not args.get("until_synced"):
        _close_with_input(found, is_sync)
    try:
        await _result_of((found.__enter__ if is_sync else found.__aenter__)())
        write({"ready": True})
        with contextlib.suppress(StopIteration, StopAsyncIteration):
            while left:
                change = await _result_of((found.__next__ if is_sync else found.__anext__)())
                write({"change": {**change_document(change), "cursor": found.cursor}})
                left -= 1
                if args.get("until_synced") and isinstance(change, Synced):
                    break
    finally:
        await _result_of(found.close())
    return {"cursor": found.cursor}


def change_document(change: Change) -> Args:
    """Return a change as the protocol has it."""
    if isinstance(change, Put):
        coded = {"size": change.size} if change.value is None else {"value_base64": _coded(change.value)}
        return {
            "kind": "put",
            "key": change.key,
            "revision": change.revision,
            "time": _text(change.time),
            "content_type": change.content_type,
            "expires": _text(change.expires),
            "origin": change.origin,
            **coded,
        }
    if isinstance(change, Touch):
        return {"kind": "touch", "key": change.key, "revision": change.revision, "expires": _text(change.expires)}
    if isinstance(change, Delete):
        return {"kind": "delete", "key": change.key, "revision": change.revision, "cause": change.cause}
    if isinstance(change, Reset):
        return {"kind": "reset", "reason": change.reason, "snapshot": change.snapshot}
    if isinstance(change, Activity):
        return {"kind": "activity", "op": change.op, "subject": change.subject, "time": _text(change.time)}
    return {"kind": "synced"}


def _close_with_input(found: Any, is_sync: bool) -> None:
    """Close the watch at the end of standard input, on which nothing else can come."""

    def wait() -> None:
        sys.stdin.read()
        if is_sync:
            found.close()
        else:
            loop.call_soon_threadsafe(lambda: loop.create_task(found.close()))

    if not is_sync:
        loop = asyncio.get_running_loop()
    threading.Thread(target=wait, daemon=True).start()


async def _result_of(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _coded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
