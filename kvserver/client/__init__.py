"""The Python client of a kvserver.

    from kvserver.client import Client

    with Client("http://localhost:8080") as kv:
        kv.put("greeting", "hello", ttl=60)
        entry = kv.get("greeting")

`AsyncClient` has the same methods for asyncio. `Client` needs urllib3 alone, `AsyncClient` needs aiohttp too.

- `errors`: what was not done, and what may have been done.
- `model`: what methods take and return.
- `changes`: what watches yield.
- `core`: the client without its connections.
- `transport`: HTTP below it.
- `scans`: iterators over all keys below a prefix.
- `atomics`: builders of atomic batches.
- `live`: watches, mirrors, leases, locks, elections.
- `sync`: `Client`.
- `aio`: `AsyncClient`.
- `version`: the version of the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvserver.client.core.batches import DeleteOp, GetOp, IncrOp, PatchOp, PutOp, TouchOp
from kvserver.client.errors import (
    AnswerWithheld,
    BatchFailed,
    CannotConnect,
    Conflict,
    Exists,
    Forbidden,
    Gap,
    KVError,
    LockLost,
    NotAnswered,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    Refused,
    Result,
    Unauthorized,
    Unavailable,
)
from kvserver.client.model import (
    DELETE,
    KEEP,
    UNCHANGED,
    Deleted,
    Entry,
    Exchanged,
    Grant,
    Item,
    Meta,
    Page,
    Patched,
    Written,
)
from kvserver.client.sync import Client
from kvserver.client.version import __version__

if TYPE_CHECKING:
    from kvserver.client.aio import AsyncClient
    from kvserver.client.changes import (
        Activity,
        Connected,
        Delete,
        Ended,
        Envelope,
        Put,
        Reset,
        Synced,
        Touch,
        Waiting,
    )

__all__ = [
    "DELETE",
    "KEEP",
    "UNCHANGED",
    "Activity",
    "AnswerWithheld",
    "AsyncClient",
    "BatchFailed",
    "CannotConnect",
    "Client",
    "Conflict",
    "Connected",
    "Delete",
    "DeleteOp",
    "Deleted",
    "Ended",
    "Entry",
    "Envelope",
    "Exchanged",
    "Exists",
    "Forbidden",
    "Gap",
    "GetOp",
    "Grant",
    "IncrOp",
    "Item",
    "KVError",
    "LockLost",
    "Meta",
    "NotAnswered",
    "NotFound",
    "OutcomeUnknown",
    "Page",
    "PatchOp",
    "Patched",
    "PreconditionFailed",
    "Put",
    "PutOp",
    "Refused",
    "Reset",
    "Result",
    "Synced",
    "Touch",
    "TouchOp",
    "Unauthorized",
    "Unavailable",
    "Waiting",
    "Written",
    "__version__",
]


_CHANGES = (
    "Activity",
    "Connected",
    "Delete",
    "Ended",
    "Envelope",
    "Put",
    "Reset",
    "Synced",
    "Touch",
    "Waiting",
)


def __getattr__(name: str) -> Any:
    """Import on first use what programs that only read and write do without: `AsyncClient`, and what watches yield.

    aiohttp is slow to import, and may not be there.
    """
    if name == "AsyncClient":
        from kvserver.client.aio import AsyncClient

        return AsyncClient
    if name in _CHANGES:
        from kvserver.client import changes

        return getattr(changes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
