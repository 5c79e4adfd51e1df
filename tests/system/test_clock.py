"""A clock that is wrong, and then set: whatever it says, lifetimes last as long as was said, and times mean what they
say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from kvserver.api.times import parse_rfc3339, rfc3339
from tests.system.harness import Server, wait_for
from tests.system.setclock import SetClock

DAY_S = 86_400
TEN_YEARS_S = 3650 * DAY_S


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    return SetClock(tmp_path / "clock")


@pytest.fixture
def server(tmp_path: Path, clock: SetClock) -> Iterator[Server]:
    """Not started yet."""
    server = Server(tmp_path / "data", "--shards", "2", "--workers", "1", environ=clock.environ)
    yield server
    server.close()


def at(clock: SetClock, seconds: float) -> str:
    return rfc3339(round((clock.now_s() + seconds) * 1000))


def left_s(answer: httpx.Response, clock: SetClock) -> float:
    """How long the value will still be there, as it is told."""
    return parse_rfc3339(answer.headers["kv-expires"]) / 1000 - clock.now_s()


def date_of(answer: httpx.Response, name: str) -> float:
    return parsedate_to_datetime(answer.headers[name]).timestamp()


def check(server: Server) -> str:
    """What `kvserver check` prints; the store must be as it should be."""
    where = ("--data-dir", str(server.data_dir), "--run-dir", str(server.run_dir), "--map-dir", str(server.map_dir))
    return command(None, "check", *where)


def command(clock: SetClock | None, *words: str) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "kvserver", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | (clock.environ if clock is not None else {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_start_with_the_clock_ahead_harms_nothing(server: Server, clock: SetClock) -> None:
    clock.set_ahead(TEN_YEARS_S)
    server.start()
    with server.client() as client:
        client.put("/v1/kv/old", content=b"v")
        client.put("/v1/kv/kept?ttl=900", content=b"v")
        client.put("/v1/kv/short?ttl=1", content=b"v")
        short_until = time.monotonic() + 1.1
    server.stop()
    clock.set_ahead(0)
    assert "clock" not in server.log()

    server.start()
    assert "which is in the future" in server.log()
    with server.client() as client:
        assert client.put(f"/v1/kv/hour?expires={at(clock, 3600)}", content=b"v").status_code == 201
        assert client.put(f"/v1/kv/past?expires={at(clock, -1)}", content=b"v").status_code == 400
        assert client.put("/v1/kv/t?ttl=1", content=b"v").status_code == 201
        t_until = time.monotonic() + 1.1
        assert left_s(client.get("/v1/kv/hour"), clock) <= 3600
        for key in ("hour", "old"):
            for headers in ({}, {"X-Other-Road": "1"}):
                answer = client.get(f"/v1/kv/{key}", headers=headers)
                assert date_of(answer, "last-modified") <= date_of(answer, "date") + 1
        assert 0 < left_s(client.get("/v1/kv/kept"), clock) <= 900
        for item in client.get("/v1/kv?prefix=").json()["items"]:
            assert parse_rfc3339(item["created"]) <= parse_rfc3339(item["modified"]) <= clock.now_s() * 1000
        wait_for(lambda: time.monotonic() > short_until, "the end of a lifetime")
        assert client.get("/v1/kv/short").status_code == 404
        assert server.status()["clock"]["ahead_s"] < -TEN_YEARS_S + DAY_S
        shown = [line for line in server.metrics().splitlines() if line.startswith("kvserver_clock_ahead_seconds ")]
        assert float(shown[0].split()[1]) < -TEN_YEARS_S + DAY_S
    server.stop()
    wait_for(lambda: time.monotonic() > t_until, "the end of a lifetime")

    server.start()
    with server.client() as client:
        assert client.get("/v1/kv/t").status_code == 404, "lifetimes go on while the server is down"
    server.stop()


@pytest.mark.parametrize(("year", "counts_as"), [(1965, "1970-01-01T00:00:00"), (12000, "9000-01-01T00:00:00")])
def test_a_time_that_cannot_be_is_named_and_counts_as_the_nearest(
    server: Server, clock: SetClock, year: int, counts_as: str, tmp_path: Path
) -> None:
    clock.set_ahead(round((year - 1970) * 365.2425 * DAY_S - time.time()))
    server.start()
    warned = [line for line in server.log().splitlines() if " INFO " not in line]
    assert len(warned) == 1 and f"which counts as {counts_as}" in warned[0], server.log()
    with server.client() as client:
        assert client.put("/v1/kv/kept?ttl=315360000", content=b"v").status_code == 201
        cursor = client.get("/v1/feed?snapshot=true").json()["cursor"]
        for path in ("/kept", "/v1/kv/kept", "/v1/kv?prefix=", f"/v1/feed?since={cursor}", "/v1/status", "/docs/"):
            assert client.get(path).status_code == 200, path
    assert "kvserver_info" in server.metrics()
    backup = str(tmp_path / "backup")
    assert command(clock, "backup", backup, "--data-dir", str(server.data_dir), "--run-dir", str(server.run_dir))
    assert command(clock, "restore", backup, "--data-dir", str(tmp_path / "restored"))
    server.stop()
    check(server)


def test_clock_reset_takes_the_clock_as_right(server: Server, clock: SetClock) -> None:
    clock.set_ahead(TEN_YEARS_S)
    server.start()
    with server.client() as client:
        for number in range(20):
            client.put(f"/v1/kv/{number}?ttl={600 + number}", content=b"v" * number)
        client.put("/v1/kv/old", content=b"v")
    server.stop()
    clock.set_ahead(0)
    server.options = (*server.options, "--clock-reset", "true")
    began_s = clock.now_s()
    server.start()
    assert "the clock is taken as right" in server.log()
    with server.client() as client:
        assert -60 < server.status()["clock"]["ahead_s"] < 60
        for number in range(20):
            answer = client.get(f"/v1/kv/{number}")
            assert answer.content == b"v" * number
            assert 500 < left_s(answer, clock) <= 600 + number
        modified = client.get("/v1/kv/old").headers["last-modified"]
        assert parsedate_to_datetime(modified).timestamp() >= began_s - 2
        check(server)
        # It stays so: over a restart, over a new map, without the option.
        server.stop()
        server.options = server.options[:-2]
        check(server)
    server.start()
    assert server.log().count("clock") == 1
    with server.client() as client:
        assert client.get("/v1/kv/old").headers["last-modified"] == modified
        assert 500 < left_s(client.get("/v1/kv/0"), clock) <= 600
    server.stop()
    for path in server.map_dir.glob("shard-*"):
        subprocess.run(["rm", "-r", str(path)], check=True)
    server.options = ("--shards", "3", *server.options[2:])
    server.start()
    with server.client() as client:
        assert client.get("/v1/kv/old").headers["last-modified"] == modified
        assert 400 < left_s(client.get("/v1/kv/0"), clock) <= 600
        check(server)


def test_a_clock_that_is_set_while_the_server_runs(server: Server, clock: SetClock) -> None:
    clock.set_ahead(-30 * DAY_S)
    server.start()
    with server.client() as client:
        client.put("/v1/kv/kept?ttl=900", content=b"v")
        client.put(f"/v1/kv/over?expires={at(clock, 3600)}", content=b"v")
        cursor = client.get("/v1/feed").json()["cursor"]
        clock.set_ahead(0)
        wait_for(lambda: "the clock was set forwards by 30 days" in server.log(), "a word of it")
        wait_for(lambda: client.get("/v1/kv/over").status_code == 404, "the end of what is over by the clock")
        assert client.put(f"/v1/kv/past?expires={at(clock, -10 * DAY_S)}", content=b"v").status_code == 400
        assert client.put(f"/v1/kv/soon?expires={at(clock, 1)}", content=b"v").status_code == 201
        until_s = clock.now_s() + 1
        wait_for(lambda: client.get("/v1/kv/soon").status_code == 404, "the end of a value", 10)
        assert clock.now_s() >= until_s - 0.1
        for road in ("/kept", "/v1/kv/kept"):
            assert client.get(road).content == b"v"
        assert 0 < left_s(client.get("/v1/kv/kept"), clock) <= 900
        client.put("/v1/kv/new?ttl=60", content=b"v")
        events = [
            event
            for message in client.get(f"/v1/feed?since={cursor}&wait=5").json()["messages"]
            for event in message.get("events", [])
        ]
        told = {event["key"]: event for event in events if event["op"] == "put"}["new"]
        assert abs(parse_rfc3339(told["time"]) / 1000 - clock.now_s()) < DAY_S
        assert abs(parse_rfc3339(told["expires"]) - parse_rfc3339(told["time"])) == 60_000
        assert server.status()["clock"]["ahead_s"] > 29 * DAY_S

        clock.set_ahead(-DAY_S)
        wait_for(lambda: "the clock was set back by " in server.log(), "a word of it")
        assert 0 < left_s(client.get("/v1/kv/kept"), clock) <= 900
        answer = client.get("/v1/kv/new")
        assert date_of(answer, "last-modified") <= clock.now_s() + 1
        check(server)
    server.stop()
    server.start()
    with server.client() as client:
        assert 0 < left_s(client.get("/v1/kv/kept"), clock) <= 900
