"""Following the history: one greenlet takes records and activity, orders them, and shows them to all clients.

Records come by PUB of all shards, activity from everywhere, and the log has what was missed. `LogFollower` has two
subscribers: `WalReaders` for `/wal` and `SharedHistory` for `/v1/feed`. Nothing above the watermark is shown, so
nothing that a GET would not show. A client that was left behind reads the log in its own greenlet, a piece at a time.

What a shard publishes is checked like what is in the log (its place and checksum): that costs a small part of decoding
it, and one rule for all bytes is simpler to trust than two.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import gevent  # type: ignore[import-untyped]

from kvserver.gateway.feed.envelopes import MOST_BYTES
from kvserver.gateway.history.catch_up import CatchUpTurns
from kvserver.gateway.history.inputs import GatewayInputs
from kvserver.gateway.history.order import LatestPuts, Merger, PendingActivity, encode_pieces
from kvserver.gateway.history.shared import HistoryObserver, SharedHistory
from kvserver.gateway.history.wal_readers import READ_BYTES, WalReader, WalReaders
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.wal.tail import PlacedFrame, Position
from kvserver.gateway.wal.views import View
from shards.host.board import Board, GatewayRow, ProcessRow
from shards.log import records
from shards.log.reader import LogReader, Trimmed
from shards.log.records import HEADER, Record
from shards.wire.protocol import Activity, ActivityKind

log = logging.getLogger(__name__)

REPORTERS_S: Final = 0.5
"""The most that a client that wants activity waits until all web workers report to this gateway."""
LOOK_S: Final = 0.02
"""How long to wait for PUB before the log is read."""
IDLE_S: Final = 0.1
"""How long to wait while there are no clients."""
PACE_S: Final = 100e-6
"""The least time between showing something and showing more, for each client: writing to it takes about a third."""
LONGEST_PACE_S: Final = 0.006
"""The same for many clients: what comes in the meantime costs each of them one write, not many."""


class LogFollower:
    """Follows the history in one gateway process.

    Attributes:
        counts: figures for the board.
        history: what clients of `/v1/feed` share.
        turns: of all clients that catch up.
        largest_answer: bytes that the answer to one poll may have.
    """

    def __init__(self, board: Board, run_dir: Path, row: GatewayRow, index: int) -> None:
        """Begin at the watermark. Binds the activity socket of the claimed `row`, which is number `index`."""
        self.largest_answer = MOST_BYTES + 4 * board.facts.max_value // 3  # one value may pass the limit, in Base64
        self.counts: Counter[str] = Counter(dict.fromkeys(GatewayRow.FIGURES, 0))
        self._board, self._row = board, row
        self._inputs = GatewayInputs(board, run_dir, index)
        self._reader = LogReader(Path(board.facts.log_dir), board.facts.secret)
        self._merger = Merger(Position(*board.watermark()))
        self._shown = self._merger.position
        self._moved_at = time.monotonic()  # when the position moved last, or was up to date
        self._pending = PendingActivity()
        self._puts = LatestPuts(self._shown.revision)
        self.turns = CatchUpTurns()
        self._wal = WalReaders(self._reader, self.counts, self.turns)
        block_reader = LogReader(Path(board.facts.log_dir), board.facts.secret)
        self.history = SharedHistory(board, block_reader, self.counts, self._shown)

    # Clients

    def add_wal_reader(self, view: View, wake: Callable[[], None], budget: SendBudget) -> WalReader:
        """Add a client of `/wal`, which gets what `view` shows above the history's present end.

        Args:
            view: its `encode` must be one of few functions, since frames are shared by it.
            wake: called when there may be more for the client. Must not block.
            budget: of the client's address.
        """
        self._await_reporters()
        self._catch_up()
        self._row.listening += 1  # before the end is read: what is done from now on is reported
        lsn, following = self._board.history()
        reader = self._wal.add(view, self._shown, Position(lsn, following - 1), wake, budget)
        self._count_clients()
        return reader

    def remove_wal_reader(self, reader: WalReader) -> None:
        """Remove a client of `/wal`."""
        self._wal.remove(reader)
        self._count_clients()

    def add_observer(self, observer: HistoryObserver) -> None:
        """Show the history to a client of `/v1/feed` from now on."""
        if observer.listens:
            self._await_reporters()
        self._catch_up()
        self.history.observers.add(observer)
        self._count_clients()

    def remove_observer(self, observer: HistoryObserver) -> None:
        """Remove a client of `/v1/feed`."""
        self.history.observers.discard(observer)
        self._count_clients()

    @property
    def _clients(self) -> int:
        return len(self._wal) + len(self.history.observers)

    def _await_reporters(self) -> None:
        """Wait until the activity of every serving web worker is known to arrive here, or for `REPORTERS_S`."""
        give_up_at = time.monotonic() + REPORTERS_S
        while not self._inputs.heard.issuperset(self._serving_workers()) and time.monotonic() < give_up_at:
            self._row.roll_call += 1
            gevent.sleep(0.01)

    def _serving_workers(self) -> set[int]:
        return {row.pid for _, row in self._board.workers.living_rows() if row.state == ProcessRow.UP}

    def _catch_up(self) -> None:
        """Skip what is visible already, if this is the first client after an idle period."""
        if not self._clients:
            self._skip_to(Position(*self._board.watermark()))

    def _count_clients(self) -> None:
        """Show on the board how many clients there are, and subscribe to records if there are any."""
        self._row.clients = self._clients
        self._row.listening = len(self._wal) + sum(observer.listens for observer in self.history.observers)
        self._inputs.subscribe(self._clients > 0)
        self._inputs.wake()  # from the idle pace

    def report_activity(self, kind: ActivityKind, subject: bytes) -> None:
        """Show activity of this gateway's own on all gateways."""
        end = self._board.last_revision()
        self._pending.add([Activity(end, kind, subject, self._board.now_ms())])
        self._inputs.send_activity(kind, subject, end)
        self._inputs.wake()

    # Following

    def run(self) -> None:
        """Follow the history for ever. Raises `LogError`, `FeedBroken`, `ProtocolError` if the log cannot be read."""
        while True:
            shown, begun = self._shown, time.monotonic()
            if self._advance():
                breathe()
                continue
            if self._shown != shown:
                self._keep_pace(begun)
            self._inputs.wait(LOOK_S if self._clients else IDLE_S)

    def _keep_pace(self, begun: float) -> None:
        """Wait in proportion to the clients: the first change after a silence comes at once, the next ones together."""
        left = begun + min(PACE_S * self._clients, LONGEST_PACE_S) - time.monotonic()
        if left > 0.001:  # timers know no less
            gevent.sleep(left)

    def close(self) -> None:
        """Publish the last figures, close sockets and files. Call it when `run` has ended."""
        self.publish_figures()
        self._inputs.close()
        self._reader.close()
        self.history.close()

    def publish_figures(self) -> None:
        """Show `counts` in the gateway's row of the board."""
        self._row.publish_figures(self.counts)

    def each_second(self) -> None:
        """Let all parts look after themselves."""
        self._inputs.restore_file()
        self._inputs.heard &= self._serving_workers()  # a pid may come back as another process's
        self._wal.each_second()
        self.history.each_second()

    def _advance(self) -> bool:
        """Take what has arrived, and show what can be shown. True if there is more to do at once."""
        for message in self._inputs.receive_records():
            record = self._decode_record(message)
            if record is not None:
                self._merger.offer(record)
        watermark = Position(*self._board.watermark())
        for lines in self._inputs.receive_activity():
            self._pending.add(lines)
        self._inputs.flush()
        if not self._clients:
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

    def _decode_record(self, message: bytes) -> Record | None:
        """Decode a published record, or its announcement; None if it is neither."""
        secret = self._board.facts.secret
        return records.decode_header(message) if len(message) == HEADER else records.decode(message, secret)

    def _skip_to(self, watermark: Position) -> None:
        """Move to the watermark without decoding anything: there are no clients."""
        self._pending.clear()
        self._puts.forget(watermark.revision)
        self._merger.jump(watermark)
        self._shown = watermark
        self.history.skip_to(watermark)
        self._row.position = watermark.revision
        self._moved_at = time.monotonic()

    def _read_log(self, watermark: Position) -> None:
        """Show one piece of the log between the position and the watermark."""
        lsn = self._merger.position.lsn
        self.counts["log_reads"] += 1
        try:
            found, following = self._reader.read(lsn, watermark.lsn, READ_BYTES)
        except Trimmed as error:
            self._skip_trimmed(error, watermark)
            return
        self._show(self._merger.read(found, following))

    def _skip_trimmed(self, error: Trimmed, watermark: Position) -> None:
        """Move to the watermark where the log was trimmed further: this process stood still for too long."""
        log.warning("overtaken by the trimming of the log: %s", error)
        self.counts["gaps"] += 1
        self._wal.overtake(error, watermark)
        self._skip_to(watermark)

    def _show(self, fresh: list[Record]) -> None:
        """Show records and the activity that belongs between and after them. May switch."""
        self.counts["records"] += len(fresh)
        placed: list[tuple[Activity, int]] = []
        if self._wal or self._row.listening:  # else nothing needs to be decoded here
            for end, frames in encode_pieces(fresh, list(self._wal.tails), self._wal.marks, self._puts):
                placed += self._show_piece(end, frames)
                breathe()
                if self._shown != end:
                    return  # the last client left in the meantime, and one that came then begins at the watermark
            if self._pending:
                placed += self._show_piece(self._shown, {})
        elif fresh:
            self._puts.forget(fresh[-1].next_revision - 1)
            self._show_piece(Position(fresh[-1].end, fresh[-1].next_revision - 1), {})
        self.history.show(fresh, placed)

    def _show_piece(self, end: Position, frames: dict[View, list[PlacedFrame]]) -> list[tuple[Activity, int]]:
        """Show the history up to `end` to clients of `/wal`, with the activity that is due by then.

        Returns that activity, each line with the revision after which it was shown.
        """
        shown = self._shown.revision
        lines = [line for line in self._pending.take(end.revision) if not self._puts.contradict(line, shown)]
        if end == self._shown and not lines:
            return []
        self.counts["activity"] += len(lines)
        self.counts["events"] += end.revision - shown
        before, self._shown = self._shown, end
        self._row.position = end.revision
        self._wal.show(before, end, frames, lines)
        return [(line, max(line.end, shown)) for line in lines]
