"""What `kvserver serve` says when everything answers: the last line is `ready`."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from kvserver import __version__
from kvserver.settings import ServerSettings
from shards.host.logs import escape_controls
from shards.host.process import mute_stream

log = logging.getLogger(__name__)

SYNC = {
    "always": "every write is flushed to the disk before it is acknowledged",
    "everysec": "flushed every second: if the machine fails, at most the last second of writes is lost",
    "os": "flushed when the kernel likes: if the machine fails, what it had not written is lost",
}


def show(settings: ServerSettings, *, map_dir: Path, rest: str | None, feed: str | None, metrics: str) -> None:
    """Print it to standard output. `rest`, `feed`, `metrics`: host and port as in URLs; None: not listened on.

    Where it cannot be written (nobody reads it any more, the disk is full), the log says so and nothing else happens.
    """
    if sys.stdout is None:  # as after >&-
        return
    text = _text(settings, lines(settings, map_dir, rest, feed, metrics), sys.stdout.isatty())
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        log.warning("the server is ready, but standard output cannot be written: %s", error)
        mute_stream(sys.stdout)


def _text(settings: ServerSettings, rows: Iterator[tuple[str, str]], is_terminal: bool) -> str:
    """The banner, in colours on a terminal. Made without rich, whose libraries would make each start longer."""
    written = [click.style(f"kvserver {__version__}", bold=True)]
    written += [f"  {name:<11}{escape_controls(text)}" for name, text in rows]
    if settings.only is None and (text := warning(settings)):
        written.append(click.style(text, fg="yellow"))
    written.append(click.style("ready", fg="green", bold=True))
    text = "\n".join(written) + "\n"
    return text if is_terminal and not os.environ.get("NO_COLOR") else click.unstyle(text)


def lines(
    settings: ServerSettings, map_dir: Path, rest: str | None, feed: str | None, metrics: str
) -> Iterator[tuple[str, str]]:
    """Name and text of each line."""
    if rest:
        yield "REST", f"http://{rest}"
        yield "feed", f"ws://{feed or rest}/wal, and http://{feed or rest}/v1/feed"
        yield "manual", f"http://{rest}/docs/"
    yield "metrics", f"http://{metrics}/metrics"
    yield "shards", str(settings.shards) if settings.only is None else f"{settings.shards}, not started here"
    if settings.only is None:
        yield "workers", f"{settings.workers} web, {settings.gateways} feed"
    yield "access", "everybody: there are no tokens" if settings.tokens is None else f"tokens in {settings.tokens}"
    yield "data", "in memory only" if settings.in_memory else str(settings.data_dir)
    yield "run", str(settings.run_dir)
    yield "maps", str(map_dir)
    yield (
        "durability",
        "none: everything is gone when the server stops"
        if settings.in_memory
        else (f"{settings.sync}: {SYNC[settings.sync]}"),
    )


def warning(settings: ServerSettings) -> str:
    """Who can use a store without access control; what is in the clear with it, if others can listen in."""
    if settings.tokens is not None:
        if ipaddress.ip_address(settings.host).is_loopback:
            return ""
        return "warning: tokens and values travel unencrypted: put TLS in front, unless you trust the network"
    if settings.insecure:
        return "warning: there is no access control: everybody who can reach this address can read and change the store"
    if settings.origins == "*":
        return (
            "warning: there is no access control: any web page open in a browser on this machine can read and change "
            "the store (--origins says which pages may)"
        )
    return "warning: there is no access control: every program on this machine can read and change the store"
