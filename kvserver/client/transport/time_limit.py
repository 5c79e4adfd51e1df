"""A limit of time for what is awaited: `async with time_limit(seconds)`, which raises `asyncio.TimeoutError`.

Not `asyncio.wait_for`: before Python 3.12 that swallows a cancellation that comes together with a result.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout as time_limit
else:
    from async_timeout import timeout as time_limit  # comes with aiohttp

__all__ = ["time_limit"]
