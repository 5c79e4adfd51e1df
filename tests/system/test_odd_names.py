"""A data directory whose name is not UTF-8 is one like any other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.system.harness import Server
from tests.system.kvserver.serve.test_supervisor import get, put

NAME = os.fsdecode(b"d\xff\xfe")


def test_a_data_directory_with_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    with Server(tmp_path / NAME, "--workers", "1", "--shards", "1") as server:
        put(server, "k", b"v")
        place = ["--data-dir", server.data_dir, "--run-dir", server.run_dir, "--map-dir", server.map_dir]
        for words in (["check", *place], ["backup", tmp_path / (NAME + "b"), *place[:4]]):
            command = [sys.executable, "-m", "kvserver", *words]
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
        server.kill()
        server.start()
        assert get(server, "k") == b"v"
