"""`kvserver cluster reset`: begins a new order with what this machine has, when the old one is lost."""

from __future__ import annotations

import time
from pathlib import Path

import click

from kvserver.commands.cluster.init import SETTINGS as OF_INIT
from kvserver.commands.cluster.init import create_stream
from kvserver.commands.local.local_store import CommandRefused, settings_of, stopped_store
from kvserver.commands.terminal import exit_with
from kvserver.serve.cluster.fetching import find_donor
from kvserver.serve.cluster.files import ClusterError, ClusterSetup, setup_of
from kvserver.serve.joining import CannotJoin, Origin, order_of, read_origin, write_origin
from kvserver.serve.store import explain_os_error
from kvserver.settings import ServerSettings
from shards.host.logs import print_error
from shards.log.epoch import first_revision, new_epoch
from shards.log.manifest import Manifest, ManifestError
from shards.log.recovery import examine_log
from shards.order import link
from shards.order.jetstream import JetStreamOrder
from shards.order.order import Identity, OrderError, OrderUnreachable

HELP = """Begin a new order with what this machine has, because the old one is lost. What only others have is lost, too.

A server that finds that its order was lost says so and stops serving. Choose the machine that has come furthest. Stop
its server and leave those of the others running, whose engines are needed. Run this there, with the options of its
server and --from-this-machine, and start it again. The history begins anew: watches are told.

Then stop each of the others, remove everything in its data directory but the directory `engine`, and start it: it
fetches the store.
"""
SETTINGS = (*(name for name in OF_INIT if not name.startswith("max_")), "data_dir", "run_dir")
"""The options, which are those of `kvserver serve`."""
_WAIT_S = 30.0
_TRY_S = 8.0


def begin_again(from_this_machine: bool, although_followed: bool, max_bytes: int | None, **given: str | None) -> None:
    """Run the command, or exit with 1."""
    if not from_this_machine:
        raise click.UsageError(
            "what this machine does not have will be lost: say --from-this-machine on the one that has come furthest"
        )
    settings = settings_of(given)
    try:
        setup = setup_of(settings)
        if setup is None:
            raise click.UsageError("name this machine with --node, and the machines with --cluster")
        with stopped_store(settings.data_dir):
            origin = _reset(setup, settings, although_followed, max_bytes)
    except ClusterError as error:
        raise click.UsageError(str(error)) from None
    except (CommandRefused, CannotJoin, ManifestError, OrderError) as error:
        exit_with(error)
    except OSError as error:
        exit_with(explain_os_error(error, settings.data_dir))
    others = ", ".join(node for node in origin.nodes if node != settings.node)
    print_error(
        f"a new order begins with what {settings.node} has, its history is {origin.epoch}: start the server of "
        f"{settings.node}. On {others} remove everything in the data directory but `engine`, and start them"
    )


def _reset(setup: ClusterSetup, settings: ServerSettings, although_followed: bool, max_bytes: int | None) -> Origin:
    """Make the new stream, and note it in the data directory. Raises what `begin_again` catches."""
    data_dir = settings.data_dir
    old = read_origin(data_dir)
    if old is None:
        raise CommandRefused(f"{data_dir} does not hold the store of a machine of a cluster")
    last = _last_revision(data_dir)
    with order_of(settings) as order:
        if not although_followed:
            _see_that_it_is_lost(order)
        now_ms = time.time_ns() // 1_000_000
        base = max(now_ms, old.base + 1)  # above every message of the old order, which had one in a millisecond at most
        if create_stream(setup, settings, len(old.nodes), max_bytes, first=base + 1):
            raise CommandRefused("the order was not made; what went wrong is above")
        identity = _find_new(order, base)
        origin = Origin(
            order=identity.name,
            created_ns=identity.created_ns,
            store=old.store,
            epoch=new_epoch(),
            first_revision=first_revision(last, now_ms),
            nodes=old.nodes,
            limits=old.limits,
            base=base,
        )
        write_origin(origin, data_dir)
    return origin


def _last_revision(data_dir: Path) -> int:
    """Return the last revision that the log has. Raises `CommandRefused`, `ManifestError`."""
    manifest = Manifest.load(data_dir)
    found = examine_log(data_dir / "log", manifest)
    if found.damage:
        raise CommandRefused(f"the store in {data_dir} is damaged, choose another machine: {found.damage}")
    return max(found.fold.next_revision - 1, manifest.end_revision)


def _see_that_it_is_lost(order: JetStreamOrder) -> None:
    """Raise `CommandRefused` if another machine follows the order."""
    give_up_at = time.monotonic() + _WAIT_S
    while time.monotonic() < give_up_at:
        try:
            order.open_within(link.AT_THE_END, None, _TRY_S)
        except OrderUnreachable as error:
            if "has no stream" in str(error):
                return
            continue
        node = find_donor(order, set())
        if node is not None:
            raise CommandRefused(
                f"{node} follows the order, which is not lost: if this machine has another one, or is damaged, remove "
                "everything in its data directory but `engine`, and start it; to give up what only the others have, "
                "say --although-followed"
            )
        return


def _find_new(order: JetStreamOrder, base: int) -> Identity:
    """Return which order it is that begins behind `base`. Raises `OrderError`."""
    give_up_at = time.monotonic() + _WAIT_S
    while True:
        try:
            identity = order.open_within(link.AT_THE_END, None, _TRY_S)
            if order.reach().first == base + 1:
                return identity
            problem = OrderUnreachable("the engines still show the old order: run this again")
        except OrderUnreachable as error:
            problem = error
        if time.monotonic() >= give_up_at:
            raise problem
