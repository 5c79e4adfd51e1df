"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

_PROGRAMS: Final = {
    "redis-server": ["redis-server", "--version"],
    "webdis": ["dpkg-query", "-W", "-f", "${Version}", "webdis"],
    "nginx": ["nginx", "-v"],
    "etcd": ["etcd", "--version"],
    "wrk": ["dpkg-query", "-W", "-f", "${Version}", "wrk"],
}
_PACKAGES: Final = ("kvserver", "gunicorn", "uvicorn", "falcon", "pyzmq", "lmdb", "msgspec")


def facts(directory: Path) -> dict[str, str]:
    """Name to text. `directory`: where the data will be."""
    return {
        "machine": f"{os.cpu_count()} x {_cpu()}, {_memory_gib():.0f} GiB, {platform.system()} {platform.release()}",
        "disk": f"{directory} on {_file_system(directory)}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "programs": ", ".join(f"{name} {_version(command)}" for name, command in _PROGRAMS.items()),
    }


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
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    lines = (done.stdout or done.stderr).strip().splitlines()
    words = [word for word in (lines[0].split() if lines else []) if any(letter.isdigit() for letter in word)]
    return words[0].removeprefix("v=").rpartition("/")[2] if words and not done.returncode else "missing"
