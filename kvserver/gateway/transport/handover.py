"""The receiving end of a hand-over: web workers give us connections that ask for a feed.

The protocol is that of `kvserver.web.handoff`: one message on a SOCK_SEQPACKET socket, with the connection's descriptor
beside it; the answer is one byte. A worker that did not get it in time has told its client that there is no gateway,
so a connection whose worker does not take the answer any more is let go, untouched.
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
from kvserver.web.handoff import ACCEPT_S, ACCEPTED, MOST_BYTES, VERSION
from shards.files.kept_file import KeptFile
from shards.host.logs import Recurring
from shards.wire.errors import EXHAUSTED

log = logging.getLogger(__name__)
_exhausted = Recurring(log, logging.ERROR, "no connection can be taken over: %s")
_not_taken = Recurring(log, logging.ERROR, "a connection was not taken over: no descriptor is free for it")
_unknown_form = Recurring(log, logging.WARNING, "a connection was handed over in a form this version does not know: %s")

_BACKLOG = 512
_decode = msgspec.msgpack.Decoder(tuple[int, str, bytes, bytes]).decode

Adopt = Callable[[gsocket.socket, tuple[str, int] | str, bytes], None]
"""Takes a connection, its client's address, and what was read from it."""


class Reception:
    """Listens at `path` from the moment it is made, and accepts in `run`."""

    def __init__(self, path: Path, adopt: Adopt, has_room: Callable[[], bool]) -> None:
        """`has_room`: whether one more connection can be served; without, workers are left without an answer."""
        self._adopt, self._has_room = adopt, has_room
        self._closed = False
        self._listener: gsocket.socket | None = None
        self._file = KeptFile(path, partial(self._listen, path))

    def _listen(self, path: Path) -> None:
        """Listen at `path` instead of where we did. Raises `OSError`."""
        listener = gsocket.socket(gsocket.AF_UNIX, gsocket.SOCK_SEQPACKET)
        try:
            path.unlink(missing_ok=True)  # of a process that died with this row
            listener.bind(str(path))
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        former, self._listener = self._listener, listener
        if former is not None:
            former.close()

    def look_after_file(self) -> None:
        """Listen anew where somebody has removed the socket's file. To be called about every second."""
        if not self._closed:
            self._file.restore_if_gone()

    def run(self) -> None:
        """Accept until `close`."""
        while True:
            listener = self._listener
            assert listener is not None
            try:
                channel, _ = listener.accept()
            except OSError as error:
                if listener is not self._listener:
                    continue  # another took its place meanwhile
                if error.errno not in EXHAUSTED:
                    return
                _exhausted.report(error.strerror)
                gevent.sleep(EXHAUSTED_S)  # some will have gone
            else:
                gevent.spawn(self._receive, channel)

    def close(self) -> None:
        """Take nothing any more. Workers whose offer was not answered go to the next gateway."""
        self._closed = True
        if self._listener is not None:
            self._listener.close()
        self._file.remove()

    def _receive(self, channel: gsocket.socket) -> None:
        """Take one connection."""
        with channel, gevent.Timeout(ACCEPT_S, False), contextlib.suppress(OSError):
            message, fds, whole = _receive_fds(channel)
            if not whole:
                _close(fds)
                _not_taken.report()
                return
            try:
                version, address, head, rest = _decode(message)
                if version != VERSION or len(fds) != 1:
                    raise ValueError(f"version {version} with {len(fds)} descriptors")
            except (ValueError, msgspec.MsgspecError) as error:
                _close(fds)
                if message:
                    _unknown_form.report(error)
                return
            if self._closed or not self._has_room() or not _answer(channel):
                _close(fds)
                return
            self._adopt(gsocket.socket(fileno=fds[0]), _address(address), head + rest)


def _receive_fds(channel: gsocket.socket) -> tuple[bytes, list[int], bool]:
    """What was sent, the descriptors beside it, and whether that is all of them."""
    fds = array.array("i")
    message, ancillary, flags, _ = channel.recvmsg(
        MOST_BYTES, gsocket.CMSG_SPACE(fds.itemsize), gsocket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if (level, kind) == (gsocket.SOL_SOCKET, gsocket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds), not flags & gsocket.MSG_CTRUNC


def _answer(channel: gsocket.socket) -> bool:
    try:
        channel.sendall(ACCEPTED)
    except OSError:
        return False
    return True


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _address(text: str) -> tuple[str, int] | str:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() else ""
