"""The Python client of a kvserver.

    from kvserver.client import Client

    with Client("http://localhost:8080") as kv:
        kv.put("greeting", "hello", ttl=60)
        entry = kv.get("greeting")

`AsyncClient` has the same methods for asyncio. `Client` needs urllib3 alone, `AsyncClient` needs aiohttp too.

- `errors`: what was surely not done, and what may have been done.
- `model`: what methods take and return.
- `core`: the client without its connections.
- `address`: where the server is, from arguments and the environment.
- `pool`: HTTP for threads, on urllib3.
- `session`: HTTP for tasks, on aiohttp.
- `sync`: `Client`.
- `aio`: `AsyncClient`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvserver.client.sync import Client

if TYPE_CHECKING:
    from kvserver.client.aio import AsyncClient

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """Import `AsyncClient` on first use: aiohttp is slow to import, and may not be there."""
    if name == "AsyncClient":
        from kvserver.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
