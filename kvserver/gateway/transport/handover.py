"""The receiving end of the handover: web workers pass on connections that ask for a feed.

The protocol is that of `kvserver.web.handover`: one message on a SOCK_SEQPACKET socket, with the connection's
descriptor as ancillary data; the answer is one byte. A worker that gets no answer in time asks another gateway, so a
connection whose worker no longer takes the answer is closed here, untouched.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gevent  # type: ignore[import-untyped]
import msgspec
from gevent import socket as gsocket

from kvserver.web.acceptor import EXHAUSTED_S
from kvserver.web.handover import ACCEPT_S, ACCEPTED, MOST_BYTES, VERSION
from shards.files.kept_file import KeptFile
from shards.host.logs import Recurring
from shards.wire.errors import EXHAUSTED

log = logging.getLogger(__name__)
_exhausted = Recurring(log, logging.ERROR, "no connection can be taken over: %s")
_not_taken = Recurring(log, logging.ERROR, "a connection was not taken over: no descriptor is free for it")
_unknown_form = Recurring(log, logging.WARNING, "a connection was handed over in an unknown format: %s")

_BACKLOG = 512
_decode = msgspec.msgpack.Decoder(tuple[int, str, bytes, bytes]).decode

Adopt = Callable[[gsocket.socket, tuple[str, int] | str, bytes], None]
"""Takes a connection, its client's address, and what was read from it."""


class HandoverListener:
    """Listens from the moment it is made, and accepts in `run`."""

    def __init__(self, path: Path, adopt: Adopt, has_room: Callable[[], bool]) -> None:
        """Listen at `path`. `has_room`: whether one more connection can be served; if not, workers get no answer.

        Raises `OSError`.
        """
        self._adopt, self._has_room = adopt, has_room
        self._closed = False
        self._listener: gsocket.socket | None = None
        self._file = KeptFile(path, partial(self._listen_at, path))

    def _listen_at(self, path: Path) -> None:
        """Listen at `path` with a new socket, then close the former one. Raises `OSError`."""
        listener = gsocket.socket(gsocket.AF_UNIX, gsocket.SOCK_SEQPACKET)
        try:
            path.unlink(missing_ok=True)  # left by a process that died with this row
            listener.bind(str(path))
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        former, self._listener = self._listener, listener
        if former is not None:
            former.close()

    def restore_file(self) -> None:
        """Listen again if the socket's file was removed. To be called about every second."""
        if not self._closed:
            self._file.restore_if_gone()

    def run(self) -> None:
        """Accept connections until `close`. Blocks."""
        while True:
            listener = self._listener
            assert listener is not None
            try:
                channel, _ = listener.accept()
            except OSError as error:
                if listener is not self._listener:
                    continue  # another took its place in the meantime
                if error.errno not in EXHAUSTED:
                    return
                _exhausted.report(error.strerror)
                gevent.sleep(EXHAUSTED_S)  # some descriptors may be free by then
            else:
                gevent.spawn(self._take_over, channel)

    def close(self) -> None:
        """Take over no more connections. Workers that got no answer go to the next gateway."""
        self._closed = True
        if self._listener is not None:
            self._listener.close()
        self._file.remove()

    def _take_over(self, channel: gsocket.socket) -> None:
        """Receive one connection, answer its worker, and adopt it."""
        with channel, gevent.Timeout(ACCEPT_S, False), contextlib.suppress(OSError):
            message, fds, whole = _receive_fds(channel)
            if not whole:
                _close_all(fds)
                _not_taken.report()
                return
            try:
                version, address, head, rest = _decode(message)
                if version != VERSION or len(fds) != 1:
                    raise ValueError(f"version {version} with {len(fds)} descriptors")
            except (ValueError, msgspec.MsgspecError) as error:
                _close_all(fds)
                if message:
                    _unknown_form.report(error)
                return
            if self._closed or not self._has_room() or not _send_answer(channel):
                _close_all(fds)
                return
            self._adopt(gsocket.socket(fileno=fds[0]), _parse_address(address), head + rest)


def _receive_fds(channel: gsocket.socket) -> tuple[bytes, list[int], bool]:
    """Receive a message; return it, its descriptors, and whether none of these was lost."""
    fds = array.array("i")
    message, ancillary, flags, _ = channel.recvmsg(
        MOST_BYTES, gsocket.CMSG_SPACE(fds.itemsize), gsocket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if (level, kind) == (gsocket.SOL_SOCKET, gsocket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds), not flags & gsocket.MSG_CTRUNC


def _send_answer(channel: gsocket.socket) -> bool:
    try:
        channel.sendall(ACCEPTED)
    except OSError:
        return False
    return True


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _parse_address(text: str) -> tuple[str, int] | str:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() else ""
