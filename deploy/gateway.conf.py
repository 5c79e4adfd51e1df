"""gunicorn's configuration of the feed gateway.

    gunicorn -c deploy/gateway.conf.py kvserver.gateway:app

`kvserver serve` uses this very file. By hand it wants a running store (`kvserver serve --only store`) and takes the
settings of `kvserver serve` from the environment: KVSERVER_DATA_DIR or KVSERVER_RUN_DIR, KVSERVER_GATEWAYS,
KVSERVER_FEED_PORT, KVSERVER_HOST, KVSERVER_LOG_LEVEL.

Feed connections come from the web workers, over a Unix socket in the run directory. A port of its own is opened only if
KVSERVER_FEED_PORT says so.
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

# gunicorn wants something to listen on, and takes either descriptors or addresses, never both.
if "KVSERVER_FEED_FD" in os.environ:
    bind = "fd://" + os.environ["KVSERVER_FEED_FD"]
elif _settings.feed_port is not None:
    refuse_openly(_settings)
    _host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
    bind = f"{_host}:{_settings.feed_port}"
else:
    bind = f"unix:{_run_dir}/gateway.sock"

proc_name = "kvserver-gateway"
worker_class = "kvserver.gateway.worker.GatewayWorker"
workers = _settings.gateways
worker_connections = 100_000  # what is too much is for the limits of open files and memory to say
graceful_timeout = 8  # clients are told within 2 s, their answers waited for another two
timeout = 30  # a worker whose loop does not turn for so long is killed and replaced
worker_tmp_dir = worker_tmp(_run_dir)
control_socket_disable = True  # it would be one path for all servers of this user
loglevel = gunicorn_log_level(_settings.log_level)
accesslog = None


def post_fork(server, worker):
    """In each new worker: rules of life first."""
    from kvserver.gateway.worker import post_fork

    post_fork(server, worker)


def child_exit(server, worker):
    """In the master, when a worker is gone: what it said about the living is not true any more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
