"""The servers that run on this machine: their run directories, boards and addresses."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from shards.files.trusted_path import trusted_uids
from shards.host.board import Board, BoardError
from shards.host.settings import default_run_dir, env_name

_LISTENING: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""


def default_run_dirs() -> Iterator[Path]:
    """Yield the default run directories of this user's servers, running or not."""
    pattern = default_run_dir("*")
    for path in sorted(pattern.parent.glob(pattern.name)):
        if _is_own_directory(path):
            yield path


def used_run_dirs() -> list[Path]:
    """Return the run directories of servers that run: the default ones, and those that processes name.

    Processes of other users are seen by root alone.
    """
    return list(dict.fromkeys([*default_run_dirs(), *_named_run_dirs()]))


def open_living(paths: Iterable[Path]) -> Iterator[tuple[Path, Board]]:
    """Yield the run directories of `paths` in which a server runs, with its board, which is closed afterwards.

    What a user who is neither this one nor root may have put there is left out; root sees what each user has in a
    directory of their own.
    """
    for path in paths:
        try:
            believed = (*trusted_uids(), path.stat().st_uid) if os.geteuid() == 0 else trusted_uids()
            board = Board.open(path / "board", believed)
        except (BoardError, OSError):
            continue
        try:
            if not board.is_over():
                yield path, board
        finally:
            board.close()


def urls_of(board: Board) -> list[str]:
    """Return the URLs at which the web workers of a server listen; none if this cannot be seen from here."""
    found: set[str] = set()
    for _, row in board.workers.living_rows():
        with suppress(OSError):
            found |= _listening_urls(row.pid)
        if found:
            break
    return sorted(found)


def _is_own_directory(directory: Path) -> bool:
    """Return whether this user owns `directory`: any user can create one of that name in a shared place."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _named_run_dirs() -> Iterator[Path]:
    """Yield the run directories that the environments of processes name, as each process of a server has it."""
    variable = f"{env_name('run_dir')}=".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                for word in (entry / "environ").read_bytes().split(b"\0"):
                    if word.startswith(variable) and word != variable:
                        yield Path(os.fsdecode(word.removeprefix(variable)))


def _listening_urls(pid: int) -> set[str]:
    """Return the URLs at which a process listens. Raises `OSError` for a process that is not seen."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                inodes.add(found[1])
    urls = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            urls |= set(parse_listening(Path(f"/proc/{pid}/net/{table}").read_text(), inodes))
    return urls


def parse_listening(table: str, inodes: set[str]) -> Iterator[str]:
    """Yield the URLs of the listening sockets in a table like /proc/net/tcp that have one of these inodes."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENING and fields[9] in inodes:
            address, _, port = fields[1].partition(":")
            yield f"http://{_host_of(address)}:{int(port, 16)}"


def _host_of(text: str) -> str:
    """Return an address of /proc/net/tcp as the host of a URL. It is in words of 32 bits, as this machine has them."""
    words = [int(text[start : start + 8], 16).to_bytes(4, "little") for start in range(0, len(text), 8)]
    address = ip_address(b"".join(words))
    if address.is_unspecified:
        return "localhost"
    return f"[{address}]" if address.version == 6 else str(address)
