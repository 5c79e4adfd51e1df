"""Many readers of a feed, and how fast everything comes to all of them: `fanout.c`, compiled when it is wanted.

Python could not count that fast.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.bench import programs
from tests.bench.measure import Round

HANDSHAKE: Final = (
    "GET {target} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
SSE: Final = "GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
_LINE: Final = re.compile(
    r"written=(\d+) received=(\d+) seconds=([\d.]+) missing=(-?\d+) p50=(\d+) p99=(\d+) max=(\d+)\n"
)
_DRAIN_S: Final = 70.0


@dataclass(frozen=True)
class Readers:
    """Who reads: `count` connections to `port` that send `request`, and then `first` as a message of WebSocket."""

    port: int
    count: int
    request: str
    first: str = ""


@dataclass(frozen=True)
class Writer:
    """Who writes, `each` values at a time: `rate` values a second, or as fast as it goes with at most `window` values
    under way to the slowest reader."""

    kind: Literal["batch", "publish"]
    port: int
    each: int
    rate: float = 0
    window: int = 0


def run(program: Path, readers: Readers, writer: Writer, seconds: float) -> Round:
    """Deliveries a second, and how late they were. Raises `programs.Failed`, also if anything written did not come."""
    command = [readers.port, readers.count, readers.request, readers.first]
    command += [writer.kind, writer.port, writer.rate, writer.window, seconds, writer.each]
    return parse(programs.run([str(program), *map(str, command)], seconds + _DRAIN_S))


def parse(line: str) -> Round:
    """What the program found out. Raises `programs.Failed` if that is nothing, or something did not come once."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise programs.Failed(f"not understood: {line!r}")
    written, received, seconds, missing, *latencies_us = map(float, found.groups())
    if missing:
        raise programs.Failed(f"{missing:.0f} deliveries too few of {written:.0f} values")
    p50, p99, most = (latency / 1000 for latency in latencies_us)
    return {"deliveries/s": received / seconds, "p50 ms": p50, "p99 ms": p99, "max ms": most}
