"""`kvserver stores`: lists the stores that run on this machine."""

from __future__ import annotations

from typing import Any

import click

from kvserver.commands.local.running import open_living, urls_of, used_run_dirs
from kvserver.commands.parts.output import Output
from kvserver.commands.parts.texts import aligned, span_text
from shards.host.board import Board

HELP = """List the stores whose servers run on this machine: data directory, process, URL, uptime, run directory.

Root sees those of all users, others see their own. Nothing is printed if there are none.

\b
Examples:
  kvserver stores
  kvserver stores --json
"""


def list_stores(as_json: bool) -> None:
    """Run the command."""
    out = Output()
    found = [_describe(str(path), board) for path, board in open_living(used_run_dirs())]
    if as_json:
        for row in found:
            out.document(row)
    elif found:
        rows = [
            (
                row["data_dir"] or "in memory",
                str(row["pid"]),
                ", ".join(row["urls"]) or "-",
                span_text(row["uptime_s"]),
                row["run_dir"],
            )
            for row in found
        ]
        if out.is_terminal:
            head, *lines = aligned([("DATA", "PID", "URL", "UP", "RUN"), *rows])
            out.line(out.colored(head, "1"), styled=True)
        else:
            lines = ["\t".join(row) for row in rows]
        for line in lines:
            out.line(line, tabs=not out.is_terminal)
    out.flush()


def _describe(run_dir: str, board: Board) -> dict[str, Any]:
    facts = board.facts
    return {
        "data_dir": None if facts.in_memory else facts.data_dir,
        "pid": facts.supervisor_pid,
        "urls": urls_of(board),
        "uptime_s": round(max(0, board.steady_ms() - facts.started_steady_ms) / 1000, 3),
        "run_dir": run_dir,
        "version": facts.version,
        "store": facts.store,
    }


COMMAND = click.Command(
    "stores",
    callback=list_stores,
    params=[click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, one object per line.")],
    help=HELP,
)
