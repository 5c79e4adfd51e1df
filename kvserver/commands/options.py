"""Options of commands, made of the table of settings. Their values stay text: the table's parsers read options and
environment alike."""

from __future__ import annotations

from typing import Any

import click

from kvserver.settings import ServerSettings
from shards.host.settings import Spec, boolean, option_name, setting_specs


def options(*names: str) -> list[click.Parameter]:
    """Options for the settings `names`, all of which may come from the environment as well."""
    table = setting_specs(ServerSettings)
    return [option(name, table[name]) for name in names]


def option(name: str, spec: Spec) -> click.Option:
    """The option of one setting."""
    flag: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if spec.parse is boolean else {}
    return click.Option([option_name(name), name], type=str, metavar=spec.metavar, help=spec.help, **flag)
