"""The feed: how much, how fast and to how many at a time one gateway tells it, and what readers cost."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import httpx

from tests.bench import client, fanout, programs
from tests.bench.contenders import KVServer, Webdis
from tests.bench.fanout import HANDSHAKE, SSE, Readers, Writer
from tests.bench.measure import Findings, Round, Target, alternate, latencies
from tests.bench.parts import Bench
from tests.bench.parts.stream import own_mib

READERS, EVENTS_S = 100, 5000
LATENCY_MS = 25.0
IDLE, IDLE_MIB = 1000, 50.0
STALLED_MIB = 8.0
"""What as many stalled readers as good ones may add: nothing that grows with what they miss."""
PUBLISHED_RATIO = 3.0
_TOGETHER = 25
_WINDOW = 4000
_POLLS = 100
_FEED: Final = HANDSHAKE.format(target="/v1/feed")


def feed(bench: Bench) -> Findings:
    """Fan-out beside Redis with Webdis; idle and stalled readers; one reader, by each way."""
    findings = Findings()
    if programs.compiler() is None:
        findings.notes.append("no C compiler: what reads the feed that fast is missing")
        return findings
    program = programs.build("fanout", bench.directory)
    with ExitStack() as stack:
        wanted = [KVServer(bench.directory, "--sync", "os", "--workers", "1"), Webdis(bench.directory, "none")]
        ours, *peers = bench.start(stack, findings, wanted)
        assert isinstance(ours, KVServer)
        gateway = Gateway(ours)
        bench.say("fan-out")
        _fan_out(bench, findings, program, gateway, [peer for peer in peers if isinstance(peer, Webdis)])
        bench.say("readers that stall")
        _stalled(bench, findings, program, gateway)
        bench.say("one reader")
        _alone(bench, findings, program, gateway)
        bench.say("idle readers")
        idle = [_idle(gateway) for _ in range(bench.rounds)]
        target = {("kvserver", "MiB more"): Target("below", IDLE_MIB)}
        findings.add(f"{IDLE:,} idle readers", {"kvserver": idle}, target)
    return findings


class Gateway:
    """The only gateway of a server, from outside."""

    def __init__(self, ours: KVServer) -> None:
        self.port = ours.port
        self._server = ours.server
        self._pid = ours.server.status()["gateways"][0]["pid"]

    def clients(self) -> int:
        """How many it has."""
        count: int = self._server.status()["gateways"][0]["clients"]
        return count

    def mib(self) -> float:
        """Memory of its own."""
        return own_mib(Path(f"/proc/{self._pid}/status"))

    def cpu_s(self) -> float:
        """Processor time it has used."""
        user, system = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def measured(self, run: Callable[[], Round]) -> Round:
        """What `run` gives, the share of a core that the gateway took for it, and by how much it grew."""
        begun, cpu, mib = time.monotonic(), self.cpu_s(), self.mib()
        result = run()
        taken = time.monotonic() - begun
        return {**result, "gateway's core %": 100 * (self.cpu_s() - cpu) / taken, "MiB more": self.mib() - mib}


def _fan_out(bench: Bench, findings: Findings, program: Path, gateway: Gateway, peers: list[Webdis]) -> None:
    steady = _steady(bench, program, gateway)
    gateway.measured(steady)  # warms up
    results = [gateway.measured(steady) for _ in range(bench.rounds)]
    targets = {
        ("kvserver", "deliveries/s"): Target("at least", 0.98 * READERS * EVENTS_S),
        ("kvserver", "p99 ms"): Target("below", LATENCY_MS),
    }
    findings.add(f"{READERS} readers, {EVENTS_S:,} events/s", {"kvserver": results}, targets)
    ours = Readers(gateway.port, READERS, _FEED)
    writer = Writer("batch", gateway.port, 2 * _TOGETHER, window=_WINDOW)
    runs: dict[str, Callable[[], Round]] = {}
    runs["kvserver"] = partial(gateway.measured, partial(fanout.run, program, ours, writer, bench.seconds))
    for peer in peers:
        theirs = Readers(peer.port, READERS, HANDSHAKE.format(target="/"), json.dumps(["SUBSCRIBE", "feed"]))
        publisher = Writer("publish", peer.redis_port, 2 * _TOGETHER, window=_WINDOW)
        runs[f"{peer.name}, PUBLISH"] = partial(fanout.run, program, theirs, publisher, bench.seconds)
    wanted = {(name, "deliveries/s"): Target("at least", PUBLISHED_RATIO, "ratio") for name in list(runs)[1:]}
    findings.add(f"{READERS} readers, as fast as it goes", alternate(bench.rounds, runs), wanted)


def _steady(bench: Bench, program: Path, gateway: Gateway) -> Callable[[], Round]:
    writer = Writer("batch", gateway.port, _TOGETHER, rate=EVENTS_S)
    return partial(fanout.run, program, Readers(gateway.port, READERS, _FEED), writer, bench.seconds)


def _stalled(bench: Bench, findings: Findings, program: Path, gateway: Gateway) -> None:
    """The good readers alone, and beside as many that never read: those are dropped after 20 s only."""
    steady = _steady(bench, program, gateway)

    def beside() -> Round:
        with silent(gateway, READERS):
            steady()  # until then they are like the others, for all that the kernel takes for them
            return gateway.measured(steady)

    runs: dict[str, Callable[[], Round]] = {"good readers alone": partial(gateway.measured, steady)}
    runs["beside the stalled"] = beside
    targets = {("beside the stalled", "MiB more"): Target("below", STALLED_MIB)}
    findings.add(f"{READERS} good readers, {READERS} stalled", alternate(bench.rounds, runs), targets)


def _alone(bench: Bench, findings: Findings, program: Path, gateway: Gateway) -> None:
    """From the acknowledgement of a PUT until one reader has it, where nothing else happens."""
    writer = Writer("batch", gateway.port, 1, rate=100)
    ways = {"WebSocket": _FEED, "server-sent events": SSE.format(target="/v1/feed")}
    runs: dict[str, Callable[[], Round]] = {
        way: partial(fanout.run, program, Readers(gateway.port, 1, request), writer, bench.seconds)
        for way, request in ways.items()
    }
    runs["poll"] = partial(_polls, gateway.port)
    findings.add("one reader", alternate(bench.rounds, runs))


def _polls(port: int) -> Round:
    """The same of polls, each of which waits when the PUT is acknowledged, unless it was answered before."""
    put = client.request("PUT", "/polled", b"v" * 100)
    late: list[float] = []
    with (
        client.Connection(port) as writer,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as reader,
    ):
        since = reader.get("/v1/feed").json()["cursor"]
        for _ in range(_POLLS):
            with socket.create_connection(("127.0.0.1", port), 30) as polling:
                polling.sendall(client.request("GET", f"/v1/feed?since={since}&wait=20"))
                time.sleep(0.005)
                writer.ask(put)
                acknowledged = time.perf_counter()
                answer = bytearray()
                while part := polling.recv(65536):
                    answer += part
                late.append(time.perf_counter() - acknowledged)
            since = json.loads(answer.partition(b"\r\n\r\n")[2])["cursor"]
    return latencies(late)


def _idle(gateway: Gateway) -> Round:
    """What many readers for whom nothing happens add to the gateway's memory."""
    before = gateway.mib()
    with silent(gateway, IDLE):
        return {"MiB more": gateway.mib() - before}


@contextmanager
def silent(gateway: Gateway, count: int) -> Iterator[None]:
    """So many readers that the gateway has, and that never read."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _until(lambda: not gateway.clients())  # those of the run before may not be gone yet
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 30))
            connection.sendall(_FEED.encode())
        _until(lambda: gateway.clients() >= count)
        yield


def _until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 30
    while not condition():
        if time.monotonic() > give_up_at:
            raise programs.Failed("the gateway does not have the readers it should have")
        time.sleep(0.05)
