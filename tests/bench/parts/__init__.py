"""What is measured: the table of parts, and what each of them is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.bench.contenders import KVServer, Process
from tests.bench.measure import Findings

P = TypeVar("P", bound=Process)


@dataclass(frozen=True)
class Bench:
    """How to measure.

    `rounds` of `seconds` for each contender, `keys` in stores that are large, `directory` for data, on a real disk.
    `before`: another checkout, to be measured beside this one.
    """

    rounds: int
    seconds: float
    keys: int
    directory: Path
    say: Callable[[str], None]
    before: Path | None = None

    def ours(self, *options: str, tokens: bool = False) -> list[KVServer]:
        """Return this server with `options`, and with the same ones the other checkout if there is one."""
        trees = [None] if self.before is None else [None, self.before]
        return [KVServer(self.directory, *options, tokens=tokens, tree=tree) for tree in trees]

    def start(self, stack: ExitStack, findings: Findings, contenders: Iterable[P]) -> list[P]:
        """Those of `contenders` that are installed, running until `stack` ends; the others are noted."""
        running = []
        for contender in contenders:
            missing = contender.missing()
            if missing is not None:
                findings.notes.append(missing)
                continue
            self.say(f"starting {contender.name}")
            running.append(stack.enter_context(contender))
        return running


class Part(NamedTuple):
    """A row of the table: what the part is about, and what measures it."""

    about: str
    run: Callable[[Bench], Findings]


VALUE = b"v" * 100


def names(count: int, first: int = 0) -> Sequence[str]:
    """So many keys: in order, of one length."""
    return [f"k{number:08d}" for number in range(first, first + count)]
