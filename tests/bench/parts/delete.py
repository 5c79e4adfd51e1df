"""Deletes of a prefix: how long a million keys take, and what others notice."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import ExitStack

from tests.bench import client
from tests.bench.contenders import KVServer
from tests.bench.measure import Findings, Round, Target, latencies
from tests.bench.parts import VALUE, Bench

PUT_P99_MS = 50.0
"""What a PUT may take meanwhile."""
_ALONE_S = 2.0


def delete(bench: Bench) -> Findings:
    """With one client that PUTs one key after the other meanwhile."""
    findings = Findings()
    alone: list[Round] = []
    beside: list[Round] = []
    with ExitStack() as stack:
        ours = stack.enter_context(KVServer(bench.directory))
        puts = [ours.put(f"other-{number}", VALUE) for number in range(1000)]
        for number in range(bench.rounds):
            bench.say(f"filling {bench.keys} keys, round {number + 1}")
            ours.fill((f"gone/{key:08d}" for key in range(bench.keys)), VALUE)
            with client.Pulse(ours.port, itertools.cycle(puts)) as pulse:
                time.sleep(_ALONE_S)
            alone.append(latencies(pulse.seconds))
            with client.Connection(ours.port) as connection, client.Pulse(ours.port, itertools.cycle(puts)) as pulse:
                taken, deleted = _delete(connection)
            beside.append({**latencies(pulse.seconds), "delete s": taken, "deleted/s": deleted / taken})
    targets = {("beside the delete", "p99 ms"): Target("below", PUT_P99_MS)}
    findings.add("PUT", {"alone": alone, "beside the delete": beside}, targets)
    return findings


def _delete(connection: client.Connection) -> tuple[float, int]:
    """Delete to the end, as its answers say; seconds and keys."""
    begun, deleted, cut = time.perf_counter(), 0, ""
    while True:
        answer = json.loads(connection.ask(client.request("DELETE", f"/v1/kv?prefix=gone/{cut}")))
        deleted, cut = deleted + answer["deleted"], f"&cut={answer['cut']}"
        if answer["complete"]:
            return time.perf_counter() - begun, deleted
