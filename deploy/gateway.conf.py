"""gunicorn's configuration of the feed gateway.

    gunicorn -c deploy/gateway.conf.py kvserver.gateway:app

`kvserver serve` uses this very file. By hand it wants a running store (`kvserver serve --only store`) and takes the
settings of `kvserver serve` from the environment: KVSERVER_DATA_DIR or KVSERVER_RUN_DIR, KVSERVER_GATEWAYS,
KVSERVER_FEED_PORT, KVSERVER_HOST, KVSERVER_LOG_LEVEL and
KVSERVER_LOG_FORMAT.

Feed connections come from the web workers, over a Unix socket in the run directory. A port of its own is opened only if
KVSERVER_FEED_PORT says so.
"""

from kvserver.serve.deployment import bind_address, exit_if_run_is_over, gunicorn_log_level, join_store, worker_tmp

_settings, _run_dir = join_store("gateway")

if _settings.feed_port is None:
    bind = f"unix:{_run_dir}/gateway.sock"  # gunicorn wants something to listen on
else:
    bind = bind_address(_settings, "KVSERVER_FEED_FD", _settings.feed_port)
proc_name = "kvserver-gateway"
worker_class = "kvserver.gateway.worker.GatewayWorker"
workers = _settings.gateways
worker_connections = 100_000  # what is too much is for the limits of open files and memory to say
graceful_timeout = 8  # clients get the close within a second, and all ends within two, unless the machine is very busy
timeout = 30  # a worker whose loop does not turn for so long is killed and replaced
worker_tmp_dir = worker_tmp(_run_dir)
control_socket_disable = True  # it would be one path for all servers of this user
logger_class = "kvserver.serve.deployment.GunicornLogger"
loglevel = gunicorn_log_level(_settings.log_level)
accesslog = None


def when_ready(server):
    """In the master: its socket's file is removed with the others of the run directory, not by gunicorn, which would
    fail where that is gone already."""
    server.systemd = True  # gunicorn's word for listeners whose files are somebody else's


def on_reload(server):
    """In the master, before its workers are replaced: those that have to stop can say why."""
    (_run_dir / "gateway.reload").touch()


def post_fork(server, worker):
    """In each new worker: rules of life first."""
    exit_if_run_is_over(_settings)
    from kvserver.gateway.worker import post_fork

    post_fork(server, worker)


def child_exit(server, worker):
    """In the master, when a worker is gone: what it said about the living is not true any more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
