"""Many records from a file into a store and back, by the commands that are for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from tests.bench.contenders import KVServer, Webdis
from tests.bench.measure import Findings, Round, Target, alternate
from tests.bench.parts import VALUE, Bench, names

_TARGET = Target("at least", 5000)


def transfer(bench: Bench) -> Findings:
    """Whole commands, their start included. Redis gets the same as its protocol, and flushes as we do."""
    findings = Findings()
    count = bench.keys // 10
    lines, protocol = bench.directory / "records.ndjson", bench.directory / "records.resp"
    bench.say(f"writing {count} records")
    _write(count, lines, protocol)
    with ExitStack() as stack:
        ours, *peers = bench.start(stack, findings, [KVServer(bench.directory), Webdis(bench.directory, "always")])
        kvserver = [sys.executable, "-m", "kvserver"]
        where = ["--url", f"http://127.0.0.1:{ours.port}"]
        runs = {"kvserver import": partial(_run, [*kvserver, "import", str(lines), *where], count)}
        for redis in peers:
            assert isinstance(redis, Webdis)
            command = ["redis-cli", "-p", str(redis.redis_port), "--pipe"]
            runs["redis-cli --pipe, always"] = partial(_run, command, count, protocol)
        bench.say("import")
        targets = {("kvserver import", "records/s"): _TARGET}
        findings.add(f"{count:,} records in", alternate(bench.rounds, runs), targets)
        bench.say("export")
        out = bench.directory / "exported.ndjson"
        runs = {"kvserver export": partial(_run, [*kvserver, "export", str(out), *where], count)}
        targets = {("kvserver export", "records/s"): _TARGET}
        findings.add(f"{count:,} records out", alternate(bench.rounds, runs), targets)
    return findings


def _write(count: int, lines: Path, protocol: Path) -> None:
    with lines.open("wb") as ours, protocol.open("wb") as theirs:
        for key in names(count):
            ours.write(msgspec.json.encode({"key": key, "value": VALUE.decode()}) + b"\n")
            name = key.encode()
            theirs.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(VALUE), VALUE))


def _run(command: list[str], count: int, source: Path | None = None) -> Round:
    """Run `command`, which moves `count` records. Raises RuntimeError if it fails."""
    with (source or Path(os.devnull)).open("rb") as given:
        begun = time.perf_counter()
        done = subprocess.run(command, stdin=given, capture_output=True, text=True)
        taken = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return {"records/s": count / taken}
