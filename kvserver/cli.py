"""The command line: it finds the command, and says and returns what became of it. The commands are in
`kvserver/commands`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from kvserver import __version__
from kvserver.commands import terminal
from kvserver.commands.loading import without_collection
from kvserver.commands.table import COMMANDS, SECTIONS
from shards.host.process import keep_standard_streams

COMPLETE_VARIABLE = "_KVSERVER_COMPLETE"
"""Environment variable by which a shell asks for completions."""


class Commands(click.Group):
    """The commands of `kvserver.commands.table`; a command's module is loaded on use."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line. In `standalone_mode`, print errors and exit with the status."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        keep_standard_streams()
        if COMPLETE_VARIABLE in os.environ:
            from kvserver.commands.parts.shells import register_shells

            register_shells()
        terminal.prepare_streams()
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            terminal.show_misuse(error)
            status = error.exit_code
        except click.Abort as error:
            terminal.exit_aborted(error)
        except OSError as error:
            if not terminal.is_of_output(error):
                raise
            terminal.exit_for_output(error)
        sys.exit(status if isinstance(status, int) else 0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command `name`, or None."""
        row = COMMANDS.get(name)
        if row is None:
            return None
        with without_collection():
            command: click.Command = importlib.import_module(f"kvserver.commands.{row.module}").COMMAND
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands, without loading them."""
        for title, rows in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, row.help) for name, row in rows.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin with `incomplete`, without loading them."""
        names = [CompletionItem(name, help=row.help) for name, row in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="kvserver")
def main() -> None:
    """A key-value server with a live feed of every change, over plain HTTP.

    \b
    Try it:
      kvserver serve                              in one terminal, and in another
      kvserver put greeting hello
      kvserver get greeting
    """


def run(name: str | None = None) -> None:
    """Run the command line as a program, and end the process. `name`: of the program; None: as it was called."""
    try:
        main(prog_name=name)
    except SystemExit as end:
        if _leaves_nothing(sys.argv[1:]) and isinstance(end.code, int | None):
            _end_at_once(end.code or 0)
        raise


def _leaves_nothing(words: Sequence[str]) -> bool:
    """Return whether the command is one that has no threads, children or files when it ends."""
    name = next((word for word in words if not word.startswith("-")), "")
    return name in COMMANDS and COMMANDS[name].module.startswith("data.")


def _end_at_once(status: int) -> NoReturn:
    """End the process without tidying up module by module, which takes a sixth of the time of `kvserver get`."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
