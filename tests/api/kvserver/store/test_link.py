"""A worker's link to a shard, against a real ROUTER that answers, refuses, stalls or goes away as each test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zmq

from kvserver.store.link import MOST_WAITING, MOST_WAITING_BYTES, Link
from kvserver.store.pending import Portion, Single
from shards.host.board import Board, Facts, ShardRow
from shards.wire import protocol
from shards.wire.errors import (
    DeadlinePassed,
    InsufficientStorage,
    KVError,
    OutcomeUnknown,
    StaleIncarnation,
    Unavailable,
)
from shards.wire.protocol import (
    SMALL_BYTES,
    SMALL_OPS,
    AtomicBatch,
    Delete,
    Done,
    Failed,
    Get,
    OfOneKey,
    Patch,
    Put,
    Reply,
    Value,
    size_of,
)
from tests.facts import make_facts

T = TypeVar("T")


def facts(tmp_path: Path) -> Facts:
    return make_facts(str(tmp_path), max_value=5_120_000)


class Shard:
    """The shard's end: a ROUTER under the path of an incarnation."""

    def __init__(self, context: zmq.Context[Any], run_dir: Path, row: ShardRow, incarnation: int) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(f"ipc://{run_dir}/shard-0-{incarnation:x}.req")
        row.incarnation = incarnation

    async def receive(self) -> tuple[bytes, protocol.Request]:
        return await until(self._receive)

    def _receive(self) -> tuple[bytes, protocol.Request] | None:
        try:
            identity, frame = self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        return identity, protocol.decode_request(frame)

    def reply(self, identity: bytes, id: int, replies: list[Reply]) -> None:
        self.socket.send_multipart([identity, protocol.encode_reply(id, replies)])

    def reply_part(self, identity: bytes, id: int, places: list[int], replies: list[Reply]) -> None:
        self.socket.send_multipart([identity, protocol.encode_part(id, places, replies)])

    def close(self) -> None:
        self.socket.close(0)


def portion(operations: Sequence[OfOneKey], deadline_ns: int, answers: list[Any]) -> Portion:
    return Portion(operations, sum(map(size_of, operations)), deadline_ns, answers.append)


async def until(condition: Callable[[], T | None], timeout_s: float = 10.0) -> T:
    """The first value of `condition()` that is neither None nor False."""
    give_up_at = time.monotonic() + timeout_s
    while (value := condition()) is None or value is False:
        assert time.monotonic() < give_up_at, "it never came"
        await asyncio.sleep(0.002)
    return value


class Bench:
    """A link, its board row and the answers that came, in order."""

    def __init__(self, tmp_path: Path) -> None:
        self.run_dir = tmp_path
        board = Board.create(tmp_path / "board", facts(tmp_path))
        board.install()
        self.board, self.row = board, board.shards[0]
        self.context: zmq.Context[Any] = zmq.Context()
        self.link = Link(self.context, self.row, 0, tmp_path, asyncio.get_running_loop())
        self.answers: list[Reply | KVError] = []
        self.shards: list[Shard] = []
        self.faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))
        self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.link.tick()
            await asyncio.sleep(0.005)

    def shard(self, incarnation: int) -> Shard:
        self.shards.append(Shard(self.context, self.run_dir, self.row, incarnation))
        return self.shards[-1]

    async def connected(self) -> None:
        await until(lambda: self.link.is_up)

    def put(self, value: bytes = b"v", deadline_s: float = 10.0) -> None:
        deadline_ns = time.monotonic_ns() + int(deadline_s * 1e9)
        self.link.enqueue(Single(Put(b"k", value), deadline_ns, self.answers.append))

    async def answered(self, count: int) -> list[Reply | KVError]:
        await until(lambda: len(self.answers) >= count)
        return self.answers

    async def close(self) -> None:
        self._ticking.cancel()
        self.link.close()
        for shard in self.shards:
            shard.close()
        self.context.destroy(linger=0)
        self.board.close()
        assert not self.faults


def scenario(test: Callable[[Bench], Awaitable[None]]) -> Callable[[Path], None]:
    """Run an asynchronous test on a bench of its own."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            bench = Bench(tmp_path)
            try:
                await test(bench)
            finally:
                await bench.close()

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@scenario
async def test_one_turn_of_the_loop_is_one_message(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    for i in range(64):
        bench.put(b"%d" % i)
    identity, request = await shard.receive()
    assert [operation.value for operation in request.operations] == [b"%d" % i for i in range(64)]  # type: ignore[union-attr]
    assert request.incarnation == 1
    shard.reply(identity, request.id, [Done(i + 1, False) for i in range(64)])
    answers = await bench.answered(64)
    assert [answer.revision for answer in answers] == list(range(1, 65))  # type: ignore[union-attr]
    assert (bench.link.counters.messages, bench.link.counters.operations) == (1, 64)


@scenario
async def test_messages_end_at_their_limits(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    for _ in range(SMALL_OPS + 1):
        bench.put()
    assert [len((await shard.receive())[1].operations) for _ in range(2)] == [SMALL_OPS, 1]
    quarter = bytes(SMALL_BYTES // 4 - 1)
    for value in (quarter, quarter, b"", bytes(SMALL_BYTES), b"", b""):
        bench.put(value)
    assert [len((await shard.receive())[1].operations) for _ in range(4)] == [2, 1, 1, 2]


@scenario
async def test_what_may_take_long_travels_alone(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    deadline_ns = time.monotonic_ns() + 10**10
    few: list[OfOneKey] = [Put(b"k", b"v"), Delete(b"k")]
    singles = [Put(b"k", b"v"), Patch(b"k", b"{}"), Get(b"k", 1), AtomicBatch(few), AtomicBatch([Patch(b"k", b"{}")])]
    for operation in singles:
        bench.link.enqueue(Single(operation, deadline_ns, bench.answers.append))
    for count in (2, SMALL_OPS + 1):
        bench.link.enqueue(portion([Delete(b"k")] * count, deadline_ns, bench.answers))
    bench.put()
    received = [(await shard.receive())[1].operations for _ in range(6)]
    assert received[:3] == [[singles[0]], [singles[1]], [singles[2]]]
    assert [len(operations) for operations in received] == [1, 1, 1, 1, 1, 2]


@scenario
async def test_a_message_is_answered_in_parts(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.put()
    deadline_ns = time.monotonic_ns() + 10**10
    bench.link.enqueue(portion([Delete(b"k")] * 3, deadline_ns, bench.answers))
    bench.put()
    identity, request = await shard.receive()
    assert len(request.operations) == 5
    shard.reply_part(identity, request.id, [4, 1, 3], [Done(5, True), Done(2, True), Done(4, True)])
    assert await bench.answered(1) == [Done(5, True)], "whose part is whole"
    shard.reply_part(identity, request.id, [2], [Done(3, True)])
    assert (await bench.answered(2))[1:] == [[Done(2, True), Done(3, True), Done(4, True)]]
    shard.reply_part(identity, request.id, [0], [Done(1, True)])
    assert (await bench.answered(3))[2:] == [Done(1, True)]
    shard.reply_part(identity, request.id, [0], [Done(1, True)])
    bench.put()
    identity, request = await shard.receive()
    shard.reply_part(identity, request.id, [], [])
    shard.close()
    assert isinstance((await bench.answered(4))[3], OutcomeUnknown)


@scenario
async def test_a_failure_of_one_operation_is_its_own(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.put()
    bench.put()
    identity, request = await shard.receive()
    shard.reply(identity, request.id, [Failed.of(InsufficientStorage("no space")), Done(7, True)])
    failed, done = await bench.answered(2)
    assert isinstance(failed, Failed) and isinstance(failed.error(), InsufficientStorage)
    assert isinstance(done, Done) and done.revision == 7


@scenario
async def test_writes_wait_for_a_shard_that_was_never_there(bench: Bench) -> None:
    bench.put()
    await asyncio.sleep(0)
    assert not bench.answers
    shard = bench.shard(3)
    identity, request = await shard.receive()
    shard.reply(identity, request.id, [Done(1, False)])
    assert await bench.answered(1) == [Done(1, False)]


@scenario
async def test_waiting_ends_at_the_deadline_as_surely_not_done(bench: Bench) -> None:
    bench.put(deadline_s=0.05)
    (answer,) = await bench.answered(1)
    assert type(answer) is Unavailable


@scenario
async def test_not_more_than_so_many_wait(bench: Bench) -> None:
    for _ in range(MOST_WAITING):
        bench.put()
    assert not bench.answers
    bench.put()
    assert [type(answer) for answer in bench.answers] == [Unavailable]


@scenario
async def test_what_travels_together_waits_as_one(bench: Bench) -> None:
    def put_all(count: int, size: int = 1) -> None:
        deadline_ns = time.monotonic_ns() + int(10e9)
        bench.link.enqueue(portion([Put(b"k", bytes(size))] * count, deadline_ns, bench.answers))

    for _ in range(MOST_WAITING):
        put_all(100)
    assert not bench.answers
    put_all(1)
    assert [type(answer) for answer in bench.answers] == [Unavailable]


@scenario
async def test_not_more_than_so_many_bytes_wait_but_one_request_may(bench: Bench) -> None:
    bench.put(bytes(MOST_WAITING_BYTES))
    assert not bench.answers
    bench.put(b"")
    assert [type(answer) for answer in bench.answers] == [Unavailable]


@scenario
async def test_answers_go_to_who_asked_one_or_several(bench: Bench) -> None:
    several: list[Any] = []
    deadline_ns = time.monotonic_ns() + int(10e9)
    bench.put()
    bench.link.enqueue(portion([Delete(b"k"), Delete(b"l")], deadline_ns, several))
    bench.put()
    bench.link.enqueue(portion([Delete(b"m")], deadline_ns, several))
    shard = bench.shard(1)
    identity, request = await shard.receive()
    assert [type(operation) for operation in request.operations] == [Put, Delete, Delete, Put, Delete]
    shard.reply(identity, request.id, [Done(number, True) for number in range(1, 6)])
    await bench.answered(2)
    assert bench.answers == [Done(1, True), Done(4, True)]
    assert several == [[Done(2, True), Done(3, True)], [Done(5, True)]]
    assert bench.link.counters.operations == 5


@scenario
async def test_several_that_were_lost_are_all_unknown(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.link.enqueue(portion([Delete(b"k"), Delete(b"l")], time.monotonic_ns() + int(10e9), bench.answers))
    await shard.receive()
    shard.close()
    (answer,) = await bench.answered(1)
    assert isinstance(answer, OutcomeUnknown)
    assert bench.link.counters.unknown == 2


@scenario
async def test_a_shard_that_was_given_up_is_not_waited_for(bench: Bench) -> None:
    bench.put()
    bench.row.given_up = 1
    bench.put()
    assert [type(answer) for answer in await bench.answered(2)] == [Unavailable, Unavailable]


@scenario
async def test_a_shard_that_dies_with_the_message_leaves_the_outcome_unknown(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.put()
    await shard.receive()
    shard.close()
    (answer,) = await bench.answered(1)
    assert isinstance(answer, OutcomeUnknown)
    assert bench.link.counters.unknown == 1


@scenario
async def test_a_write_that_may_have_been_received_is_never_sent_again(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.put(b"first")
    await shard.receive()
    shard.close()
    await bench.answered(1)
    successor = bench.shard(2)
    bench.put(b"second")
    identity, request = await successor.receive()
    assert [operation.value for operation in request.operations] == [b"second"]  # type: ignore[union-attr]
    assert request.incarnation == 2
    successor.reply(identity, request.id, [Done(1, False)])
    await bench.answered(2)


@pytest.mark.parametrize("refusal", [StaleIncarnation, DeadlinePassed, Unavailable])
def test_a_refused_message_goes_to_the_next_incarnation(tmp_path: Path, refusal: type[KVError]) -> None:
    @scenario
    async def run(bench: Bench) -> None:
        shard = bench.shard(1)
        await bench.connected()
        bench.put(b"a")
        bench.put(b"b")
        identity, request = await shard.receive()
        shard.reply(identity, request.id, [Failed.of(refusal())])
        identity, again = await shard.receive()
        assert again.operations == request.operations and again.id != request.id
        shard.reply(identity, again.id, [Done(1, False), Done(2, True)])
        assert await bench.answered(2) == [Done(1, False), Done(2, True)]

    run(tmp_path)


@scenario
async def test_a_refused_message_whose_time_is_over_ends_as_surely_not_done(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.put(deadline_s=0.05)
    identity, request = await shard.receive()
    await until(lambda: time.monotonic_ns() > request.deadline_ns)
    shard.reply(identity, request.id, [Failed.of(DeadlinePassed())])
    (answer,) = await bench.answered(1)
    assert type(answer) is DeadlinePassed


@scenario
async def test_a_silent_shard_leaves_the_outcome_unknown_after_the_deadline(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.put(deadline_s=0.05)
    identity, request = await shard.receive()
    (answer,) = await bench.answered(1)
    assert isinstance(answer, OutcomeUnknown)
    shard.reply(identity, request.id, [Done(1, False)])  # too late: nobody waits for it
    bench.put()
    identity, request = await shard.receive()
    shard.reply(identity, request.id, [Done(2, False)])
    assert (await bench.answered(2))[1] == Done(2, False)


@scenario
async def test_nonsense_from_a_shard_ends_the_operations_it_answers(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    bench.put()
    bench.put()
    identity, request = await shard.receive()
    shard.socket.send_multipart([identity, b"no reply"])
    shard.reply(identity, request.id + 1000, [Done(1, False)])
    shard.reply(identity, request.id, [Done(1, False), Done(2, False), Done(3, False)])
    answers = await bench.answered(2)
    assert [answer.code for answer in answers] == ["protocol_error"] * 2  # type: ignore[union-attr]


@scenario
async def test_closing_answers_everything(bench: Bench) -> None:
    bench.put()
    bench.link.close()
    assert [type(answer) for answer in bench.answers] == [Unavailable]


@scenario
async def test_a_closed_link_sends_nothing_and_refuses_at_once(bench: Bench) -> None:
    bench.shard(1)
    bench.put()  # it would connect in the loop's next turn
    bench.link.close()
    assert [type(answer) for answer in bench.answers] == [Unavailable]
    bench.context.destroy(linger=0)
    bench.put()
    assert [type(answer) for answer in bench.answers] == [Unavailable] * 2
    await asyncio.sleep(0)


@scenario
async def test_messages_that_are_refused_one_after_the_other_keep_their_order(bench: Bench) -> None:
    """A shard that is stopping refuses whatever comes; what it refused goes to its successor as it was asked."""
    shard = bench.shard(1)
    await bench.connected()
    values = [b"%d" % number for number in range(6)]
    messages = []
    for value in values:
        bench.put(value)
        messages.append(await shard.receive())
    bench.row.incarnation = 0
    for identity, request in messages:
        shard.reply(identity, request.id, [Failed.of(Unavailable("the shard is stopping"))])
        await asyncio.sleep(0.01)
    shard.close()
    successor, again = bench.shard(2), []
    while len(again) < len(values):
        identity, request = await successor.receive()
        again += [operation.value for operation in request.operations if isinstance(operation, Put)]
        successor.reply(identity, request.id, [Done(1, True)] * len(request.operations))
    assert again == values


@scenario
async def test_behind_a_large_reply_others_get_their_turn(bench: Bench) -> None:
    shard = bench.shard(1)
    await bench.connected()
    for _ in range(8):
        bench.put(bytes(SMALL_BYTES))
    asked = [await shard.receive() for _ in range(8)]
    for identity, request in asked:
        shard.reply(identity, request.id, [Value(1, True, bytes(4 << 20))])
    at_once = []
    give_up_at = time.monotonic() + 10
    while len(bench.answers) < 7 and time.monotonic() < give_up_at:
        before = len(bench.answers)
        bench.link._receive_replies()
        at_once.append(len(bench.answers) - before)
    assert max(at_once) == 1
    assert all(isinstance(answer, Value) for answer in await bench.answered(8))
