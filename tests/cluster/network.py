"""A network of machines in network namespaces, whose cables can be cut, in one direction or both, and made slow.

Needs root. Nothing of it is in the namespace of the test itself: what shall talk to a machine enters that machine's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def require_namespaces() -> None:
    """Skip the test without root or programs, which can be had; expect its failure where the kernel does not let it."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("needs root, and ip and tc of iproute2")
    name = f"kvt{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", "blackhole")
    except subprocess.CalledProcessError as error:
        pytest.xfail(f"no network namespaces here whose traffic can be dropped: {error.stderr.strip()}")
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


class Network:
    """Machines on one switch, each with an address and a cable of its own. A context manager.

    Attributes:
        addresses: of the machines, by name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"kvt{os.getpid()}-"
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
        for name in ("hub", *self.addresses):
            subprocess.run(["ip", "netns", "delete", self.namespace(name)], capture_output=True, check=False)

    def namespace(self, name: str) -> str:
        """The namespace of a machine, as `ip netns exec` takes it."""
        return self._prefix + name

    def cut(self, name: str, *, heard: bool = False, hears: bool = False) -> None:
        """Cut the cable of a machine: what is sent is lost. `heard`, `hears`: but for that direction."""
        if not heard:
            self._shape(name, "eth0", "blackhole")
        if not hears:
            self._shape("hub", f"to-{name}", "blackhole")

    def throttle(self, name: str, kbit: int) -> None:
        """Let a machine send so many kbit a second only: what is more waits, and is lost if it is too much."""
        self._shape(name, "eth0", "tbf", "rate", f"{kbit}kbit", "burst", "8kb", "latency", "400ms")

    def heal(self, name: str) -> None:
        """Make the cable of a machine whole."""
        for where, device in ((name, "eth0"), ("hub", f"to-{name}")):
            subprocess.run(
                ["ip", "netns", "exec", self.namespace(where), "tc", "qdisc", "del", "dev", device, "root"],
                capture_output=True,
                check=False,
            )

    def _shape(self, where: str, device: str, *how: str) -> None:
        self._in(where, "tc", "qdisc", "replace", "dev", device, "root", *how)

    def _build(self) -> None:
        for name in ("hub", *self.addresses):
            _run("ip", "netns", "add", self.namespace(name))
            self._in(name, "ip", "link", "set", "lo", "up")
        self._in("hub", "ip", "link", "add", "switch", "type", "bridge")
        self._in("hub", "ip", "link", "set", "switch", "up")
        for name, address in self.addresses.items():
            cable = ("type", "veth", "peer", "name", "eth0", "netns", self.namespace(name))
            self._in("hub", "ip", "link", "add", f"to-{name}", *cable)
            self._in("hub", "ip", "link", "set", f"to-{name}", "master", "switch", "up")
            self._in(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            self._in(name, "ip", "link", "set", "eth0", "up")

    def _in(self, name: str, *command: str) -> None:
        _run("ip", "netns", "exec", self.namespace(name), *command)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread, and the processes that it starts, be in the namespace of a machine."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self.enter(name)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def enter(self, name: str) -> None:
        """Move this thread to the namespace of a machine."""
        fd = os.open(Path("/run/netns") / self.namespace(name), os.O_RDONLY)
        try:
            _enter(fd)
        finally:
            os.close(fd)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
