"""Everything as one stream: how fast, and what memory it takes of a server whose client is slow."""

from __future__ import annotations

import http.client
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.contenders import KVServer
from tests.bench.measure import Findings, Round
from tests.bench.parts import VALUE, Bench

_PIECE = 1 << 16
_SLOW_S = 6.0
_SLOW_BYTES_S = 4 << 20


def stream(bench: Bench) -> Findings:
    """`GET /v1/kv` as lines, with and without values. Memory: what the worker that answers has of its own."""
    findings = Findings()
    with ExitStack() as stack:
        ours = stack.enter_context(KVServer(bench.directory, "--workers", "1"))
        bench.say(f"filling {bench.keys} keys")
        ours.fill((f"k{number:08d}" for number in range(bench.keys)), VALUE)
        worker = Path(f"/proc/{ours.server.status()['workers'][0]['pid']}/status")
        for case, target in {"keys": "/v1/kv", "with values": "/v1/kv?values=true"}.items():
            bench.say(case)
            results = {
                "fast client": [_read_all(ours.port, target, worker, bench.keys) for _ in range(bench.rounds)],
                "slow client": [_read_slowly(ours.port, target, worker) for _ in range(bench.rounds)],
            }
            findings.add(case, results)
    return findings


def _read_all(port: int, target: str, worker: Path, keys: int) -> Round:
    before, most, size = own_mib(worker), 0.0, 0
    begun = time.perf_counter()
    answer = _open(port, target)
    while piece := answer.read1(_PIECE):
        size += len(piece)
        if size % (64 * _PIECE) < len(piece):
            most = max(most, own_mib(worker))
    taken = time.perf_counter() - begun
    return {"keys/s": keys / taken, "MiB/s": size / taken / (1 << 20), "MiB more": max(most - before, 0.0)}


def _read_slowly(port: int, target: str, worker: Path) -> Round:
    before, most, size = own_mib(worker), 0.0, 0
    answer = _open(port, target)
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < _SLOW_S:
        size += len(answer.read1(_PIECE))
        most = max(most, own_mib(worker))
        time.sleep(max(size / _SLOW_BYTES_S - passed, 0))
    answer.close()
    return {"MiB/s": size / _SLOW_S / (1 << 20), "MiB more": max(most - before, 0.0)}


def _open(port: int, target: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", target, headers={"Accept": "application/x-ndjson"})
    return connection.getresponse()


def own_mib(status: Path) -> float:
    """Memory that a process shares with nobody, and no file: its heap."""
    for line in status.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no RssAnon in {status}")
