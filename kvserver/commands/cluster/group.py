"""`kvserver cluster`, with its subcommands."""

from __future__ import annotations

from pathlib import Path

import click

from kvserver.commands.cluster import demo, init, reset, secret, status
from kvserver.commands.options import setting_options
from kvserver.commands.parts.command import ClientCommand
from shards.host.settings import size

HELP = """Set up a cluster of three machines that share one store, or try one out.

See the chapter "cluster" of the manual.
"""


class _Size(click.ParamType[int]):
    """A number of bytes, as settings take it."""

    name = "BYTES"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number. Fails for what is none."""
        if isinstance(value, int):
            return value
        try:
            return size(64 << 20, 1 << 50)(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_MAX_BYTES = click.Option(
    ["--max-bytes"],
    type=_Size(),
    metavar="BYTES",
    help="What the stream keeps for machines that were away; older messages are dropped. Default: 8GiB.",
)
_INIT = (
    click.Option(["--nodes"], metavar="NAMES", help="Machines, with commas, where the engines run already."),
    _MAX_BYTES,
    *setting_options(*init.SETTINGS),
)
_RESET = (
    click.Option(["--from-this-machine"], is_flag=True, help="Yes: what this machine does not have may be lost."),
    click.Option(["--although-followed"], is_flag=True, help="Even if another machine follows the order."),
    _MAX_BYTES,
    *setting_options(*reset.SETTINGS),
)

COMMAND = click.Group(
    "cluster",
    help=HELP,
    commands=[
        click.Command("demo", callback=demo.run_demo, help=demo.HELP),
        click.Command(
            "secret",
            callback=secret.write_secret,
            params=[click.Argument(["file"], type=click.Path(path_type=Path), metavar="FILE")],
            help=secret.HELP,
        ),
        ClientCommand("status", status.show_machines, help=status.HELP),
        click.Command("init", callback=init.begin_order, params=list(_INIT), help=init.HELP),
        click.Command("reset", callback=reset.begin_again, params=list(_RESET), help=reset.HELP),
    ],
)
