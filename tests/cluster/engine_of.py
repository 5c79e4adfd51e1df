"""Which process is the engine of a server."""

from __future__ import annotations

from pathlib import Path

from tests.system.harness import Server, processes_of, wait_for


def engine_of(server: Server) -> int:
    """The pid of its engine."""

    def find() -> int | None:
        for pid in processes_of(server.run_dir):
            try:
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"nats-server\0"):
                    return pid
            except OSError:
                continue
        return None

    pid: int = wait_for(find, f"the engine of {server.run_dir}")
    return pid
