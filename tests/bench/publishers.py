"""Clients that publish to JetStream and wait until the stream has what they sent: `publishers.c`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench import programs

_LINE: Final = re.compile(r"taken=(\d+) refused=(\d+) seconds=([\d.]+) p50=(\d+) p99=(\d+) max=(\d+)\n")
_PATIENCE_S: Final = 30.0


class Account(NamedTuple):
    """Where messages go, and by whose rights."""

    subject: str
    user: str
    password: str


class Published(NamedTuple):
    """What the clients saw. `refused`: messages that the stream did not take."""

    taken: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float


def run(program: Path, ports: Sequence[int], account: Account, clients: int, seconds: float) -> Published:
    """Keep `clients`, spread over the servers at `ports`, busy for a time with a message of 100 bytes each.

    Raises `programs.Failed`, also if the stream took nothing.
    """
    words = [str(program), str(seconds), str(clients), *account, *map(str, ports)]
    return parse(programs.run(words, seconds + _PATIENCE_S))


def parse(line: str) -> Published:
    """What the program found out. Raises `programs.Failed` if that is nothing."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise programs.Failed(f"not understood: {line!r}")
    taken, refused, seconds, p50, p99, _ = map(float, found.groups())
    if not taken:
        raise programs.Failed(f"the stream took none of {refused:.0f} messages")
    return Published(int(taken), int(refused), seconds, p50 / 1000, p99 / 1000)
