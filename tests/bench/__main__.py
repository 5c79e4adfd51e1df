"""`python -m tests.bench`: measure, and say what came out, on the terminal and in `--output`."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from tests.bench import machine, report, wrk
from tests.bench.client import Refused
from tests.bench.measure import Findings
from tests.bench.parts import Bench, Part
from tests.bench.parts.batch import batch
from tests.bench.parts.clients import clients
from tests.bench.parts.cluster import cluster
from tests.bench.parts.delete import delete
from tests.bench.parts.everyday import everyday
from tests.bench.parts.expiry import expiry
from tests.bench.parts.feed import feed
from tests.bench.parts.load import load, start
from tests.bench.parts.memory import memory, restart
from tests.bench.parts.page import page
from tests.bench.parts.scale import scale
from tests.bench.parts.speed import beside as beside_writers
from tests.bench.parts.speed import connections, get, mixed, put, sizes
from tests.bench.parts.stranger import stranger
from tests.bench.parts.stream import stream
from tests.bench.parts.transfer import transfer

PARTS: Final = {
    "get": Part("GET of one key, 100 bytes, 64 connections, keys at random.", get),
    "put": Part("PUT of one key, 100 bytes, 64 connections, keys at random.", put),
    "mixed": Part("Nine GETs to a PUT, 64 connections.", mixed),
    "connections": Part("GET and PUT by one connection and by many.", connections),
    "everyday": Part("Version 1's requests of all days, 64 connections; in brackets Redis' command.", everyday),
    "sizes": Part("GET and PUT of larger values.", sizes),
    "beside": Part(
        "GET while others write as fast as they can; the ratio is that of what it takes alone.", beside_writers
    ),
    "batch": Part("POST /v1/batch, 16 connections; Redis answers single requests on 64.", batch),
    "page": Part("GET /v1/kv, 100 items from random places; the ratio is that of the small store to the large.", page),
    "delete": Part("DELETE /v1/kv?prefix= of many keys, and the PUTs of another client meanwhile.", delete),
    "stranger": Part("PUT of one key while another client sends the worst of each kind.", stranger),
    "expiry": Part("From the time a key is due to the line on /wal that says so.", expiry),
    "feed": Part("/v1/feed of one gateway: 100 bytes a value, from the acknowledgement to the receipt.", feed),
    "stream": Part("GET /v1/kv as lines: everything in one answer.", stream),
    "load": Part("Many keys by POST /v1/batch in MessagePack, flushed.", load),
    "transfer": Part("kvserver import and export of 100-byte values; redis-cli --pipe of the same.", transfer),
    "clients": Part("The client libraries on one connection, beside redis-py on Redis and nats.py on NATS.", clients),
    "cluster": Part(
        "Three machines on this one, values of 100 bytes, beside one server, the engines alone and etcd; and for how "
        "long clients of the machines that are left got no answer when something failed.",
        cluster,
    ),
    "start": Part("kvserver serve until ready, after a clean stop.", start),
    "restart": Part("A killed shard until it answers writes; reads go on meanwhile.", restart),
    "memory": Part("Memory of all processes and maps, more than when empty.", memory),
    "scale": Part("Workers and shards, 64 connections; the ratio is that of the default numbers.", scale),
}

PLOTTED: Final = ("get", "put", "feed", "connections", "everyday", "cluster")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _parts(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    wanted = text.split(",")
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise click.BadParameter(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return wanted


def _tree(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and not (path / ".venv/bin/python").exists():
        raise click.BadParameter(f"there is no {path / '.venv/bin/python'} to run it")
    return path and path.resolve()


@click.command(help="Measure kvserver beside the peers that are installed. Parts: " + ", ".join(PARTS) + ".")
@click.option("--parts", default=",".join(PARTS), callback=_parts, help="Names, separated by commas. Default: all.")
@click.option("--rounds", default=5, show_default=True, help="How often each contender has its turn.")
@click.option("--seconds", default=3.0, show_default=True, help="How long a turn of wrk is.")
@click.option("--keys", default=1_000_000, show_default=True, help="Keys in stores that are large.")
@click.option(
    "--directory", type=click.Path(path_type=Path), help="Where data goes. Default: that for temporary files."
)
@click.option(
    "--beside",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    callback=_tree,
    help="Another checkout, with its virtual environment in .venv: measured as `before` in get, put, connections and "
    "everyday.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Where report.md and report.json go. Default: nowhere.")
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where plots go, as SVG for light and for dark pages: of the parts "
    + ", ".join(PLOTTED)
    + ". Default: nowhere.",
)
@click.option(
    "--redraw",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Measure nothing: plot what this report.json says. May be given several times.",
)
def main(
    parts: list[str],
    rounds: int,
    seconds: float,
    keys: int,
    directory: Path | None,
    beside: Path | None,
    output: Path | None,
    plots: Path | None,
    redraw: Sequence[Path],
) -> None:
    if redraw:
        _plot([json.loads(path.read_text()) for path in redraw], plots)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no contender outlives this process
    if why := wrk.missing():
        raise click.ClickException(why)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as data:
        bench = Bench(rounds, seconds, keys, Path(data).resolve(), _say, beside)
        facts = machine.facts(bench.directory)
        if beside is not None:
            facts["before"] = f"{beside}, {machine.describe_revision(beside)}"
        facts["settings"] = f"{rounds} rounds, {seconds:g} s of wrk, {keys:,} keys in large stores"
        findings: dict[str, Findings] = {}
        for name in parts:
            _say(f"part {name}")
            findings[name] = _run(PARTS[name], bench)
            print(report.section(name, PARTS[name].about, findings[name]), flush=True)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        sections = [report.section(name, PARTS[name].about, found) for name, found in findings.items()]
        (output / "report.md").write_text(report.markdown(facts, sections))
        (output / "report.json").write_text(report.as_json(facts, findings))
    if plots is not None:
        _plot([json.loads(report.as_json(facts, findings))], plots)


def _plot(reports: list[dict[str, Any]], directory: Path | None) -> None:
    """Write the plots of `reports`. Raises ClickException if matplotlib is missing, or the reports suffice for none."""
    if directory is None:
        raise click.UsageError("--redraw wants --plots, the directory where the plots go")
    try:
        from tests.bench import plots  # matplotlib is an extra
    except ModuleNotFoundError as missing:
        raise click.ClickException(f"plots want {missing.name}: pip install '.[plots]'") from missing
    drawn = plots.draw(plots.Results(reports))
    if not drawn:
        raise click.ClickException(f"nothing of what was measured is plotted; plots are of {', '.join(PLOTTED)}")
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in drawn.items():
        (directory / name).write_bytes(content)
        _say(f"{directory / name}")


def _run(part: Part, bench: Bench) -> Findings:
    """What a part finds out; one that fails does not end the others."""
    try:
        return part.run(bench)
    except (wrk.Failed, Refused, OSError, AssertionError, RuntimeError) as error:
        return Findings(notes=[f"FAILED: {type(error).__name__}: {error}"])


if __name__ == "__main__":
    main()
