"""`python -m shards --index 0`: one shard of the store that runs in the run directory."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from shards.host import logs, process, settings
from shards.host.board import Board, BoardError
from shards.log.files import LogError
from shards.log.manifest import ManifestError
from shards.maps.build import MapBuildError
from shards.maps.layout import MapError, MapFull
from shards.server.loop import ShardServer
from shards.server.sockets import StartError
from shards.wire.errors import KVError

_CANNOT_START = (StartError, BoardError, MapBuildError, ManifestError, MapError, MapFull, LogError, KVError, OSError)

log = logging.getLogger("shards")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM (or SIGINT, unless a supervisor started this process); the exit status."""
    process.keep_standard_streams()
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    index: int = options.pop("index")
    try:
        loaded = settings.load_settings(settings.ProcessSettings, options)
        board_path = loaded.board_path
    except settings.SettingError as error:
        parser.error(str(error))
    alone = process.PARENT_VARIABLE not in os.environ
    process.die_with_starter()
    logs.configure_logging(loaded.log_level, f"shard-{index}", loaded.log_format)
    for sentence in settings.ignored_variables(settings.ProcessSettings):
        log.warning("%s", sentence)
    try:
        board = Board.open(board_path)
        if board.is_over():
            raise StartError(f"the run of the store that {board_path} shows is over: is `kvserver serve` running?")
        if index >= len(board.shards):
            raise StartError(f"the store has {len(board.shards)} shards: there is no shard {index}")
        server = make_server(board, index, board_path.parent)
    except _CANNOT_START as error:
        log.critical("shard %d cannot start: %s", index, error)
        return 1
    _stop_on_signals(server, alone)
    process.notify_systemd("READY=1")
    return server.run()


def make_server(board: Board, index: int, run_dir: Path) -> ShardServer:
    """Make the shard, with what a cluster needs only if there is one."""
    if not board.facts.node:
        return ShardServer(board, index, run_dir)
    from shards.order.jetstream import JetStreamOrder
    from shards.server.clustered import ClusteredServer

    return ClusteredServer(board, index, run_dir, JetStreamOrder(run_dir / "order.sock"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, which it quotes, and exit with status 2."""
        super().error(logs.escape_controls(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m shards", description="One shard of a running store.")
    parser.add_argument("--index", type=settings.integer(0, 255), required=True, metavar="I", help="Which shard.")
    for name, spec in settings.setting_specs(settings.ProcessSettings).items():
        parser.add_argument(settings.option_name(name), metavar=spec.metavar, help=spec.help.replace("%", "%%"))
    return parser


def _stop_on_signals(server: ShardServer, alone: bool) -> None:
    """SIGTERM stops. So does Ctrl-C, but under a supervisor, which stops its children cleanly; SIGHUP means nothing
    here."""
    reads, writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writes)
    server.wake_by(reads)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGINT, (lambda *_: server.stop()) if alone else signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
