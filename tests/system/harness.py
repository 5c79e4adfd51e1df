"""The real server for tests: `kvserver serve` on free ports, in directories of its own.

Waits for the line `ready`, never for time; stops with SIGTERM, and fails the test if that takes long, leaves a process
behind or left a traceback in the log.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import quote

import httpx

READY_S = 40.0
STOP_S = 20.0


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """The first true value of `condition()`; fails after `timeout_s` seconds, saying `what` never came."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


def processes_of(run_dir: Path) -> list[int]:
    """Every process that was started for the store that runs in `run_dir`."""
    wanted = f"KVSERVER_RUN_DIR={run_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


class Server:
    """One `kvserver serve`, which may be started, stopped and killed again and again on the same directories.

    `options` are options of `kvserver serve`. `tree` is another checkout, which the virtual environment in it runs.
    `close` (or leaving `with`) stops it and removes what is not the data directory. `ready_s`: for which it may start.
    """

    ready_s = READY_S

    def __init__(
        self, data_dir: Path, *options: str, environ: dict[str, str] | None = None, tree: Path | None = None
    ) -> None:
        self.data_dir, self.options, self.environ, self.tree = data_dir, options, environ or {}, tree
        self.run_dir = Path(tempfile.mkdtemp(prefix="kv-", dir="/tmp"))
        self.map_dir = Path(tempfile.mkdtemp(prefix="kv-", dir="/dev/shm"))
        self.log_path = self.run_dir.with_suffix(".log")
        self.process: subprocess.Popen[str] | None = None
        self.banner = ""
        self.host, self.port, self.metrics_port = "127.0.0.1", 0, 0
        self.tracebacks_expected = False

    def command(self) -> list[str]:
        """The command line."""
        fixed = ["--port", "0", "--metrics-port", "0", "--run-dir", str(self.run_dir), "--map-dir", str(self.map_dir)]
        if "--allowed-hosts" not in self.options:
            fixed += ["--allowed-hosts", "kv.example,a,x"]  # by which raw requests ask
        if "--in-memory" not in self.options:
            fixed += ["--data-dir", str(self.data_dir)]
        return [self.python, "-W", "error::ResourceWarning", "-m", "kvserver", "serve", *fixed, *self.options]

    @property
    def python(self) -> str:
        """The interpreter that runs it."""
        return sys.executable if self.tree is None else str(self.tree / ".venv/bin/python")

    def start(self) -> Server:
        """Start and wait for `ready`. Raises AssertionError with the server's log if it ends before."""
        self.spawn()
        assert self.process is not None and self.process.stdout is not None
        self.banner = ""
        watchdog = _kill_after(self.process, self.ready_s)
        for line in self.process.stdout:
            self.banner += line
            if line.strip() == "ready":
                break
        watchdog()
        assert self.banner.rstrip().endswith("ready"), (
            f"the server was not ready, exit status {self.process.poll()}:\n{self.banner}\n{self.log()}"
        )
        self.host, self.port = self._address("REST")
        _, self.metrics_port = self._address("metrics")
        return self

    def spawn(self) -> subprocess.Popen[str]:
        """Start without waiting."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        environ = {k: v for k, v in os.environ.items() if k not in ("PORT", "METRICS_PORT", "DEBUG", "TRACE")}
        environ = {k: v for k, v in environ.items() if not k.startswith("KVSERVER_")} | self.environ
        environ["PYTHONWARNINGS"] = "default::DeprecationWarning,default::PendingDeprecationWarning"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environ,
                stdin=subprocess.DEVNULL,
                cwd=self.tree,  # modules are looked for there first, by its children too
            )
        return self.process

    def _address(self, name: str) -> tuple[str, int]:
        found = re.search(rf"^\s*{name}:?\s+http://(?:\[([^\]]+)\]|([^/:\[]+)):(\d+)", self.banner, re.MULTILINE)
        assert found, f"no {name} URL in the banner:\n{self.banner}"
        return found[1] or found[2], int(found[3])

    def log(self) -> str:
        """What the server's processes wrote to standard error so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self) -> None:
        """SIGTERM; fails if it is not over in time, ends badly, or leaves a process."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not stopped {STOP_S} s after SIGTERM:\n{self.log()}") from None
        self._release()
        assert status == 0, f"exit status {status}:\n{self.log()}"
        wait_for(lambda: not processes_of(self.run_dir), f"end of {processes_of(self.run_dir)}", 5)

    def kill(self) -> None:
        """SIGKILL to the supervisor; everything else must go with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._release()
        wait_for(lambda: not processes_of(self.run_dir), "end of the orphans of a killed supervisor", 10)

    def _release(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def close(self) -> None:
        """Stop if it runs, and clean up. Fails if the log holds a traceback or a deprecation."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
            assert self.tracebacks_expected or "Traceback" not in self.log(), self.log()
            assert "DeprecationWarning" not in self.log(), self.log()
        finally:
            self._release()
            for pid in processes_of(self.run_dir):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.run_dir, ignore_errors=True)
            shutil.rmtree(self.map_dir, ignore_errors=True)
            self.log_path.unlink(missing_ok=True)

    def __enter__(self) -> Server:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # Talking to it.

    @property
    def url(self) -> str:
        """Base URL of REST."""
        return f"http://{self._netloc}"

    @property
    def feed_url(self) -> str:
        """URL of MemoryKV's feed."""
        return f"ws://{self._netloc}/wal"

    @property
    def _netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @contextlib.contextmanager
    def client(self, timeout_s: float = 15.0) -> Iterator[httpx.Client]:
        """An HTTP client of this server, without a proxy."""
        with httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False) as client:
            yield client

    def status(self) -> dict[str, Any]:
        """The answer of GET /v1/status."""
        with self.client() as client:
            answer: dict[str, Any] = client.get("/v1/status").raise_for_status().json()
            return answer

    def metrics(self) -> str:
        """The text of /metrics."""
        answer = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False, timeout=15)
        return answer.raise_for_status().text

    def connect(self, timeout_s: float = 15.0) -> socket.socket:
        """A raw TCP connection to the REST port."""
        return socket.create_connection((self.host, self.port), timeout_s)

    def shard_pids(self) -> list[int]:
        """The pids of the shards, in order."""
        return [shard["pid"] for shard in self.status()["shards"]]


def key_path(key: str) -> str:
    """The path of `key` as a careful client sends it."""
    return "/" + quote(key, safe="")


def _kill_after(process: subprocess.Popen[str], seconds: float) -> Callable[[], None]:
    """Kill `process` in `seconds`, so that reading its output ends; call the result to call it off."""
    timer = Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer.cancel
