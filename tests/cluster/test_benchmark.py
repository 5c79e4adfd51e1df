"""What the benchmark counts of a cluster's engines is true."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from tests.bench import programs, publishers
from tests.bench.clusters import Engines

CLIENTS = 7


def test_the_stream_has_each_message_that_the_publishers_count(tmp_path: Path) -> None:
    with Engines(tmp_path) as engines:
        program = programs.build("publishers", tmp_path)
        found = publishers.run(program, engines.ports, engines.account, CLIENTS, 1.0)
        with urllib.request.urlopen(f"http://{engines.monitor(engines.leader())}/jsz", timeout=10) as answer:
            messages = json.loads(answer.read())["messages"]
    in_flight_at_the_end = messages - found.taken - 1  # the first begins the order
    assert 0 <= in_flight_at_the_end <= CLIENTS + found.refused
