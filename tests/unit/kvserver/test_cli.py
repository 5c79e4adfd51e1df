"""The command line: how a command is found, and what is loaded for it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from kvserver import cli
from kvserver.commands.table import COMMANDS, SECTIONS

HEAVY = (
    "rich",
    "asyncio",
    "kvserver.serve",
    "kvserver.settings",
    "kvserver.transfer",
    "kvserver.client.changes",
    "kvserver.client.live.watch",
    "msgspec",
    "prometheus_client",
    "gunicorn",
)
"""What takes longer to load than most commands to run."""


def test_the_first_page_of_help_names_the_commands() -> None:
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    for title, rows in SECTIONS.items():
        assert f"{title}:" in result.output
        assert all(f"  {name} " in result.output and row.help in result.output for name, row in rows.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_name_and_a_page_of_help(name: str) -> None:
    command = importlib.import_module(f"kvserver.commands.{COMMANDS[name].module}").COMMAND
    assert isinstance(command, click.Command) and command.name == name
    result = CliRunner().invoke(cli.main, [name, "--help"], prog_name="kvserver")
    assert result.exit_code == 0 and result.output.startswith(f"Usage: kvserver {name} ")
    assert CliRunner().invoke(cli.main, [name, "-h"], prog_name="kvserver").output == result.output


def test_a_command_that_is_none_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli.main, ["got"])
    assert result.exit_code == 2 and "No such command" in result.output


@pytest.mark.parametrize("words", [["get", "k", "--url", "localhost:1", "--patience", "0"], ["--help"], ["--version"]])
def test_what_is_slow_to_load_is_not_loaded(words: list[str]) -> None:
    script = f"import sys; from kvserver.cli import main\ntry: main({words!r})\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "kvserver.cli" in loaded and not loaded & set(HEAVY)
    assert ("urllib3" in loaded) == (words[0] == "get")


@pytest.mark.parametrize(
    ("words", "leaves_nothing"),
    [
        (["get", "k"], True),
        (["-q", "del"], True),
        (["watch"], False),
        (["serve"], False),
        (["--help"], False),
        ([], False),
    ],
)
def test_only_commands_that_leave_nothing_end_at_once(words: list[str], leaves_nothing: bool) -> None:
    assert cli._leaves_nothing(words) == leaves_nothing
