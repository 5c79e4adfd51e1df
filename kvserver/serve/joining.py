"""What all machines of a cluster agree on, learnt from the order's first message before the store is made.

A machine with an empty data directory can make its store only when it knows the store's id, its epoch and its first
revision. So it waits for the order, and keeps what it learnt in the file `cluster` of the data directory: it follows
that order and no other from then on, and later starts need not wait.

If the order no longer has its first messages, the machine fetches the store of another one. So does a machine whose
data directory says, by an empty directory `fetched`, that it was away for too long.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from kvserver.serve.cluster import fetching
from kvserver.serve.cluster.files import setup_of
from kvserver.serve.cluster.first_engine import FirstEngine, end_process, start_process
from kvserver.serve.cluster.processes import order_argv
from kvserver.settings import ServerSettings
from shards.backup.archive import CLUSTER
from shards.files import checksummed_json
from shards.files.checksummed_json import Revision, StoreId, Words
from shards.order import link
from shards.order.jetstream import JetStreamOrder
from shards.order.messages import Init, UnknownLevel, decode_message
from shards.order.order import Identity, OrderError, OrderTrimmed, OrderUnreachable

FORMAT: Final = 1
NAME: Final = CLUSTER
_TRY_S: Final = 8.0  # for one attempt to open the order: the order's process says after 5 s what is wrong
_SAY_S: Final = 10.0  # between messages that it is waited for
_LOOK_S: Final = 0.05

log = logging.getLogger(__name__)

T = TypeVar("T")


class CannotJoin(Exception):
    """This machine cannot be one of the cluster; the message says why and what to do."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file.

    Attributes:
        order, created_ns: which order the store follows.
        store, epoch, first_revision, nodes, limits: of its first message, see `shards.order.messages.Init`.
        base: of an order that `kvserver cluster reset` has made: the sequence before its first message. That order has
            no first message of this kind: the store of one machine stands for it. 0: of any other.
    """

    format: int = FORMAT
    order: Words
    created_ns: Annotated[int, Meta(ge=0)]
    store: StoreId
    epoch: Words
    first_revision: Revision
    nodes: tuple[Words, ...]
    limits: dict[str, int]
    base: Annotated[int, Meta(ge=0)] = 0

    @classmethod
    def of(cls, identity: Identity, init: Init) -> Origin:
        """Return what the first message of the order `identity` says."""
        return cls(
            order=identity.name,
            created_ns=identity.created_ns,
            store=init.store,
            epoch=init.epoch,
            first_revision=init.first_revision,
            nodes=init.nodes,
            limits=init.limits,
        )


def find_origin(settings: ServerSettings, data_dir: Path | None, engine: FirstEngine) -> Origin | None:
    """Return what the cluster of `settings` agrees on, from the data directory, or, the first time, from the order.

    May wait for the order, and start `engine` for that. None: there is no cluster. Raises `CannotJoin`, `ClusterError`,
    `OSError`.
    """
    kept = read_origin(data_dir) if data_dir is not None else None
    if settings.node is None:
        if data_dir is not None and (data_dir / fetching.DIRECTORY).exists():
            raise CannotJoin(f"{data_dir} is of a machine of a cluster that begins anew: start it with --cluster")
        if kept is not None:
            raise CannotJoin(
                f"the store in {data_dir} is of a cluster of {', '.join(kept.nodes)}: start it with --node and "
                "--cluster, or make a store of your own of its backup"
            )
        return None
    if data_dir is not None and (data_dir / fetching.DIRECTORY).exists():
        kept = _fetch_store(settings, data_dir, engine)
    if kept is None:
        if data_dir is not None and (data_dir / "manifest").exists():
            raise CannotJoin(
                f"the store in {data_dir} was not made by a cluster, so it cannot be one of its machines: name an "
                "empty --data-dir, and copy the content with `kvserver export` and `kvserver import`"
            )
        _require_own_name(settings)
        kept = _ask_order(settings, engine)
        if data_dir is not None:
            if kept is None:
                kept = _fetch_store(settings, data_dir, engine)
            write_origin(kept, data_dir)
    assert kept is not None
    _check_names(settings, kept)
    return kept


def _check_names(settings: ServerSettings, origin: Origin) -> None:
    """Raise `CannotJoin` if the settings name other machines than the cluster has."""
    setup, names = setup_of(settings), ", ".join(origin.nodes)
    remedy = (
        "machines cannot be added, and one that replaces another takes its name. If `kvserver cluster init` was given "
        "wrong names, stop all servers, remove their data directories, and begin anew"
    )
    if settings.node not in origin.nodes:
        raise CannotJoin(f"--node is {settings.node}, but the machines of this cluster are {names}: {remedy}")
    named = [machine.name for machine in setup.machines] if setup is not None else []
    if named and set(named) != set(origin.nodes):
        raise CannotJoin(f"--cluster names {', '.join(named)}, but the machines of this cluster are {names}: {remedy}")


def _require_own_name(settings: ServerSettings) -> None:
    """Check that no other machine works under this one's name, as far as others can be asked. Raises `CannotJoin`.

    The engine must not run yet: of two engines with one name the others drop one, which may be that of the machine that
    works.
    """
    setup = setup_of(settings)
    if setup is None or setup.own is None or len(setup.servers) == 1:
        return
    with tempfile.TemporaryDirectory(prefix="kvserver-join-") as place:
        argv = order_argv(setup, settings, Path(place))
        argv += ["--servers", ",".join(setup.servers[1:]), "--look-for-namesake", "--log-level", "error"]
        if start_process(argv, settings).wait() == 1:
            raise CannotJoin(f"stop the machine that works as {settings.node}, or give this one its own --node")


def read_origin(data_dir: Path) -> Origin | None:
    """Return what the file in `data_dir` says; None: there is none. Raises `CannotJoin`, `OSError`."""
    try:
        text = checksummed_json.read(data_dir / NAME)
    except FileNotFoundError:
        return None
    try:
        found = checksummed_json.decode(text, Origin, (FORMAT,))
    except checksummed_json.Unreadable as error:
        raise CannotJoin(f"{data_dir / NAME} is damaged ({error}): begin with an empty data directory") from None
    if isinstance(found, int):
        raise CannotJoin(f"{data_dir / NAME} has format {found}, this program knows {FORMAT}: use a newer one")
    return found


def write_origin(origin: Origin, data_dir: Path) -> None:
    """Keep what the cluster agrees on. Raises `OSError`."""
    checksummed_json.write(origin, data_dir / NAME, data_dir / (NAME + ".new"))


def _fetch_store(settings: ServerSettings, data_dir: Path, engine: FirstEngine) -> Origin:
    """Make `data_dir` the store of another machine; return what that knew of the cluster.

    May be killed and called again. Raises `CannotJoin`, `OSError`.
    """
    log.warning("the order no longer has what this machine needs: it begins anew with the store of another machine")
    place = data_dir / fetching.DIRECTORY
    place.mkdir(mode=0o700, exist_ok=True)
    with order_of(settings, engine) as order:
        identity = _open_at_the_end(order)
        try:
            fetching.fetch_store(order, data_dir)
            origin = read_origin(place)
            if origin is None or Identity(origin.order, origin.created_ns) != identity:
                raise CannotJoin("the machine that gave its store follows another order: reset or wipe that one first")
            fetching.restore_fetched(data_dir)
        except (OrderError, fetching.FetchError) as error:
            raise CannotJoin(str(error)) from None
    write_origin(origin, data_dir)
    fetching.forget_fetched(data_dir)
    log.info("the store of another machine is here; what came since then follows")
    return origin


def _open_at_the_end(order: JetStreamOrder) -> Identity:
    """Open the order, however long that takes. Raises `CannotJoin`."""
    try:
        return _keep_trying(partial(order.open_within, link.AT_THE_END, None, _TRY_S), "the order of the cluster")
    except OrderError as error:
        raise CannotJoin(str(error)) from None


def _ask_order(settings: ServerSettings, engine: FirstEngine) -> Origin | None:
    """Wait for the first message of the order; None: the order no longer has it. Raises `CannotJoin`."""
    awaited = "the order of the cluster, which `kvserver cluster init` begins, once, on one of the machines"
    with order_of(settings, engine) as order:
        try:
            return _keep_trying(partial(_read_first, order), awaited)
        except OrderTrimmed:
            return None
        except (OrderError, UnknownLevel) as error:
            raise CannotJoin(str(error)) from None


def _keep_trying(attempt: Callable[[], T], awaited: str) -> T:
    """Return what `attempt` returns when it no longer raises `OrderUnreachable`; log now and then what is `awaited`."""
    said_at = time.monotonic()
    while True:
        try:
            return attempt()
        except OrderUnreachable as error:
            if time.monotonic() >= said_at + _SAY_S:
                said_at = time.monotonic()
                log.warning("still waiting for %s: %s", awaited, error)


def _read_first(order: JetStreamOrder) -> Origin:
    """Read the first message of `order`. Raises `OrderError`, `UnknownLevel`."""
    identity = order.open_within(0, None, _TRY_S)
    give_up_at = time.monotonic() + _TRY_S
    while time.monotonic() < give_up_at:
        for message in order.take():
            envelope = decode_message(message.payload).envelope
            if envelope is None or not isinstance(envelope.content, Init):
                raise OrderError("the order does not begin as `kvserver cluster init` begins one")
            return Origin.of(identity, envelope.content)
        time.sleep(_LOOK_S)
    raise OrderUnreachable("the order is empty: has `kvserver cluster init` come to its end?")


@contextlib.contextmanager
def order_of(settings: ServerSettings, engine: FirstEngine | None = None) -> Iterator[JetStreamOrder]:
    """Run the order's process beside a socket of its own for as long as the context lasts, and the engine: `engine`, or
    one that ends with the context.

    Raises `ClusterError`, also if the engine does not start, and `OSError`.
    """
    setup = setup_of(settings)
    assert setup is not None
    with ExitStack() as stack:
        (engine or stack.enter_context(FirstEngine())).start(setup, settings)
        place = Path(tempfile.mkdtemp(prefix="kvserver-join-"))  # short: a socket lives there
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        stack.callback(end_process, start_process(order_argv(setup, settings, place), settings), signal.SIGKILL)
        order = JetStreamOrder(place / link.SOCKET_NAME)
        stack.callback(order.close)
        yield order
