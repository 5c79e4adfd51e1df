"""Three machines that are one store, beside a server alone, the engine alone, and three of etcd; and what fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench import programs, publishers
from tests.bench.client import Refused
from tests.bench.clusters import Cluster, Engines, EtcdCluster, Several
from tests.bench.contenders import Contender, KVServer, Process
from tests.bench.measure import Findings, Round, Target, alternate
from tests.bench.parts import VALUE, Bench, names
from tests.bench.parts.silence import silence
from tests.bench.parts.speed import filled, gets, puts
from tests.bench.wrk import Failed, Load

CLIENTS: Final = (1, 96, 384)
"""How many there are at once. One asks a machine that does not lead; many are spread over all machines, unless the
contender says that one is asked."""
READ_TARGET: Final = Target("at least", 0.9, "ratio")
"""Of a machine's GETs to those of a server alone."""
ALL, ONE, ALONE = "cluster", "cluster, one asked", "one server"
SERIALIZABLE: Final = "etcd of three, serializable"
_WARM_UP_S: Final = 1.0
_IDLE_S: Final = 2.0

Measure = Callable[[Bench, Findings, Cluster], None]
Run = Callable[[float, int], Round]
"""Takes seconds and clients."""


def cluster(bench: Bench) -> Findings:
    """With `--reads linear` rates beside those of all contenders, and faults; with `local` rates beside a server."""
    findings = Findings()
    sections: dict[str, dict[str, Measure]] = {
        "linear": {"rates": _linear, "faults": silence},
        "local": {"rates": _local},
    }
    for reads, measures in sections.items():
        with _noted(findings, f"--reads {reads}"), ExitStack() as stack:
            for ours in bench.start(stack, findings, [Cluster(bench.directory, reads)]):
                for what, measure in measures.items():
                    with _noted(findings, f"--reads {reads}, {what}"):
                        measure(bench, findings, ours)
    return findings


@contextmanager
def _noted(findings: Findings, what: str) -> Iterator[None]:
    """Note what goes wrong, so that it does not take with it what was measured before."""
    try:
        yield
    except (Failed, Refused, OSError, AssertionError, RuntimeError) as error:
        findings.notes.append(f"{what} FAILED: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Asked:
    """A contender, and the requests it is asked.

    Attributes:
        name: as the report has it.
        server: whom.
        load: what.
        one: whether all clients ask one of its machines.
    """

    name: str
    server: Contender
    load: Load
    one: bool

    def run(self, findings: Findings, seconds: float, clients: int) -> Round:
        """Keep clients busy for a while; note what was not answered."""
        ports = _ports(self.server, self.one or clients == 1)
        summary = self.load.run(seconds, clients, ports=ports, refusals=True, faults=True)
        _note_faults(findings, f"{self.name}, {clients} clients", summary.faults(False), summary.requests)
        return summary.metrics()


def _ports(server: Process, one: bool) -> Sequence[int]:
    if not isinstance(server, Several):
        return [server.port]
    return [server.ports[server.follower()]] if one else server.ports


def _note_faults(findings: Findings, what: str, faults: int, requests: int) -> None:
    if faults:
        findings.notes.append(f"{what}: {faults} of {requests} requests were refused or not answered")


def _alone(bench: Bench) -> KVServer:
    """A server with as many workers, and as many keys, as each machine of the cluster has."""
    server = KVServer(bench.directory, "--workers", "1")
    server.most_keys = Cluster.most_keys
    return server


def _linear(bench: Bench, findings: Findings, ours: Cluster) -> None:
    """PUT and GET of all contenders, and what they take without load."""
    with ExitStack() as stack:
        ours.fill(names(ours.most_keys), VALUE)
        stores = filled(bench, stack, findings, [_alone(bench), EtcdCluster(bench.directory)])
        engines = bench.start(stack, findings, [Engines(bench.directory)])
        _idle(bench, findings, {ALL: ours, **{_name(each): each for each in [*stores, *engines]}})
        ask = partial(_ask, stack, findings)
        writes = ask(ALL, ours, puts(ours)) | ask(ONE, ours, puts(ours), one=True)
        reads = ask(ONE, ours, gets(ours), one=True) | ask(ALL, ours, gets(ours))
        for each in stores:
            writes |= ask(_name(each), each, puts(each))
            reads |= ask(_name(each), each, gets(each))
            if isinstance(each, EtcdCluster):
                stale = [each.get(key, serializable=True) for key in names(each.most_keys)]
                reads |= ask(SERIALIZABLE, each, stale)
        for engine in engines:
            writes[engine.name] = partial(_publish, findings, programs.build("publishers", bench.directory), engine)
        _compare(bench, findings, "PUT", writes, without={ONE})
        _compare(bench, findings, "GET", reads, without={ALL}, targets={(ALONE, "ops/s"): READ_TARGET})


def _local(bench: Bench, findings: Findings, ours: Cluster) -> None:
    """PUT by clients of all machines, GET by those of one, beside a server alone."""
    with ExitStack() as stack:
        ours.fill(names(ours.most_keys), VALUE)
        [alone] = filled(bench, stack, findings, [_alone(bench)])
        ask = partial(_ask, stack, findings)
        writes = ask(ALL, ours, puts(ours)) | ask(ALONE, alone, puts(alone))
        reads = ask(ONE, ours, gets(ours), one=True) | ask(ALONE, alone, gets(alone))
        _compare(bench, findings, "PUT, --reads local", writes)
        target = {(ALONE, "ops/s"): READ_TARGET}
        _compare(bench, findings, "GET, --reads local", reads, targets=target)


def _name(contender: Process) -> str:
    return ALONE if isinstance(contender, KVServer) else contender.name


def _ask(
    stack: ExitStack, findings: Findings, name: str, server: Contender, requests: list[bytes], *, one: bool = False
) -> dict[str, Run]:
    """Make the load of a contender, until `stack` ends, and warm it up."""
    asked = _Asked(name, server, stack.enter_context(Load(server, requests)), one)
    asked.run(findings, _WARM_UP_S, CLIENTS[1])
    return {name: partial(asked.run, findings)}


def _publish(findings: Findings, program: Path, engines: Engines, seconds: float, clients: int) -> Round:
    """Have the clients publish to the stream, without a server before it."""
    taken_before_s = engines.cpu_s()
    found = publishers.run(program, _ports(engines, clients == 1), engines.account, clients, seconds)
    taken_s = engines.cpu_s() - taken_before_s
    _note_faults(findings, f"{engines.name}, {clients} clients", found.refused, found.taken + found.refused)
    return {
        "ops/s": found.taken / found.seconds,
        "us/op": taken_s * 1e6 / found.taken,
        "p50 ms": found.p50_ms,
        "p99 ms": found.p99_ms,
    }


def _compare(
    bench: Bench,
    findings: Findings,
    verb: str,
    runs: Mapping[str, Run],
    *,
    without: frozenset[str] | set[str] = frozenset(),
    targets: Mapping[tuple[str, str], Target] | None = None,
) -> None:
    """Measure each number of clients in turns. `without`: contenders who are as another one for a single client."""
    for clients in CLIENTS:
        case = f"{verb}, {clients} client{'s' * (clients > 1)}"
        bench.say(case)
        turns = {
            name: partial(run, bench.seconds, clients)
            for name, run in runs.items()
            if clients > 1 or name not in without
        }
        findings.add(case, alternate(bench.rounds, turns), targets)


def _idle(bench: Bench, findings: Findings, contenders: Mapping[str, Process]) -> None:
    """Measure what all take at the same time while nobody asks them."""
    bench.say("without load")
    rounds: dict[str, list[Round]] = {name: [] for name in contenders}
    for _ in range(bench.rounds):
        begun, before = time.monotonic(), {name: each.cpu_s() for name, each in contenders.items()}
        time.sleep(_IDLE_S)
        for name, each in contenders.items():
            machines = len(each.ports) if isinstance(each, Several) else 1
            taken_s = (each.cpu_s() - before[name]) / machines
            rounds[name].append({"core % of a machine": 100 * taken_s / (time.monotonic() - begun)})
    findings.add("without load", rounds)
