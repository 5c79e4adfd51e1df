"""Whether a process has a terminal, asked in children that have one, have none, or can open nothing."""

from __future__ import annotations

import os
import pty
import resource

import pytest

from kvserver.serve.signals import has_terminal


def asked_in_a_child(terminal: bool, descriptors: int) -> bool:
    """What a child says that may open files with numbers below `descriptors`."""
    pid, fd = pty.fork()
    if pid == 0:
        try:
            if not terminal:
                _leave_session()
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what other tests have open
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            os._exit(0 if has_terminal() else 1)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    assert status in (0, 1)
    return status == 0


def _leave_session() -> None:
    """Go on in a child with a session, so without a terminal, of its own."""
    pid = os.fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.setsid()


@pytest.mark.parametrize(("terminal", "descriptors", "has"), [(True, 64, True), (False, 64, False), (True, 3, True)])
def test_want_of_descriptors_is_no_closed_terminal(terminal: bool, descriptors: int, has: bool) -> None:
    assert asked_in_a_child(terminal, descriptors) == has
