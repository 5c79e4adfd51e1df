"""A process that campaigns: `campaigner.py sync|async NAME TTL VALUE`; it writes a line of JSON while it leads.

Each line has the clock of the machine before it was seen that the lock is held, and the fence.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from kvserver.client import AsyncClient, Client, KVError, LockLost
from kvserver.client.live.clock import elapsed_s


def tell(held_at: float, fence: int) -> None:
    print(json.dumps([held_at, fence]), flush=True)


def campaign(name: str, ttl: float, value: str) -> None:
    with Client() as kv:
        while True:
            try:
                with kv.election(name, ttl=ttl).campaign(value) as leadership:
                    until = elapsed_s() + 3 * ttl
                    while elapsed_s() < until and (now := elapsed_s()) and leadership.held:
                        tell(now, leadership.fence)
                        time.sleep(0.01)
            except (KVError, LockLost):
                time.sleep(0.01)


async def campaign_asynchronously(name: str, ttl: float, value: str) -> None:
    async with AsyncClient() as kv:
        while True:
            try:
                async with kv.election(name, ttl=ttl).campaign(value) as leadership:
                    until = elapsed_s() + 3 * ttl
                    while elapsed_s() < until and (now := elapsed_s()) and leadership.held:
                        tell(now, leadership.fence)
                        await asyncio.sleep(0.01)
            except (KVError, LockLost):
                await asyncio.sleep(0.01)


if __name__ == "__main__":
    kind, name, ttl, value = sys.argv[1:]
    if kind == "sync":
        campaign(name, float(ttl), value)
    else:
        asyncio.run(campaign_asynchronously(name, float(ttl), value))
