"""Many records from a file into a store and back, by the commands that are for it."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from tests.bench.contenders import KVSERVER, KVServer, Webdis
from tests.bench.measure import Findings, Round, Target, alternate
from tests.bench.parts import VALUE, Bench, names

_IN_TARGET = Target("at least", 0.5, "ratio")
_OUT_TARGET = Target("at least", 5000)


def transfer(bench: Bench) -> Findings:
    """Whole commands, their start included. Redis gets the same as its protocol, and flushes as we do."""
    findings = Findings()
    count = bench.keys // 10
    lines, protocol = bench.directory / "records.ndjson", bench.directory / "records.resp"
    bench.say(f"writing {count} records")
    _write(count, lines, protocol)
    with ExitStack() as stack:
        ours = bench.start(stack, findings, bench.ours())
        peers = bench.start(stack, findings, [Webdis(bench.directory, "always")])
        runs = {f"{each.name} import": partial(_run_ours, each, count, "import", lines) for each in ours}
        for redis in peers:
            command = ["redis-cli", "-p", str(redis.redis_port), "--pipe"]
            runs["redis-cli --pipe, always"] = partial(_run, command, count, protocol)
        bench.say("import")
        targets = {("redis-cli --pipe, always", "records/s"): _IN_TARGET}
        findings.add(f"{count:,} records in", alternate(bench.rounds, runs), targets)
        bench.say("export")
        out = bench.directory / "exported.ndjson"
        runs = {f"{each.name} export": partial(_run_ours, each, count, "export", out) for each in ours}
        targets = {(f"{KVSERVER} export", "records/s"): _OUT_TARGET}
        findings.add(f"{count:,} records out", alternate(bench.rounds, runs), targets)
    return findings


def _write(count: int, lines: Path, protocol: Path) -> None:
    with lines.open("wb") as ours, protocol.open("wb") as theirs:
        for key in names(count):
            ours.write(msgspec.json.encode({"key": key, "value": VALUE.decode()}) + b"\n")
            name = key.encode()
            theirs.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(VALUE), VALUE))


def _run_ours(server: KVServer, count: int, command: str, file: Path) -> Round:
    """Run the server's own `kvserver import` or `export`. Its processor time stands beside that of the command."""
    before_s = server.cpu_s()
    words = [server.server.python, "-m", "kvserver", command, str(file), "--url", f"http://127.0.0.1:{server.port}"]
    figures = _run(words, count, tree=server.server.tree)
    return {**figures, "server us/op": (server.cpu_s() - before_s) * 1e6 / count}


def _run(command: list[str], count: int, source: Path | None = None, tree: Path | None = None) -> Round:
    """Run `command`, which moves `count` records, in `tree`. Raises RuntimeError if it fails."""
    with (source or Path(os.devnull)).open("rb") as given:
        begun, taken_before = time.perf_counter(), os.times()
        done = subprocess.run(command, stdin=given, capture_output=True, text=True, cwd=tree)
        seconds, taken = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    spent_s = taken.children_user + taken.children_system - taken_before.children_user - taken_before.children_system
    return {"records/s": count / seconds, "command us/op": spent_s * 1e6 / count}
