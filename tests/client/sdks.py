"""The clients that the suite drives, and how the driver of each is built. One whose files are not there is left out."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

ROOT = Path(__file__).parents[2]
SDK = ROOT / "kvserver" / "sdk"


@dataclass(frozen=True)
class Sdk:
    """A client. `source`: its driver; `build` returns the command that starts that; `lacks`: what it need not have.

    `tools`: programs that building and running it needs, `libraries`: those that pkg-config has to know.
    `knows_what_was_sent`: it can tell whether all of a request went to the kernel; fetch cannot.
    """

    name: str
    source: Path
    build: Callable[[], list[str]]
    lacks: frozenset[str] = frozenset()
    knows_what_was_sent: bool = True
    tools: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether its files are there."""
        return self.source.exists()

    def command(self) -> list[str]:
        """Build the driver, once for this process, and return its command line. Skips the test if a tool is missing."""
        self.require_tools()
        return list(_built(self))

    def require_tools(self) -> None:
        """Skip the test if something that the client is built with is not installed."""
        missing = [tool for tool in self.tools if shutil.which(tool) is None]
        if not missing:
            missing = [name for name in self.libraries if subprocess.run(["pkg-config", "--exists", name]).returncode]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")


@cache
def _built(sdk: Sdk) -> tuple[str, ...]:
    return tuple(sdk.build())


def _python(kind: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-W", "error", str(ROOT / "tests" / "client" / "conform_py.py"), kind]


def _build_c() -> list[str]:
    """With the sanitizers: a leak, an overflow or undefined behavior ends the driver badly, which fails the test."""
    program = Path(mkdtemp(prefix="conform-c-")) / "conform"
    flags = [*_run(["pkg-config", "--cflags", "--libs", "libcurl", "jansson"]).split(), "-lwslay"]
    sources = [str(SDK / "c" / "tests" / "conform.c"), str(SDK / "c" / "kvclient.c")]
    warnings = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-g", "-O1"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    _run(["gcc", *warnings, *sanitizers, f"-I{SDK / 'c'}", *sources, "-o", str(program), *flags])
    return [str(program)]


def _rust(example: str) -> Callable[[], list[str]]:
    return lambda: [rust_example(example)]


def rust_example(name: str) -> str:
    """Build an example of the Rust client and return its path."""
    manifest = str(SDK / "rust" / "Cargo.toml")
    options = ["--manifest-path", manifest, "--locked", "--all-features", "--example", name]
    built = _run(["cargo", "build", *options, "--message-format", "json-render-diagnostics"])
    artifacts = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
    [path] = [made["executable"] for made in artifacts if made.get("executable") and made["target"]["name"] == name]
    return str(path)


def _build_js() -> list[str]:
    """With the WebSocket that Node has by default from 22 on."""
    return [shutil.which("node") or "node", "--experimental-websocket", str(SDK / "js" / "tests" / "conform.js")]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


_PYTHON = ROOT / "tests" / "client" / "conform_py.py"
_C_LIBRARIES = ("libcurl", "jansson")

SDKS = (
    Sdk("python-sync", _PYTHON, _python("sync"), frozenset(("wal", "websocket"))),
    Sdk("python-async", _PYTHON, _python("async"), frozenset(("wal", "websocket"))),
    Sdk(
        "c", SDK / "c" / "tests" / "conform.c", _build_c, tools=("gcc", "pkg-config"), libraries=("libcurl", "jansson")
    ),
    Sdk("rust", SDK / "rust" / "examples" / "conform.rs", _rust("conform"), tools=("cargo",)),
    Sdk("rust-async", SDK / "rust" / "examples" / "conform_async.rs", _rust("conform_async"), tools=("cargo",)),
    Sdk("js", SDK / "js" / "tests" / "conform.js", _build_js, frozenset(("wal",)), False, ("node",)),
)
DRIVERS = {sdk.name: sdk for sdk in SDKS if sdk.is_here}
"""Those that are here, by name."""
