"""The command lines of the engine and of the order's process, and whether the engine is up."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from typing import Final

from kvserver.serve.cluster.files import ClusterSetup
from kvserver.settings import ServerSettings

_ANSWER_S: Final = 0.25  # the supervisor waits for it


def engine_argv(setup: ClusterSetup, settings: ServerSettings) -> list[str]:
    """Return the command line of the engine that this server starts. Writes its configuration. Raises `OSError`."""
    assert setup.binary is not None
    config = setup.write_config(settings.data_dir.absolute(), settings.log_format != "text")
    return [sys.executable, "-m", "kvserver.serve.cluster.run_engine", setup.binary, str(config)]


def order_argv(setup: ClusterSetup, settings: ServerSettings, run_dir: Path) -> list[str]:
    """Return the command line of the process that carries the order, whose socket is in `run_dir`.

    Writes the file with this machine's user there. Raises `OSError`.
    """
    user, own, tls = setup.write_user(run_dir), setup.own, setup.tls
    options = {
        "--run-dir": run_dir,
        "--node": setup.node,
        "--servers": ",".join(setup.servers),
        "--monitors": f"http://{own.monitor}" if own else settings.cluster_monitors,
        "--user-file": user,
        **({} if tls is None else {"--tls-ca": tls.ca, "--tls-cert": tls.cert, "--tls-key": tls.key}),
        "--log-level": settings.log_level,
        "--log-format": settings.log_format,
    }
    given = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    return [sys.executable, "-m", "shards.order.carrier", *given]


def is_answering(address: str) -> bool:
    """Return whether the engine whose monitoring port is at `address` answers."""
    connection = http.client.HTTPConnection(address, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/jsz")  # /varz is spoilt if it is asked too early: see `stream.read_flushing_of`
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
