"""`kvserver cluster init`: begins the order of a cluster whose engines run."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from kvserver.commands.local.local_store import settings_of
from kvserver.commands.terminal import exit_with
from kvserver.serve.cluster.addresses import NUMBERS, NUMBERS_TEXT, Machine
from kvserver.serve.cluster.files import ClusterError, ClusterSetup, setup_of
from kvserver.serve.cluster.processes import order_argv
from kvserver.settings import ServerSettings
from shards.host.logs import print_error
from shards.host.process import PARENT_VARIABLE
from shards.log.epoch import first_revision, new_epoch
from shards.order.link import NO_ANSWER
from shards.order.messages import encode_init, init_of

HELP = """Begin the order of a new cluster, once. Its servers wait for that.

Start `kvserver serve` on all machines first, then run this on one of them, with the same --node, --cluster and
--cluster-secret. It makes the stream in which the machines keep every change until all have it, with as many replicas
as there are machines. Of engines that run already, --nodes names the machines.

Limits that all machines must share are taken from --max-value and --max-memory.

\b
Example:
  kvserver cluster init --node a --cluster a=10.0.0.1,b=10.0.0.2,c=10.0.0.3 --cluster-secret cluster.secret
"""
SETTINGS = (
    *("node", "cluster", "cluster_secret", "cluster_monitors"),
    *("cluster_tls_cert", "cluster_tls_key", "cluster_tls_ca", "max_value", "max_memory"),
)
"""The options, which are those of `kvserver serve`."""
_CONNECT_S: Final = 2.0


def begin_order(nodes: str | None, max_bytes: int | None, **given: str | None) -> None:
    """Run the command, or exit with 1."""
    settings = settings_of(given)
    try:
        setup = setup_of(settings)
    except ClusterError as error:
        raise click.UsageError(str(error)) from None
    if setup is None:
        raise click.UsageError("name this machine with --node, and the machines with --cluster")
    names = [machine.name for machine in setup.machines] or (nodes or "").split(",")
    if nodes is not None and setup.machines:
        raise click.UsageError("--nodes is for engines that run already: --cluster names the machines")
    if len(names) not in NUMBERS or not all(names):
        raise click.UsageError(f"a cluster has {NUMBERS_TEXT} machines, not {', '.join(names) or 'none'}")
    for problem in find_silent(setup.machines):
        print_error(f"waiting for {problem}: start its server, with the same --cluster and --cluster-secret")
    status = create_order(setup, settings, names, max_bytes)
    if status == NO_ANSWER:
        for problem in find_silent(setup.machines):
            print_error(f"there was no way to {problem}")
        exit_with(
            "the order was not made; what went wrong is above. It needs the servers of all machines, with the same "
            "--cluster and --cluster-secret: an engine that refuses another one says so in its log, in lines with [ERR]"
            if setup.machines
            else "the order was not made; what went wrong is above"
        )
    if status:
        exit_with("the order was not made, for the reason above")
    print_error(f"the order of {', '.join(sorted(names))} has begun; servers that wait for it go on now")


def find_silent(machines: Sequence[Machine]) -> Iterator[str]:
    """Yield the machines whose engines cannot be reached from here, and why."""
    for machine in machines:
        try:
            socket.create_connection((machine.host, machine.port), _CONNECT_S).close()
        except OSError as error:
            yield f"{machine.name} at {machine.address} ({error.strerror or 'no answer'})"


def create_order(
    setup: ClusterSetup,
    settings: ServerSettings,
    nodes: Sequence[str],
    max_bytes: int | None = None,
    *,
    quietly: bool = False,
) -> int:
    """Make the stream with its first message; return the exit status of what does it. Raises `OSError`.

    `max_bytes`: that the stream keeps. `quietly`: without what it says in the meantime.
    """
    limits = {"max_value": settings.max_value}
    if settings.max_memory is not None:
        limits["max_memory"] = settings.max_memory
    revision = first_revision(0, time.time_ns() // 1_000_000)
    first = init_of(secrets.token_hex(16), new_epoch(), revision, sorted(nodes), limits)
    return create_stream(setup, settings, len(nodes), max_bytes, encode_init(first), quietly=quietly)


def create_stream(
    setup: ClusterSetup,
    settings: ServerSettings,
    replicas: int,
    max_bytes: int | None,
    message: bytes = b"",
    *,
    first: int = 1,
    quietly: bool = False,
) -> int:
    """Make the stream, with a first message; return the exit status of what does it. Raises `OSError`.

    `first`: above 1, the sequence of its first message, which is not made: the stream replaces the one there is.
    """
    with tempfile.TemporaryDirectory(prefix="kvserver-init-") as place:
        argv = [*order_argv(setup, settings, Path(place)), "--create", str(replicas)]
        argv += [] if first == 1 else ["--first", str(first)]
        argv += [] if max_bytes is None else ["--max-bytes", str(max_bytes)]
        return subprocess.run(
            argv,
            input=message,
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
            stderr=subprocess.DEVNULL if quietly else sys.stderr,
            check=False,
        ).returncode
