"""gunicorn's configuration of the web workers: REST, and the door to the feed.

    gunicorn -c deploy/gunicorn.conf.py kvserver.app:app

`kvserver serve` uses this very file. By hand it wants a running store (`kvserver serve --only store`, shards, gateway)
and takes the settings of `kvserver serve` from the environment: KVSERVER_DATA_DIR or KVSERVER_RUN_DIR, KVSERVER_HOST,
KVSERVER_PORT, KVSERVER_WORKERS, KVSERVER_GRACE, KVSERVER_LOG_LEVEL and
KVSERVER_LOG_FORMAT.
"""

from kvserver.serve.deployment import bind_address, exit_if_run_is_over, gunicorn_log_level, join_store, worker_tmp

_settings, _run_dir = join_store("web")

bind = bind_address(_settings, "KVSERVER_LISTEN_FD", _settings.port)
proc_name = "kvserver-web"
worker_class = "kvserver.web.worker.Worker"
workers = _settings.workers
graceful_timeout = _settings.grace
timeout = 30  # a worker whose event loop does not turn for so long is killed and replaced
worker_tmp_dir = worker_tmp(_run_dir)
control_socket_disable = True  # it would be one path for all servers of this user
logger_class = "kvserver.serve.deployment.GunicornLogger"
loglevel = gunicorn_log_level(_settings.log_level)
accesslog = None


def post_fork(server, worker):
    """In each new worker: rules of life first."""
    exit_if_run_is_over(_settings)
    from kvserver.web.worker import post_fork

    post_fork(server, worker)


def child_exit(server, worker):
    """In the master, when a worker is gone: what it said about the living is not true any more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
