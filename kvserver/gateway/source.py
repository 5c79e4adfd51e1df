"""Where the feed comes from: PUB of all shards, the log, activity; and what clients take from it.

One greenlet (`run`) owns the sockets, follows the history and shows it in the tails, one for each format in use.
Nothing is shown above the watermark, so nothing that a GET would not show. A client takes what it lacks from the tail,
or, left behind, reads the log in its own greenlet, a piece at a time.

What a shard publishes is checked like what stands in the log (its place and checksum): that costs a small part of
decoding it, and one rule for all bytes is simpler to trust than two.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import gevent  # type: ignore[import-untyped]
import zmq
from gevent.event import Event  # type: ignore[import-untyped]

from kvserver.activity import ActivityFeed
from kvserver.gateway.feed import (
    Behind,
    Chunk,
    Cursor,
    Encode,
    Frame,
    Merger,
    Position,
    Puts,
    Tail,
    Waiting,
    activity_frames,
    chunk_from_log,
    merge,
    pieces,
)
from kvserver.gateway.socket import breathe
from shards import records
from shards.board import Board, GatewayRow
from shards.errors import ProtocolError
from shards.log import LogReader, Trimmed
from shards.protocol import Activity, ActivityKind, decode_activity
from shards.records import HEADER, Record

log = logging.getLogger(__name__)

LOOK_S: Final = 0.02
"""How long to wait for PUB before the log is read."""
IDLE_S: Final = 0.1
"""How long to wait when nobody looks."""
READ_BYTES: Final = 256 << 10
"""Bytes read from the log at a time."""
QUEUE: Final = 256
"""Records, of 64 KiB at most, that ZeroMQ keeps for us from each shard (its high-water mark). The log has them all."""

_MOST_MESSAGES = 512  # of a socket in one turn
_REREAD_BYTES = 8 << 20


class Follower:
    """One client of the feed."""

    def __init__(self, source: Source, encode: Encode, tail: Tail, cursor: Cursor, wake: Callable[[], None]) -> None:
        self.encode, self.wake = encode, wake
        self.overtaken: Trimmed | None = None
        self._source, self._tail, self._cursor = source, tail, cursor

    def next(self) -> bytes | memoryview | None:
        """The frames this client gets next; None if it has everything. May switch.

        Raises `Trimmed` if the log does not reach back to where it is, `LogError`.
        """
        before = self._cursor.delivered
        data: bytes | memoryview | None = b""
        while data is not None and not data:
            if self.overtaken is not None:
                raise self.overtaken
            try:
                data = self._tail.next(self._cursor)
            except Behind:
                data = self._source.reread(self.encode, self._cursor, self._tail.position)
                self._tail.rejoin(self._cursor)
                breathe()
        self._source.counts["deliveries"] += self._cursor.delivered - before
        return data


class Source:
    """The feed of one gateway process.

    Attributes:
        counts: figures for the board.
    """

    def __init__(self, board: Board, run_dir: Path, row: GatewayRow, index: int) -> None:
        """`row`, `index`: the claimed row. Binds the activity socket."""
        self._board, self._row = board, row
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._published = _subscriber(self._context, QUEUE)
        for shard in range(board.facts.shards):
            self._published.connect(f"ipc://{run_dir}/shard-{shard}.pub")
        self._activity = _subscriber(self._context, 10 * QUEUE)
        self._activity.bind(f"ipc://{run_dir}/gateway-{index}.activity")
        self._arrived = Event()
        self._others = ActivityFeed(self._context, board, run_dir, self._arrived.set, but=index)
        self._reader = LogReader(Path(board.facts.log_dir), board.facts.secret)
        self._merger = Merger(Position(*board.watermark()))
        self._shown = self._merger.position
        self._moved_at = time.monotonic()  # when the position moved last, or was up to date
        self._waiting = Waiting()
        self._puts = Puts(self._shown.revision)
        self._tails: dict[Encode, Tail] = {}
        self._followers: set[Follower] = set()
        self._reread: OrderedDict[tuple[Encode, int], Chunk] = OrderedDict()
        loop = gevent.get_hub().loop
        self._watchers = [loop.io(socket.get(zmq.FD), 1) for socket in (self._published, self._activity)]
        self.counts: Counter[str] = Counter(dict.fromkeys(GatewayRow.FIGURES, 0))

    # Clients

    def join(self, encode: Encode, wake: Callable[[], None]) -> Follower:
        """A client that gets everything above the history's present end; encoders must be few, each one object.

        `wake` is called when it has something to take.
        """
        self._row.listening += 1  # before the end is read: what is done from now on is reported
        tail, following = self._board.history()
        if encode not in self._tails:
            self._tails[encode] = Tail(self._shown)
        kept = self._tails[encode]
        follower = Follower(self, encode, kept, kept.join(Position(tail, following - 1)), wake)
        self._followers.add(follower)
        self._arrived.set()  # from now on the pace is that of somebody who looks
        self._row.clients = len(self._followers)
        return follower

    def leave(self, follower: Follower) -> None:
        """The client is gone."""
        self._followers.discard(follower)
        self._row.clients = self._row.listening = len(self._followers)
        if not any(other.encode is follower.encode for other in self._followers):
            self._tails.pop(follower.encode, None)

    def report(self, kind: ActivityKind, subject: bytes) -> None:
        """Show activity of this gateway's own on all gateways."""
        end = self._board.end()
        self._waiting.add([Activity(end, kind, subject, self._board.now_ms())])
        self._others.add(kind, subject, end)
        self._arrived.set()

    def reread(self, encode: Encode, cursor: Cursor, until: Position) -> bytes | memoryview:
        """What comes next, below `until`, for a client that the tail has left behind. Raises `Trimmed`, `LogError`.

        Clients that were left behind together share what is read.
        """
        key = (encode, cursor.position.lsn)
        chunk = self._reread.get(key)
        if chunk is None:
            found, following = self._reader.read(cursor.position.lsn, until.lsn, READ_BYTES)
            self.counts["log_reads"] += 1
            chunk = chunk_from_log(found, following, cursor.position.revision, encode)
            if found:
                self._reread[key] = chunk
            while len(self._reread) > 1 and sum(map(len, self._reread.values())) > _REREAD_BYTES:
                self._reread.popitem(last=False)
        return cursor.give(chunk)

    # Following

    def run(self) -> None:
        """Follow the history for ever. Raises `LogError`, `FeedBroken`, `ProtocolError` if the log cannot be read."""
        while True:
            if self._turn():
                breathe()
            else:
                self._wait()

    def close(self) -> None:
        """Close sockets and files. Call it when `run` has ended."""
        for watcher in self._watchers:
            watcher.close()
        self._others.close()
        self._published.close(0)
        self._activity.close(0)
        self._context.destroy(linger=0)
        self._reader.close()

    def each_second(self) -> None:
        """Show figures."""
        self._row.publish(self.counts)

    def _turn(self) -> bool:
        """Show what can be shown. True if there is more to do at once."""
        for message in _messages(self._published):
            record = self._decode(message)
            if record is not None:
                self._merger.offer(record)
        watermark = Position(*self._board.watermark())
        for message in _messages(self._activity):
            with contextlib.suppress(ProtocolError):  # another version's, while gateways are replaced
                self._waiting.add(decode_activity(message))
        self._others.refresh()
        self._others.flush()
        if not self._followers:
            self._skip_to(watermark)
            return False
        fresh = self._merger.continuing(watermark)
        self._show(fresh)
        is_behind = self._merger.is_behind(watermark)
        now = time.monotonic()
        if fresh or not is_behind:
            self._moved_at = now
        if is_behind and (self._merger.must_read(watermark) or now - self._moved_at >= LOOK_S):
            self._read_log(watermark)
            return self._merger.is_behind(watermark)
        return False

    def _decode(self, message: bytes) -> Record | None:
        """A published record, or its announcement; None if it is neither."""
        secret = self._board.facts.secret
        return records.decode_header(message) if len(message) == HEADER else records.decode(message, secret)

    def _skip_to(self, watermark: Position) -> None:
        """Nobody looks: no need to decode anything."""
        self._waiting.clear()
        self._puts.forget(watermark.revision)
        self._merger.jump(watermark)
        self._shown = watermark
        self._row.position = watermark.revision
        self._moved_at = time.monotonic()

    def _read_log(self, watermark: Position) -> None:
        """Show one piece of what stands in the log between the position and the watermark."""
        lsn = self._merger.position.lsn
        self.counts["log_reads"] += 1
        try:
            found, following = self._reader.read(lsn, watermark.lsn, READ_BYTES)
        except Trimmed as error:
            self._overtaken(error, watermark)
            return
        self._show(self._merger.read(found, following))

    def _overtaken(self, error: Trimmed, watermark: Position) -> None:
        """This process stood still for so long that what its clients lack is gone."""
        log.warning("overtaken by the trimming of the log: %s", error)
        self.counts["gaps"] += 1
        for follower in self._followers:
            follower.overtaken = error
            follower.wake()
        self._tails = {encode: Tail(watermark) for encode in self._tails}
        self._skip_to(watermark)

    def _show(self, fresh: list[Record]) -> None:
        """Show records and the activity that belongs between and behind them."""
        self.counts["records"] += len(fresh)
        for end, frames in pieces(fresh, list(self._tails), puts=self._puts):
            self._show_piece(end, frames)
            breathe()
        if self._waiting:
            self._show_piece(self._shown, {})

    def _show_piece(self, end: Position, frames: dict[Encode, list[Frame]]) -> None:
        shown = self._shown.revision
        lines = [line for line in self._waiting.take(end.revision) if not self._puts.contradict(line, shown)]
        if end == self._shown and not lines:
            return
        self.counts["activity"] += len(lines)
        self.counts["events"] += end.revision - self._shown.revision
        for encode, tail in self._tails.items():
            activity = activity_frames(lines, self._shown.revision, encode)
            tail.append(Chunk(end, merge(frames.get(encode, []), activity)))
        self._shown = end
        self._row.position = end.revision
        for follower in self._followers:
            follower.wake()

    def _wait(self) -> None:
        """Wait until a message is there, or a while."""
        for watcher in self._watchers:
            watcher.start(self._arrived.set)
        try:
            # ZeroMQ's descriptor says only that something changed: what changed before must be looked for.
            if not any(int(socket.get(zmq.EVENTS)) & zmq.POLLIN for socket in (self._published, self._activity)):
                self._arrived.wait(LOOK_S if self._followers else IDLE_S)
        finally:
            self._arrived.clear()
            for watcher in self._watchers:
                watcher.stop()


def _subscriber(context: zmq.Context[zmq.Socket[bytes]], queue: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, queue)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    return socket


def _messages(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    with contextlib.suppress(zmq.Again):
        for _ in range(_MOST_MESSAGES):
            yield socket.recv(zmq.DONTWAIT)
