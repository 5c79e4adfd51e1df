"""Servers that are started to be measured: ours, and the peers that are installed.

Each runs with an address of its own, with its data in a directory of its own, and knows how a GET and a PUT of one key
are written for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from tests.bench import client, machine
from tests.system.harness import Server

KVSERVER: Final = "kvserver"
BEFORE: Final = "before"
"""What this server is called, and what another checkout of it."""
_READY_S = 20.0
_TOKEN: Final = "the-token-of-the-benchmark"
_TOKENS: Final = f"""\
[[token]]
name = "bench"
sha256 = "{hashlib.sha256(_TOKEN.encode()).hexdigest()}"
grants = [{{ prefix = "", allow = ["read", "write", "feed"] }}]
"""


class Process(ABC):
    """A server: `with process:` runs it. `port`: where it listens."""

    name: str
    needs: tuple[str, ...] = ()
    port: int = 0

    def missing(self) -> str | None:
        """Return which of its programs are not installed, None if it can run."""
        absent = [program for program in self.needs if shutil.which(program) is None]
        return f"{self.name} is missing: no {' and no '.join(absent)}" if absent else None

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """End it, and remove what it left."""

    @abstractmethod
    def roots(self) -> list[int]:
        """Return the pids of the processes that were started; all others are theirs."""

    def cpu_s(self) -> float:
        """Return the seconds of processor time that its processes have taken."""
        return sum(map(machine.cpu_s, machine.family(self.roots())))

    def memory_bytes(self) -> int:
        """Return the bytes of memory that its processes hold, files not counted."""
        return sum(map(machine.anonymous_bytes, machine.family(self.roots())))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Contender(Process):
    """A store that speaks HTTP."""

    most_keys = 100_000  # that it can be filled with before a comparison of single keys

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the request for the value of `key`."""

    @abstractmethod
    def put(self, key: str, value: bytes) -> bytes:
        """Return the request that stores `value`."""

    def fill(self, keys: Iterable[str], value: bytes) -> None:
        """Store `value` under `keys`, by the fastest way in."""
        with client.Connection(self.port) as connection:
            for key in keys:
                connection.ask(self.put(key, value))


class KVServer(Contender):
    """This server, as `kvserver serve` runs it with `options`.

    Attributes:
        authorization: what the field Authorization has to say; empty if it needs no token.
    """

    def __init__(self, directory: Path, *options: str, tokens: bool = False, tree: Path | None = None) -> None:
        """`tokens`: it wants one. `tree`: run the checkout there, by the virtual environment in it, and not this."""
        words = [KVSERVER if tree is None else BEFORE, *options, *(["with tokens"] if tokens else [])]
        self.name = " ".join(words)
        self._data = directory / self.name.replace(" ", "")
        self._token_file = self._data.with_suffix(".toml") if tokens else None
        self.authorization = f"Bearer {_TOKEN}" if tokens else ""
        more = ["--tokens", str(self._token_file)] if tokens else []
        self.server = Server(self._data, *options, *more, tree=tree)

    def get(self, key: str) -> bytes:
        return client.request("GET", f"/{quote(key, safe='')}")

    def get_version1(self, key: str) -> bytes:
        """`get` by version 1."""
        return client.request("GET", f"/v1/kv/{quote(key)}")

    def put(self, key: str, value: bytes) -> bytes:
        return client.request("PUT", f"/{quote(key, safe='')}", value)

    def fill(self, keys: Iterable[str], value: bytes) -> None:
        puts = ({"op": "put", "key": key, "value": value} for key in keys)
        client.fill(self.port, puts, authorization=self.authorization)

    def revisions(self, keys: Iterable[str]) -> list[int]:
        """Return the revisions of `keys`, all of which must be there."""
        gets = ({"op": "get", "key": key} for key in keys)
        return [result["revision"] for result in client.fill(self.port, gets, authorization=self.authorization)]

    def start(self) -> None:
        if self._token_file is not None:
            self._token_file.write_text(_TOKENS)
            self._token_file.chmod(0o600)
        self.server.start()
        self.port = self.server.port

    def roots(self) -> list[int]:
        assert self.server.process is not None
        return [self.server.process.pid]

    def memory_bytes(self) -> int:
        """With the maps, which are files in memory."""
        return super().memory_bytes() + machine.allocated_bytes(self.server.map_dir)

    def stop(self) -> None:
        self.server.close()
        shutil.rmtree(self._data, ignore_errors=True)
        if self._token_file is not None:
            self._token_file.unlink(missing_ok=True)


class Programs(Process):
    """A server made of programs of others."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / self.name.replace(" ", "-")
        self._processes: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def commands(self) -> list[list[str]]:
        """What to run, in this order. Writes configuration into `_directory`."""

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        self.port = free_port()
        with (self._directory / "log").open("wb") as log:
            for command in self.commands():
                self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        give_up_at = time.monotonic() + _READY_S
        while not self._answers():
            if time.monotonic() > give_up_at or any(process.poll() is not None for process in self._processes):
                raise RuntimeError(f"{self.name} does not start: {(self._directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def roots(self) -> list[int]:
        return [process.pid for process in self._processes]

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether it is ready."""

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


class HttpPrograms(Programs, Contender):
    """A contender made of programs of others."""

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, client.Refused), client.Connection(self.port, 2.0) as connection:
            connection.ask(self.get("ready"))
            return True
        return False


class Webdis(HttpPrograms):
    """Redis behind Webdis, which turns HTTP into its protocol.

    Attributes:
        redis_port: where Redis itself listens.
    """

    redis_port: int
    needs = ("redis-server", "webdis")

    def __init__(self, directory: Path, durability: str) -> None:
        """`durability`: Redis's `appendfsync`, or "none": nothing is written to the disk."""
        self._durability = durability
        self.name = f"webdis+redis {durability}"
        super().__init__(directory)

    def commands(self) -> list[list[str]]:
        self.redis_port = free_port()
        webdis = {
            "redis_host": "127.0.0.1",
            "redis_port": self.redis_port,
            "http_host": "127.0.0.1",
            "http_port": self.port,
            "threads": 2,
            "pool_size": 20,
            "daemonize": False,
            "database": 0,
            "verbosity": 0,
            "logfile": str(self._directory / "webdis.log"),
            "websockets": True,
        }
        (self._directory / "webdis.json").write_text(json.dumps(webdis))
        redis = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", ""]
        redis += ["--dir", str(self._directory)]
        if self._durability != "none":
            redis += ["--appendonly", "yes", "--appendfsync", self._durability]
        return [redis, ["webdis", str(self._directory / "webdis.json")]]

    def _answers(self) -> bool:
        try:
            with client.Connection(self.port, 2.0) as connection:
                return b"PONG" in connection.ask(client.request("GET", "/PING"))
        except (OSError, client.Refused):
            return False

    def get(self, key: str) -> bytes:
        return client.request("GET", f"/GET/{quote(key, safe='')}.txt")

    def put(self, key: str, value: bytes) -> bytes:
        return client.request("PUT", f"/SET/{quote(key, safe='')}", value)

    def fill(self, keys: Iterable[str], value: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.redis_port)) as redis, redis.makefile("rb") as answers:
            for portion in client.portions(keys, 1000):
                redis.sendall(b"".join(b'SET %b "%b"\r\n' % (key.encode(), value) for key in portion))
                for _ in portion:
                    if answers.readline() != b"+OK\r\n":
                        raise client.Refused("Redis refused a SET")


class Redis(Programs):
    """Redis alone, which writes nothing to the disk."""

    name = "redis"
    needs = ("redis-server",)

    def commands(self) -> list[list[str]]:
        return [["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2.0) as redis:
                redis.sendall(b"PING\r\n")
                return redis.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class Nats(Programs):
    """NATS with JetStream, for its key-value buckets."""

    name = "nats"
    needs = ("nats-server",)

    def commands(self) -> list[list[str]]:
        return [["nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._directory)]]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2.0) as server:
                return server.recv(16).startswith(b"INFO")
        except OSError:
            return False


class Nginx(HttpPrograms):
    """A constant answer of nginx: what HTTP costs without a store."""

    name = "nginx constant"
    needs = ("nginx",)

    def __init__(self, directory: Path, size: int) -> None:
        """`size`: bytes of the answer."""
        super().__init__(directory)
        self._size = size

    def commands(self) -> list[list[str]]:
        configuration = self._directory / "nginx.conf"
        answer = f"return 200 '{'v' * self._size}';"
        configuration.write_text(
            f"worker_processes auto; daemon off; pid {self._directory}/pid; error_log {self._directory}/error.log;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; keepalive_requests 1000000000;\n"
            f"  server {{ listen 127.0.0.1:{self.port} reuseport; location / {{ {answer} }} }}\n}}\n"
        )
        return [["nginx", "-p", str(self._directory), "-c", str(configuration)]]

    def get(self, key: str) -> bytes:
        return client.request("GET", f"/{quote(key, safe='')}")

    def put(self, key: str, value: bytes) -> bytes:
        return client.request("PUT", f"/{quote(key, safe='')}", value)

    def fill(self, keys: Iterable[str], value: bytes) -> None:
        """There is nothing to fill."""


class Etcd(HttpPrograms):
    """etcd, over its JSON gateway."""

    name = "etcd"
    most_keys = 1000
    needs = ("etcd",)

    def commands(self) -> list[list[str]]:
        return self.members([self.port])

    def members(self, ports: Sequence[int]) -> list[list[str]]:
        """The commands that run a member at each of the ports, all of which store the same."""
        peers = {f"m{port}": f"http://127.0.0.1:{free_port()}" for port in ports}
        initial = ",".join(f"{name}={peer}" for name, peer in peers.items())
        return [
            [
                "etcd",
                *("--name", name, "--data-dir", str(self._directory / name)),
                *("--listen-client-urls", own, "--advertise-client-urls", own),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", initial),
            ]
            for (name, peer), own in zip(peers.items(), (f"http://127.0.0.1:{port}" for port in ports), strict=True)
        ]

    def get(self, key: str, *, serializable: bool = False) -> bytes:
        """`serializable`: a member may answer from what it has, without asking whether that is current."""
        asked = {"key": _base64(key.encode()), **({"serializable": True} if serializable else {})}
        return client.request("POST", "/v3/kv/range", json.dumps(asked).encode())

    def put(self, key: str, value: bytes) -> bytes:
        body = {"key": _base64(key.encode()), "value": _base64(value)}
        return client.request("POST", "/v3/kv/put", json.dumps(body).encode())


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def free_port() -> int:
    """A port that nobody listens on by now, for programs that cannot pick one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
