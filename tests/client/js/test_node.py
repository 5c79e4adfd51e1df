"""The JavaScript client in Node: its own tests, its example, and its types."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.client.js.pages import FILES
from tests.system.harness import Server

NODE = shutil.which("node")
TYPESCRIPT = "typescript@5.9.3"

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


def run(command: list[str], cwd: Path = FILES, **environ: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | environ,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _require_npm(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed: it comes with npm")
    return path


def run_tests(folder: str, **environ: str) -> None:
    files = [str(path) for path in sorted((FILES / folder).glob("*.test.js"))]
    told = run([str(NODE), "--test", *files], **environ)
    assert "# fail 0" in told and "# skipped 0" in told and "# pass 0" not in told


def test_its_own_tests() -> None:
    run_tests("tests")


def test_its_tests_against_the_server(server: Server) -> None:
    run_tests("tests/server", KVSERVER_URL=server.url)


def test_the_example(server: Server) -> None:
    told = run([str(NODE), "examples/node.js"], KVSERVER_URL=server.url)
    assert told.splitlines() == [
        "flags/beta true application/json",
        "another write came first",
        "1 nothing",
        'snapshot flags/beta {"on":false,"for":["staff"]}',
        "deleted",
    ]


def test_programs_that_use_the_types_are_right(tmp_path: Path) -> None:
    """The package as npm has it: names are found by `exports`, and a wrong use is an error, see usage.ts."""
    npx = _require_npm("npx")
    package = tmp_path / "node_modules" / "kvserver-client"
    package.mkdir(parents=True)
    for name in ("client.js", "client.d.ts", "package.json"):
        shutil.copy(FILES / name, package)
    usage = (FILES / "tests" / "usage.ts").read_text().replace('"../client.js"', '"kvserver-client"')
    (tmp_path / "usage.mts").write_text(usage)
    options = [
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--lib",
        "es2022,dom,dom.asynciterable",
    ]
    run([npx, "--yes", "-p", TYPESCRIPT, "tsc", *options, "usage.mts"], tmp_path)


def test_the_package_has_what_it_names() -> None:
    told = run([_require_npm("npm"), "pack", "--dry-run", "--json"])
    assert '"client.js"' in told and '"client.d.ts"' in told and "tests/" not in told
