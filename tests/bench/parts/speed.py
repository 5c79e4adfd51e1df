"""GET and PUT of one key by many connections, beside peers that do the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial

from tests.bench.contenders import Contender, Etcd, KVServer, Nginx, Webdis
from tests.bench.measure import Findings, Round, alternate
from tests.bench.parts import VALUE, Bench, names
from tests.bench.wrk import Load

CONNECTIONS = 64
_WARM_UP_S = 1.0


def get(bench: Bench) -> Findings:
    """Hits by both ways, and misses."""
    findings = Findings()
    with ExitStack() as stack:
        wanted = [KVServer(bench.directory), Webdis(bench.directory, "none"), Nginx(bench.directory, len(VALUE)),
                  Etcd(bench.directory)]  # fmt: skip
        contenders = bench.start(stack, findings, wanted)
        for contender in contenders:
            contender.fill(names(contender.most_keys), VALUE)
        hits = {contender: map(contender.get, names(contender.most_keys)) for contender in contenders}
        compare(bench, findings, "GET hit", hits)
        misses = {contender: map(contender.get, names(10_000, contender.most_keys)) for contender in contenders}
        compare(bench, findings, "GET miss", misses)
        ours = contenders[0]
        assert isinstance(ours, KVServer)
        hits = {contender: map(contender.get, names(contender.most_keys)) for contender in contenders}
        compare(bench, findings, "GET hit, /v1/kv", hits | {ours: map(ours.get_version1, names(ours.most_keys))})
    return findings


def put(bench: Bench) -> Findings:
    """With three promises about the disk, each beside Redis with the like."""
    findings = Findings()
    cases = {
        "PUT, flushed": ([], "always", True),
        "PUT, left to the kernel": (["--sync", "os"], "no", False),
        "PUT, in memory": (["--in-memory"], "none", False),
    }
    for case, (options, durability, with_etcd) in cases.items():
        with ExitStack() as stack:
            wanted: list[Contender] = [KVServer(bench.directory, *options), Webdis(bench.directory, durability)]
            wanted += [Nginx(bench.directory, 0)] + ([Etcd(bench.directory)] if with_etcd else [])
            contenders = bench.start(stack, findings, wanted)
            puts = {
                contender: [contender.put(key, VALUE) for key in names(contender.most_keys)] for contender in contenders
            }
            compare(bench, findings, case, puts)
    return findings


def compare(bench: Bench, findings: Findings, case: str, requests: Mapping[Contender, Iterable[bytes]]) -> None:
    """Have the contenders answer random ones of their requests in turns, after a moment of warming up."""
    bench.say(case)
    with ExitStack() as stack:
        loads = {c.name: stack.enter_context(Load(c.port, its)) for c, its in requests.items()}
        for load in loads.values():
            load.run(_WARM_UP_S, CONNECTIONS, refusals=True)

        def run(load: Load) -> Round:
            return load.run(bench.seconds, CONNECTIONS, refusals="miss" in case).metrics()

        findings.add(case, alternate(bench.rounds, {name: partial(run, load) for name, load in loads.items()}))
