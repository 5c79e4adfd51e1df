"""The machine and the versions that figures belong to, and what processes take of it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

_PROGRAMS: Final = {
    "redis-server": ["redis-server", "--version"],
    "webdis": ["dpkg-query", "-W", "-f", "${Version}", "webdis"],
    "nginx": ["nginx", "-v"],
    "etcd": ["etcd", "--version"],
    "nats-server": ["nats-server", "--version"],
    "wrk": ["dpkg-query", "-W", "-f", "${Version}", "wrk"],
}
_PACKAGES: Final = ("kvserver", "gunicorn", "uvicorn", "falcon", "pyzmq", "lmdb", "msgspec")


def facts(directory: Path) -> dict[str, str]:
    """Name to text. `directory`: where the data will be."""
    return {
        "machine": f"{os.cpu_count()} x {_cpu()}, {_memory_gib():.0f} GiB, {platform.system()} {platform.release()}",
        "disk": f"{directory} on {_file_system(directory)}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "kvserver": describe_revision(Path(__file__).parent),
        "Python": describe_interpreter(),
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "programs": ", ".join(f"{name} {_version(command)}" for name, command in _PROGRAMS.items()),
    }


def describe_interpreter() -> str:
    """Say which Python runs this, and how it was built as far as it shows: an optimized one is some 8 % faster."""
    path = Path(sys.executable).resolve()
    package = _debian_package(path)
    if package is not None:
        built = f"Debian's {package}, built with profile-guided and link-time optimization"
    else:
        built = f"not Debian's, {describe_build(sysconfig.get_config_var('CONFIG_ARGS') or '')}"
    return f"{platform.python_version()}, {path}, {built}"


def describe_build(config_args: str) -> str:
    """Say what the arguments of Python's `configure` ask for. Debian optimizes by other means than these."""
    profile = "with" if "--enable-optimizations" in config_args else "without"
    link = "with" if re.search(r"--with-lto(?!=no)\b", config_args) else "without"
    return f"built {profile} profile-guided and {link} link-time optimization"


def _debian_package(path: Path) -> str | None:
    """Return the Debian package that brought the file, with its version, or None."""
    try:
        owner = subprocess.run(["dpkg-query", "-S", str(path)], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name = owner.stdout.partition(":")[0]
    return None if owner.returncode else f"{name} {_version(['dpkg-query', '-W', '-f', '${Version}', name])}"


def describe_revision(tree: Path) -> str:
    """Say what a checkout is at: the start of the commit's name, and whether anything was changed since."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "of no known revision"


def family(roots: Iterable[int]) -> list[int]:
    """The pids of `roots` and of all that descend from them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            children.setdefault(int(_stat(path)[1]), []).append(int(path.parent.name))
    found, open_ones = [], list(roots)
    while open_ones:
        pid = open_ones.pop()
        found.append(pid)
        open_ones += children.get(pid, [])
    return found


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process and its children that have ended took, in themselves and in the kernel.

    0 if it has ended itself: its parent counts it now.
    """
    try:
        fields = _stat(Path(f"/proc/{pid}/stat"))
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pid: int) -> int:
    """Bytes of memory that are no file's, this process's share of what it has in common with others; 0 if it ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss_Anon:"))


def allocated_bytes(directory: Path) -> int:
    """Bytes that the files below `directory` take of their file system."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def _stat(path: Path) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold spaces: state, parent, ..."""
    return path.read_text().rpartition(")")[2].split()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _file_system(directory: Path) -> str:
    """Kind and device of the file system that holds `directory`."""
    found = ("/", "unknown", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, at, kind, *_ = line.split()
        if directory.resolve().is_relative_to(at) and len(at) >= len(found[0]):
            found = (at, kind, device)
    return f"{found[1]} ({found[2]})"


def _version(command: list[str]) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # a package brings nats-server beside Python
    program = shutil.which(command[0], path=path) or command[0]
    asked = [program, *command[1:]]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    lines = (done.stdout or done.stderr).strip().splitlines()
    words = [word for word in (lines[0].split() if lines else []) if any(letter.isdigit() for letter in word)]
    return words[0].lstrip("v=").rpartition("/")[2] if words and not done.returncode else "missing"
