"""The examples of every page of help are run as they stand; only the address of the server is changed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from kvserver.cli import main
from kvserver.commands.table import COMMANDS
from tests.system.harness import Server
from tests.system.kvserver.commands.programs import environ, run, succeed
from tests.system.kvserver.commands.terminals import Terminal

STATUSES: Final = {"kvserver wait config --changed-from": 3}
"""Examples, by their beginning, that do not end with 0: nothing changes the key meanwhile."""
INTERACTIVE: Final = ("top",)
"""Commands that need a terminal, and end at `q`."""


def examples_of(name: str) -> list[str]:
    """The examples on the page of help of a command."""
    page = CliRunner().invoke(main, [name, "--help"], prog_name="kvserver", terminal_width=200).output
    found = re.search(r"^  Examples:\n((?:    .*\n)+)", page, re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


WITH_EXAMPLES: Final = [name for name in COMMANDS if examples_of(name)]


def at(server: Server, text: str) -> str:
    """`text`, about a server of the tests."""
    return text.replace("localhost:9120", f"{server.host}:{server.port}")


def test_every_command_that_uses_a_server_has_examples() -> None:
    rooms = ("data.", "feed.", "operate.", "local.stores")
    assert {name for name, row in COMMANDS.items() if row.module.startswith(rooms)} == set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", [name for name in WITH_EXAMPLES if name not in INTERACTIVE])
def test_examples_of_help_pages_work(server: Server, name: str, tmp_path: Path) -> None:
    run(server, "del", "--all", "--yes", "-q")
    for key in ("flags/beta", "flags/dark", "users/ann", "config"):
        succeed(server, "put", key, '{"on":true}', "--type", "json")
    (tmp_path / "app.toml").write_text("name = 1\n")
    (tmp_path / "operations.ndjson").write_text('{"op":"get","key":"config"}\n')
    for example in examples_of(name):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {at(server, example)}"],
            cwd=tmp_path,
            env=environ(server, KVSERVER_RUN_DIR=str(server.run_dir)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        wanted = next((status for start, status in STATUSES.items() if example.startswith(start)), 0)
        assert done.returncode == wanted, (example, done)


@pytest.mark.parametrize("name", INTERACTIVE)
def test_examples_that_need_a_terminal_work(server: Server, name: str) -> None:
    for example in examples_of(name):
        with Terminal(at(server, example), environ(server)) as terminal:
            terminal.see("q quit")
            terminal.press("q")
            terminal.see("status 0")
