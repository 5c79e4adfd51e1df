"""A network of machines in network namespaces, whose cables can be cut, in one direction or both, and made slow.

Needs root. Nothing of it is in the namespace of the test itself: what shall talk to a machine enters that machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.cluster import namespaces
from tests.cluster.cable import Conditions
from tests.cluster.switch import DEVICE, open_tap

_WHOLE = Conditions()


def require_namespaces() -> None:
    """Skip the test without root or programs, which can be had; expect its failure where the kernel does not let it."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root, and ip of iproute2")
    name = f"kvt{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
        os.close(open_tap(name))
    except subprocess.CalledProcessError as error:
        pytest.xfail(f"no network namespaces here: {error.stderr.strip()}")
    except OSError as error:
        pytest.xfail(f"no tap devices in network namespaces here: {error}")
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


class Network:
    """Machines on one switch, each with an address and a cable of its own. A context manager.

    Args:
        names: of the machines.
        seed: of what happens to frames by chance.

    Attributes:
        addresses: of the machines, by name.
    """

    def __init__(self, names: Sequence[str], seed: str = "") -> None:
        self._prefix, self._seed = f"kvt{os.getpid()}-", seed
        self._switch: subprocess.Popen[str] | None = None
        self.addresses = {name: f"10.213.77.{number}" for number, name in enumerate(names, 1)}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._switch is not None:
            self._switch.communicate()  # which ends its input
        for name in self.addresses:
            subprocess.run(["ip", "netns", "delete", self.namespace(name)], capture_output=True, check=False)

    def namespace(self, name: str) -> str:
        """The namespace of a machine, by the name that `ip netns` has for it."""
        return self._prefix + name

    def cut(self, name: str, *, heard: bool = False, hears: bool = False) -> None:
        """Cut the cable of a machine: what is sent is lost. `heard`, `hears`: but for that direction."""
        self.shape(name, Conditions(is_cut=not heard), Conditions(is_cut=not hears))

    def throttle(self, name: str, kbit: int) -> None:
        """Let a machine send so many kbit a second only: what is more waits, and is lost if it is too much."""
        self.shape(name, Conditions(kbit=kbit), _WHOLE)

    def heal(self, name: str) -> None:
        """Make the cable of a machine whole."""
        self.shape(name, _WHOLE, _WHOLE)

    def shape(self, name: str, from_it: Conditions, to_it: Conditions) -> None:
        """Say what the cable of a machine does to frames from it and to it, from now on."""
        assert self._switch is not None and self._switch.stdin is not None
        self._switch.stdin.write(json.dumps([name, from_it, to_it]) + "\n")
        self._switch.stdin.flush()
        self._wait_for("done")

    def _build(self) -> None:
        for name in self.addresses:
            _run("ip", "netns", "add", self.namespace(name))
            self._in(name, "ip", "link", "set", "lo", "up")
        places = [f"{name}={self.namespace(name)}" for name in self.addresses]
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.switch", self._seed, *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._wait_for("ready")
        for name, address in self.addresses.items():
            self._in(name, "ip", "address", "add", f"{address}/24", "dev", DEVICE)
            self._in(name, "ip", "link", "set", DEVICE, "up")

    def _wait_for(self, word: str) -> None:
        assert self._switch is not None and self._switch.stdout is not None
        said = self._switch.stdout.readline()
        assert said == word + "\n", f"the switch said {said!r} instead of {word}"

    def _in(self, name: str, *command: str) -> None:
        _run("ip", "netns", "exec", self.namespace(name), *command)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread, and the processes that it starts, be in the namespace of a machine."""
        with namespaces.namespace_of_this_thread():
            self.enter(name)
            yield

    def enter(self, name: str) -> None:
        """Move this thread to the namespace of a machine."""
        namespaces.enter(self.namespace(name))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
