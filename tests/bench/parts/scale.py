"""How many workers and shards: what each more of them brings, or costs."""

from __future__ import annotations

import os
from contextlib import ExitStack

from tests.bench.contenders import KVServer
from tests.bench.measure import Findings
from tests.bench.parts import Bench
from tests.bench.parts.speed import compare, filled, gets, puts

CONNECTIONS = 64


def scale(bench: Bench) -> Findings:
    """GET by workers, PUT by workers and shards; the default numbers first."""
    findings = Findings()
    cores = os.cpu_count() or 1
    with ExitStack() as stack:
        numbers = dict.fromkeys([(cores, 1), (1, 1), (2 * cores, 1), (cores, 2), (cores, 4), (1, 2)])
        wanted = [
            KVServer(bench.directory, "--workers", str(workers), "--shards", str(shards)) for workers, shards in numbers
        ]
        contenders = filled(bench, stack, findings, wanted)
        compare(bench, findings, "GET", {each: gets(each) for each in contenders})
        compare(bench, findings, "PUT, flushed", {each: puts(each) for each in contenders})
    return findings
