"""The banner that `kvserver serve` prints when everything answers; its last line is `ready`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from kvserver import __version__
from kvserver.serve.listening import is_open_to_others
from kvserver.settings import ServerSettings
from shards.host.logs import escape_controls
from shards.host.process import mute_stream

log = logging.getLogger(__name__)

SYNC = {
    "always": "every write is flushed to the disk before it is acknowledged",
    "everysec": "flushed every second: a failure of the machine loses at most the last second of writes",
    "os": "flushed when the kernel decides: a failure of the machine loses the writes not flushed yet",
}


def print_banner(settings: ServerSettings, *, map_dir: Path, rest: str | None, feed: str | None, metrics: str) -> None:
    """Print the banner to standard output.

    `rest`, `feed`, `metrics`: host and port as in URLs; None if the server does not listen there. A write error, such
    as a closed pipe or a full disk, is only logged.
    """
    if sys.stdout is None:  # as after >&-
        return
    text = _banner_text(settings, banner_lines(settings, map_dir, rest, feed, metrics), sys.stdout.isatty())
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        log.warning("the server is ready, but cannot write to standard output: %s", error)
        mute_stream(sys.stdout)


def _banner_text(settings: ServerSettings, rows: Iterator[tuple[str, str]], is_terminal: bool) -> str:
    """Return the banner, colored on a terminal. Does without rich, which would slow down each start."""
    written = [click.style(f"kvserver {__version__}", bold=True)]
    written += [f"  {name:<11}{escape_controls(text)}" for name, text in rows]
    warnings = [access_warning(settings) if settings.only is None else "", metrics_warning(settings)]
    written += [click.style(text, fg="yellow") for text in warnings if text]
    written.append(click.style("ready", fg="green", bold=True))
    text = "\n".join(written) + "\n"
    return text if is_terminal and not os.environ.get("NO_COLOR") else click.unstyle(text)


def banner_lines(
    settings: ServerSettings, map_dir: Path, rest: str | None, feed: str | None, metrics: str
) -> Iterator[tuple[str, str]]:
    """Yield name and text of each line."""
    if rest:
        yield "REST", f"http://{rest}"
        yield "feed", f"ws://{feed or rest}/wal, and http://{feed or rest}/v1/feed"
        yield "console", f"http://{rest}/console/"
        yield "manual", f"http://{rest}/docs/"
    yield "metrics", f"http://{metrics}/metrics"
    yield "shards", str(settings.shards) if settings.only is None else f"{settings.shards}, not started here"
    if settings.only is None:
        yield "workers", f"{settings.workers} web, {settings.gateways} feed"
    yield "access", "everybody (no tokens)" if settings.tokens is None else f"tokens in {settings.tokens}"
    yield "data", "in memory only" if settings.in_memory else str(settings.data_dir)
    yield "run", str(settings.run_dir)
    yield "maps", str(map_dir)
    yield (
        "durability",
        "none: all data is lost when the server stops"
        if settings.in_memory
        else (f"{settings.sync}: {SYNC[settings.sync]}"),
    )


def access_warning(settings: ServerSettings) -> str:
    """Return a warning about missing access control or unencrypted traffic, or an empty text."""
    if settings.tokens is not None:
        if not is_open_to_others(settings.host):
            return ""
        return "warning: tokens and values travel unencrypted: put a TLS proxy in front, unless you trust the network"
    if settings.insecure:
        return "warning: there is no access control: everybody who can reach this address can read and change the store"
    if settings.origins == "*":
        return (
            "warning: there is no access control: any web page open in a browser on this machine can read and change "
            "the store (--origins restricts that)"
        )
    return "warning: there is no access control: every program on this machine can read and change the store"


def metrics_warning(settings: ServerSettings) -> str:
    """Return a warning if other machines can reach the metrics, or an empty text."""
    if not is_open_to_others(settings.metrics_host):
        return ""
    if settings.tokens is not None:
        return "warning: metrics, and the tokens of those who read them, travel unencrypted"
    return "warning: everybody who can reach the address of the metrics can read them: there are no tokens"
