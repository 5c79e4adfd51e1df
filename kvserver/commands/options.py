"""Command options made from the table of settings. Values stay text: the table's parsers read options and environment
alike."""

from __future__ import annotations

from typing import Any

import click

from kvserver.commands.parts.servers import duration_option
from kvserver.settings import ServerSettings
from shards.host.settings import Spec, boolean, option_name, setting_specs


def setting_options(*names: str) -> list[click.Parameter]:
    """Return options for the settings `names`; each may also come from the environment."""
    table = setting_specs(ServerSettings)
    return [setting_option(name, table[name]) for name in names]


def patience_option(default: float, meaning: str) -> click.Option:
    """Return the option of how long a command waits; `default` is in seconds, `meaning` is its help."""
    return duration_option("--patience", default, meaning)


def setting_option(name: str, spec: Spec) -> click.Option:
    """Return the option of one setting."""
    flag: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if spec.parse is boolean else {}
    return click.Option([option_name(name), name], type=str, metavar=spec.metavar, help=spec.help, **flag)
