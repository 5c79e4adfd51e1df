"""GET and PUT of one key by few and many connections, beside peers that do the same."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.bench.contenders import Contender, Etcd, KVServer, Nginx, Webdis
from tests.bench.measure import Findings, Round, Target, alternate
from tests.bench.parts import VALUE, Bench, names
from tests.bench.wrk import Load

CONNECTIONS = 64
_WARM_UP_S = 1.0
_READERS, _WRITERS = 16, 64
_SIZES: Final = {"1 KiB": (1 << 10, 10_000), "64 KiB": (64 << 10, 500), "1 MiB": (1 << 20, 50)}
"""How large values are, and how many."""

Targets = Mapping[type[Contender], Target]

GET_TARGETS: Final[Targets] = {
    Webdis: Target("at least", 1.6, "ratio"),
    Nginx: Target("at least", 0.85, "ratio"),
    Etcd: Target("at least", 8.0, "ratio"),
}
PUT_TARGETS: Final[Targets] = {Webdis: Target("at least", 1.1, "ratio"), Etcd: Target("at least", 8.0, "ratio")}
MEMORY_TARGETS: Final[Targets] = {Webdis: Target("at least", 0.85, "ratio")}
BESIDE_TARGET: Final = Target("at least", 1 / 3, "ratio")
"""The 99th percentile alone, of that beside a writer."""
_CONNECTIONS: Final[Mapping[int, Targets]] = {
    1: {},
    16: {Webdis: Target("at least", 1.0, "ratio")},
    64: PUT_TARGETS,
    256: PUT_TARGETS,
}
"""How many there are at once, and what is wanted of flushed PUTs over them."""


def get(bench: Bench) -> Findings:
    """Hits by both ways, and misses."""
    findings = Findings()
    with ExitStack() as stack:
        peers = [Webdis(bench.directory, "none"), Nginx(bench.directory, len(VALUE)), Etcd(bench.directory)]
        contenders = filled(bench, stack, findings, [*bench.ours(), *peers])
        hits = {contender: gets(contender) for contender in contenders}
        compare(bench, findings, "GET hit", hits, targets=GET_TARGETS)
        misses = {contender: map(contender.get, names(10_000, contender.most_keys)) for contender in contenders}
        compare(bench, findings, "GET miss", misses, refusals=True)
        hits = {contender: gets(contender) for contender in contenders}
        for ours in (contender for contender in contenders if isinstance(contender, KVServer)):
            hits[ours] = [ours.get_version1(key) for key in names(ours.most_keys)]
        compare(bench, findings, "GET hit, /v1/kv", hits)
    return findings


def put(bench: Bench) -> Findings:
    """With three promises about the disk, each beside Redis with the like."""
    findings = Findings()
    cases: dict[str, tuple[list[str], str, bool, Targets]] = {
        "PUT, flushed": ([], "always", True, PUT_TARGETS),
        "PUT, left to the kernel": (["--sync", "os"], "no", False, {}),
        "PUT, in memory": (["--in-memory"], "none", False, MEMORY_TARGETS),
    }
    for case, (options, durability, with_etcd, targets) in cases.items():
        with ExitStack() as stack:
            wanted: list[Contender] = [*bench.ours(*options), Webdis(bench.directory, durability)]
            wanted += [Nginx(bench.directory, 0)] + ([Etcd(bench.directory)] if with_etcd else [])
            contenders = bench.start(stack, findings, wanted)
            compare(bench, findings, case, {each: puts(each) for each in contenders}, targets=targets)
    return findings


def mixed(bench: Bench) -> Findings:
    """Nine reads to a write, flushed."""
    findings = Findings()
    with ExitStack() as stack:
        wanted = [KVServer(bench.directory), Webdis(bench.directory, "always"), Etcd(bench.directory)]
        contenders = filled(bench, stack, findings, wanted)
        requests = {each: [*gets(each) * 9, *puts(each)] for each in contenders}
        compare(bench, findings, "90 % GET, 10 % PUT, flushed", requests)
    return findings


def connections(bench: Bench) -> Findings:
    """One client, some, and many at once."""
    findings = Findings()
    with ExitStack() as stack:
        contenders = filled(bench, stack, findings, [*bench.ours(), Webdis(bench.directory, "always")])
        for count in _CONNECTIONS:
            compare(bench, findings, f"GET, {count} connections", {c: gets(c) for c in contenders}, count)
        for count, targets in _CONNECTIONS.items():
            case = f"PUT, flushed, {count} connections"
            compare(bench, findings, case, {c: puts(c) for c in contenders}, count, targets)
    with ExitStack() as stack:
        wanted = [*bench.ours("--in-memory"), Webdis(bench.directory, "none")]
        contenders = filled(bench, stack, findings, wanted)
        for count in _CONNECTIONS:
            targets = MEMORY_TARGETS if count > 1 else {}
            case = f"PUT, in memory, {count} connections"
            compare(bench, findings, case, {c: puts(c) for c in contenders}, count, targets)
    return findings


def sizes(bench: Bench) -> Findings:
    """Values of more than some bytes; fewer connections the larger they are."""
    findings = Findings()
    with ExitStack() as stack:
        contenders = bench.start(stack, findings, [KVServer(bench.directory), Webdis(bench.directory, "always")])
        for name, (size, count) in _SIZES.items():
            value, keys, many = random.randbytes(size), names(count), 64 if size < 1 << 16 else 16
            requests = {each: [each.put(key, value) for key in keys] for each in contenders}
            compare(bench, findings, f"PUT of {name}, flushed, {many} connections", requests, many)
            reads = {each: map(each.get, keys) for each in contenders}
            compare(bench, findings, f"GET of {name}, {many} connections", reads, many)
    return findings


def beside(bench: Bench) -> Findings:
    """What readers wait while nobody writes, and while writers do what they can."""
    findings = Findings()
    with ExitStack() as stack:
        [ours] = filled(bench, stack, findings, [KVServer(bench.directory)])
        reading = stack.enter_context(Load(ours, gets(ours)))
        writing = stack.enter_context(Load(ours, puts(ours)))
        reading.run(_WARM_UP_S, _READERS)

        def alone() -> Round:
            return reading.run(bench.seconds, _READERS).metrics()

        def together() -> Round:
            with ThreadPoolExecutor(1) as threads:
                writers = threads.submit(writing.run, bench.seconds, _WRITERS)
                read = reading.run(bench.seconds, _READERS).metrics()
                del read["us/op"]  # the writers' is in it
                return {**read, "PUT/s beside": writers.result().metrics()["ops/s"]}

        bench.say("GET alone and beside writers")
        runs = {"alone": alone, f"beside {_WRITERS} writers": together}
        target = {(list(runs)[1], "p99 ms"): BESIDE_TARGET}
        findings.add(f"GET, {_READERS} connections", alternate(bench.rounds, runs), target)
    return findings


def filled(bench: Bench, stack: ExitStack, findings: Findings, wanted: Iterable[Contender]) -> list[Contender]:
    """Those of `wanted` that are installed, running and full of keys."""
    contenders = bench.start(stack, findings, wanted)
    for contender in contenders:
        contender.fill(names(contender.most_keys), VALUE)
    return contenders


def gets(contender: Contender) -> list[bytes]:
    """Requests for every key that it was filled with."""
    return [contender.get(key) for key in names(contender.most_keys)]


def puts(contender: Contender) -> list[bytes]:
    """Requests that write each of these keys."""
    return [contender.put(key, VALUE) for key in names(contender.most_keys)]


def compare(
    bench: Bench,
    findings: Findings,
    case: str,
    requests: Mapping[Contender, Iterable[bytes]],
    connections: int = CONNECTIONS,
    targets: Targets | None = None,
    *,
    refusals: bool = False,
) -> None:
    """Have the contenders answer random ones of their requests in turns, after a moment of warming up.

    `targets`: of the ratio to peers of a kind. `refusals`: answers of 400 and above are as good as others.
    """
    bench.say(case)
    with ExitStack() as stack:
        loads = {c: stack.enter_context(Load(c, its)) for c, its in requests.items()}
        for load in loads.values():
            load.run(_WARM_UP_S, connections, refusals=True)

        def run(contender: Contender, load: Load) -> Round:
            is_peer = not isinstance(contender, KVServer)
            summary = load.run(bench.seconds, connections, refusals=refusals, faults=is_peer)
            if faults := summary.faults(refusals):
                findings.notes.append(
                    f"{case}: {contender.name} refused or did not answer {faults} of {summary.requests} requests"
                )
            return summary.metrics()

        rounds = alternate(bench.rounds, {c.name: partial(run, c, load) for c, load in loads.items()})
        wanted = {(c.name, "ops/s"): targets[type(c)] for c in loads if type(c) in (targets or {})} if targets else {}
        findings.add(case, rounds, wanted)
