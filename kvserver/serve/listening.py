"""TCP sockets the server listens on: who may reach them, and messages that help if they cannot be had."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import socket
import struct

from kvserver.settings import ServerSettings
from shards.host.settings import SettingError, option_name

# Classic BPF, of a TCP segment: drop it if it asks for a new connection (SYN set, in the flags at byte 13).
_DROP_NEW = struct.pack(
    "HBBI" * 4,
    0x30,
    0,
    0,
    13,  # load a byte
    0x45,
    0,
    1,
    0x02,  # if none of these bits is set, skip one
    0x06,
    0,
    0,
    0,  # return 0: drop
    0x06,
    0,
    0,
    0xFFFF_FFFF,  # return all of it
)
_SO_ATTACH_FILTER = 26
_TCP_INFO_UNACKED = struct.Struct("24xI")  # of a listening socket: how many connections wait to be accepted


METRICS_HOST = "127.0.0.1"
METRICS_FD_VARIABLE = "KVSERVER_METRICS_FD"
"""Environment variable that tells the process which serves /metrics the descriptor of its listening socket."""


class ListenError(Exception):
    """An address cannot be listened on; the message says why and which option to change."""


def refuse_openly(settings: ServerSettings, has_tokens: bool) -> None:
    """Raise `SettingError` if others than this machine could reach the store without any access control."""
    if has_tokens or settings.insecure or ipaddress.ip_address(settings.host).is_loopback:
        return
    raise SettingError(
        f"{option_name('host')} {settings.host} lets everybody who can reach this machine read, change and delete "
        f"everything, because the store has no access control. Give it tokens ({option_name('tokens')}), listen on "
        f"127.0.0.1 behind a proxy that asks who comes, or say {option_name('insecure')} if that is meant."
    )


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening TCP socket; with port 0 on a free port. Raises `ListenError`, naming the option of `setting`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A predecessor's connections may linger in TIME_WAIT; this does not share the port with a living listener.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ListenError(_why(error, host, port, setting)) from None
    return listener


def _why(error: OSError, host: str, port: int, setting: str) -> str:
    option = option_name(setting)
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: choose another with {option}, or end the process that has it"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges: choose one from 1024 on with {option}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {host}: choose another with {option_name('host')}"
    return f"cannot listen on {host} port {port} ({option}): {error.strerror}"


def address(listener: socket.socket) -> str:
    """Host and port of a socket as they stand in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def take_no_more(listener: socket.socket) -> None:
    """Have the kernel not answer to whoever wants to connect from now on, whatever process accepts here.

    Connections that are made already can be accepted, and when none is left, the last process can close the socket
    without cutting anybody off: closing resets what waits. Who was not answered asks again within a second or so, and
    is refused then. Where the kernel does not let us, nothing changes.
    """
    program = ctypes.create_string_buffer(_DROP_NEW)
    described = struct.pack("HxxxxxxP", len(_DROP_NEW) // 8, ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def waiting(listener: socket.socket) -> int:
    """How many connections wait to be accepted; 0 if the kernel does not say."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED.size)
    except OSError:
        return 0
    count: int = _TCP_INFO_UNACKED.unpack(info)[0]
    return count
