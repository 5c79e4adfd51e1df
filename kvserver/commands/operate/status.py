"""`kvserver status`: shows the state of a server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from kvserver.commands.operate.cluster_figures import cluster_problems, cluster_words
from kvserver.commands.operate.figures import branch, member
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.texts import aligned, bytes_text, counted, span_text

HELP = """Show the state of the server: history, keys, processes, log, and problems, if there are any.

If the server has tokens, it needs one that grants admin, or read on all keys. The status is 1 if a part of the server
is down.

\b
Examples:
  kvserver status
  kvserver status --json
"""
TURN_S: Final = 2.0


def show_status(run: Invocation, watch: bool) -> int:
    """Run the command; return the exit status."""
    while True:
        state = run.client.status().raw
        if run.as_json:
            run.out.document(state)
        else:
            if watch and run.out.is_terminal:
                run.out.data(b"\x1b[H\x1b[2J")
            for line in aligned(list(status_rows(state))):
                run.out.line(line)
            for words in problems_of(state):
                run.out.line(run.out.colored(words, "31"), styled=True)
        run.out.flush()
        if not watch:
            return 1 if list(problems_of(state)) else 0
        time.sleep(TURN_S)


def status_rows(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each line about a state, the document of GET /v1/status."""
    shards, memory = state.get("shards", []), branch(state, "memory")
    yield "kvserver", f"{state.get('version', '?')}, up {span_text(member(state, 'uptime_s'))}"
    yield "store", str(state.get("store", "?"))
    yield "history", f"revision {state.get('revision')}, oldest kept {state.get('oldest')}"
    if words := cluster_words(state):
        yield "cluster", words
    yield "durability", str(state.get("sync", "?"))
    keys = int(sum(member(shard, "keys") for shard in shards))
    limit = memory.get("limit")
    room = f" of {bytes_text(limit)} ({memory.get('on_full')})" if isinstance(limit, int) else ""
    yield "keys", f"{counted(keys, 'key')}, {bytes_text(member(memory, 'used'))}{room}"
    for name in ("shards", "workers", "gateways"):
        yield name, ", ".join(_process_words(each) for each in state.get(name, [])) or "none"
    log, since = branch(state, "log"), member(state, "snapshot", "bytes_since")
    yield "log", f"{bytes_text(member(log, 'bytes'))}, {bytes_text(since)} since the snapshot"
    yield "restarts", f"{int(member(log, 'restarts'))}"


def problems_of(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a server, in words."""
    for shard in state.get("shards", []):
        if shard.get("state") != "up":
            yield f"shard {int(member(shard, 'index'))} is {shard.get('state')}"
    if not state.get("workers"):
        yield "no web worker is up"
    if not state.get("gateways"):
        yield "no gateway is up: there is no feed"
    if branch(state, "log").get("full"):
        yield "the disk is full: writes are refused"
    if branch(state, "log").get("broken"):
        yield "the log is broken: the server is about to end"
    if (ahead := member(state, "clock", "ahead_s")) > 60:
        yield f"the history is ahead of the clock by {span_text(ahead)}"
    yield from cluster_problems(state)


def _process_words(process: Mapping[str, Any]) -> str:
    words = [f"pid {process['pid']}"] if "pid" in process else []
    if "state" in process:
        words.insert(0, f"{process.get('index')} {process['state']}")
    words += [
        f"{process[name]} {noun}"
        for name, noun in (("connections", "connections"), ("clients", "feed clients"))
        if name in process
    ]
    return " ".join(words)


COMMAND = ClientCommand(
    "status",
    show_status,
    [click.Option(["--watch"], is_flag=True, help=f"Show it again every {TURN_S:g} s, until Ctrl-C.")],
    help=HELP,
)
