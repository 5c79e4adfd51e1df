"""Forks of a process that holds something: it stays the parent's."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.system.harness import Server

PROGRAM = """
import os, sys
from kvserver.client import Client

kv = Client()
lease = kv.lease(30)
lease.put("fork/lease", "here")
with kv.election("fork/lock", ttl=30).campaign("parent") as lock:
    child = os.fork()
    if not child:
        assert not lock.held and not lock.lost.is_set() and not lock.lost.wait(0) and lease.keys == []
        assert lock.release() is False
        lease.revoke()
        assert kv.lock("fork/lock").acquire(timeout=0) is False
        try:
            lease.put("fork/other", "")
        except RuntimeError:
            sys.exit()  # which leaves the lock
        sys.exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert lock.held and "fork/lock" in kv and "fork/lease" in kv and lease.keys == ["fork/lease"]
lease.revoke()
assert "fork/lock" not in kv and "fork/lease" not in kv
"""


def test_a_child_gives_back_nothing_of_its_parent(server: Server) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM]  # of a fork beside threads
    environment = os.environ | {"KVSERVER_URL": server.url}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
