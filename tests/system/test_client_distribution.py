"""The client alone, installed without the server: it brings one package, works, and has types."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import kvserver
from kvserver.client import __version__
from tests.system.harness import Server
from tests.system.test_manual import blocks

ROOT = Path(__file__).parents[2]

PROGRAM = """
from kvserver.client import Client, Entry, Exists

with Client() as kv:
    kv.put("greeting", "hello", ttl=60)
    entry = kv.get("greeting")
    assert entry is not None and entry.text == "hello"
    try:
        kv.create("greeting", json={"n": 1})
    except Exists as error:
        assert error.revision == entry.revision
    for item in kv.scan():
        print(item.key, item.size)
    assert kv.atomic().incr("{a}n").put("{a}k", b"").commit()[0].value == 1

    def add(found: Entry | None) -> bytes:
        return found.value + b"!" if found else b""

    assert kv["greeting"] == b"hello" and kv.update("greeting", add) is not None
    try:
        from kvserver.client import AsyncClient
    except ImportError as error:
        print(error)
try:
    import kvserver.cli
except ImportError:
    print("no server")
"""


@pytest.fixture(scope="module")
def python(make_dir: Callable[[str], Path]) -> Iterator[Path]:
    """A Python that has the client and what comes with it."""
    place = make_dir("venv")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    command = [place / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, ROOT / "kvserver" / "client"], check=True)
    yield place / "bin" / "python"


def test_the_client_has_the_version_of_the_server() -> None:
    assert __version__ == kvserver.__version__ == version("kvserver")


def test_it_brings_urllib3_alone(python: Path) -> None:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True, check=True
    )
    names = {line.partition("==")[0] for line in listed.stdout.splitlines()}
    assert names - {"pip", "setuptools"} == {"kvserver-client", "urllib3"}


def test_it_works(python: Path, server: Server, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"KVSERVER_URL": server.url},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "greeting 5",
        "AsyncClient needs aiohttp: pip install aiohttp yarl",
        "no server",
    ]


def test_programs_with_it_are_checked_for_types(python: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--python-executable", python, program]
    good = PROGRAM.replace("import kvserver.cli", "pass").replace("import AsyncClient", "import Client as AsyncClient")
    program.write_text(good)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    program.write_text("from kvserver.client import Client\nnumber: int = Client().get('k')\n")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and 'expression has type "Entry | None"' in done.stdout


def test_the_samples_of_the_manual_are_checked_for_types(tmp_path: Path) -> None:
    programs = [text for language, text in blocks() if language == "python"]
    for number, program in enumerate(programs):
        (tmp_path / f"sample_{number}.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", os.devnull]
    done = subprocess.run(
        [*command, *sorted(tmp_path.glob("*.py"))], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (0, "") and len(programs) >= 10


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("kvserver.cli", {"urllib3", "aiohttp", "httpx", "asyncio", "http.client", "ssl", "rich.console"}),
        ("kvserver.client", {"aiohttp", "asyncio", "concurrent.futures", "urllib.request"}),
    ],
)
def test_nothing_slow_is_loaded_before_it_is_used(module: str, slow: set[str]) -> None:
    """`kvserver --version` and `kvserver get` are typed by people who wait."""
    program = f"import sys, {module}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & slow
