"""The files that the engine and the order's process are started with, and the secret that they are made from."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvserver.serve.cluster.addresses import Machine, parse_machines
from kvserver.serve.cluster.certificates import BadCertificate, check_certificates
from kvserver.serve.cluster.engine_config import EngineFacts, Tls, password_of, render
from kvserver.settings import ServerSettings
from shards.files.safe_files import open_named
from shards.files.trusted_path import Care
from shards.host.settings import SettingError

DIRECTORY: Final = "engine"
"""Of the engine's files, in the data directory."""
USER_FILE: Final = "order.user"
"""In the run directory: name and password of this machine's user."""
LEAST_SECRET: Final = 32
"""Bytes."""
_MOST_SECRET: Final = 4096
_INSTALL: Final = "`pip install '.[cluster]'` in the checkout brings it"


class ClusterError(SettingError):
    """The cluster cannot be started as the settings say; the message says why and what would be right."""


@dataclass(frozen=True)
class ClusterSetup:
    """How this machine takes part in its cluster.

    Attributes:
        node: its name.
        machines: all machines whose engines their servers start; empty: the engines run elsewhere.
        servers: URLs of the engines, this machine's own first.
        secret: of the machines; empty if the engines run elsewhere.
        tls: None for plain connections.
        binary: nats-server; None if the engines run elsewhere.
    """

    node: str
    machines: tuple[Machine, ...]
    servers: tuple[str, ...]
    secret: bytes
    tls: Tls | None
    binary: str | None

    @property
    def own(self) -> Machine | None:
        """This machine; None if the engines run elsewhere."""
        return next((machine for machine in self.machines if machine.name == self.node), None)

    def write_user(self, run_dir: Path) -> Path | None:
        """Write name and password of this machine's user; return the file, or None if it needs none."""
        if not self.secret:
            return None
        user = f"{self.node}:{password_of(self.secret, self.node)}" if self.machines else self.secret.decode()
        return _write_secretly(run_dir / USER_FILE, user)

    def write_config(self, data_dir: Path, log_to_file: bool) -> Path:
        """Write the engine's configuration; return its file. Raises `OSError`."""
        assert self.own is not None
        home = data_dir / DIRECTORY
        home.mkdir(mode=0o700, exist_ok=True)
        log_file = home / "engine.log" if log_to_file else None
        facts = EngineFacts(self.own, self.machines, self.secret, home, self.tls, log_file)
        return _write_secretly(home / "engine.conf", render(facts))


def setup_of(settings: ServerSettings) -> ClusterSetup | None:
    """Return what the settings say of the cluster, None without one. Raises `ClusterError`, `OSError`."""
    if settings.cluster is None or settings.node is None:
        return None
    if importlib.util.find_spec("nats") is None:
        raise ClusterError(f"--cluster needs nats-py, which is not installed: {_INSTALL}")
    if settings.in_memory:
        raise ClusterError("--cluster needs a data directory: leave --in-memory out")
    tls = _tls_of(settings)
    try:
        machines = parse_machines(settings.cluster)
    except ValueError as error:
        raise ClusterError(f"--cluster is {settings.cluster!r}: {error}") from None
    if not machines:
        _check_monitors(settings)
        _check_tls(tls, None)
        secret = b"" if settings.cluster_secret is None else read_secret(settings.cluster_secret, least=3)
        return ClusterSetup(settings.node, (), tuple(settings.cluster.split(",")), secret, tls, None)
    if settings.cluster_secret is None:
        raise ClusterError(
            "--cluster needs --cluster-secret, a file that is the same on all machines: `kvserver cluster secret FILE` "
            "makes one"
        )
    secret = read_secret(settings.cluster_secret)
    ordered = sorted(machines, key=lambda machine: machine.name != settings.node)
    _check_tls(tls, ordered[0].host)
    servers = tuple(f"nats://{machine.address}" for machine in ordered)
    return ClusterSetup(settings.node, machines, servers, secret, tls, find_binary())


def _check_monitors(settings: ServerSettings) -> None:
    """Raise `ClusterError` if some engines are named without the address where they say that they flush."""
    assert settings.cluster is not None
    engines, monitors = len(settings.cluster.split(",")), len((settings.cluster_monitors or "").split(","))
    if settings.cluster_monitors is not None and monitors != engines:
        raise ClusterError(
            f"--cluster-monitors names {monitors} of the {engines} nats-servers in --cluster: name all, since each has "
            "to flush what it confirms"
        )


def find_binary() -> str:
    """Return the path of nats-server: that of this environment, else of the system. Raises `ClusterError`."""
    own = str(Path(sys.executable).parent)
    found = shutil.which("nats-server", path=own) or shutil.which("nats-server")
    if found is None:
        raise ClusterError(
            f"--cluster needs nats-server, which is not installed: {_INSTALL}, or put nats-server on the PATH"
        )
    return found


def read_secret(path: Path, least: int = LEAST_SECRET) -> bytes:
    """Return the secret in a file that only its owner can read. Raises `ClusterError`."""
    try:
        with open_named(path, Care.READ) as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(_MOST_SECRET).strip()
    except OSError as error:
        raise ClusterError(f"--cluster-secret cannot be read: {error.strerror} ({path})") from None
    if mode & 0o077:
        raise ClusterError(f"--cluster-secret is {path}, which others can read: chmod 600 {path}")
    if len(text) < least:
        raise ClusterError(f"--cluster-secret is {path}, which has {len(text)} bytes; expected at least {least}")
    return text


def _tls_of(settings: ServerSettings) -> Tls | None:
    files = (settings.cluster_tls_cert, settings.cluster_tls_key, settings.cluster_tls_ca)
    if files == (None, None, None):
        return None
    if None in files:
        raise ClusterError(
            "TLS between the machines needs --cluster-tls-cert, --cluster-tls-key and --cluster-tls-ca: give all "
            "three, or none"
        )
    for path in files:
        if path is not None and not os.access(path, os.R_OK):
            raise ClusterError(f"{path} cannot be read: TLS between the machines needs it")
    cert, key, ca = (path.absolute() for path in files if path is not None)
    return Tls(cert, key, ca)


def _check_tls(tls: Tls | None, host: str | None) -> None:
    """Raise `ClusterError` if this machine's certificate is not good for `host`."""
    if tls is None:
        return
    try:
        check_certificates(tls, host)
    except BadCertificate as error:
        raise ClusterError(str(error)) from None


def _write_secretly(path: Path, text: str) -> Path:
    """Write a file that only this user can read, in the place of one that may be there."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    new.rename(path)
    return path
