"""Fences keep the order in which other processes see the accesses of a process to shared memory.

x86-64 shows the stores of a process in their order, and does its loads in their order. Other processors, ARM64 among
them, keep neither order without a fence; the rules of the board need some of both. (None of them needs a store to be
seen before a later load, which x86-64 does not give either.) Each place that needs a fence has a name here. A lock or a
message that passes from one process to another orders the accesses on its two sides without one.

A release of a lock followed by its acquisition is a fence: accesses before it are done before the release, accesses
after it after the acquisition, and ARM64 keeps these two in their order (Arm Architecture Reference Manual, B2.3:
Load-Acquire and Store-Release are RCsc). Python has no cheaper one.
"""

from __future__ import annotations

import platform
from _thread import allocate_lock
from collections.abc import Callable
from enum import Enum
from types import BuiltinFunctionType
from typing import Final


class Fence(Enum):
    """Each place that needs a fence: the accesses before it, and those after it."""

    RECORD_THEN_TURN = "the writes of a record, its open words and the other slot; the store of `turn`"
    TURN_THEN_SLOT = "the load of `turn`; the loads of its slot, of open words, of the log"
    SLOT_THEN_TURN = "the loads of a slot; the second load of `turn`"
    APPLIED_THEN_CLEAR = "the commit of a map; the store of NONE to `open`"
    CLEAR_THEN_REVISION = "the store of NONE to `open`; the next store of `open_revision`"
    REVISION_THEN_OPEN = "the load of `open_revision`; the second load of `open`"
    WATERMARK_THEN_MAP = "the loads of all `open` words; reads of maps"
    FILE_THEN_WORD = "what was done to a file; the store of the word that announces it"
    WORD_THEN_FILE = "the load of a word that announces a file; opening the file"
    ODD_THEN_FIGURES = "the store of an odd sequence word; the stores of figures"
    FIGURES_THEN_EVEN = "the stores of figures; the store of an even sequence word"
    SEQUENCE_THEN_FIGURES = "the load of a sequence word; the loads of figures"
    FIGURES_THEN_SEQUENCE = "the loads of figures; the second load of the sequence word"


Raise = Callable[[Fence], None]

TESTED: Final = frozenset({"x86_64", "aarch64"})
"""Machines, as `platform.machine` calls them, whose order of memory the rules were tried on or with a model of."""
_KEEPS_ORDER: Final = frozenset({"x86_64", "i386", "i686"})


def _raise_fence(_fence: Fence) -> None:
    lock = allocate_lock()
    lock.acquire()
    lock.release()
    lock.acquire()


def needed_on(machine: str) -> Raise | None:
    """Return the function that raises a fence on a processor of the kind `machine`; None if it needs none.

    Raises `ImportError` if gevent has put locks of its own, which are no fences, in the place of Python's.
    """
    if machine in _KEEPS_ORDER:
        return None
    if not isinstance(allocate_lock, BuiltinFunctionType):
        raise ImportError("shards.host.fences has to be imported before gevent replaces locks")
    return _raise_fence


NEEDED: Final = needed_on(platform.machine())
"""What raises a fence here; None if this processor needs none, so that reads cost nothing more on it."""
