"""`kvserver completion`: writes the script by which a shell completes commands, options and keys."""

from __future__ import annotations

import click

from kvserver.commands.parts.output import Output
from kvserver.commands.parts.shells import COMPLETE_VARIABLE, SHELLS

HELP = """Write the completion script for a shell to standard output.

Keys are completed too, up to the next slash, from the server that KVSERVER_URL or --url names. If it does not answer
within 300 ms, no keys are offered.

\b
Examples:
  source <(kvserver completion bash)
  kvserver completion bash > kvserver.bash
  kvserver completion zsh > _kvserver
  kvserver completion fish > kvserver.fish
"""


def write_script(shell: str) -> None:
    """Run the command."""
    root = click.get_current_context().find_root()
    out = Output()
    out.data(SHELLS[shell](root.command, {}, "kvserver", COMPLETE_VARIABLE).source().encode())
    out.flush()


COMMAND = click.Command(
    "completion",
    callback=write_script,
    params=[click.Argument(["shell"], type=click.Choice(list(SHELLS)), metavar="|".join(SHELLS))],
    help=HELP,
)
