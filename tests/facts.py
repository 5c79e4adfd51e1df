"""The facts of a board that tests make without a store."""

from __future__ import annotations

from typing import Any

import msgspec

from shards.host.board import Facts


def make_facts(where: str, **changes: Any) -> Facts:
    """Return the facts of a run with one shard whose directories are all `where`, but for `changes`."""
    facts = Facts(
        version="0",
        store="s",
        epoch="e",
        boot_id="b",
        secret=1,
        shards=1,
        sync="os",
        in_memory=False,
        data_dir=where,
        lock_dir=where,
        log_dir=where,
        map_dir=where,
        max_value=1,
        clock_offset_ms=0,
        supervisor_pid=1,
        started_ms=0,
    )
    return msgspec.structs.replace(facts, **changes)
