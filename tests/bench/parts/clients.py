"""The client libraries, one request after another, beside those of Redis and NATS."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from kvserver.client import AsyncClient, Client
from tests.bench.contenders import KVServer, Nats, Process, Redis
from tests.bench.measure import Findings, Round, alternate
from tests.bench.parts import VALUE, Bench
from tests.client.driver import Driver
from tests.client.sdks import SDKS

KEY: Final = "bench/clients"
TRIAL: Final = 200
"""Requests that tell how many fit into the seconds of a round."""
CONCURRENT: Final = ("python-async", "js")
"""Drivers that can have several requests in flight."""
EVENTS: Final = 20_000


def clients(bench: Bench) -> Findings:
    """GET and PUT of 100 bytes by one client, over one connection; by 16 tasks where a client has them; a watch."""
    findings = Findings()
    with ExitStack() as stack:
        (ours,) = bench.start(stack, findings, [KVServer(bench.directory, "--in-memory")])
        peers = bench.start(stack, findings, [Redis(bench.directory), Nats(bench.directory)])
        url = f"http://127.0.0.1:{ours.port}"
        ours.fill([KEY], VALUE)
        drivers = {sdk.name: stack.enter_context(Driver(sdk.command(), url)) for sdk in SDKS if sdk.is_here}
        for verb, tasks in (("get", 1), ("put", 1), ("get", 16), ("put", 16)):
            bench.say(f"{verb}, {tasks} at a time")
            names = drivers if tasks == 1 else [name for name in drivers if name in CONCURRENT]
            runs: dict[str, Callable[[], Round]] = {
                name: partial(_by_driver, drivers[name], verb, tasks, bench.seconds) for name in names
            }
            for peer in peers:
                runs |= _peer_runs(findings, peer, verb, tasks, bench.seconds)
            findings.add(f"{verb} by {tasks}", alternate(bench.rounds, runs))
        bench.say("watch")
        runs = {"python-sync": partial(_watch, url), "python-async": partial(_watch_async, url)}
        findings.add(f"{EVENTS:,} kept events", alternate(bench.rounds, runs))
    return findings


def _by_driver(driver: Driver, verb: str, tasks: int, seconds: float) -> Round:
    """Time so many requests as fill `seconds`, counted by the driver itself."""
    ask = partial(driver.ask, "repeat", verb=verb, key=KEY, value_base64=base64.b64encode(VALUE).decode(), tasks=tasks)
    return _rate(lambda count: float(ask(count=count)["seconds"]), seconds)


def _rate(take: Callable[[int], float], seconds: float) -> Round:
    count = max(TRIAL, int(seconds * TRIAL / take(TRIAL)) // 16 * 16)
    return {"requests/s": count / take(count)}


def _peer_runs(
    findings: Findings, peer: Process, verb: str, tasks: int, seconds: float
) -> dict[str, Callable[[], Round]]:
    module, kinds = ("redis", _REDIS) if isinstance(peer, Redis) else ("nats", _NATS)
    if find_spec(module) is None:
        note = f"the Python package {module} is not installed"
        if note not in findings.notes:
            findings.notes.append(note)
        return {}
    return {
        name: partial(_rate, partial(run, peer.port, verb, tasks), seconds)
        for name, run in kinds.items()
        if tasks == 1 or "async" in name
    }


def _redis_sync(port: int, verb: str, tasks: int, count: int) -> float:
    import redis

    with redis.Redis(port=port) as client:
        client.set(KEY, VALUE)
        begun = time.perf_counter()
        for _ in range(count):
            _ = client.get(KEY) if verb == "get" else client.set(KEY, VALUE)
        return time.perf_counter() - begun


def _redis_async(port: int, verb: str, tasks: int, count: int) -> float:
    import redis.asyncio

    async def work(client: Any) -> None:
        for _ in range(count // tasks):
            await (client.get(KEY) if verb == "get" else client.set(KEY, VALUE))

    async def main() -> float:
        async with redis.asyncio.Redis(port=port) as client:
            await client.set(KEY, VALUE)
            begun = time.perf_counter()
            await asyncio.gather(*(work(client) for _ in range(tasks)))
            return time.perf_counter() - begun

    return asyncio.run(main())


def _nats_kv(port: int, verb: str, tasks: int, count: int) -> float:
    import nats

    async def work(bucket: Any) -> None:
        for _ in range(count // tasks):
            await (bucket.get("key") if verb == "get" else bucket.put("key", VALUE))

    async def main() -> float:
        connection = await nats.connect(f"nats://127.0.0.1:{port}")
        bucket = await connection.jetstream().create_key_value(bucket="bench")
        await bucket.put("key", VALUE)
        begun = time.perf_counter()
        await asyncio.gather(*(work(bucket) for _ in range(tasks)))
        taken = time.perf_counter() - begun
        await connection.close()
        return taken

    return asyncio.run(main())


_REDIS: Final = {"redis-py sync": _redis_sync, "redis-py async": _redis_async}
_NATS: Final = {"nats.py async": _nats_kv}


def _start_of_events(client: Client) -> str:
    """Write the events of a watch, and return the cursor before them."""
    cursor = client.page(limit=1).cursor
    client.put_many((f"bench/events/{number % 100}", VALUE) for number in range(EVENTS))
    return cursor


def _watch(url: str) -> Round:
    with Client(url) as client:
        since = _start_of_events(client)
        begun = time.perf_counter()
        with client.watch("bench/events/", since=since) as changes:
            for _ in range(EVENTS):
                next(changes)
        return {"events/s": EVENTS / (time.perf_counter() - begun)}


def _watch_async(url: str) -> Round:
    with Client(url) as client:
        since = _start_of_events(client)

    async def main() -> float:
        async with AsyncClient(url) as kv:
            begun = time.perf_counter()
            async with kv.watch("bench/events/", since=since) as changes:
                for _ in range(EVENTS):
                    await anext(changes)
            return time.perf_counter() - begun

    return {"events/s": EVENTS / asyncio.run(main())}
