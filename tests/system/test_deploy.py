"""The server as it is deployed, by the files in `deploy/`: units' command lines, and a real nginx before them."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest
from websockets.sync.client import connect

from tests.system.deployed import Deployed, needs_root_path, nginx_before
from tests.system.harness import wait_for

BLOB = bytes(range(256)) * 19_531  # 4,999,936 bytes, and all of them


@pytest.fixture(scope="module")
def scratch(make_dir: Callable[[str], Path]) -> Path:
    return make_dir("deployed")


@pytest.fixture(scope="module")
def deployed(scratch: Path) -> Iterator[Deployed]:
    run_dir = Path(tempfile.mkdtemp(prefix="kv-", dir="/tmp"))
    running = Deployed(scratch, run_dir)
    try:
        running.start()
        # Where nothing is wrong there is nothing to say.
        assert all("ready" in line or line.startswith(("kvserver ", "  ")) for line in running.log().splitlines())
        yield running
    finally:
        running.close()
        shutil.rmtree(run_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def nginx(deployed: Deployed, scratch: Path) -> Iterator[str]:
    """Its base URL."""
    needs_root_path()
    with nginx_before(deployed.tls_port, [deployed.port], scratch):
        wait_for(lambda: httpx.get(direct(deployed) + "/health/ready", trust_env=False).status_code == 200, "ready")
        yield f"https://127.0.0.1:{deployed.tls_port}"


def direct(deployed: Deployed) -> str:
    return f"http://127.0.0.1:{deployed.port}"


def curl(*arguments: str) -> str:
    """curl over HTTP/2; the status of the answer first."""
    command = ["curl", "-sk", "--noproxy", "*", "--http2", "--path-as-is", "--max-time", "30"]
    done = subprocess.run(
        [*command, "-w", "%{http_version} %{http_code} ", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_requests_arrive_as_they_were_sent(nginx: str, deployed: Deployed) -> None:
    assert curl("-X", "PUT", "-d", "x", f"{nginx}/a%2F%2Fb%20c") == "2 200"
    assert curl("-X", "PUT", "-d", "y", f"{nginx}/v1/kv/d//e/%2e/../f") == "2 201"
    assert httpx.get(f"{direct(deployed)}/keys", trust_env=False).json() == ["a//b c", "d//e/./../f"]
    for key in ("v1/kv/a//b%20c", "a%2F%2Fb%20c"):
        assert curl(f"{nginx}/{key}") == "x2 200"


def test_revisions_and_codings_are_left_alone(nginx: str, deployed: Deployed) -> None:
    with httpx.Client(verify=False, trust_env=False, timeout=30) as client:
        page = {"content-type": "text/plain"}
        client.put(f"{nginx}/v1/kv/tagged", content=b"word " * 1000, headers=page).raise_for_status()
        plain = {"accept-encoding": "identity"}
        for headers in (plain, {"accept-encoding": "gzip"}):
            before, behind = (client.get(f"{base}/v1/kv/tagged", headers=headers) for base in (nginx, direct(deployed)))
            assert before.content == behind.content and before.headers["etag"] == behind.headers["etag"]
            assert before.headers.get("content-encoding") == behind.headers.get("content-encoding")
        etag = client.get(f"{nginx}/v1/kv/tagged", headers=plain).headers["etag"]
        assert client.get(f"{nginx}/v1/kv/tagged", headers={"if-none-match": etag, **plain}).status_code == 304
        writes = [client.put(f"{nginx}/v1/kv/tagged", content=b"z", headers={"if-match": etag}) for _ in range(2)]
        assert [write.status_code for write in writes] == [204, 412]


def test_large_values_and_too_large_ones(nginx: str, scratch: Path) -> None:
    (scratch / "blob").write_bytes(BLOB)
    assert curl("--upload-file", str(scratch / "blob"), f"{nginx}/v1/kv/blob") == "2 201"
    assert curl("-o", str(scratch / "back"), f"{nginx}/v1/kv/blob") == "2 200"
    assert (scratch / "back").read_bytes() == BLOB
    (scratch / "blob").write_bytes(BLOB + bytes(1 << 18))
    refused = curl("--upload-file", str(scratch / "blob"), f"{nginx}/v1/kv/blob")
    assert refused.endswith("2 413") and json.loads(refused.removesuffix("2 413"))["code"] == "value_too_large"


def test_feeds_get_through_at_once(nginx: str, scratch: Path) -> None:
    """Over HTTP/2 a stream and a poll, over HTTP/1.1 a WebSocket; none of them waits for a buffer to fill."""
    poll = Thread(target=lambda: polled.append(curl(f"{nginx}/v1/feed?prefix=f/&wait=20&since={cursor}")))
    polled: list[str] = []
    cursor = json.loads(curl(f"{nginx}/v1/feed").removesuffix("2 200"))["cursor"]
    command = ["curl", "-skN", "--noproxy", "*", "--http2", "-H", "Accept: text/event-stream"]
    stream = subprocess.Popen(
        [*command, f"{nginx}/v1/feed?prefix=f/&since={cursor}"], stdout=subprocess.PIPE, text=True
    )
    unsafe = ssl.create_default_context()
    unsafe.check_hostname, unsafe.verify_mode = False, ssl.CERT_NONE
    try:
        with connect(f"{nginx.replace('https', 'wss')}/wal?ticket=", ssl=unsafe, proxy=None) as socket:
            poll.start()
            assert stream.stdout is not None and stream.stdout.readline() == "retry: 2000\n"
            assert curl("-X", "PUT", "-d", "told", f"{nginx}/f%2Fa") == "2 200"
            told = next(line for line in stream.stdout if line.startswith("data:") and '"events"' in line)
            assert '"key":"f/a"' in told
            assert next(line for line in iter(socket.recv, "") if "Insert" in str(line)) == (
                "Insert { key: f/a, value: told }"
            )
            poll.join(15)
            assert '"key":"f/a"' in polled[0]
    finally:
        stream.kill()
        stream.communicate()


def test_nginx_logs_no_tickets(nginx: str, scratch: Path) -> None:
    curl(f"{nginx}/wal?ticket=kvt_secret")
    wait_for(lambda: '"GET /wal HTTP/2.0"' in (scratch / "access.log").read_text(), "the line")
    assert "kvt_secret" not in (scratch / "access.log").read_text()


def test_workers_are_replaced_behind_nginx_without_a_failed_request(nginx: str, deployed: Deployed) -> None:
    def workers() -> set[int]:
        status = httpx.get(f"{direct(deployed)}/v1/status", trust_env=False).json()
        return {worker["pid"] for worker in status["workers"]}

    before, count = workers(), 0
    deployed.units["web"].reload()
    with httpx.Client(verify=False, trust_env=False, timeout=30) as client:
        while count < 200 or workers() & before:
            client.put(f"{nginx}/v1/kv/reload", content=b"%d" % count).raise_for_status()
            count += 1
        assert int(client.get(f"{nginx}/v1/kv/reload").content) == count - 1


def test_records_travel_over_tls_by_a_certificate_of_ones_own(nginx: str, scratch: Path) -> None:
    """Of this machine, to which no proxy is asked the way."""
    httpx.put(f"{nginx}/v1/kv/tls/a", content=b"1", verify=False, trust_env=False).raise_for_status()
    export = [sys.executable, "-m", "kvserver", "export", "--url", nginx, "--prefix", "tls/", "--patience", "0", "-"]
    environ = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    trusted = environ | {"SSL_CERT_FILE": str(scratch / "cert.pem")}
    done = subprocess.run(export, env=trusted, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"key":"tls/a"' in done.stdout.replace(": ", ":")
    refused = subprocess.run(export, env=environ, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "certificate" in refused.stderr


def test_a_killed_shard_is_back_and_a_restart_keeps_everything(deployed: Deployed) -> None:
    """As systemd would: the shard alone after a SIGKILL, then all of them in order, and the store finds its maps."""
    with httpx.Client(base_url=direct(deployed), trust_env=False, timeout=30) as client:
        for i in range(20):
            client.put(f"/v1/kv/kept/{i}", content=b"%d" % i).raise_for_status()
        deployed.units["shard@1"].kill()
        assert [client.get(f"/v1/kv/kept/{i}").content for i in range(20)] == [b"%d" % i for i in range(20)]
        for i in range(20):
            client.put(f"/v1/kv/kept/{i}", content=b"%d" % -i).raise_for_status()
        epoch = client.get("/v1/status").json()["epoch"]
    deployed.stop()
    deployed.start()
    with httpx.Client(base_url=direct(deployed), trust_env=False, timeout=30) as client:
        wait_for(lambda: client.get("/health/ready").status_code == 200, "readiness")
        assert [client.get(f"/v1/kv/kept/{i}").content for i in range(20)] == [b"%d" % -i for i in range(20)]
        assert client.get("/v1/status").json()["epoch"] == epoch
    deployed.stop()
    assert "Traceback" not in deployed.log()


def test_where_the_store_dies_all_others_end(deployed: Deployed) -> None:
    """By themselves, and not one worker after another for ever; whoever started them does it again."""
    if deployed.units["store"].process is None or deployed.units["store"].process.poll() is not None:
        deployed.start()
    store, *others = [unit.process for unit in deployed.units.values()]
    assert store is not None
    store.kill()
    store.wait()
    for process in others:
        assert process is not None
        process.wait(20)
    deployed.start()
    with httpx.Client(base_url=direct(deployed), trust_env=False, timeout=30) as client:
        wait_for(lambda: client.get("/health/ready").status_code == 200, "readiness")
    deployed.stop()
