"""For how long clients of a cluster get no answer when something fails, and when it comes back."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple, Self

from tests.bench import client, machine
from tests.bench.clusters import Cluster
from tests.bench.measure import Findings, Round
from tests.bench.parts import VALUE, Bench
from tests.cluster.engine_of import engine_of
from tests.system.harness import Server

EACH_S: Final = 0.01
"""How often each client asks."""
_KEPT: Final = "silence/kept"
"""A key that nobody writes."""
_LEAST_S: Final = 3.0
"""For which a fault is watched at least, since it may show late."""
_STEADY_S, _STEADY_GAP_S = 1.0, 0.3
"""Clients are served steadily if for that long none of them waited for longer than this."""
_LAST: Final = int(2 * _STEADY_S / EACH_S)
"""Answers that are more than come in that time."""
_LOOK_S: Final = 0.1
_PATIENCE_S: Final = 60.0
_TIMEOUT_S: Final = 30.0


class Asker:
    """A client that asks one machine every 10 ms, or when the answer before is there, while `with` lasts.

    Attributes:
        done: when it was answered, by the clock of `time.monotonic`; a refusal is no answer.
    """

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.done: list[float] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError, client.Refused), client.Connection(self._port, _TIMEOUT_S) as connection:
                while not self._stop.is_set():
                    due = time.monotonic() + EACH_S
                    connection.ask(self._request)
                    self.done.append(time.monotonic())
                    self._stop.wait(due - self.done[-1])
            self._stop.wait(EACH_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def longest_silence(done: Sequence[float], begun: float, ended: float) -> float:
    """Return the longest time between two answers, of those from `begun` to `ended`, or between these and an answer."""
    times = [begun, *(at for at in done if begun < at < ended), ended]
    return max(after - before for before, after in itertools.pairwise(times))


class Clients:
    """Those of some machines, of each a writer, a reader of what it writes, and a reader of another key."""

    def __init__(self, cluster: Cluster, ports: Iterable[int]) -> None:
        own = {port: f"silence/{port}" for port in ports}
        self._askers = {
            "writes": [Asker(port, cluster.put(key, VALUE)) for port, key in own.items()],
            "reads": [Asker(port, cluster.get(_KEPT)) for port in own],
            "reads of written keys": [Asker(port, cluster.get(key)) for port, key in own.items()],
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for askers in self._askers.values():
            for asker in askers:
                self._stack.enter_context(asker)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait_until_steady(self, begun: float) -> float:
        """Wait until all have been served steadily since `begun`, or after; return when that was. Raises `OSError`."""
        give_up_at = time.monotonic() + _PATIENCE_S
        everyone = list(itertools.chain.from_iterable(self._askers.values()))
        while (now := time.monotonic()) < give_up_at:
            since = max(begun, now - _STEADY_S)
            waited = max(longest_silence(asker.done[-_LAST:], since, now) for asker in everyone)
            if now >= begun + _STEADY_S and waited <= _STEADY_GAP_S:
                return now
            time.sleep(_LOOK_S)
        raise TimeoutError(f"clients are not served steadily again within {_PATIENCE_S:g} s")

    def silences(self, begun: float, ended: float, prefix: str = "") -> Round:
        """Return the longest seconds that a client of each kind got nothing, of the machine where that was worst."""
        return {
            f"{prefix}{kind} s": max(longest_silence(asker.done, begun, ended) for asker in askers)
            for kind, askers in self._askers.items()
        }


class Fault(NamedTuple):
    """What happens to a machine.

    Attributes:
        name: as the report has it.
        leads: whether it is the machine whose engine leads the stream.
        strike: does it.
        heal: undoes it; the machine may have more to do then.
        survives: whether clients of the machine itself are counted, too.
    """

    name: str
    leads: bool
    strike: Callable[[Server], None]
    heal: Callable[[Server], None]
    survives: bool = False


def silence(bench: Bench, findings: Findings, cluster: Cluster) -> None:
    """Let each fault happen once a round; the machines are whole before each."""
    with client.Connection(cluster.port) as connection:
        connection.ask(cluster.put(_KEPT, VALUE))
    rounds: dict[str, list[Round]] = {fault.name: [] for fault in FAULTS}
    try:
        for number, fault in itertools.product(range(bench.rounds), FAULTS):
            bench.say(f"{fault.name}, round {number + 1}")
            rounds[fault.name].append(_suffer(cluster, fault))
    finally:
        for name, results in rounds.items():
            if results:
                findings.add(name, {"cluster": results})


def _suffer(cluster: Cluster, fault: Fault) -> Round:
    cluster.wait_until_whole()
    index = cluster.leader() if fault.leads else cluster.follower()
    struck = cluster.servers[index]
    ports = [server.port for server in cluster.servers if fault.survives or server is not struck]
    with Clients(cluster, ports) as clients:
        clients.wait_until_steady(time.monotonic())
        begun = time.monotonic()
        fault.strike(struck)
        ended = clients.wait_until_steady(begun + _LEAST_S - _STEADY_S)
        fault.heal(struck)
        cluster.wait_until_whole()
        healed = clients.wait_until_steady(time.monotonic())
        return {**clients.silences(begun, ended), **clients.silences(ended, healed, "back: ")}


def _kill(server: Server) -> None:
    """Kill the supervisor, with which all its processes end."""
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)


def _start_again(server: Server) -> None:
    """Start a machine that was killed."""
    server.kill()  # waits for the end of all its processes
    server.start()


def _start(server: Server) -> None:
    server.start()


def _kill_engine(server: Server) -> None:
    os.kill(engine_of(server), signal.SIGKILL)


def _leave(_: Server) -> None:
    """Do nothing."""


def _signal_all(server: Server, number: signal.Signals) -> None:
    assert server.process is not None
    for pid in machine.family([server.process.pid]):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _stall(server: Server) -> None:
    _signal_all(server, signal.SIGSTOP)


def _go_on(server: Server) -> None:
    _signal_all(server, signal.SIGCONT)


FAULTS: Final = (
    Fault("nothing", False, _leave, _leave, survives=True),  # the least that clients can see
    Fault("kill -9 of a machine", False, _kill, _start_again),
    Fault("kill -9 of the machine whose engine leads", True, _kill, _start_again),
    Fault("kill -9 of an engine", False, _kill_engine, _leave, survives=True),
    Fault("kill -9 of the engine that leads", True, _kill_engine, _leave, survives=True),
    Fault("orderly stop of a machine", False, Server.stop, _start),
    Fault("SIGSTOP of a machine, then SIGCONT", False, _stall, _go_on),
)
