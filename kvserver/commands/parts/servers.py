"""The options that name a server and the token for it, and what they say.

No option takes a token itself: every user of the machine can read command lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from kvserver.commands.parts.words import Duration

URL_VARIABLE: Final = "KVSERVER_URL"
TOKEN_VARIABLE: Final = "KVSERVER_TOKEN"
_PORT_VARIABLES: Final = ("KVSERVER_PORT", "PORT")
_MOST_TOKEN: Final = 1 << 16  # bytes: /dev/zero has no end


def server_options(patience_s: float, timeout_s: float | None = None) -> list[click.Parameter]:
    """Return the options for server, token, patience and, if there is a default, the time for one answer."""
    options: list[click.Parameter] = [
        click.Option(
            ["--url"],
            metavar="URL",
            envvar=URL_VARIABLE,
            show_envvar=True,
            multiple=True,
            callback=_join_urls,
            help="URL of the server, or its host and port. Of a cluster, give the option once for each server, or all "
            "with commas between them. Default: this machine, at the port of `kvserver serve`.",
        ),
        click.Option(
            ["--token-file"],
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"File with the token, if the server needs one. Default: the variable {TOKEN_VARIABLE}.",
        ),
        duration_option(
            "--patience", patience_s, "How long to keep trying while the server is unreachable or unavailable."
        ),
    ]
    if timeout_s is not None:
        options.append(duration_option("--timeout", timeout_s, "Time for one answer.", above_zero=True))
    return options


def _join_urls(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Return all URLs with commas between them, as clients take them; None for none."""
    return ",".join(values) or None


def duration_option(name: str, default: float | None, meaning: str, above_zero: bool = False) -> click.Option:
    """Return an option that takes a duration; `default` is in seconds, `meaning` is its help."""
    shown = "" if default is None else f" Default: {default:g}s."
    return click.Option([name], metavar="TIME", type=Duration(above_zero), default=default, help=f"{meaning}{shown}")


def server_url(url: str | None) -> str:
    """Return the URL that the option or the environment says, else that of this machine. Raises `click.UsageError`."""
    if url := url or os.environ.get(URL_VARIABLE):
        return url
    if not any(os.environ.get(name) for name in _PORT_VARIABLES):
        return "http://localhost:8080"
    from kvserver.commands.local.local_store import settings_of  # slow to load, and seldom needed

    port = settings_of({}).port
    if not port:
        raise click.UsageError(f"name the server with --url or {URL_VARIABLE}: its port is not fixed")
    return f"http://localhost:{port}"


def read_token(path: Path | None) -> str | None:
    """Return the token from the file or the environment, or None. Raises `ValueError`."""
    if path is None:
        where, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "").strip()
        if not text:
            return None
    else:
        from shards.files.safe_files import open_named  # slow to load, as the trust in paths is
        from shards.files.trusted_path import Care

        try:
            with open_named(path, Care.READ) as file:
                where, text = str(path), file.read(_MOST_TOKEN).decode("utf-8-sig", "replace").strip()
        except OSError as error:
            raise ValueError(f"cannot read the token: {error.strerror} ({path})") from None
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{where} holds no token")
    return text
