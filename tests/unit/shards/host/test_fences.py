"""The board's rules on a processor that keeps no order by itself hold with every fence, and break without any one."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from shards.host import fences
from shards.host.board import LogWords, ShardRow
from shards.host.fences import Fence
from tests import effort
from tests.unit.machine import MACHINE_WORDS, Machine, MachineBoard, MachineDisk, Process, Words, new_words
from tests.unit.shards.log.test_model import facts_of

MAP_AT = -MACHINE_WORDS
Model = Callable[[int, Fence | None], None]


def run_on_weak_memory(
    seed: int,
    without: Fence | None,
    writer: Callable[[Process, MachineBoard], None],
    reader: Callable[[Process, MachineBoard], None],
) -> None:
    """Let one process write and two read for a while; raises what one of them raises."""
    machine = Machine(random.Random(seed), is_weak=True, without=without)
    facts = facts_of("always", "", "")
    words = new_words(facts)
    for run in (writer, reader, reader):
        machine.spawn(
            run.__name__, lambda process, run=run: run(process, MachineBoard(Words(process, words), facts, process))
        )
    for _ in range(400):
        machine.turn()
    machine.kill_all()


def histories(seed: int, without: Fence | None) -> None:
    """Tail and next revision are those of one append."""

    def append(process: Process, board: MachineBoard) -> None:
        turn = MachineDisk(process).turn(Path("append"))
        for revision in count(1):
            with turn:
                board.advance(10 * revision, revision)

    def read(_process: Process, board: MachineBoard) -> None:
        last = 0
        while True:
            tail, revision = board.history()
            assert tail == 10 * revision and revision >= last
            last = revision

    run_on_weak_memory(seed, without, append, read)


def figures(seed: int, without: Fence | None) -> None:
    """Figures are those that were published together."""

    class Row(ShardRow):
        FIGURES = ("first", "second")

    def row_of(board: MachineBoard) -> Row:
        return Row(board.words, board.shards[0].base, board.shards[0].fence)

    def publish(_process: Process, board: MachineBoard) -> None:
        row = row_of(board)
        for figure in count(1):
            row.publish_figures({"first": figure, "second": figure})

    def read(_process: Process, board: MachineBoard) -> None:
        row = row_of(board)
        while True:
            shown = row.read_figures()
            assert shown["first"] == shown["second"]

    run_on_weak_memory(seed, without, publish, read)


def files(seed: int, without: Fence | None) -> None:
    """A file is there when a word tells of it."""

    def make(process: Process, board: MachineBoard) -> None:
        for number in count(1):
            MachineDisk(process).create(Path(str(number)))
            board.log.store_after_file(LogWords.ready, number)

    def use(process: Process, board: MachineBoard) -> None:
        while True:
            number = board.log.load_before_file(LogWords.ready)
            if number:
                MachineDisk(process).open(Path(str(number)))

    run_on_weak_memory(seed, without, make, use)


def maps(seed: int, without: Fence | None) -> None:
    """The watermark's LSN and revision belong together, and a map shows what it covers."""

    def write(process: Process, board: MachineBoard) -> None:
        turn, row = MachineDisk(process).turn(Path("append")), board.shards[0]
        for revision in count(1):
            with turn:
                row.set_open(revision, 10 * revision)
                board.advance(10 * (revision + 1), revision + 1)
            board.words[MAP_AT] = revision
            row.clear_open()

    def read(_process: Process, board: MachineBoard) -> None:
        while True:
            lsn, revision = board.watermark()
            if lsn:
                assert lsn == 10 * (revision + 1)
                assert board.words[MAP_AT] >= revision

    run_on_weak_memory(seed, without, write, read)


def absences(seed: int, without: Fence | None) -> None:
    """What a map lacks is shown only where everything that the map had is everywhere."""

    def write(process: Process, board: MachineBoard) -> None:
        turn = MachineDisk(process).turn(Path("append"))
        for revision in count(1):
            with turn:
                board.advance(10 * revision, revision + 1)
            board.words[MAP_AT] = revision
            with turn:  # others answer in the meantime
                pass
            board.show(10 * revision, revision)

    def read(_process: Process, board: MachineBoard) -> None:
        while True:
            seen = board.words[MAP_AT]
            complete = board.complete_revision()
            assert complete is None or complete >= seen

    run_on_weak_memory(seed, without, write, read)


MODELS: dict[Fence, Model] = {
    Fence.RECORD_THEN_TURN: histories,
    Fence.TURN_THEN_SLOT: histories,
    Fence.SLOT_THEN_TURN: histories,
    Fence.APPLIED_THEN_CLEAR: maps,
    Fence.CLEAR_THEN_REVISION: maps,
    Fence.REVISION_THEN_OPEN: maps,
    Fence.WATERMARK_THEN_MAP: maps,
    Fence.FILE_THEN_WORD: files,
    Fence.WORD_THEN_FILE: files,
    Fence.ODD_THEN_FIGURES: figures,
    Fence.FIGURES_THEN_EVEN: figures,
    Fence.SEQUENCE_THEN_FIGURES: figures,
    Fence.FIGURES_THEN_SEQUENCE: figures,
}


@pytest.mark.parametrize("model", [histories, maps, absences, figures, files])
@pytest.mark.parametrize("seed", range(effort.times(30)))
def test_the_rules_hold(model: Model, seed: int) -> None:
    model(seed, None)


@pytest.mark.parametrize("fence", Fence, ids=lambda fence: fence.name)
def test_no_fence_can_be_left_out(fence: Fence) -> None:
    for seed in range(200):
        try:
            MODELS[fence](seed, fence)
        except Exception:
            return
    pytest.fail(f"nothing breaks without {fence.name}: {fence.value}")


def test_reads_need_no_fence_where_the_processor_keeps_order() -> None:
    assert fences.needed_on("x86_64") is None


@pytest.mark.parametrize("machine", ["aarch64", "riscv64", "ppc64le"])
def test_every_other_processor_gets_fences(machine: str) -> None:
    raise_fence = fences.needed_on(machine)
    assert raise_fence is not None
    raise_fence(Fence.RECORD_THEN_TURN)


def test_a_lock_that_is_no_fence_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "allocate_lock", lambda: None)
    with pytest.raises(ImportError, match="gevent"):
        fences.needed_on("aarch64")
