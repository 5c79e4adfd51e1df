"""Names histories, decides when a new one begins, and finds the first revision of a run. Pure but for chance and the
boot.

An epoch names one history: within it, a revision always means the same change. So a new epoch begins wherever a change
that a client may have seen can be missing, or the same revision could be given twice. Its revisions start so high that
no revision of an earlier history returns.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from shards.log.records import Start

MAX_REVISION = 1 << 53
"""Revisions stay below this: clients read them into doubles."""

_RESERVE = 1 << 28  # more revisions than the lost end of a log may have held
LAST_TO_GO_ON_FROM = MAX_REVISION - 1 - 2 * _RESERVE
"""The last revision that leaves some for a new history after it, whatever chance says, and whatever the clock."""
_PER_MS_BITS = 10  # a history takes fewer than 1,024 revisions a millisecond over its life
_BELIEVED_MS = 7_258_118_400_000  # 2200-01-01


def new_epoch() -> str:
    """Make a name for a new history: 64 random bits as 16 hexadecimal digits."""
    return secrets.token_hex(8)


def boot_id() -> str:
    """Read the id of the machine's boot, which changes with each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def reason_for_new_epoch(
    last_start: Start | None,
    boot_id: str,
    *,
    stopped_clean: bool,
    in_memory: bool = False,
    copied: bool = False,
    repaired: bool = False,
    asked: str = "",
) -> str | None:
    """Return why the next run needs a new epoch, in words for the log; None: it continues the last epoch.

    Args:
        last_start: the last run's START; None for a new or a restored store.
        boot_id: of the boot the new run begins in.
        stopped_clean: the log ends in a STOP.
        copied: the data directory has another inode or device than the manifest says: the original may live on.
        repaired: the log was cut at damage.
        asked: the reason of a tool that changed the stopped store to demand a new epoch; empty: no demand.
    """
    if in_memory:
        return "the store is in memory"
    if last_start is None:
        return "the store is new"
    if asked:
        return asked
    if copied:
        return "the data directory is a copy"
    if repaired:
        return "the log was cut at damage"
    if last_start.sync != "always" and last_start.boot_id != boot_id and not stopped_clean:
        return f"the machine was restarted under a running store with --sync {last_start.sync}"
    return None


def first_revision(last_known: int, now_ms: int) -> int:
    """Choose the first revision of a new history.

    `last_known` is the highest revision known of earlier histories (0: none), `now_ms` is Unix time.

    Above what a lost end may have used, and above every earlier history of the same store even if all of it is lost.
    Raises `OverflowError` if it would not be below 2**53.
    """
    return _below_the_limit(max(last_known + _RESERVE + secrets.randbelow(_RESERVE), _by_clock(now_ms)), last_known)


def first_revision_of_run(last_known: int, now_ms: int) -> int:
    """Choose the first revision of a run that continues a history whose last revision is `last_known`.

    It is the run's mark, and not found in the data: if they are put back to an older copy, whatever the lost runs gave
    out lies between the revisions that the log has, and nothing of it is ever given out again. So the clock says it.
    If the history is ahead of the clock, chance decides: the same revision comes twice once in millions of times.
    Raises `OverflowError` if it would not be below 2**53.
    """
    by_clock = _by_clock(now_ms)
    if by_clock > last_known + 1:
        return by_clock
    return _below_the_limit(last_known + 2 + secrets.randbelow(_RESERVE), last_known)


def _by_clock(now_ms: int) -> int:
    """Return the revision that the clock gives; 0 if its date is absurd, since one wrong date must not use up all."""
    return now_ms << _PER_MS_BITS if now_ms < _BELIEVED_MS else 0


def _below_the_limit(revision: int, last_known: int) -> int:
    if revision >= MAX_REVISION:
        raise OverflowError(f"no revisions are left: the last was {last_known}, of {MAX_REVISION}")
    return revision
