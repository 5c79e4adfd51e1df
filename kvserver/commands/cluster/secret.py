"""`kvserver cluster secret`: makes the secret that the machines of a cluster share."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kvserver.commands.terminal import exit_with
from shards.host.logs import print_error

HELP = """Write a new secret to FILE, which must not exist. Only this user can read it.

Copy it to all machines of the cluster, and give it to each server with --cluster-secret. Whoever has it can be a
machine of the cluster.
"""


def write_secret(file: Path) -> None:
    """Run the command."""
    try:
        make_secret(file)
    except FileExistsError:
        exit_with(f"{file} exists already: a cluster whose secret changes must be stopped and started as a whole")
    except OSError as error:
        exit_with(f"{file} cannot be written: {error.strerror}")
    print_error(f"wrote {file}: copy it to all machines, and let nobody else read it")


def make_secret(file: Path) -> None:
    """Write a new secret to `file`. Raises `OSError`."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as opened:
        opened.write(f"{secrets.token_urlsafe(48)}\n")
