"""A killer beside a server: ends its processes at random, as long as a test goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import httpx

from tests.system.harness import Server, wait_for

VICTIMS = ("shard", "worker", "gateway", "master", "supervisor")


def free_port() -> int:
    """A port that nobody has now: a server that is started again must come back to where its clients look for it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def parent_of(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def whole(server: Server, workers: int = 2) -> dict[str, Any]:
    """The server's status, empty unless everything runs."""
    with contextlib.suppress(httpx.HTTPError):
        status = server.status()
        up = all(shard["state"] == "up" for shard in status["shards"])
        if up and len(status["workers"]) == workers and status["gateways"]:
            return status
    return {}


def wait_until_whole(server: Server) -> dict[str, Any]:
    """Wait until everything runs, and return the status."""
    status: dict[str, Any] = wait_for(lambda: whole(server), "all processes", 40)
    return status


def kill(server: Server, victim: str, chance: random.Random) -> None:
    """SIGKILL one process of a kind. A supervisor takes all others with it, and is started again."""
    if victim == "supervisor":
        server.kill()
        server.start()
        return
    status = wait_until_whole(server)
    if victim == "master":
        pid = parent_of(chance.choice(status["workers"])["pid"])
    else:
        pid = chance.choice(status[victim + "s"])["pid"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Killer(threading.Thread):
    """Kills a process of each kind in turn, `between` seconds after everything runs again, until `stop` is called.

    Attributes:
        kills: how many processes it killed.
        failure: what ended it.
    """

    def __init__(self, server: Server, seed: int, between: float = 0.5) -> None:
        super().__init__(daemon=True)
        self._server, self._chance, self._between = server, random.Random(seed), between
        self._stop_it = threading.Event()
        self.kills = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Kill."""
        try:
            while True:
                victims = list(VICTIMS)
                self._chance.shuffle(victims)
                for victim in victims:
                    if self._stop_it.wait(self._between):
                        return
                    kill(self._server, victim, self._chance)
                    self.kills += 1
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        """Kill no more, and wait until everything runs again."""
        self._stop_it.set()
        self.join(90)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure
        wait_until_whole(self._server)
