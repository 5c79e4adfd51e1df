"""A shard's process: requests in by ROUTER, replies out, events out by PUB. The only user of ZeroMQ in this package.

One loop, one thread: take what has arrived, without waiting; write a group of it (`waiting`, `writer`); reply; publish.
Everything that arrives is answered, and no peer can hold the loop up: what cannot be sent at once is dropped, since
whoever does not read its replies finds their outcome unknown anyway.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import secrets
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import zmq

from shards.files import locks
from shards.files.kept_file import KeptFile
from shards.host.board import Board, ShardRow
from shards.log.appender import LogAppender
from shards.log.files import LogBroken, LogError
from shards.maps.build import open_map
from shards.maps.layout import MapFull
from shards.server.request_queue import Unit, Unread, Waiting, count
from shards.server.writer import Writer
from shards.wire import protocol
from shards.wire.errors import DeadlinePassed, KVError, ProtocolError, StaleIncarnation, Unavailable
from shards.wire.protocol import (
    MESSAGE_BYTES,
    MESSAGE_OPS,
    SMALL_BYTES,
    DeletePrefix,
    Failed,
    MalformedRequest,
    Operation,
    Patch,
    Reply,
    Value,
    size_of,
)

_IDLE_S = 0.1  # the longest wait: the heartbeat goes on
_HOUSEKEEPING_S = 1.0
_FIGURES_S = 0.05
_GOODBYE_S = 0.1  # how long a stopping shard waits for requests to refuse
_GOODBYE_LINGER_MS = 250
_LOCK_S = 10.0  # how long a predecessor may take to die
MOST_WAITING = 4096
"""Messages that wait for their turn; further ones wait to be received."""
_COPY_BELOW = 1 << 20  # bytes of a message below which copying costs less than another thread that lets go of it

# Plain numbers: those of ZeroMQ's enumerations cost more than the calls they are for.
_DONTWAIT, _SNDMORE, _POLLIN = int(zmq.DONTWAIT), int(zmq.SNDMORE), int(zmq.POLLIN)
_EVENTS, _RCVMORE = int(zmq.EVENTS), int(zmq.RCVMORE)

log = logging.getLogger("shards")


class StartError(Exception):
    """The shard cannot start; the message says why."""


class RunOver(Exception):
    """The store runs without this process by now."""


class Sockets:
    """ROUTER and PUB of one incarnation of a shard. No method blocks but `wait`."""

    def __init__(self, run_dir: Path, shard: int) -> None:
        """Bind, under a path of this incarnation's own; files of dead predecessors are removed.

        The caller holds the shard's lock. Raises `StartError`.
        """
        self.incarnation = secrets.randbits(63) | 1
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # say that a peer is gone or stands still
        self._publisher = self._context.socket(zmq.PUB)
        self._poller = zmq.Poller()
        for stale in run_dir.glob(f"shard-{shard}-*.req"):
            with contextlib.suppress(OSError):  # a directory of that name is not ours to judge
                stale.unlink()
        # They are bound anew without an unbind before: ZeroMQ removes what it unbinds later, so maybe the new file.
        self._files: list[KeptFile] = []
        for socket, path in (
            (self._publisher, run_dir / f"shard-{shard}.pub"),
            (self._router, run_dir / f"shard-{shard}-{self.incarnation:x}.req"),
        ):
            socket.setsockopt(zmq.LINGER, 0)
            try:
                self._files.append(KeptFile(path, partial(socket.bind, f"ipc://{path}")))
            except zmq.ZMQError as error:
                self.close()
                raise StartError(f"the socket {path} cannot be bound: {error.strerror}") from None
        self._poller.register(self._router, zmq.POLLIN)
        self.dropped = 0  # replies that nobody took

    def look_after_files(self) -> None:
        """Make the sockets' files again where somebody has removed them. Who is connected stays so."""
        for file in self._files:
            file.restore_if_gone()

    def watch(self, fd: int) -> None:
        """Let `wait` also end when `fd` can be read."""
        self._poller.register(fd, zmq.POLLIN)

    def wait(self, seconds: float) -> None:
        """Wait until a request is there."""
        self._poller.poll(math.ceil(seconds * 1000))

    def receive(self) -> tuple[bytes, bytes] | None:
        """The next message, and before it the identity of who sent it; None if there is none."""
        router = self._router
        if not int(router.get(_EVENTS)) & _POLLIN:
            return None
        identity, frame = router.recv(_DONTWAIT), router.recv(_DONTWAIT)
        while router.get(_RCVMORE):
            router.recv(_DONTWAIT)
            frame = b""  # a message of several frames is none of ours
        return identity, frame

    def reply(self, identity: bytes, id: int, replies: Sequence[Reply]) -> None:
        """Send replies; drop them if the peer is gone or does not read."""
        self._send(identity, protocol.encode_reply(id, replies))

    def reply_part(self, identity: bytes, id: int, places: Sequence[int], replies: Sequence[Reply]) -> None:
        """Send those of the replies that stand at `places`, as `reply` does."""
        self._send(identity, protocol.encode_part(id, places, replies))

    def _send(self, identity: bytes, frame: bytearray) -> None:
        try:
            self._router.send(identity, _DONTWAIT | _SNDMORE)
            self._router.send(frame, _DONTWAIT, copy=len(frame) < _COPY_BELOW)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self.dropped += 1

    def publish(self, frame: bytes) -> None:
        """Send to every gateway that keeps up."""
        with contextlib.suppress(zmq.Again):
            self._publisher.send(frame, zmq.DONTWAIT)

    def close(self, linger_ms: int = 0) -> None:
        """Close and remove the sockets; what was not sent within `linger_ms` is dropped."""
        self._router.close(linger_ms)
        self._publisher.close(linger_ms)
        self._context.term()
        for file in self._files:
            file.remove()


class Server:
    """A shard, from its start to its end. `run` is its life; `open`, `turn` and `close` are that in pieces."""

    def __init__(self, board: Board, shard: int, run_dir: Path) -> None:
        self.board, self.shard = board, shard
        self._run_dir = run_dir
        self._row = board.shards[shard]
        self._stopping = False
        self._housekeeping_at = self._figures_at = 0.0

    def open(self) -> None:
        """Take the shard's lock and row, bring its map up to date, bind, and show on the board that it is up.

        Raises `StartError`, and what `open_map` and the log raise.
        """
        self._lock_fd = self._take_lock()
        row = self._row
        row.pid, row.state, row.incarnation = os.getpid(), ShardRow.STARTING, 0
        row.record_heartbeat()
        self.map = open_map(self.board, self.shard)
        self.log = LogAppender(self.board, self.shard)
        self.log.give_up = lambda: self._stopping
        if self.board.facts.sync == "everysec":
            self.log.flush_every_second()
        self.writer = Writer(self.board, self.shard, self.log, self.map)
        gc.disable()  # while a million entries come, each collection would look at all of them
        self.writer.load()
        gc.collect()
        gc.enable()
        gc.freeze()  # a million entries are not to be walked through again and again
        self.writer.housekeep(self.board.watermark())
        self.writer.publish_figures()
        self.sockets = Sockets(self._run_dir, self.shard)
        self._waiting = Waiting(self._read, self._refuse_rest, self.writer.keyspace.size_of)
        row.incarnation, row.state = self.sockets.incarnation, ShardRow.UP
        log.debug("shard %d up: %d keys", self.shard, len(self.writer.keyspace))

    def run(self) -> int:
        """Serve, after `open`, until `stop` (0), or until this process must not go on (1). Closes everything."""
        linger_ms = 0
        try:
            while not self._stopping:
                self.turn(_IDLE_S)
            self._say_goodbye()
            linger_ms = _GOODBYE_LINGER_MS
        except (LogError, RunOver) as error:
            log.critical("shard %d ends: %s", self.shard, error)
            return 1
        except OSError as error:  # of its directories, which are not there any more, for instance
            log.critical("shard %d ends: %s", self.shard, error)
            return 1
        except MapFull as error:
            log.critical("shard %d ends: what is logged cannot be applied, there is no room: %s", self.shard, error)
            return 1
        finally:
            self.close(linger_ms)
        log.debug("shard %d stopped", self.shard)
        return 0

    def stop(self) -> None:
        """Have `run` end after the current group. For signal handlers; see `wake_by`."""
        self._stopping = True

    def wake_by(self, fd: int) -> None:
        """Have the loop turn when `fd` can be read: what `signal.set_wakeup_fd` writes to."""
        self.sockets.watch(fd)

    def turn(self, wait_s: float) -> None:
        """One turn of the loop: a group of small messages and one of large ones, or a wait of at most `wait_s` for
        something to do.

        Raises `LogBroken`, `MapFull` and `RunOver`: the process must end and answer nothing more.
        """
        self._row.record_heartbeat()
        if not self._drain() and not self._waiting:
            wait_s = self.writer.expiry_in_s(wait_s)
            if wait_s > 0:
                self.sockets.wait(wait_s)
                self._drain()
        served = self._serve(small=True)
        if self._waiting:
            served = self._serve(small=False) or served
        if not served and self.writer.expiry_in_s(1.0) == 0:
            self.writer.write([])
            self._publish()
        self._keep_house()

    def close(self, linger_ms: int = 0) -> None:
        """Close sockets, log and map, and free lock and row by closing the lock's file."""
        self._row.incarnation, self._row.state = 0, ShardRow.STOPPING
        self.sockets.close(linger_ms)
        self.log.close()
        self.map.close()
        os.close(self._lock_fd)

    # Parts of a turn.

    def _drain(self) -> bool:
        """Let wait what has arrived and may be executed; the rest is refused. Whether there was anything."""
        messages = operations = 0
        while operations < MESSAGE_OPS and messages < MESSAGE_OPS and len(self._waiting) < MOST_WAITING:
            message = self.sockets.receive()
            if message is None:
                break
            messages += 1
            if len(message[1]) > SMALL_BYTES:
                self._waiting.add(Unread(*message))
                continue
            unit = self._accept(*message)
            if unit is not None:
                self._waiting.add(unit)
                operations += len(unit.operations)
        return messages > 0

    def _accept(self, identity: bytes, frame: bytes) -> Unit | None:
        try:
            request = protocol.decode_request(frame)
        except MalformedRequest as error:
            self._refuse(identity, error.id, error)
            return None
        size = len(frame)
        if request.incarnation != self.sockets.incarnation:
            self._refuse(identity, request.id, StaleIncarnation("the request was meant for another process"))
        elif time.monotonic_ns() > request.deadline_ns:
            self._refuse(identity, request.id, DeadlinePassed("the request was read after its deadline"))
        elif is_too_large(request.operations, size):
            self._refuse(identity, request.id, ProtocolError("the request holds more than one message may"))
        else:
            return Unit(identity, request.id, request.deadline_ns, request.operations, size)
        return None

    def _read(self, message: Unread) -> Unit | None:
        return self._accept(message.identity, message.frame)

    def _refuse(self, identity: bytes, id: int, error: KVError) -> None:
        self.sockets.reply(identity, id, [Failed.of(error)])
        log.debug("refused a message of shard %d: %s %s", self.shard, error.code, error)

    def _refuse_rest(self, unit: Unit, error: KVError) -> None:
        """Refuse what is left of a message: as a whole if that is all of it."""
        if unit.places is None:
            self._refuse(unit.identity, unit.id, error)
        else:
            self._answer(unit, [Failed.of(error)] * len(unit.operations))

    def _serve(self, *, small: bool) -> bool:
        """Execute one group, answer what it has done, and publish. False: there was nothing to do."""
        group = self._waiting.take(time.monotonic_ns(), small=small)
        if not group:
            return False
        if group[0].is_prefix_delete:
            self._delete_prefix(group[0])
            return True
        replies = self.writer.write([unit.operations for unit in group], sum(unit.size for unit in group))
        for unit, answers in zip(group, replies, strict=True):
            if answers:
                self._answer(unit, answers)
            if len(answers) < len(unit.operations):
                unit.patched += _patched(unit.operations, answers)
        self._publish()
        self._waiting.take_back(group, list(map(len, replies)), small=small)
        return True

    def _delete_prefix(self, unit: Unit) -> None:
        operation = unit.operations[0]
        assert isinstance(operation, DeletePrefix)
        self._answer(unit, [self.writer.delete_prefix(operation)])
        self._publish()

    def _answer(self, unit: Unit, replies: Sequence[Reply]) -> None:
        """Send the replies to the first operations of `unit`."""
        if unit.places is None and len(replies) == len(unit.operations):
            self.sockets.reply(unit.identity, unit.id, replies)
        else:
            places = range(len(replies)) if unit.places is None else unit.places[: len(replies)]
            self.sockets.reply_part(unit.identity, unit.id, list(places), replies)

    def _publish(self) -> None:
        for frame in self.writer.announcements:
            self.sockets.publish(frame)
        self.writer.announcements.clear()

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now >= self._housekeeping_at:
            if self.board.is_over():
                raise RunOver("the run of the store it belongs to is over")
            if self.board.log.broken:
                raise LogBroken("a flush of the log failed")
            self.sockets.look_after_files()
            self.writer.housekeep(self.board.watermark())
            self._housekeeping_at = now + _HOUSEKEEPING_S
        if now >= self._figures_at:
            self.writer.publish_figures()
            self._figures_at = now + _FIGURES_S

    # Start and end.

    def _take_lock(self) -> int:
        path = Path(self.board.facts.lock_dir) / f"shard-{self.shard}"
        fd = locks.open_lock(path)
        if not locks.acquire_for_life(fd, timeout_s=_LOCK_S):
            os.close(fd)
            raise StartError(f"shard {self.shard} is running already: its lock {path} is held")
        if not self.board.try_claim(self._row):
            os.close(fd)
            raise StartError(f"another process has the row of shard {self.shard} on the board {self.board.path}")
        return fd

    def _say_goodbye(self) -> None:
        """Refuse what is queued, so that its senders know that it was not done."""
        self._row.state = ShardRow.STOPPING
        self._row.incarnation = 0
        for unit in self._waiting.everything():
            self._refuse_rest(unit, _stopping())
        give_up_at = time.monotonic() + _GOODBYE_S
        while (left_s := give_up_at - time.monotonic()) > 0:
            self._row.record_heartbeat()
            message = self.sockets.receive()
            if message is None:
                self.sockets.wait(left_s)
                continue
            identity, frame = message
            try:
                id = protocol.decode_request(frame).id
            except MalformedRequest as error:
                id = error.id
            self._refuse(identity, id, _stopping())
        self.writer.housekeep(self.board.watermark())
        self.writer.publish_figures()


def _stopping() -> Unavailable:
    return Unavailable("the shard is stopping")


def _patched(operations: Sequence[Operation], replies: Sequence[Reply]) -> int:
    """Bytes that the patches among the first `operations` have written."""
    pairs = zip(operations, replies, strict=False)
    return sum(len(reply.value) for operation, reply in pairs if type(operation) is Patch and type(reply) is Value)


def is_too_large(operations: Sequence[Operation], size: int) -> bool:
    """Whether a message of `size` bytes breaks the rule of the protocol; one operation alone may be of any size."""
    if len(operations) == 1:
        return False
    if count(operations) > MESSAGE_OPS:
        return True
    return size > MESSAGE_BYTES and sum(map(size_of, operations)) > MESSAGE_BYTES
