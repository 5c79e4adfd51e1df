"""Pages of a list: what they cost in a small store and in a large one."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.bench import client
from tests.bench.contenders import KVServer
from tests.bench.measure import Findings, Round, Target, alternate, latencies
from tests.bench.parts import VALUE, Bench

SMALL = 1000
_PAGES = 300
_ITEMS, _IN_DIRECTORY = 100, 5
P50_MS = 2.0
"""What a page of 100 out of the large store may take."""

Query = Callable[[int], str]
"""From a number below the store's keys to the query of a page near it."""


def page(bench: Bench) -> Findings:
    """Pages of 100 from random places, one request at a time."""
    findings = Findings()
    with ExitStack() as stack:
        stores = {}
        for count in (SMALL, bench.keys):
            server = stack.enter_context(KVServer(bench.directory / str(count)))
            bench.say(f"filling a store with {count} keys")
            server.fill((key(number) for number in range(count)), VALUE)
            stores[f"{count:,} keys"] = (count, stack.enter_context(client.Connection(server.port)))
        for case, query in _QUERIES.items():
            bench.say(case)
            runs = {name: partial(_pages, connection, query, count) for name, (count, connection) in stores.items()}
            for run in runs.values():
                run()  # warms up
            target = {(list(runs)[1], "p50 ms"): Target("at most", P50_MS)}
            findings.add(case, alternate(bench.rounds, runs), target)
    return findings


def key(number: int) -> str:
    """Keys lie in directories of five."""
    return f"d{number // _IN_DIRECTORY:07d}/k{number:08d}"


_QUERIES: Final[dict[str, Query]] = {
    "limit=100": lambda number: f"after={key(number)}",
    "values=true": lambda number: f"values=true&after={key(number)}",
    "prefix": lambda number: f"prefix={key(number // 500 * 500)[:6]}",
    "reverse": lambda number: f"reverse=true&before={key(number)}",
    "delimiter": lambda number: f"delimiter=/&after={key(number)}",
    "count of a prefix": lambda number: f"count=true&prefix={key(number // 500 * 500)[:6]}",
}
"""By case. Prefixes hold 500 keys."""


def _pages(connection: client.Connection, query: Query, count: int) -> Round:
    # Not so near the ends that pages are not full.
    numbers = [random.randrange(_ITEMS, count - _ITEMS * _IN_DIRECTORY) for _ in range(_PAGES)]
    requests = [client.request("GET", f"/v1/kv?{query(number)}") for number in numbers]
    return latencies([connection.ask_timed(request) for request in requests])
