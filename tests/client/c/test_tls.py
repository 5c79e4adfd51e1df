"""The C client over TLS: REST, lists, and the feed by both transports; a certificate that is not trusted is refused."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.c.building import run
from tests.client.driver import Driver
from tests.client.sdks import DRIVERS
from tests.system.harness import Server

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", chain, *subject])
    return chain, key


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for side in (source, target):
        try:
            side.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


@pytest.fixture(scope="module")
def tls_url(server: Server, certificate: tuple[Path, Path]) -> Iterator[str]:
    """A proxy that speaks TLS before the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []

    def serve(plain: socket.socket) -> None:
        try:
            inside = context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        outside = socket.create_connection((server.host, server.port))
        sockets.extend((inside, outside))
        threading.Thread(target=pump, args=(inside, outside), daemon=True).start()
        pump(outside, inside)

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(plain,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"https://localhost:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for each in sockets:
        each.close()


def test_everything_goes_through_tls(
    tls_url: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFORM_CA_FILE", str(certificate[0]))
    with Driver(DRIVERS["c"].command(), tls_url) as driver:
        revision = driver.ask("put", key="tls/a", json={"n": 1})["revision"]
        driver.ask("put", key="tls/large", value_base64="AAAA" * 500_000)
        assert driver.ask("get", key="tls/a")["revision"] == revision
        items = driver.ask("scan", prefix="tls/", values=True)["items"]
        assert [item["size"] for item in items] == [7, 1_500_000]
        for transport in ("lines", "websocket"):
            *documents, _ = driver.stream(
                "watch", prefixes=["tls/"], snapshot=True, until_synced=True, transport=transport
            )
            changes = [document["change"] for document in documents[1:]]
            assert [change["kind"] for change in changes] == ["reset", "put", "put", "synced"]
            assert changes[2]["size"] == 1_500_000
        assert driver.ask("delete_prefix", prefix="tls/")["deleted"] == 2


def test_a_certificate_that_is_not_trusted_is_refused(tls_url: str) -> None:
    with Driver(DRIVERS["c"].command(), tls_url, token="secret") as driver:
        driver.ask("options", patience=0)
        for do in ("get", "delete"):
            assert driver.fails(do, key="k").code == "cannot_connect"
        for transport in ("lines", "websocket"):
            assert driver.fails("watch", transport=transport).code == "cannot_connect"
