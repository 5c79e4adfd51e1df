"""Contenders of three machines each, all of them on this one: ours, its engines alone, and etcd."""

from __future__ import annotations

import http.client
import json
import shutil
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from kvserver.commands.cluster.demo import free_ports
from kvserver.commands.cluster.init import create_order
from kvserver.commands.cluster.secret import make_secret
from kvserver.serve.cluster.addresses import Machine
from kvserver.serve.cluster.engine_config import ACCOUNT, password_of
from kvserver.serve.cluster.files import ClusterError, ClusterSetup, find_binary, setup_of
from kvserver.serve.cluster.processes import engine_argv, is_answering
from kvserver.settings import ServerSettings
from shards.order import stream
from tests.bench import client, machine, programs
from tests.bench.contenders import Contender, Etcd, Process, Programs, free_port
from tests.bench.publishers import Account
from tests.cluster.own_engines import NODES, OwnEngines, on_one_address
from tests.system.harness import Server, wait_for

_STREAM_BYTES: Final = 1 << 30
_WHOLE_S: Final = 90.0
_ANSWER_S: Final = 2.0
_TAIL: Final = 2000


class Several(Process):
    """Machines that store the same. One of them leads: it puts in order what they store."""

    @property
    @abstractmethod
    def ports(self) -> Sequence[int]:
        """Where they listen."""

    @abstractmethod
    def leads(self, index: int) -> bool:
        """Return whether the machine of this index leads, as far as it says so now."""

    def leader(self) -> int:
        """Wait until one of them leads; return its index."""
        found: list[int] = wait_for(
            lambda: [index for index in range(len(self.ports)) if self.leads(index)], f"a leader of {self.name}", 30
        )
        return found[0]

    def follower(self) -> int:
        """Return the index of one that does not lead, as most do not."""
        return (self.leader() + 1) % len(self.ports)


class Cluster(Contender, Several):
    """Three of this server, each with one worker and an engine of its own.

    Attributes:
        servers: by index.
    """

    most_keys = 10_000

    def __init__(self, directory: Path, reads: str = "linear") -> None:
        """`reads`: as of `kvserver serve`."""
        self.name = "cluster"
        self._place = directory / f"cluster-{reads}"
        self._reads = reads
        self._machines: list[Machine] = []
        self.servers: list[Server] = []

    def missing(self) -> str | None:
        return _missing_engine()

    def start(self) -> None:
        self._place.mkdir()
        made = OwnEngines(self._place, on_one_address(), ("--reads", self._reads))
        self.servers, self._machines = made.all, made.machines
        for server in self.servers:
            server.tracebacks_expected = True  # they are killed
        try:
            made.begin()
            self.wait_until_whole()
        except BaseException as error:
            said = "\n".join(server.log()[-_TAIL:] for server in self.servers)
            self.stop()
            if isinstance(error, AssertionError):
                raise RuntimeError(f"{self.name} does not start:\n{said}") from error
            raise
        self.port = self.servers[0].port

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    def leads(self, index: int) -> bool:
        return _leads_stream(self._machines[index])

    def wait_until_whole(self) -> None:
        """Wait until all servers are ready and members to all, and all engines have what was taken."""
        wait_for(self._is_whole, "the cluster is whole", _WHOLE_S)

    def _is_whole(self) -> bool:
        try:
            are_members = all(map(_sees_all, self.servers))
        except httpx.HTTPError:
            return False
        return are_members and any(map(_has_replicas, self._machines))

    def get(self, key: str) -> bytes:
        return client.request("GET", f"/{quote(key, safe='')}")

    def put(self, key: str, value: bytes) -> bytes:
        return client.request("PUT", f"/{quote(key, safe='')}", value)

    def fill(self, keys: Iterable[str], value: bytes) -> None:
        client.fill(self.port, ({"op": "put", "key": key, "value": value} for key in keys))

    def roots(self) -> list[int]:
        return [server.process.pid for server in self.servers if server.process is not None]

    def memory_bytes(self) -> int:
        """With the maps, which are files in memory."""
        return super().memory_bytes() + sum(machine.allocated_bytes(server.map_dir) for server in self.servers)

    def stop(self) -> None:
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                server.kill()
        for server in self.servers:
            server.close()
        shutil.rmtree(self._place, ignore_errors=True)


class Engines(Programs, Several):
    """The engines of a cluster, with its stream, and no server.

    Attributes:
        account: by which messages are published to the stream.
    """

    name = "engines alone"
    account: Account

    def missing(self) -> str | None:
        no_compiler = None if programs.compiler() else f"{self.name} are missing: no C compiler for their clients"
        return _missing_engine() or no_compiler

    def commands(self) -> list[list[str]]:
        self._machines = [Machine(n, "127.0.0.1", port) for n, port in zip(NODES, free_ports(), strict=False)]
        make_secret(self._directory / "secret")
        commands = []
        for own in self._machines:
            settings, setup = self._setup(own)
            settings.data_dir.mkdir()
            commands.append(engine_argv(setup, settings))
            self.account = Account(f"{stream.LOG}.{own.name}", own.name, password_of(setup.secret, own.name))
        return commands

    def start(self) -> None:
        super().start()
        settings, setup = self._setup(self._machines[0])
        if create_order(setup, settings, NODES, _STREAM_BYTES, quietly=True):
            raise RuntimeError(f"{self.name} make no stream")
        wait_for(lambda: any(map(_has_replicas, self._machines)), "a stream with all replicas", _WHOLE_S)

    def monitor(self, index: int) -> str:
        """Return host and port where the engine of this index says how it is."""
        return self._machines[index].monitor

    def _setup(self, own: Machine) -> tuple[ServerSettings, ClusterSetup]:
        """Return what a server with this engine would be told, and what follows from it."""
        settings = ServerSettings(
            node=own.name,
            cluster=",".join(f"{each.name}={each.address}" for each in self._machines),
            cluster_secret=self._directory / "secret",
            data_dir=self._directory / own.name,
        )
        setup = setup_of(settings)
        assert setup is not None
        return settings, setup

    def _answers(self) -> bool:
        return all(is_answering(each.monitor) for each in self._machines)

    @property
    def ports(self) -> list[int]:
        return [each.port for each in self._machines]

    def leads(self, index: int) -> bool:
        return _leads_stream(self._machines[index])


class EtcdCluster(Etcd, Several):
    """Three members of etcd, over the JSON gateway of each."""

    name = "etcd of three"

    def commands(self) -> list[list[str]]:
        self._ports = [self.port, free_port(), free_port()]
        return self.members(self._ports)

    def _answers(self) -> bool:
        return any(map(self.leads, range(3))) and super()._answers()

    @property
    def ports(self) -> list[int]:
        return self._ports

    def leads(self, index: int) -> bool:
        try:
            with client.Connection(self._ports[index], _ANSWER_S) as connection:
                said = json.loads(connection.ask(client.request("POST", "/v3/maintenance/status", b"{}")))
        except (OSError, client.Refused):
            return False
        return bool(said.get("leader") == said["header"]["member_id"])


def _missing_engine() -> str | None:
    """Return what to say if there is no nats-server."""
    try:
        find_binary()
    except ClusterError as error:
        return str(error)
    return None


def _sees_all(server: Server) -> bool:
    """Return whether a server is ready, and all are members to it. Raises `httpx.HTTPError`."""
    with server.client() as asking:
        if asking.get("/health/ready").status_code != 200:
            return False
        nodes = asking.get("/v1/status").raise_for_status().json()["cluster"]["nodes"]
        return {node["name"] for node in nodes if node["member"]} == set(NODES)


def _leads_stream(own: Machine) -> bool:
    """Return whether the engine of a machine says that it leads the stream."""
    leader: str = _replication(own).get("leader", "")
    return leader.endswith(f"-{own.name}")


def _has_replicas(own: Machine) -> bool:
    """Return whether the engine of a machine says that it leads the stream, and that all others have all of it."""
    replicas = _replication(own).get("replicas") or []
    return _leads_stream(own) and len(replicas) == len(NODES) - 1 and all(each.get("current") for each in replicas)


def _replication(own: Machine) -> dict[str, Any]:
    """Return what an engine says of the stream's replicas; nothing if it does not answer, or has no stream."""
    connection = http.client.HTTPConnection(own.monitor, timeout=_ANSWER_S)
    try:
        connection.request("GET", f"/jsz?streams=1&acc={ACCOUNT}")
        said = msgspec.json.decode(connection.getresponse().read())
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return {}
    finally:
        connection.close()
    for account in said.get("account_details") or ():
        for detail in account.get("stream_detail") or ():
            if detail["name"] == stream.NAME:
                found: dict[str, Any] = detail.get("cluster", {})
                return found
    return {}
