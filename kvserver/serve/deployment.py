"""Code that the two gunicorn configurations in `deploy/` share: find the running store, derive values from settings."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from kvserver.serve.listening import refuse_open_access
from kvserver.settings import ServerSettings
from shards.host.board import Board, BoardError, BoardOutOfReach
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import die_with_starter, keep_standard_streams
from shards.host.settings import SettingError, env_name, ignored_variables, load_settings

log = logging.getLogger(__name__)


def join_store(name: str) -> tuple[ServerSettings, Path]:
    """Return the settings in the environment and the run directory of the running store. For a gunicorn master.

    Side effects: the process logs as `name` from now on and ends with the supervisor that started it, and the
    environment names the metrics directory, which prometheus_client reads when it is imported. Prints a message and
    exits with 1 if no store is running.
    """
    keep_standard_streams()
    die_with_starter()
    try:
        settings = load_settings(ServerSettings)
        configure_logging(settings.log_level, name, settings.log_format)
        for sentence in ignored_variables(ServerSettings):
            log.warning("%s", sentence)
        run_dir = settings.resolved_run_dir()
        if is_over(settings):
            raise BoardError(f"the run of the store on the board {settings.board_path} is over: is the server running?")
    except (SettingError, BoardError) as error:
        report_fatal(str(error))
        sys.exit(1)
    metrics = Path(os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(run_dir / "metrics")))
    metrics.mkdir(mode=0o700, exist_ok=True)
    return settings, run_dir


def is_over(settings: ServerSettings) -> bool:
    """Return whether the run of the store on the board is over. Raises `BoardError`, `SettingError`."""
    with contextlib.closing(Board.open(settings.board_path)) as board:
        return board.is_over()


def exit_if_run_is_over(settings: ServerSettings) -> None:
    """Stop the gunicorn master and exit if the store's run is over. Call it in each new worker.

    Without this the master would replace exiting workers for ever. Whatever started the master restarts it.
    """
    try:
        over = is_over(settings)
    except (SettingError, BoardError) as error:
        over = not isinstance(error, BoardOutOfReach)  # temporary, and no evidence about the run
    if over:
        os.kill(os.getppid(), signal.SIGTERM)
        sys.exit(0)


def bind_address(settings: ServerSettings, variable: str, port: int) -> str:
    """Return gunicorn's `bind`: the descriptor in the environment's `variable` if the supervisor passed one, else host
    and `port`.

    Prints a message and exits with 1 if the store would be open to everyone; the running store decides whether there
    are tokens.
    """
    if variable in os.environ:
        # The supervisor keeps the socket open, so clients can connect while this master is restarted.
        return f"fd://{os.environ[variable]}"
    try:
        board = Board.open(settings.board_path)
        has_tokens = board.log.tokens > 0
        board.close()
        if settings.tokens is not None and not has_tokens:
            raise SettingError(f"{env_name('tokens')} is set, but the running store was started without tokens")
        refuse_open_access(settings, has_tokens)
    except (BoardError, SettingError) as error:
        report_fatal(str(error))
        sys.exit(1)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{port}"


def gunicorn_log_level(level: str) -> str:
    """Return gunicorn's level for one of ours: gunicorn's info messages belong to our debug level."""
    return {"trace": "debug", "debug": "info", "info": "warning"}.get(level, level)


class GunicornLogger(Logger):  # type: ignore[misc]
    """Sends messages of gunicorn, and of uvicorn, which uses its handlers, to our log in our format."""

    def setup(self, cfg: Any) -> None:
        """Replace the handlers; gunicorn calls this in the master."""
        super().setup(cfg)
        self.error_log.handlers = list(logging.getLogger().handlers)


def worker_tmp(run_dir: Path) -> str:
    """Return the directory of the workers' heartbeat files: in memory, so that a slow disk kills no worker."""
    memory = Path("/dev/shm")
    return str(memory if os.access(memory, os.W_OK | os.X_OK) else run_dir)
