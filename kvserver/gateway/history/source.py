"""Where the feed comes from: PUB of all shards, the log, activity; and what clients take from it.

One greenlet (`run`) owns the sockets, follows the history and shows it in the tails, one for each view in use.
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
from functools import partial
from pathlib import Path
from typing import Final

import gevent  # type: ignore[import-untyped]
import zmq
from gevent.event import Event  # type: ignore[import-untyped]

from kvserver.gateway.feed.envelopes import MOST_BYTES
from kvserver.gateway.history.order import Merger, Puts, Waiting, activity_frames, chunks_from_log, merge, pieces
from kvserver.gateway.history.shared import Member, SharedHistory
from kvserver.gateway.transport.send_budget import Debts
from kvserver.gateway.transport.websocket import Piece, breathe
from kvserver.gateway.wal.tail import TAIL_BYTES, Behind, Chunk, Cursor, Frame, Held, Position, Tail
from kvserver.gateway.wal.views import Marks, View
from kvserver.store.activity import ActivityFeed
from shards.files.kept_file import KeptFile
from shards.host.board import Board, GatewayRow
from shards.log import records
from shards.log.reader import LogReader, Trimmed
from shards.log.records import HEADER, Record
from shards.wire.errors import ProtocolError
from shards.wire.protocol import Activity, ActivityKind, decode_activity

log = logging.getLogger(__name__)

LOOK_S: Final = 0.02
"""How long to wait for PUB before the log is read."""
IDLE_S: Final = 0.1
"""How long to wait when nobody looks."""
PACE_S: Final = 100e-6
"""From showing something to showing more, for each client: telling it takes about a third of that."""
LONGEST_PACE_S: Final = 0.006
"""The same for many clients: what comes meanwhile costs each of them one write, not many."""
READ_BYTES: Final = 256 << 10
"""Bytes read from the log at a time."""
REREAD_BYTES: Final = 8 << 20
"""Bytes kept of what clients that were left behind have read."""
MOST_TAIL_BYTES: Final = 4 * TAIL_BYTES
"""Bytes kept in the tails of all views."""
QUEUE: Final = 256
"""Records, of 64 KiB at most, that ZeroMQ keeps for us from each shard (its high-water mark). The log has them all."""

_MOST_MESSAGES = 512  # of a socket in one turn


class Follower:
    """One client of the feed."""

    def __init__(
        self, source: Source, view: View, tail: Tail, cursor: Cursor, wake: Callable[[], None], debts: Debts
    ) -> None:
        self._debts = debts
        self.view, self.tail, self.cursor, self.wake = view, tail, cursor, wake
        self.overtaken: Trimmed | None = None
        self.waits = False  # for others to take what they owe
        self._source = source

    def next(self) -> Piece | None:
        """What this client gets next; None if it has everything. May switch.

        Raises `Trimmed` if the log does not reach back to where it is, `LogError`.
        """
        cursor, source = self.cursor, self._source
        self.waits = self._debts.are_full and not cursor.begun
        if self.waits:
            return None
        before = cursor.delivered
        data: bytes | memoryview | None = b""
        while data is not None and not data:
            if cursor.large is not None:
                data = cursor.give(cursor.large)
                break
            if self.overtaken is not None:
                raise self.overtaken
            try:
                data = self.tail.next(cursor)
            except Behind:
                if not self.tail.rejoin(cursor):
                    data = source.reread(self.view, cursor, self.tail.position)
                    self.tail.rejoin(cursor)
                breathe()
        source.held.note(cursor, time.monotonic())
        source.counts["deliveries"] += cursor.delivered - before
        return None if data is None else Piece(data, not cursor.begun)


class Source:
    """The feed of one gateway process.

    Attributes:
        counts: figures for the board.
        history: what clients of `/v1/feed` follow.
        held: what clients are in the middle of.
        largest_answer: bytes that one poll may be answered.
    """

    def __init__(self, board: Board, run_dir: Path, row: GatewayRow, index: int) -> None:
        """`row`, `index`: the claimed row. Binds the activity socket."""
        self.largest_answer = MOST_BYTES + 4 * board.facts.max_value // 3  # one value may pass the limit, in Base64
        self._board, self._row = board, row
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._published = _subscriber(self._context, QUEUE)  # to nothing yet
        for shard in range(board.facts.shards):
            self._published.connect(f"ipc://{run_dir}/shard-{shard}.pub")
        self._activity = _subscriber(self._context, 10 * QUEUE)
        self._activity.setsockopt(zmq.SUBSCRIBE, b"")
        activity = run_dir / f"gateway-{index}.activity"
        self._activity_file = KeptFile(activity, partial(self._activity.bind, f"ipc://{activity}"))
        self._subscribed = False
        self._arrived = Event()
        self._others = ActivityFeed(self._context, board, run_dir, self._arrived.set, but=index)
        self._reader = LogReader(Path(board.facts.log_dir), board.facts.secret)
        self._merger = Merger(Position(*board.watermark()))
        self._shown = self._merger.position
        self._moved_at = time.monotonic()  # when the position moved last, or was up to date
        self._waiting = Waiting()
        self._puts = Puts(self._shown.revision)
        self._marks = Marks()
        self._tails: dict[View, Tail] = {}
        self._followers: set[Follower] = set()
        self._reread: OrderedDict[tuple[View, int], list[Chunk]] = OrderedDict()
        self.held = Held()
        loop = gevent.get_hub().loop
        self._watchers = [loop.io(socket.get(zmq.FD), 1) for socket in (self._published, self._activity)]
        self.counts: Counter[str] = Counter(dict.fromkeys(GatewayRow.FIGURES, 0))
        reader = LogReader(Path(board.facts.log_dir), board.facts.secret)
        self.history = SharedHistory(board, reader, self.counts, self._shown)

    # Clients

    def join(self, view: View, wake: Callable[[], None], debts: Debts) -> Follower:
        """A client that gets what `view` shows above the history's present end; encoders must be few, each one object.

        `wake` is called when it has something to take. `debts`: of which what it has not taken is part.
        """
        self._catch_up()
        self._row.listening += 1  # before the end is read: what is done from now on is reported
        lsn, following = self._board.history()
        if view not in self._tails:
            self._tails[view] = Tail(self._shown)
            self._share()
        tail = self._tails[view]
        follower = Follower(self, view, tail, tail.join(Position(lsn, following - 1)), wake, debts)
        self._followers.add(follower)
        self._count()
        return follower

    def leave(self, follower: Follower) -> None:
        """The client is gone."""
        self._followers.discard(follower)
        self._count()
        follower.wake = lambda: None
        follower.cursor.large = None
        self.held.note(follower.cursor, time.monotonic())
        if not any(other.view == follower.view for other in self._followers):
            self._tails.pop(follower.view, None)
            self._share()

    def enter(self, member: Member) -> None:
        """Show the history to a client of `/v1/feed` from now on."""
        self._catch_up()
        self.history.members.add(member)
        self._count()

    def exit(self, member: Member) -> None:
        """That client is gone."""
        self.history.members.discard(member)
        self._count()

    def _catch_up(self) -> None:
        """For the first who looks after nobody did: what could be seen before is behind the position."""
        if not self._followers and not self.history.members:
            self._skip_to(Position(*self._board.watermark()))

    def _count(self) -> None:
        members = self.history.members
        self._row.clients = len(self._followers) + len(members)
        self._row.listening = len(self._followers) + sum(member.listens for member in members)
        self._subscribe(bool(self._followers or members))
        self._arrived.set()  # from now on the pace is that of somebody who looks

    def _subscribe(self, wanted: bool) -> None:
        """Have the shards' records sent, or not: while nobody looks they cost nothing, neither here nor there. What is
        published before a subscription has reached a shard is read from the log, as all that is missed."""
        if wanted != self._subscribed:
            self._subscribed = wanted
            self._published.setsockopt(zmq.SUBSCRIBE if wanted else zmq.UNSUBSCRIBE, b"")

    def _share(self) -> None:
        """Tails of many views together take no more memory than those of a few."""
        for tail in self._tails.values():
            tail.most_bytes = min(TAIL_BYTES, MOST_TAIL_BYTES // len(self._tails))

    def report(self, kind: ActivityKind, subject: bytes) -> None:
        """Show activity of this gateway's own on all gateways."""
        end = self._board.last_revision()
        self._waiting.add([Activity(end, kind, subject, self._board.now_ms())])
        self._others.add(kind, subject, end)
        self._arrived.set()

    def reread(self, view: View, cursor: Cursor, until: Position) -> bytes | memoryview:
        """What comes next, below `until`, for a client that the tail has left behind. Raises `Trimmed`, `LogError`.

        Clients that were left behind together share what is read.
        """
        position = cursor.position
        key = (view, position.lsn)
        found = self._reread.get(key)
        if found is None:
            read, following = self._reader.read(position.lsn, until.lsn, READ_BYTES)
            self.counts["log_reads"] += 1
            found = chunks_from_log(read, following, position, view, self._marks)
            if read:
                self._reread[key] = found
            while len(self._reread) > 1 and sum(map(_size, self._reread.values())) > REREAD_BYTES:
                self._reread.popitem(last=False)
        else:
            self._reread.move_to_end(key)
        return cursor.give(next((chunk for chunk in found if chunk.end.revision > position.revision), found[-1]))

    # Following

    def run(self) -> None:
        """Follow the history for ever. Raises `LogError`, `FeedBroken`, `ProtocolError` if the log cannot be read."""
        while True:
            shown, begun = self._shown, time.monotonic()
            if self._turn():
                breathe()
                continue
            if self._shown != shown:
                self._rest(begun)
            self._wait()

    def _rest(self, begun: float) -> None:
        """Keep pace with what clients cost: the first change after a silence comes at once, the next ones together."""
        clients = len(self._followers) + len(self.history.members)
        left = begun + min(PACE_S * clients, LONGEST_PACE_S) - time.monotonic()
        if left > 0.001:  # timers know no less
            gevent.sleep(left)

    def close(self) -> None:
        """Show the last figures, close sockets and files. Call it when `run` has ended."""
        self._row.publish_figures(self.counts)
        for watcher in self._watchers:
            watcher.close()
        self._others.close()
        self._published.close(0)
        self._activity.close(0)
        self._context.destroy(linger=0)
        self._reader.close()
        self.history.close()

    def each_second(self) -> None:
        """Show figures, look after the activity socket, and let clients for whom nothing comes keep up."""
        self._row.publish_figures(self.counts)
        self._activity_file.restore_if_gone()
        self.held.drop(time.monotonic())
        for follower in self._followers:
            follower.tail.settle(follower.cursor)
            if follower.waits:
                follower.wake()
        self.history.each_second()

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
        if not self._followers and not self.history.members:
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
        self.history.skip_to(watermark)
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
        self._tails = {view: Tail(watermark) for view in self._tails}
        self._share()
        self._skip_to(watermark)

    def _show(self, fresh: list[Record]) -> None:
        """Show records and the activity that belongs between and behind them."""
        self.counts["records"] += len(fresh)
        told: list[tuple[Activity, int]] = []
        if self._followers or self._row.listening:
            for end, frames in pieces(fresh, list(self._tails), self._marks, self._puts):
                told += self._show_piece(end, frames)
                breathe()
                if self._shown != end:
                    return  # the last client left meanwhile, and who came then begins where the store is
            if self._waiting:
                told += self._show_piece(self._shown, {})
        elif fresh:
            self._puts.forget(fresh[-1].next_revision - 1)
            self._show_piece(Position(fresh[-1].end, fresh[-1].next_revision - 1), {})
        self.history.show(fresh, told)

    def _show_piece(self, end: Position, frames: dict[View, list[Frame]]) -> list[tuple[Activity, int]]:
        """Returns the activity, each with the revision behind which it was shown."""
        shown = self._shown.revision
        lines = [line for line in self._waiting.take(end.revision) if not self._puts.contradict(line, shown)]
        if end == self._shown and not lines:
            return []
        self.counts["activity"] += len(lines)
        self.counts["events"] += end.revision - shown
        grown = set()
        for view, tail in self._tails.items():
            activity = activity_frames([line for line in lines if view.shows(line)], shown, view.encode)
            if tail.append(end, merge(frames.get(view, []), activity)):
                grown.add(tail)
        self._shown = end
        self._row.position = end.revision
        for follower in self._followers:
            if follower.tail in grown:
                follower.wake()
        return [(line, max(line.end, shown)) for line in lines]

    def _wait(self) -> None:
        """Wait until a message is there, or a while."""
        for watcher in self._watchers:
            watcher.start(self._arrived.set)
        try:
            # ZeroMQ's descriptor says only that something changed: what changed before must be looked for.
            if not any(int(socket.get(zmq.EVENTS)) & zmq.POLLIN for socket in (self._published, self._activity)):
                self._arrived.wait(LOOK_S if self._followers or self.history.members else IDLE_S)
        finally:
            self._arrived.clear()
            for watcher in self._watchers:
                watcher.stop()


def _size(chunks: list[Chunk]) -> int:
    return sum(map(len, chunks))


def _subscriber(context: zmq.Context[zmq.Socket[bytes]], queue: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, queue)
    return socket


def _messages(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    with contextlib.suppress(zmq.Again):
        for _ in range(_MOST_MESSAGES):
            yield socket.recv(zmq.DONTWAIT)
