"""The server as `deploy/` has it: processes by the command lines of the units, and the shipped nginx.conf before it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.system.harness import wait_for

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Unit:
    """One unit of `deploy/systemd`: started, and stopped, as its file says."""

    def __init__(self, name: str, environ: dict[str, str], scratch: Path) -> None:
        """`name`: as systemd has it, `kvserver-shard@1`. `scratch`: for its log."""
        template, _, self._instance = name.partition("@")
        file = f"{template}@.service" if self._instance else f"{template}.service"
        common = DEPLOY / "systemd" / "kvserver-.service.d" / "common.conf"
        self._text = "\n".join((DEPLOY / "systemd" / file).read_text().splitlines() + common.read_text().splitlines())
        self.name, self._environ, self.log_path = name, environ, scratch / f"{name}.log"
        self._notices = scratch / f"{name}.notify"
        self.process: subprocess.Popen[bytes] | None = None

    def setting(self, key: str) -> str:
        """The value of a directive that stands there once."""
        (value,) = re.findall(rf"^{key}=(.*)", self._text, re.MULTILINE)
        return str(value).replace("%i", self._instance)

    def _argv(self) -> list[str]:
        line = self.setting("ExecStart").replace("/opt/kvserver/bin/", f"{Path(sys.executable).parent}/")
        return shlex.split(line.replace("/etc/kvserver/", f"{DEPLOY}/"))

    def start(self) -> None:
        """Start it, and wait for the word that systemd waits for."""
        assert self.setting("Type") == "notify"
        self._notices.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, self.log_path.open("ab") as log:
            notices.bind(str(self._notices))
            notices.settimeout(30)
            environ = self._environ | {"NOTIFY_SOCKET": str(self._notices), "PATH": os.environ["PATH"]}
            self.process = subprocess.Popen(self._argv(), env=environ, cwd="/", stdout=log, stderr=log)
            assert "READY=1" in notices.recv(4096).decode().splitlines(), self.log()

    def reload(self) -> None:
        """What ExecReload= does."""
        assert self.setting("ExecReload") == "/bin/kill -HUP $MAINPID" and self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """KillMode=mixed: SIGTERM to the main process; fails if that does not end it in time."""
        assert self.setting("KillMode") == "mixed" and self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(int(self.setting("TimeoutStopSec"))) == 0, self.log()

    def kill(self) -> None:
        """SIGKILL, and what Restart=always makes of it."""
        assert self.setting("Restart") == "always" and self.process is not None
        self.process.kill()
        self.process.wait()
        self.start()

    def log(self) -> str:
        """What its processes said."""
        return self.log_path.read_text(errors="replace")


class Deployed:
    """Store, shards, gateway and web workers, on ports and in directories of the test's own.

    Attributes:
        units: in the order in which systemd starts them.
    """

    def __init__(self, scratch: Path, run_dir: Path) -> None:
        self.port, self.metrics_port, self.tls_port = free_port(), free_port(), free_port()
        environ = dict(re.findall(r"^(KVSERVER_\w+)=(.*)", (DEPLOY / "kvserver.env").read_text(), re.MULTILINE)) | {
            "KVSERVER_DATA_DIR": str(scratch / "data"),
            "KVSERVER_RUN_DIR": str(run_dir),
            "KVSERVER_MAP_DIR": str(scratch / "maps"),
            "KVSERVER_SHARDS": "2",
            "KVSERVER_WORKERS": "2",
            "KVSERVER_PORT": str(self.port),
            "KVSERVER_METRICS_PORT": str(self.metrics_port),
        }
        names = ["store", "shard@0", "shard@1", "gateway", "web"]
        self.units = {name: Unit(f"kvserver-{name}", environ, scratch) for name in names}

    def start(self) -> None:
        """`systemctl start kvserver.target`."""
        for unit in self.units.values():
            unit.start()

    def stop(self) -> None:
        """`systemctl stop kvserver.target`: in the reverse order."""
        for unit in reversed(self.units.values()):
            unit.stop()

    def log(self) -> str:
        """What all of them said."""
        return "".join(unit.log() for unit in self.units.values())

    def close(self) -> None:
        """Kill what is left."""
        for unit in reversed(self.units.values()):
            if unit.process is not None and unit.process.poll() is None:
                unit.process.kill()
                unit.process.wait()


def nginx_conf(tls_port: int, ports: Sequence[int], scratch: Path) -> str:
    """The shipped nginx.conf with ports and paths of the test's, in a frame of its own.

    `ports`: of the server, or of the three machines of a cluster, whose lines an operator takes the # from.
    """
    text = (DEPLOY / "nginx.conf").read_text()
    own = "    server 127.0.0.1:8080;"
    machines = [(f"    # server 10.0.0.{number}:8080 ", port) for number, port in enumerate(ports, 1)]
    of_cluster = [(own, ""), ("    # hash $binary", "    hash $binary")]
    of_cluster += [(line, f"    server 127.0.0.1:{port} ") for line, port in machines]
    for shipped, ours in (
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{tls_port} ssl http2;"),
        ("listen [::]:443 ssl http2;", ""),
        *([(own, f"    server 127.0.0.1:{ports[0]};")] if len(ports) == 1 else of_cluster),
        ("/etc/ssl/kvserver/fullchain.pem", f"{scratch}/cert.pem"),
        ("/etc/ssl/kvserver/privkey.pem", f"{scratch}/key.pem"),
        ("/var/log/nginx/kvserver.log", f"{scratch}/access.log"),
    ):
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, ours)
    temporary = "".join(
        f"{kind}_temp_path {scratch}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    return f"{user} daemon off; worker_processes 1; pid {scratch}/pid; events {{}}\nhttp {{ {temporary} {text} }}\n"


@contextlib.contextmanager
def nginx_before(tls_port: int, ports: Sequence[int], scratch: Path) -> Iterator[None]:
    """A real nginx before the servers at `ports`, with a certificate made for it."""
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=kv.example.org"
    names = ["-addext", "subjectAltName=DNS:kv.example.org,IP:127.0.0.1"]
    files = [*names, "-keyout", str(scratch / "key.pem"), "-out", str(scratch / "cert.pem")]
    subprocess.run([*make.split(), *files], check=True, capture_output=True)
    (scratch / "nginx.conf").write_text(nginx_conf(tls_port, ports, scratch))
    command = ["nginx", "-e", str(scratch / "error.log"), "-c", str(scratch / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0 and "warn" not in checked.stderr, checked.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(tls_port), "nginx")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def needs_root_path() -> None:
    """nginx is in a directory that users may not have in their path."""
    os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin"
    for program in ("nginx", "openssl", "curl"):
        if not any((Path(directory) / program).exists() for directory in os.environ["PATH"].split(":")):
            pytest.skip(f"{program} is not installed")
