"""`python -m kvserver.serve.cluster.run_engine NATS-SERVER CONFIG`: becomes nats-server, and ends with its supervisor.

nats-server itself would outlive a supervisor that is killed, and keep its ports and its files. The kernel's "die with
your parent" stays in force when a process runs another program, so it is asked for here.
"""

from __future__ import annotations

import os
import sys

from shards.host.process import die_with_starter


def main(arguments: list[str]) -> None:
    """Become nats-server with a configuration file."""
    binary, config = arguments
    die_with_starter()
    os.execv(binary, ["nats-server", "--config", config])


if __name__ == "__main__":
    main(sys.argv[1:])
