"""`kvserver sdk`: writes the files of a client library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from kvserver.commands.parts.output import Output
from kvserver.commands.parts.statuses import FAILED
from kvserver.sdk.files import HOME
from shards.host.logs import print_error

HELP = """Write the files of the client library for C, JavaScript or Rust to DIR, and their names to standard output.

Python's is installed with this command: `from kvserver.client import Client`. Existing files are kept
unless --force is given.

\b
Examples:
  kvserver sdk c -o vendor/kvserver
  kvserver sdk js -o static
"""
_TEST_PROGRAMS: Final = ("conform.rs", "conform_async.rs", "driver")
_NOT_SHIPPED: Final = frozenset(("tests", "target", "node_modules", "__pycache__", *_TEST_PROGRAMS))
USES: Final = {
    "c": "cc app.c kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay",
    "js": "import { connect } from './client.js'",
    "rust": "cargo add kvserver-client --path DIR",
}
"""How each is used, in one line."""


def write_sdk(language: str, directory: Path | None, force: bool) -> int:
    """Run the command; return the exit status."""
    out = Output()
    source = HOME / language
    files = list(sdk_files(source))
    if not files:
        print_error(f"this installation has no client library for {language}")
        return FAILED
    target = directory or Path(f"kvserver-{language}")
    there = [name for name in files if (target / name).exists()]
    if there and not force:
        print_error(f"{target / there[0]} already exists: name another directory with -o, or use --force")
        return FAILED
    try:
        for name in files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
            out.name(str(target / name))
    except OSError as error:
        print_error(f"{error.filename} cannot be written: {error.strerror}")
        return FAILED
    out.flush()
    out.say(f"use it so: {USES[language].replace('DIR', str(target))}")
    return 0


def sdk_files(source: Path) -> Iterator[Path]:
    """Yield the files of a client library that users need, relative to its directory, in order."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not any(part in _NOT_SHIPPED or part.startswith(".") for part in name.parts):
            yield name


COMMAND = click.Command(
    "sdk",
    callback=write_sdk,
    params=[
        click.Argument(["language"], type=click.Choice(list(USES)), metavar="|".join(USES)),
        click.Option(
            ["-o", "--output", "directory"],
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="Directory for the files, created if missing. Default: kvserver-c and so on.",
        ),
        click.Option(["--force"], is_flag=True, help="Replace existing files."),
    ],
    help=HELP,
)
