"""A million keys: how fast they come in by batches, and how long a start with them takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from tests.bench import client
from tests.bench.contenders import KVServer
from tests.bench.measure import Findings, Round, alternate
from tests.bench.parts import VALUE, Bench, names

_FAR_S = 30 * 86400


def load(bench: Bench) -> Findings:
    """One connection, by size of the batches."""
    findings = Findings()
    with ExitStack() as stack:
        ours = stack.enter_context(KVServer(bench.directory))
        runs = {}
        for size in (1000, 5000, 10_000):
            bodies = [client.batch(portion) for portion in client.portions(_puts(bench.keys // 4), size)]
            runs[f"batches of {size:,}"] = partial(_send, ours.port, bodies, bench.keys // 4)
        bench.say("import")
        findings.add(f"{bench.keys // 4:,} puts, one connection", alternate(bench.rounds, runs))
    return findings


def start(bench: Bench) -> Findings:
    """A restart with all keys: the maps are kept, the shard fills its dict."""
    findings = Findings()
    for case, ttl in {"without expiry": 0, "each with an expiry": _FAR_S}.items():
        with ExitStack() as stack:
            ours = stack.enter_context(KVServer(bench.directory))
            bench.say(f"filling {bench.keys} keys {case}")
            client.fill(ours.port, _puts(bench.keys, ttl), 5000)
            rounds: list[Round] = []
            for _ in range(bench.rounds):
                ours.server.stop()
                begun = time.perf_counter()
                ours.server.start()
                rounds.append({"ready after s": time.perf_counter() - begun})
            findings.add(f"start with {bench.keys:,} keys", {case: rounds})
    return findings


def _puts(count: int, ttl: int = 0) -> Iterator[client.Operation]:
    for key in names(count):
        yield {"op": "put", "key": key, "value": VALUE, **({"ttl": ttl} if ttl else {})}


def _send(port: int, bodies: list[bytes], count: int) -> Round:
    begun = time.perf_counter()
    with client.Connection(port) as connection:
        for body in bodies:
            connection.ask(body)
    taken = time.perf_counter() - begun
    return {"keys/s": count / taken, "MiB/s": sum(map(len, bodies)) / taken / (1 << 20)}
