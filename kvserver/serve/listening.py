"""TCP sockets the server listens on: which addresses are allowed, and helpful errors if binding fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator

from kvserver.settings import ServerSettings
from shards.host.settings import SettingError, option_name

# Classic BPF program for a TCP segment: drop requests for a new connection (SYN in the flags at byte 13).
_DROP_NEW = struct.pack(
    "HBBI" * 4,
    0x30,
    0,
    0,
    13,  # load a byte
    0x45,
    0,
    1,
    0x02,  # skip one instruction unless SYN is set
    0x06,
    0,
    0,
    0,  # return 0: drop the segment
    0x06,
    0,
    0,
    0xFFFF_FFFF,  # return its length: keep it
)
_SO_ATTACH_FILTER = 26
_TCP_INFO_UNACKED = struct.Struct("24xI")  # for a listening socket: connections not accepted yet

_BACKLOG = 2048

METRICS_FD_VARIABLE = "KVSERVER_METRICS_FD"
"""Environment variable with the descriptor of the exporter's listening socket."""


class ListenError(Exception):
    """The server cannot listen on an address; the message says why and which option to change."""


def refuse_open_access(settings: ServerSettings, has_tokens: bool) -> None:
    """Raise `SettingError` if other machines could reach the store without access control."""
    if has_tokens or settings.insecure or not is_open_to_others(settings.host):
        return
    raise SettingError(
        f"{option_name('host')} {settings.host} lets everybody who can reach this machine read, change and delete "
        f"everything, because the store has no access control. Use tokens ({option_name('tokens')}), listen on "
        f"127.0.0.1 behind a proxy that authenticates clients, or pass {option_name('insecure')} to allow it."
    )


class Listeners:
    """The TCP listeners, bound before any slow step.

    The supervisor keeps them open for its whole life, so that clients can connect while the processes that accept are
    restarted. The supervisor itself never accepts. Clients of a server alone may come before it has read its log, and
    wait. A machine of a cluster may wait for others for as long as it takes: until `listen` it refuses them, so that
    they go to another machine.

    Attributes:
        rest, feed: None if the server does not listen there.
        metrics: always there.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Raises `ListenError`."""
        with contextlib.ExitStack() as stack:
            self.rest = self.feed = None
            if settings.only is None:
                self.rest = stack.enter_context(bind_listener(settings.host, settings.port, "port"))
                if settings.feed_port is not None:
                    self.feed = stack.enter_context(bind_listener(settings.host, settings.feed_port, "feed_port"))
            self.metrics = stack.enter_context(
                bind_listener(settings.metrics_host, settings.metrics_port, "metrics_port", "metrics_host")
            )
            self._guards: list[socket.socket] = []
            if settings.cluster is None:
                self.listen()
            else:
                self._guards += [stack.enter_context(_guard(*row)) for row in self._rows()]
            stack.pop_all()

    def listen(self) -> None:
        """Let clients connect. Raises `ListenError` if another process has listened there first."""
        for listener, setting in self._rows():
            try:
                listener.listen(_BACKLOG)
            except OSError as error:
                raise _refused(error, listener, setting) from None
        while self._guards:
            self._guards.pop().close()

    def _rows(self) -> Iterator[tuple[socket.socket, str]]:
        """Yield the listeners, each with the setting that chooses its port."""
        for listener, setting in ((self.rest, "port"), (self.feed, "feed_port"), (self.metrics, "metrics_port")):
            if listener is not None:
                yield listener, setting

    @property
    def client_facing(self) -> list[socket.socket]:
        """The listeners that clients of the store connect to."""
        return [listener for listener in (self.rest, self.feed) if listener is not None]

    def close(self) -> None:
        """Close all listeners. New connections are refused once the workers have closed theirs as well."""
        for listener in (*self.client_facing, self.metrics, *self._guards):
            listener.close()


def bind_listener(host: str, port: int, setting: str, host_setting: str = "host") -> socket.socket:
    """Return a bound TCP socket, which does not listen yet; port 0 picks a free port.

    Raises `ListenError`, which names the options of `setting` and `host_setting`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Allows a port with connections in TIME_WAIT, but does not share it with a living listener.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ListenError(_explain_bind_error(error, host, port, setting, host_setting)) from None
    return listener


def _guard(listener: socket.socket, setting: str) -> socket.socket:
    """Keep servers that do not listen yet from one port: TCP lets several bind it until one listens.

    Returns a socket whose abstract name, which is of a network namespace as ports are, has host and port of `listener`.
    Raises `ListenError`.
    """
    guard = socket.socket(socket.AF_UNIX)
    try:
        guard.bind(f"\0kvserver {url_address(listener)}")
    except OSError as error:
        guard.close()
        raise _refused(error, listener, setting) from None
    return guard


def _refused(error: OSError, listener: socket.socket, setting: str) -> ListenError:
    """Return the error of a bound `listener` that may not listen, whose port `setting` has chosen."""
    host, port = listener.getsockname()[:2]
    return ListenError(_explain_bind_error(error, host, port, setting, "host"))


def _explain_bind_error(error: OSError, host: str, port: int, setting: str, host_setting: str) -> str:
    option = option_name(setting)
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: choose another with {option}, or stop the process that uses it"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges: choose 1024 or above with {option}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {host}: choose another with {option_name(host_setting)}"
    return f"cannot listen on {host} port {port} ({option}): {error.strerror}"


def is_open_to_others(host: str) -> bool:
    """Whether other machines can reach what listens on `host`, an IP address."""
    return not ipaddress.ip_address(host).is_loopback


def url_address(listener: socket.socket) -> str:
    """Return host and port of a socket as written in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def drop_new_connections(listener: socket.socket) -> None:
    """Make the kernel drop requests for new connections to `listener`, whichever process accepts there.

    Established connections can still be accepted. Once none is left, closing the socket cuts off no client, although
    closing resets connections that were not accepted. A client whose SYN was dropped retries after about a second and
    is refused then. If the kernel does not allow the filter, nothing changes.
    """
    program = ctypes.create_string_buffer(_DROP_NEW)
    described = struct.pack("HxxxxxxP", len(_DROP_NEW) // 8, ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def count_unaccepted(listener: socket.socket) -> int:
    """Return the number of connections not accepted yet; 0 if the kernel does not report it."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED.size)
    except OSError:
        return 0
    count: int = _TCP_INFO_UNACKED.unpack(info)[0]
    return count
