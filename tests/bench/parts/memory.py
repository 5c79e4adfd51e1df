"""Memory: what a million keys take, here and in Redis; and what a shard with them needs to come back."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from itertools import cycle

from shards.host.board import Board
from tests.bench import client
from tests.bench.contenders import Contender, KVServer, Webdis
from tests.bench.measure import Findings, Round, Target, latencies
from tests.bench.parts import VALUE, Bench, names

RATIO = 1.5
"""How many times the memory of Redis may be taken."""
RESTART_S = 1.0
"""How long a shard with all keys may be away."""


def memory(bench: Bench) -> Findings:
    """Bytes for each key of 100 bytes: all memory that the processes have more than when they were empty."""
    findings = Findings()
    with ExitStack() as stack:
        wanted: list[Contender] = [KVServer(bench.directory), Webdis(bench.directory, "none")]
        rounds = {each.name: [_taken(bench, each)] for each in bench.start(stack, findings, wanted)}
        targets = {(name, "bytes/key"): Target("at most", RATIO, "ratio") for name in list(rounds)[1:]}
        findings.add(f"{bench.keys:,} keys of 9 bytes, values of {len(VALUE)}", rounds, targets)
    return findings


def _taken(bench: Bench, contender: Contender) -> Round:
    bench.say(f"filling {contender.name} with {bench.keys} keys")
    empty = contender.memory_bytes()
    contender.fill(names(bench.keys), VALUE)
    return {"bytes/key": (contender.memory_bytes() - empty) / bench.keys}


def restart(bench: Bench) -> Findings:
    """A shard with all keys is killed: when the next write is answered, and what readers notice."""
    findings = Findings()
    with ExitStack() as stack:
        ours = stack.enter_context(KVServer(bench.directory))
        board = Board.open(ours.server.run_dir / "board")
        stack.callback(board.close)
        bench.say(f"filling {bench.keys} keys")
        ours.fill(names(bench.keys), VALUE)
        rounds = [_killed(ours, board) for _ in range(bench.rounds)]
        targets = {("kvserver", "write after s"): Target("below", RESTART_S)}
        findings.add(f"kill -9 of a shard with {bench.keys:,} keys", {"kvserver": rounds}, targets)
    return findings


def _killed(ours: KVServer, board: Board) -> Round:
    keys = names(1000)
    requests = cycle(map(ours.get, keys))
    with client.Connection(ours.port) as connection, client.Pulse(ours.port, requests) as pulse:
        time.sleep(0.2)
        before, begun = len(pulse.seconds), time.perf_counter()
        os.kill(board.shards[0].pid, signal.SIGKILL)
        while not _written(connection, ours.put(keys[0], VALUE)):
            pass  # what the shard had received when it died has no answer; what comes later waits for the next one
        taken = time.perf_counter() - begun
        while_away = pulse.seconds[before:]
    return {"write after s": taken, "reads meanwhile": len(while_away), **latencies(while_away)}


def _written(connection: client.Connection, put: bytes) -> bool:
    try:
        connection.ask(put)
    except client.Refused as error:
        if "504" not in str(error):
            raise
        return False
    return True
