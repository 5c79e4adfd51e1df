"""Load from `wrk`: requests are written to a file by us and picked at random by it, so that any of them will do."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.contenders import Process

_SCRIPT = Path(__file__).with_name("requests.lua")
_SUMMARY = re.compile(r"^summary: ((?:\w+=\d+ ?)+)$", re.MULTILINE)


class Summary(NamedTuple):
    """What `wrk` saw. `status`: answers of 400 and above; `broken`: requests without an answer.

    `cpu_us`: the processor time that all processes of the server took meanwhile, whatever for, in microseconds.
    """

    requests: int
    us: int
    p50: int
    p99: int
    max: int
    status: int
    broken: int
    cpu_us: float = 0.0

    def faults(self, refusals: bool) -> int:
        """Requests that were not answered, or refused, unless such `refusals` are expected."""
        return self.broken + (0 if refusals else self.status)

    def metrics(self, each: int = 1) -> dict[str, float]:
        """A rate and its price, of what a request holds `each` of, and latencies of requests."""
        return {
            "ops/s": self.requests * each / (self.us / 1e6),
            "us/op": self.cpu_us / (self.requests * each),
            "p50 ms": self.p50 / 1000,
            "p99 ms": self.p99 / 1000,
        }


class Failed(Exception):
    """`wrk` did not do its work, or a server answered what it should not."""


def missing() -> str | None:
    """What to say if there is no `wrk`."""
    return None if shutil.which("wrk") else "wrk is missing: no load can be made"


def request_file(requests: Iterable[bytes]) -> bytes:
    """The contents of a file of whole HTTP requests, as the script reads it."""
    return b"".join(b"%d\n%b" % (len(request), request) for request in requests)


def parse(output: str) -> Summary:
    """What the script said at the end. Raises `Failed`."""
    found = _SUMMARY.search(output)
    if found is None:
        raise Failed(f"no summary: {output.strip()[-500:]}")
    numbers = dict(pair.split("=") for pair in found[1].split())
    return Summary(**{name: int(number) for name, number in numbers.items()})


class Load:
    """Requests that can be sent to a server again and again. `close` removes their file."""

    def __init__(self, server: Process, requests: Iterable[bytes]) -> None:
        self._server = server
        with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".requests", delete=False) as file:
            file.write(request_file(requests))
            self._path = Path(file.name)

    def run(
        self,
        seconds: float,
        connections: int,
        *,
        ports: Sequence[int] = (),
        refusals: bool = False,
        faults: bool = False,
    ) -> Summary:
        """Keep `connections` busy for some whole seconds, one request at a time each.

        `ports`: of the machines over which the connections are spread, if the server has several.

        Raises `Failed` if none was answered; unless `faults`, if some were not; and unless `refusals` either, if some
        were refused.
        """
        asked = ports or [self._server.port]
        command = [
            *("wrk", f"-t{len(asked)}", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--timeout", "30s"),
            *("-s", str(_SCRIPT), f"http://127.0.0.1:{asked[0]}"),
            *("--", str(self._path), str(random.getrandbits(30))),
        ]
        environ = os.environ | {"BENCH_PORTS": " ".join(map(str, asked))}
        taken_before_s = self._server.cpu_s()
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, env=environ)
        taken_s = self._server.cpu_s() - taken_before_s
        summary = parse(done.stdout + done.stderr)._replace(cpu_us=taken_s * 1e6)
        if (summary.faults(refusals) and not faults) or not summary.requests:
            raise Failed(f"{summary}")
        return summary

    def close(self) -> None:
        self._path.unlink()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
