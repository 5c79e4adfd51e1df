"""Batches: operations a second by size, beside single requests to Redis; and what a large one does to others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle

from tests.bench import client
from tests.bench.contenders import Contender, KVServer, Webdis
from tests.bench.measure import Findings, Round, Target, alternate, latencies
from tests.bench.parts import VALUE, Bench, names
from tests.bench.wrk import Load

CONNECTIONS = 16
SINGLE_CONNECTIONS = 64
SIZES = (1, 10, 100, 1000)
TARGET_SIZE, TARGET_RATIO = 100, 5.0
_BODIES_OPS = 20_000
KEYS = 100_000
STALL_MS = 20.0
"""What others may wait beside the largest batches."""
_LARGE_OPS, _LARGE_VALUE = 10_000, b"v" * 3000


def batch(bench: Bench) -> Findings:
    """Puts, gets and both, in both formats, flushed; Redis flushes too."""
    findings = Findings()
    with ExitStack() as stack:
        ours = bench.start(stack, findings, bench.ours())
        peers = bench.start(stack, findings, [Webdis(bench.directory, "always")])
        for contender in (*ours, *peers):
            contender.fill(names(KEYS), VALUE)
        for kind in ("put", "get", "mixed"):
            for size in SIZES:
                _compare(bench, findings, kind, size, ours, peers)
    _beside_large(bench, findings)
    return findings


def _compare(
    bench: Bench, findings: Findings, kind: str, size: int, ours: Sequence[Contender], peers: Sequence[Contender]
) -> None:
    case = f"{kind} x {size}"
    bench.say(case)
    with ExitStack() as stack:
        runs = {}
        for form, packed in (("MessagePack", True), ("JSON", False)):
            bodies = [
                client.batch(_operations(kind, size, packed), packed=packed)
                for _ in range(max(_BODIES_OPS // size, 10))
            ]
            for each in ours:
                load = stack.enter_context(Load(each, bodies))
                runs[f"{each.name} {form}"] = partial(_run, load, bench.seconds, CONNECTIONS, size)
        for peer in peers:
            load = stack.enter_context(Load(peer, [_single(peer, kind, index) for index in range(_BODIES_OPS)]))
            runs[f"{peer.name}, single"] = partial(_run, load, bench.seconds, SINGLE_CONNECTIONS, 1)
        for run in runs.values():
            run.args[0].run(1.0, CONNECTIONS)
        wanted = {(f"{peer.name}, single", "ops/s"): Target("at least", TARGET_RATIO, "ratio") for peer in peers}
        findings.add(case, alternate(bench.rounds, runs), wanted if size == TARGET_SIZE else None)


def _run(load: Load, seconds: float, connections: int, each: int) -> Round:
    return load.run(seconds, connections).metrics(each)


def _operations(kind: str, size: int, packed: bool) -> list[client.Operation]:
    value = VALUE if packed else VALUE.decode()
    operations: list[client.Operation] = []
    for index in range(size):
        key = f"k{random.randrange(KEYS):08d}"
        is_put = kind == "put" or (kind == "mixed" and index % 2 == 0)
        operations.append({"op": "put", "key": key, "value": value} if is_put else {"op": "get", "key": key})
    return operations


def _single(peer: Contender, kind: str, index: int) -> bytes:
    key = f"k{random.randrange(KEYS):08d}"
    return peer.put(key, VALUE) if kind == "put" or (kind == "mixed" and index % 2 == 0) else peer.get(key)


def _beside_large(bench: Bench, findings: Findings) -> None:
    """Latencies of a client that reads one key again and again while another sends the largest of batches to the only
    worker."""
    keys = names(_LARGE_OPS)
    puts = [{"op": "put", "key": key, "value": _LARGE_VALUE} for key in keys]
    text = [{"op": "put", "key": key, "value": _LARGE_VALUE.decode()} for key in keys]
    gets: list[client.Operation] = [{"op": "get", "key": key} for key in keys]
    kinds = {
        "puts, MessagePack": client.batch(puts),
        "puts, JSON": client.batch(text, packed=False),
        "gets, MessagePack": client.batch(gets),
        "gets, JSON": client.batch(gets, packed=False),
    }
    bench.say("GET beside large batches")
    with KVServer(bench.directory, "--workers", "1") as ours:
        runs = {kind: partial(_beside, ours, body) for kind, body in kinds.items()}
        runs["puts, MessagePack"]()  # warms up, and is there to be read
        targets = {(kind, "max ms"): Target("at most", STALL_MS) for kind in kinds}
        findings.add(f"GET beside {_LARGE_OPS:,} operations", alternate(bench.rounds, runs), targets)


def _beside(ours: KVServer, batch: bytes) -> Round:
    requests = cycle([ours.get(names(1)[0])])
    with client.Connection(ours.port) as connection, client.Pulse(ours.port, requests) as pulse:
        taken = [connection.ask_timed(batch) for _ in range(3)]
    return {**latencies(pulse.seconds), "batch ms": max(taken) * 1000}
