"""`kvserver serve`: runs the server. All its options come from the table of settings, so that no option, environment
variable or line of the manual can be missing."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from kvserver.commands.options import setting_options
from kvserver.settings import ServerSettings
from shards.host.settings import SettingError, Spec, boolean, env_name, load_settings, option_name, setting_specs

if TYPE_CHECKING:  # rich takes longer to load than most commands to run
    from rich.console import Console

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Where": ("data_dir", "in_memory", "run_dir", "map_dir"),
    "Network": (
        "host",
        "port",
        "metrics_port",
        "metrics_host",
        "feed_port",
        "feed_clients",
        "feed_clients_per_address",
        "connections_per_address",
        "unfinished_per_address",
        "unfinished_bytes_per_address",
        "spare_places",
        "min_upload_rate",
        "trusted_proxies",
        "origins",
        "allowed_hosts",
        "tokens",
        "insecure",
    ),
    "Processes": ("shards", "workers", "gateways", "scheduling", "no_hot_path", "only", "grace"),
    "Durability and limits": (
        "sync",
        "wal_retention",
        "clock_reset",
        "max_memory",
        "on_full",
        "max_value",
        "max_batch",
    ),
    "Cluster": (
        "node",
        "cluster",
        "cluster_secret",
        "cluster_tls_cert",
        "cluster_tls_key",
        "cluster_tls_ca",
        "cluster_monitors",
        "reads",
    ),
    "Messages": ("log_level", "log_format", "access_log", "slow_ms"),
}
"""Order of the settings in the manual; one that is missing here comes last."""

SERVE_INTRO = """
Runs the whole server in the foreground: shards, web workers, the feed gateway, and their supervisor.

When everything answers, the server prints its addresses to standard output, ending with the line "ready". Its log goes
to standard error: when it is ready, why it stops, which process was replaced, and what went wrong.

SIGTERM or Ctrl-C stops the server cleanly: it answers running requests, closes the feeds and closes the log. A second
Ctrl-C stops it faster. SIGHUP reads the tokens at once and replaces the web workers without failing a request.
"""

SERVE_PRECEDENCE = """
Each option can also be set by the environment variable in brackets. The option wins over the KVSERVER_ variable, and
that over other names. An empty variable counts as not set, and so does one that container platforms set for a service
of the same name (KVSERVER_PORT=tcp://10.96.12.7:8080).
"""


class Manual(click.Command):
    """A command whose --help is a manual page of the settings."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Format the page with rich, to the width of the terminal."""
        from rich.console import Console

        page = io.StringIO()  # rich's own capture would write to standard output, and fail where that does
        colored = sys.stdout is not None and sys.stdout.isatty()
        console = Console(file=page, force_terminal=colored, width=formatter.width + 2, highlight=False)
        _print_manual(console, ctx.command_path)
        formatter.write("\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n")


def _print_manual(console: Console, command: str) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Text(f"Usage: {command} [OPTIONS]", style="bold"))
    for paragraph in SERVE_INTRO.strip().split("\n\n"):
        console.print()
        console.print(Padding(" ".join(paragraph.split()), (0, 0, 0, 2)))
    table = setting_specs(ServerSettings)
    named = [name for names in SECTIONS.values() for name in names]
    rest = tuple(name for name in table if name not in named)
    for title, names in [*SECTIONS.items(), *([("Other", rest)] if rest else [])]:
        console.print()
        console.print(Text(title, style="bold"))
        for name in names:
            console.print()
            _print_setting(console, name, table[name])
    console.print()
    console.print(Text("Environment", style="bold"))
    console.print(Padding(" ".join(SERVE_PRECEDENCE.split()), (0, 0, 0, 2)))


def _print_setting(console: Console, name: str, spec: Spec) -> None:
    from rich.padding import Padding
    from rich.text import Text

    value = "" if spec.parse is boolean else f" {spec.metavar}"
    variables = ", ".join([env_name(name), *spec.aliases])
    console.print(Padding(Text(f"{option_name(name)}{value}", style="bold cyan"), (0, 0, 0, 2)))
    console.print(Padding(Text(f"{spec.help}{_default_text(name, spec)}"), (0, 0, 0, 6)))
    console.print(Padding(Text(f"[{variables}]", style="dim"), (0, 0, 0, 6)))


def _default_text(name: str, spec: Spec) -> str:
    default = next(field.default for field in dataclasses.fields(ServerSettings) if field.name == name)
    if default is None or isinstance(default, bool) or "Default:" in spec.help:
        return ""
    if isinstance(default, int) and default >= 1 << 20 and default % (1 << 20) == 0:
        default = f"{default >> 20}MiB"
    return f" Default: {default}."


def run_serve(**options: str | None) -> None:
    """Run the server in the foreground."""
    try:
        settings = load_settings(ServerSettings, options, os.environ)
    except SettingError as error:
        raise click.UsageError(str(error)) from None
    from kvserver.serve.supervisor import run_server  # with all its libraries, which `--help` does not need

    sys.exit(run_server(settings))


COMMAND = Manual(
    "serve",
    callback=run_serve,
    params=setting_options(*setting_specs(ServerSettings)),
    context_settings={"help_option_names": ["-h", "--help"]},
)
