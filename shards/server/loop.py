"""A shard's process: one loop in one thread takes requests, writes groups of them, replies and publishes.

Each turn receives what has arrived, without waiting, and writes a group of it (`request_queue`, `writer`). Every
message gets a reply, and no peer can block the loop (`sockets`).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from shards.files import locks
from shards.host.board import Board, ShardRow
from shards.log.appender import LogAppender
from shards.log.files import LogBroken, LogError
from shards.maps.build import open_map
from shards.maps.layout import MapFull
from shards.server.request_queue import QueuedMessage, RequestQueue, UnreadMessage, count_operations
from shards.server.sockets import Sockets, StartError
from shards.server.writer import Writer
from shards.wire import protocol
from shards.wire.errors import DeadlinePassed, KVError, ProtocolError, StaleIncarnation, Unavailable
from shards.wire.protocol import (
    MESSAGE_BYTES,
    MESSAGE_OPS,
    SMALL_BYTES,
    Failed,
    MalformedRequest,
    Operation,
    Patch,
    Reply,
    Value,
    bare,
    size_of,
)

MOST_WAITING = 4096
"""Messages that wait in the queue; further ones stay in the socket."""

_IDLE_S = 0.1  # the longest wait, so that the heartbeat continues
_HOUSEKEEPING_S = 1.0  # between checks of the run and of the map
_FIGURES_S = 0.05  # between heartbeats, and between publications of the figures
_GOODBYE_S = 0.1  # for which a stopping shard refuses requests that were on their way
_GOODBYE_LINGER_MS = 250  # for which the last replies may take to be sent
_LOCK_S = 10.0  # for which a predecessor may take to die

log = logging.getLogger("shards")


class RunOver(Exception):
    """The run of the store that this process belongs to is over."""


class ShardServer:
    """A shard from start to end. `run` serves until a stop, and closes it.

    Construction takes the shard's lock and row, brings its map up to date, binds its sockets, and shows on the board
    that it is up. If that fails, everything is closed again.

    Args:
        board: of the run.
        shard: the index of the shard.
        run_dir: the directory of the sockets.

    Attributes:
        map, log, writer, sockets: its parts.

    Raises `StartError`, and what `open_map` and `LogAppender` raise.
    """

    fatal: ClassVar[tuple[type[Exception], ...]] = (LogError, RunOver)
    """Errors that end the process, with a message in the log."""

    def __init__(self, board: Board, shard: int, run_dir: Path) -> None:
        self.board, self.shard = board, shard
        self._row = board.shards[shard]
        self._stopping = False
        self._housekeeping_at = self._figures_at = 0.0  # when they are due, by time.monotonic()
        with contextlib.ExitStack() as resources:
            resources.callback(os.close, self._take_lock())
            self._row.pid, self._row.state, self._row.incarnation = os.getpid(), ShardRow.STARTING, 0
            self._row.record_heartbeat()
            self.map = open_map(board, shard)
            resources.callback(self.map.close)
            self.log = LogAppender(board, shard)
            resources.callback(self.log.close)
            self.log.give_up = lambda: self._stopping
            if board.facts.sync == "everysec":
                self.log.flush_every_second()
            self.writer = Writer(board, shard, self.log, self.map)
            self._begin_survey()
            self.writer.maintain_map(board.watermark())
            self.writer.publish_figures()
            self.sockets = Sockets(run_dir, shard)
            self._resources = resources.pop_all()
        self._queue = RequestQueue(self._decode_unread, self._refuse_rest, self.writer.keyspace.stored_size)
        self._row.incarnation, self._row.state = self.sockets.incarnation, ShardRow.UP
        log.debug("shard %d up: %d keys", shard, len(self.writer.keyspace))

    def run(self) -> int:
        """Serve until `stop`, and close. Returns the exit status: 0, or 1 if the process cannot continue."""
        linger_ms = 0
        try:
            while not self._stopping:
                self.run_turn(_IDLE_S)
            self._refuse_remaining()
            linger_ms = _GOODBYE_LINGER_MS
        except self.fatal as error:
            log.critical("shard %d ends: %s", self.shard, error)
            return 1
        except OSError as error:  # for instance because its directories were removed
            log.critical("shard %d ends: %s", self.shard, error)
            return 1
        except MapFull as error:
            log.critical("shard %d ends: there is no space to apply what is logged: %s", self.shard, error)
            return 1
        finally:
            self.close(linger_ms)
        log.debug("shard %d stopped", self.shard)
        return 0

    def stop(self) -> None:
        """Make `run` end after the current group. Safe in signal handlers; see `wake_by`."""
        self._stopping = True

    def wake_by(self, fd: int) -> None:
        """Let the loop turn when `fd` is readable: the file that `signal.set_wakeup_fd` writes to."""
        self.sockets.wake_by(fd)

    def run_turn(self, wait_s: float) -> None:
        """Run the loop once: a group of small messages and one of large ones, or a wait of at most `wait_s`.

        Raises `LogBroken`, `MapFull` and `RunOver`: the process must end and answer nothing more.
        """
        if not self._receive_messages() and not self._queue:
            wait_s = self.writer.expiry_in_s(wait_s) if self.writer.keyspace.is_surveyed else 0.0
            if wait_s > 0:
                self.sockets.wait(wait_s)
                self._receive_messages()
        served = self._serve_group(small=True)
        if self._queue:
            served = self._serve_group(small=False) or served
        if not served and self.writer.expiry_in_s(1.0) == 0:  # a group that serves requests expires keys, too
            self.writer.write([])
            self._publish_records()
        if not self.writer.keyspace.is_surveyed:
            self._continue_survey()
        self._do_housekeeping()

    def close(self, linger_ms: int = 0) -> None:
        """Close sockets, log, map, and the file of the lock. The row stays claimed until the board is closed."""
        self._row.incarnation, self._row.state = 0, ShardRow.STOPPING
        self.sockets.close(linger_ms)
        self._resources.close()

    # Parts of a turn.

    def _receive_messages(self) -> bool:
        """Queue the messages that have arrived, and refuse those that must not be executed. Whether there were any."""
        messages = operations = 0
        while operations < MESSAGE_OPS and messages < MESSAGE_OPS and len(self._queue) < MOST_WAITING:
            received = self.sockets.receive()
            if received is None:
                break
            messages += 1
            identity, frame = received
            if len(frame) > SMALL_BYTES:  # decoding it takes long: not before its turn
                self._queue.add(UnreadMessage(identity, frame))
                continue
            message = self._decode_message(identity, frame)
            if message is not None:
                self._queue.add(message)
                operations += len(message.operations)
        return messages > 0

    def _decode_message(self, identity: bytes, frame: bytes) -> QueuedMessage | None:
        """Decode a message; refuse it, and return None, if it must not be executed."""
        try:
            request = protocol.decode_request(frame)
        except MalformedRequest as error:
            self._refuse_message(identity, error.id, error)
            return None
        size = len(frame)
        if request.incarnation != self.sockets.incarnation:
            self._refuse_message(identity, request.id, StaleIncarnation("the request was meant for another process"))
        elif time.monotonic_ns() > request.deadline_ns:
            self._refuse_message(identity, request.id, DeadlinePassed("the request was read after its deadline"))
        elif is_too_large(request.operations, size):
            self._refuse_message(identity, request.id, ProtocolError("the request holds more than one message may"))
        else:
            return QueuedMessage(identity, request.id, request.deadline_ns, request.operations, size)
        return None

    def _decode_unread(self, message: UnreadMessage) -> QueuedMessage | None:
        return self._decode_message(message.identity, message.frame)

    def _refuse_message(self, identity: bytes, id: int, error: KVError) -> None:
        self.sockets.reply(identity, id, [Failed.of(error)])
        log.debug("refused a message of shard %d: %s %s", self.shard, error.code, error)

    def _refuse_rest(self, message: QueuedMessage, error: KVError) -> None:
        """Refuse the operations that are left of a message: as a whole if nothing of it was executed."""
        if message.places is None:
            self._refuse_message(message.identity, message.id, error)
        else:
            self._send_replies(message, [Failed.of(error)] * len(message.operations))

    def _serve_group(self, *, small: bool) -> bool:
        """Execute a group of one line, answer what was executed, and publish it. False: the line is empty."""
        group = self._queue.take_group(time.monotonic_ns(), small=small)
        if not group:
            return False
        requests = [message.operations for message in group]
        replies = self.writer.write(requests, sum([message.size for message in group]))
        is_done = True
        for message, answers in zip(group, replies, strict=True):
            if answers:
                self._send_replies(message, answers)
            if len(answers) < len(message.operations):
                is_done = False
                message.patched_bytes += _patched_bytes(message.operations, answers)
        self._publish_records()
        if not is_done:
            self._queue.return_rest(group, list(map(len, replies)), small=small)
        return True

    def _send_replies(self, message: QueuedMessage, replies: Sequence[Reply]) -> None:
        """Send the replies to the first operations of `message`."""
        if message.places is None and len(replies) == len(message.operations):
            self.sockets.reply(message.identity, message.id, replies)
        else:
            places = range(len(replies)) if message.places is None else message.places[: len(replies)]
            self.sockets.reply_part(message.identity, message.id, list(places), replies)

    def _publish_records(self) -> None:
        for frame in self.writer.announcements:
            self.sockets.publish(frame)
        self.writer.announcements.clear()

    def _do_housekeeping(self) -> None:
        """Check that the run continues, maintain the map, beat and publish the figures, each at its interval."""
        now = time.monotonic()
        if now >= self._housekeeping_at:
            if self.board.is_over():
                raise RunOver("its run of the server has ended")
            if self.board.log.broken:
                raise LogBroken("a flush of the log failed")
            self.sockets.restore_files()
            self.writer.maintain_map(self.board.watermark())
            self._housekeeping_at = now + _HOUSEKEEPING_S
        if now >= self._figures_at:
            self._row.record_heartbeat()
            self.writer.publish_figures()
            self._figures_at = now + _FIGURES_S

    # Start and end.

    def _take_lock(self) -> int:
        """Take the shard's lock and its row of the board; return the descriptor of the lock. Raises `StartError`."""
        path = Path(self.board.facts.lock_dir) / f"shard-{self.shard}"
        fd = locks.open_lock(path)
        if not locks.acquire_for_life(fd, timeout_s=_LOCK_S):
            os.close(fd)
            raise StartError(f"shard {self.shard} is running already: its lock {path} is held")
        if not self.board.try_claim(self._row):
            os.close(fd)
            raise StartError(f"another process has the row of shard {self.shard} on the board {self.board.path}")
        return fd

    def _begin_survey(self) -> None:
        """Leave what there is by now out of garbage collections, each of which would walk through it.

        There is none until the keys are surveyed: what that finds is left out, too.
        """
        self._survey_begun = time.monotonic()
        gc.collect()
        gc.freeze()
        if not self.writer.keyspace.is_surveyed:
            gc.disable()

    def _continue_survey(self) -> None:
        """Do a step of the survey of the keys (see `keyspace`), between two groups."""
        self.writer.keyspace.survey()
        if self.writer.keyspace.is_surveyed:
            gc.freeze()
            gc.enable()
            log.debug("shard %d has surveyed its keys in %.1f s", self.shard, time.monotonic() - self._survey_begun)

    def _refuse_remaining(self) -> None:
        """Refuse queued messages, and those that arrive shortly after, so that senders know they were not executed."""
        self._row.state = ShardRow.STOPPING
        self._row.incarnation = 0
        for message in self._queue.drain():
            self._refuse_rest(message, _stopping_error())
        give_up_at = time.monotonic() + _GOODBYE_S
        while (left_s := give_up_at - time.monotonic()) > 0:
            self._row.record_heartbeat()
            received = self.sockets.receive()
            if received is None:
                self.sockets.wait(left_s)
                continue
            identity, frame = received
            try:
                id = protocol.decode_request(frame).id
            except MalformedRequest as error:
                id = error.id
            self._refuse_message(identity, id, _stopping_error())
        self.writer.maintain_map(self.board.watermark())
        self.writer.publish_figures()


def _stopping_error() -> Unavailable:
    return Unavailable("the shard is stopping")


def _patched_bytes(operations: Sequence[Operation], replies: Sequence[Reply]) -> int:
    """Return how many bytes the patches among the first `operations` have written, by their replies."""
    pairs = zip(map(bare, operations), replies, strict=False)
    return sum(len(reply.value) for operation, reply in pairs if type(operation) is Patch and type(reply) is Value)


def is_too_large(operations: Sequence[Operation], size: int) -> bool:
    """Whether a message of `size` bytes exceeds the limits of the protocol. One operation alone may have any size."""
    if len(operations) == 1:
        return False
    if count_operations(operations) > MESSAGE_OPS:
        return True
    return size > MESSAGE_BYTES and sum(map(size_of, operations)) > MESSAGE_BYTES
