"""The server that a command uses through the public API: named by a URL, wherever it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from kvserver.commands.local_store import settings_of
from kvserver.commands.options import patience_option
from kvserver.transfer.remote import PATIENCE_S, TOKEN_VARIABLE, Remote
from shards.files.safe_files import open_named
from shards.files.trusted_path import Care

URL_VARIABLE = "KVSERVER_URL"
_MOST_TOKEN = 1 << 16  # bytes: /dev/zero has no end


def remote_options() -> list[click.Parameter]:
    """Return the options for server, token and patience.

    No option takes a token itself: every user of the machine can read command lines.
    """
    return [
        click.Option(
            ["--url"],
            metavar="URL",
            envvar=URL_VARIABLE,
            show_envvar=True,
            help="URL of the server. Default: this machine, at the port of `kvserver serve`.",
        ),
        click.Option(
            ["--token-file"],
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"File with the token, if the server needs one. Default: the variable {TOKEN_VARIABLE}.",
        ),
        patience_option(PATIENCE_S, "How long to keep trying while the server is unreachable or unavailable."),
    ]


@contextmanager
def open_remote(url: str | None, token_file: Path | None, connections: int) -> Iterator[Remote]:
    """Yield the server that the options name. Raises `click.UsageError`."""
    try:
        remote = Remote(url or _url_here(), _read_token(token_file), connections)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with closing(remote):
        yield remote


def records_text(count: int) -> str:
    """Format a count as `1,500 records`."""
    return f"{count:,} record{'' if count == 1 else 's'}"


def _url_here() -> str:
    port = settings_of({}).port
    if not port:
        raise click.UsageError(f"name the server with --url or {URL_VARIABLE}: its port is not fixed")
    return f"http://localhost:{port}"


def _read_token(path: Path | None) -> str | None:
    """Return the token from the file or the environment, or None. Raises `ValueError`."""
    if path is None:
        where, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "").strip()
        if not text:
            return None
    else:
        try:
            with open_named(path, Care.READ) as file:
                where, text = str(path), file.read(_MOST_TOKEN).decode("utf-8-sig", "replace").strip()
        except OSError as error:
            raise ValueError(f"cannot read the token: {error.strerror} ({path})") from None
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{where} holds no token")
    return text
