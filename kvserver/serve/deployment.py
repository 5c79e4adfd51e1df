"""What the two gunicorn configurations in `deploy/` share: finding the running store, and values made of settings."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from kvserver.serve.listening import refuse_openly
from kvserver.settings import ServerSettings
from shards.host.board import Board, BoardError, BoardOutOfReach
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import die_with_starter, keep_standard_streams
from shards.host.settings import SettingError, env_name, ignored_variables, load_settings

log = logging.getLogger(__name__)


def join_store(name: str) -> tuple[ServerSettings, Path]:
    """The settings in the environment and the run directory of the running store, for a gunicorn master.

    From now on it logs as `name`. Ties the process's life to the supervisor's, if one started it, and names the
    directory of metrics to prometheus_client, which looks for it when it is imported. Exits with a
    sentence if there is no running store.
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
            raise BoardError(f"the run of the store that {settings.board_path} shows is over: is it running?")
    except (SettingError, BoardError) as error:
        report_fatal(str(error))
        sys.exit(1)
    metrics = Path(os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(run_dir / "metrics")))
    metrics.mkdir(mode=0o700, exist_ok=True)
    return settings, run_dir


def is_over(settings: ServerSettings) -> bool:
    """Whether nobody runs the store any more that the board shows. Raises `BoardError`, `SettingError`."""
    with contextlib.closing(Board.open(settings.board_path)) as board:
        return board.is_over()


def see_that_it_runs(settings: ServerSettings) -> None:
    """To be called in each new worker: where the store is gone, the master ends too, which would put one worker after
    another into the place of those that went. Who started the master starts it again."""
    try:
        over = is_over(settings)
    except (SettingError, BoardError) as error:
        over = not isinstance(error, BoardOutOfReach)  # that passes, and says nothing of the run
    if over:
        os.kill(os.getppid(), signal.SIGTERM)
        sys.exit(0)


def bind_address(settings: ServerSettings, variable: str, port: int) -> str:
    """gunicorn's `bind`: the descriptor in the environment's `variable`, if the supervisor passed one, else host and
    `port`. Exits with a sentence if the store would be open to everybody: what counts is whether the running store has
    tokens."""
    if variable in os.environ:
        # The supervisor keeps the socket, so that no connection is refused while this master is restarted.
        return f"fd://{os.environ[variable]}"
    try:
        board = Board.open(settings.board_path)
        has_tokens = board.log.tokens > 0
        board.close()
        if settings.tokens is not None and not has_tokens:
            raise SettingError(f"{env_name('tokens')} is given, but the running store was started without tokens")
        refuse_openly(settings, has_tokens)
    except (BoardError, SettingError) as error:
        report_fatal(str(error))
        sys.exit(1)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{port}"


def gunicorn_log_level(level: str) -> str:
    """gunicorn's level for one of ours: what it tells at `info` about each start is news only to who debugs."""
    return {"trace": "debug", "debug": "info", "info": "warning"}.get(level, level)


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's messages, and uvicorn's, which are given its handlers, go where all others go and look like them."""

    def setup(self, cfg: Any) -> None:
        """Called by gunicorn, in the master."""
        super().setup(cfg)
        self.error_log.handlers = list(logging.getLogger().handlers)


def worker_tmp(run_dir: Path) -> str:
    """Where gunicorn's workers show their master that they live: in memory, so that a slow disk kills no worker."""
    memory = Path("/dev/shm")
    return str(memory if os.access(memory, os.W_OK | os.X_OK) else run_dir)
