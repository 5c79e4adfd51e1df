"""One machine of the demonstration: a `kvserver serve` on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from kvserver.serve.cluster.addresses import Machine

STOP_S: Final = 30.0
_URL: Final = re.compile(r"^\s*REST:?\s+(http://\S+)", re.MULTILINE)


class DemoMachine:
    """A server in directories of its own below `place`. Made, it runs.

    Attributes:
        url: of REST; empty until it is ready.
    """

    def __init__(self, place: Path, machine: Machine, cluster: str, secret: Path) -> None:
        self.machine, self.url = machine, ""
        self._place = place / machine.name
        self._place.mkdir()
        options = {
            "--node": machine.name,
            "--cluster": cluster,
            "--cluster-secret": secret,
            "--data-dir": self._place / "data",
            "--run-dir": self._place / "run",
            "--map-dir": self._place / "maps",
            "--port": 0,
            "--metrics-port": 0,
            "--workers": 1,
            "--log-level": "warning",
        }
        words = [str(word) for option in options.items() for word in option]
        environ = {name: text for name, text in os.environ.items() if not name.startswith("KVSERVER_")}
        with (self._place / "banner").open("wb") as banner, (self._place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kvserver", "serve", *words],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=banner,
                stderr=log,
                process_group=0,  # Ctrl-C is for the demonstration, which stops it
            )

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its supervisor."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said last."""
        return "\n".join((self._place / "log").read_text(errors="replace").splitlines()[-20:])

    def is_ready(self) -> bool:
        """Return whether it answers; then `url` is known."""
        banner = (self._place / "banner").read_text(errors="replace")
        if banner.rstrip().endswith("ready") and (found := _URL.search(banner)):
            self.url = found[1]
        return bool(self.url)

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)

    def wait_for_end(self) -> None:
        """Wait until it has ended; kill it if that takes too long."""
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            time.sleep(0.1)  # its children end by themselves then, before their files are removed
