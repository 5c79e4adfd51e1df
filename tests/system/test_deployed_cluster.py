"""A cluster as it is deployed: nginx, Prometheus and its alerts before three machines, by the files in `deploy/`."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from kvserver.client import Client
from tests.cluster.own_engines import OwnEngines, own_engines
from tests.system import feeds
from tests.system.deployed import free_port, needs_root_path, nginx_before
from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.programs import program
from tests.system.monitored import prometheus
from tests.system.test_metrics import OF_CLUSTER, dashboard_queries, needs_prometheus

KEYS = [f"kept/{number}" for number in range(20)]


@pytest.fixture(scope="module")
def servers() -> Iterator[OwnEngines]:
    with own_engines() as made:
        with Client(made.urls, patience=60) as kv:
            kv.put_many((key, key) for key in KEYS)
        yield made


@pytest.fixture(scope="module")
def nginx(servers: OwnEngines, make_dir: Callable[[str], Path]) -> Iterator[str]:
    """Its base URL."""
    needs_root_path()
    port = free_port()
    with nginx_before(port, [server.port for server in servers.all], make_dir("nginx")):
        yield f"https://127.0.0.1:{port}"


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, verify=False, trust_env=False, timeout=30)


def until_whole(servers: OwnEngines) -> None:
    """Wait until all machines are members that answer reads, as each sees it."""

    def is_whole(server: Server) -> bool:
        cluster = server.status()["cluster"]
        return cluster["current"] and all(node["member"] and node["reachable"] for node in cluster["nodes"])

    for server in servers.all:
        wait_for(lambda server=server: is_whole(server), "it is whole", 90)


def machine_behind(nginx: str, servers: OwnEngines) -> Server:
    """The machine that nginx chose for this address."""
    with client_of(nginx) as client:
        node = client.get("/v1/status").raise_for_status().json()["cluster"]["node"]
    return servers[node]


def test_a_client_stays_on_its_machine_and_its_feeds_get_through(nginx: str, servers: OwnEngines) -> None:
    chosen = machine_behind(nginx, servers)
    with client_of(nginx) as client:
        nodes = {client.get("/v1/status").json()["cluster"]["node"] for _ in range(20)}
        assert len(nodes) == 1, "or a ticket would be good by chance"
        assert "<title>" in client.get("/console/").raise_for_status().text
        cursor = client.get("/v1/feed").json()["cursor"]
        unsafe = ssl.create_default_context()
        unsafe.check_hostname, unsafe.verify_mode = False, ssl.CERT_NONE
        other = next(server for server in servers.all if server is not chosen)
        with connect(f"{nginx.replace('https', 'wss')}/wal", ssl=unsafe, proxy=None) as socket:
            with client.stream("GET", f"/v1/feed?since={cursor}", headers={"Accept": "text/event-stream"}) as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("retry:")
                with other.client() as direct:
                    direct.put("/v1/kv/fed", content=b"told").raise_for_status()
                told = json.loads(next(line for line in lines if '"events"' in line).removeprefix("data:"))
                assert [event["key"] for event in told["events"]] == ["fed"]
            assert next(line for line in iter(socket.recv, "") if "Insert" in str(line)) == (
                "Insert { key: fed, value: told }"
            )


@pytest.mark.timeout(400)
def test_a_machine_dies_under_load_and_no_read_fails(nginx: str, servers: OwnEngines) -> None:
    """It is the one that all go to, and leads the stream. Reads, and writes with a key, are repeated elsewhere."""
    until_whole(servers)
    chosen, over = machine_behind(nginx, servers), threading.Event()
    servers.make_leader(chosen.status()["cluster"]["node"])
    cursor = feeds.now(servers.all[0])
    reads: Counter[int] = Counter()
    keyed: Counter[int] = Counter()
    plain: Counter[int] = Counter()
    done, lock = [0, 0], threading.Lock()

    def read(_: int) -> None:
        with client_of(nginx) as client:
            while not over.is_set():
                for key in KEYS:
                    answer = client.get(f"/v1/kv/{key}")
                    reads[answer.status_code] += 1
                    assert answer.status_code != 200 or answer.text == key

    def write(kind: int) -> None:
        """Count up with a key for each request, or put values without one."""
        with client_of(nginx) as client:
            while not over.is_set():
                if kind:
                    key = {"Idempotency-Key": f"{time.time_ns()}"}
                    answer = client.post("/v1/kv/written/1?incr=1", headers=key)
                else:
                    answer = client.put("/v1/kv/written/0", content=b"%d" % time.time_ns())
                with lock:
                    (keyed if kind else plain)[answer.status_code] += 1
                    done[kind] += answer.is_success
                if not answer.is_success:
                    time.sleep(0.05)

    with ThreadPoolExecutor(10) as pool:
        running = [pool.submit(read, number) for number in range(4)] + [
            pool.submit(write, kind) for kind in (0, 0, 0, 1, 1, 1)
        ]
        try:
            wait_for(lambda: min(done) > 20, "load", 60)
            chosen.kill()
            before = list(done)
            wait_for(lambda: min(after - was for after, was in zip(done, before, strict=True)) > 20, "it goes on", 60)
            assert machine_behind(nginx, servers) is not chosen
        finally:
            over.set()
        for each in running:
            each.result()
    assert set(reads) == {200}, reads
    chosen.start()
    left = next(server for server in servers.all if server is not chosen)
    messages, _ = feeds.polled(left, cursor, prefix="written/")
    changes = Counter(event["key"] for message in messages for event in message["events"])
    for kind, answers in enumerate((plain, keyed)):
        assert set(answers) <= {200, 201, 204, 502, 503, 504}, answers
        unknown, made = answers[502] + answers[504], changes[f"written/{kind}"]
        assert done[kind] <= made <= done[kind] + unknown, f"{answers}, {made}: each is done once at most"
    until_whole(servers)


@needs_prometheus
@pytest.mark.timeout(400)
def test_alerts_fire_for_a_machine_that_dies_until_it_is_back(servers: OwnEngines, tmp_path: Path) -> None:
    until_whole(servers)
    c, target = servers["c"], servers.targets[2]
    with prometheus(servers.targets, tmp_path) as running:
        wait_for(lambda: len(running.query('up{job="kvserver"} == 1')) == 3, "all are scraped", 60)
        for query in [query for query in dashboard_queries() if any(word in query for word in OF_CLUSTER)]:
            wait_for(lambda query=query: running.query(query), f"a result of {query}", 60)
        wait_for(lambda: not running.firing(), "all is well", 60)
        c.kill()
        fired = {("KvserverDown", target), ("KvserverMachineOut", "")}
        wait_for(lambda: fired <= running.firing(), "both alerts", 90)
        assert {name for name, _ in running.firing()} <= {
            "KvserverDown",
            "KvserverMachineOut",
            "KvserverUnknownOutcomes",
        }
        assert f"the store on {target} does not answer" in running.summaries()
        assert "1 machines are out of the cluster: the failure of another may stop it" in running.summaries()
        c.start()
        wait_for(lambda: not fired & running.firing(), "both are resolved", 90)


@pytest.mark.timeout(300)
def test_a_ticket_is_good_where_nginx_sends_its_page(make_dir: Callable[[str], Path]) -> None:
    """And a page gets another one where its machine has died."""
    needs_root_path()
    place, port = make_dir("tokens"), free_port()
    tokens = str(place / "tokens.toml")
    token = program(None, "token", "new", "page", "--grant", "read,write,feed,admin", "--tokens", tokens)
    assert token.returncode == 0, token.stderr
    bearer = {"Authorization": f"Bearer {token.stdout.decode().strip()}"}
    with (
        own_engines(of_servers=("--tokens", tokens)) as servers,
        nginx_before(port, [each.port for each in servers.all], place),
        client_of(f"https://127.0.0.1:{port}") as client,
    ):

        def stream() -> list[str]:
            """The beginning of a stream that a ticket opens, which stands in its URL."""
            asked = client.post("/v1/tickets", json={"for": "sse"}, headers=bearer).raise_for_status()
            query = {"ticket": asked.json()["ticket"]}
            accepted = {"Accept": "text/event-stream"}
            with client.stream("GET", "/v1/feed", params=query, headers=accepted) as answer:
                assert answer.status_code == 200, answer.read()
                lines = answer.iter_lines()
                return [next(lines), next(lines)]

        for _ in range(10):
            assert stream()[0].startswith("retry:")
        node = client.get("/v1/status", headers=bearer).json()["cluster"]["node"]
        servers[node].kill()
        wait_for(lambda: client.post("/v1/tickets", json={"for": "sse"}, headers=bearer).is_success, "a ticket", 60)
        assert stream()[0].startswith("retry:")
        servers[node].start()
