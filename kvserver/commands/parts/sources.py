"""Values that a command line gives: the word itself, `-` for standard input, `@FILE` for a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from shards.host.logs import print_error

MOST_BYTES: Final = 64 << 20
"""More than any server takes: an input without an end is not read for ever."""


def read_input(word: str | None, what: str) -> bytes:
    """Return what `word` names: standard input for `-` or None, a file for `@FILE`, else the word's own text.

    `what`: the thing in words. Exits with 1 if it cannot be read. Raises `click.UsageError` for text that is not UTF-8.
    """
    if word is None or word == "-":
        return read_standard_input(what)
    if word.startswith("@"):
        return read_file(word[1:])
    return text_bytes(word)


def text_bytes(word: str) -> bytes:
    """Return the bytes of a word of the command line, as they were typed."""
    return word.encode("utf-8", "surrogateescape")


def read_standard_input(what: str) -> bytes:
    """Return all of standard input. Exits with 1 if it is closed or cannot be read."""
    if sys.stdin is None:  # as after <&-
        _exit("standard input is closed")
    if sys.stdin.isatty():
        print_error(f"reading {what} from the terminal; end it with Ctrl-D on a line of its own")
    try:
        return _bounded(sys.stdin.buffer.read(MOST_BYTES + 1), "standard input")
    except OSError as error:
        _exit(f"standard input cannot be read: {error.strerror}")


def read_file(name: str) -> bytes:
    """Return the content of a file. Exits with 1 if it cannot be read."""
    if not name:
        raise click.UsageError("@ is followed by the name of a file; --text stores it as it is")
    try:
        with Path(name).open("rb") as file:
            return _bounded(file.read(MOST_BYTES + 1), name)
    except OSError as error:
        _exit(f"{name} cannot be read: {error.strerror}")


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MOST_BYTES:
        _exit(f"{name} holds more than {MOST_BYTES >> 20} MiB, which no server takes as one value")
    return data


def _exit(message: str) -> NoReturn:
    print_error(message)
    sys.exit(1)
