"""The server that an import or an export uses through the public API: named by a URL, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from kvserver.commands.parts.servers import read_token, server_options, server_url
from kvserver.transfer.remote import PATIENCE_S, Remote


def remote_options() -> list[click.Parameter]:
    """Return the options for server, token and patience."""
    return server_options(PATIENCE_S)


@contextmanager
def open_remote(url: str | None, token_file: Path | None, connections: int) -> Iterator[Remote]:
    """Yield the server that the options name. Raises `click.UsageError`."""
    try:
        remote = Remote(server_url(url), read_token(token_file), connections)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with closing(remote):
        yield remote


def records_text(count: int) -> str:
    """Format a count as `1,500 records`."""
    return f"{count:,} record{'' if count == 1 else 's'}"
