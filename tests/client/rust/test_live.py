"""The Rust client against a running server: its examples, its mirrors and locks, and TLS."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.client.rust.test_crate import cargo
from tests.client.sdks import rust_example
from tests.system.harness import Server

pytestmark = pytest.mark.timeout(600)  # a cold build, on a machine that has other work


def run(example: str, *arguments: str, **environ: str) -> str:
    """Run an example to its end and return what it printed."""
    command = [rust_example(example), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mirrors_locks_and_watches(server: Server) -> None:
    cargo("test", "--locked", "--all-features", "--test", "live", "--", "--ignored", KVSERVER_URL=server.url)


def test_the_example_of_rest(server: Server) -> None:
    assert run("rest", KVSERVER_URL=server.url).splitlines() == [
        'rest/theme = "dark", text/plain; charset=utf-8',
        "another write came first",
        'flag = {"on":true,"share":10}',
        "visits = 1",
        "rest/flag has 22 bytes",
        "rest/theme has 5 bytes",
        "rest/visits has 1 bytes",
        "3 deleted",
    ]


def test_the_example_of_the_feed(server: Server) -> None:
    with server.client() as http:
        http.put("/v1/kv/feed/old", content=b"1")
        environ = os.environ | {"KVSERVER_URL": server.url}
        command = [rust_example("feed"), "feed/"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as feed:
            try:
                assert feed.stdout is not None
                assert feed.stdout.readline() == "PUT feed/old = 1\n"
                assert feed.stdout.readline() == "that is all there is; now for the changes\n"
                http.put("/v1/kv/feed/new", content=b"2")
                assert feed.stdout.readline() == "PUT feed/new = 2\n"
                http.delete("/v1/kv/feed/old")
                assert feed.stdout.readline() == "DELETE feed/old (request)\n"
            finally:
                feed.kill()


def test_a_watch_survives_a_restart(server: Server, make_dir: Callable[[str], Path]) -> None:
    with Server(make_dir("restarted"), "--port", str(_free_port())) as restarted:
        environ = os.environ | {"KVSERVER_URL": restarted.url}
        command = [rust_example("feed")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
        ) as feed:
            try:
                assert feed.stdout is not None
                assert feed.stdout.readline() == "that is all there is; now for the changes\n"
                for number in range(2):
                    with restarted.client() as http:
                        http.put("/v1/kv/n", content=b"%d" % number)
                    assert feed.stdout.readline() == f"PUT n = {number}\n"
                    restarted.stop()
                    restarted.start()
            finally:
                feed.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that signs itself, beside its key and its DER form."""
    pem = tmp_path / "server.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(tmp_path / "server.key"), "-out", str(pem), "-days", "2", "-subj", "/CN=kvserver"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(made, check=True, capture_output=True)
    der = ["openssl", "x509", "-in", str(pem), "-outform", "der", "-out", str(tmp_path / "server.der")]
    subprocess.run(der, check=True, capture_output=True)
    return pem


@pytest.fixture
def tls_port(server: Server, certificate: Path) -> Iterator[int]:
    """The port of a proxy that takes TLS off and passes everything else to the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with suppress(OSError):
                        inner = stack.enter_context(context.wrap_socket(plain, server_side=True))
                        outer = stack.enter_context(socket.create_connection((server.host, server.port)))
                        for source, sink in ((inner, outer), (outer, inner)):
                            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def test_tls(tls_port: int, certificate: Path) -> None:
    printed = run("tls", f"https://127.0.0.1:{tls_port}", str(certificate.with_suffix(".der")))
    assert printed.splitlines() == [
        f"{client}: {transport}" for client in ("blocking", "asynchronous") for transport in ("Lines", "WebSocket")
    ]


def test_a_certificate_of_a_stranger_is_refused(tls_port: int) -> None:
    command = [rust_example("conform")]
    environ = os.environ | {"KVSERVER_URL": f"https://127.0.0.1:{tls_port}"}
    lines = '{"id":1,"do":"options","args":{"patience":0}}\n{"id":2,"do":"put","args":{"key":"a","value_base64":""}}\n'
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, env=environ)
    assert '"cannot_connect"' in done.stdout and "ertificate" in done.stdout, done.stdout + done.stderr


def test_the_example_of_the_manual(server: Server) -> None:
    assert run("greeting", KVSERVER_URL=server.url).splitlines()[:2] == [
        "hello",
        'Reset { reason: "start", snapshot: true }',
    ]
