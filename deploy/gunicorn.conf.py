"""gunicorn's configuration of the web workers: REST, and the door to the feed.

    gunicorn -c deploy/gunicorn.conf.py kvserver.app:app

`kvserver serve` uses this very file. By hand it wants a running store (`kvserver serve --only store`, shards, gateway)
and takes the settings of `kvserver serve` from the environment: KVSERVER_DATA_DIR or KVSERVER_RUN_DIR, KVSERVER_HOST,
KVSERVER_PORT, KVSERVER_WORKERS, KVSERVER_GRACE, KVSERVER_LOG_LEVEL.
"""

import os
from pathlib import Path

from kvserver.listening import gunicorn_log_level, refuse_openly, worker_tmp
from kvserver.settings import ServerSettings
from shards.board import Board
from shards.process import die_with_starter
from shards.settings import load

die_with_starter()

_settings = load(ServerSettings)
_run_dir = _settings.resolved_run_dir()
Board.open(_settings.board_path).close()  # says so at once if the store is not running

# Before prometheus_client is imported anywhere: it looks for this directory when it is.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(_run_dir / "metrics"))
Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(mode=0o700, exist_ok=True)

if "KVSERVER_LISTEN_FD" in os.environ:
    # The supervisor keeps the listening socket, so that no connection is refused while this master is restarted.
    bind = "fd://" + os.environ["KVSERVER_LISTEN_FD"]
else:
    refuse_openly(_settings)
    bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"

proc_name = "kvserver-web"
worker_class = "kvserver.worker.Worker"
workers = _settings.workers
graceful_timeout = _settings.grace
timeout = 30  # a worker whose event loop does not turn for so long is killed and replaced
worker_tmp_dir = worker_tmp(_run_dir)
control_socket_disable = True  # it would be one path for all servers of this user
loglevel = gunicorn_log_level(_settings.log_level)
accesslog = None


def post_fork(server, worker):
    """In each new worker: rules of life first."""
    from kvserver.worker import post_fork

    post_fork(server, worker)


def child_exit(server, worker):
    """In the master, when a worker is gone: what it said about the living is not true any more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
