"""Changes to the token file that leave everything else in it as its author wrote it: comments, order, line ends.

Pure but for `change_file`. Text is edited, not a document rewritten, and the result is parsed to verify the edit. A
library that keeps the style of a TOML document does not do: for tomlkit the comment above a token belongs to the token
before it, so the comment goes, or stays, with the wrong one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from kvserver.access import trust
from kvserver.access.grants import Verb
from kvserver.access.tokenfile import MARK, MOST, TABLE, TokenFileError, is_open, parse_tokens
from kvserver.access.tokens import hash_token
from shards.files import locks, safe_files
from shards.files.kept_file import inode_of

PATIENCE_S: Final = 10.0
"""How long another command may take to change the file."""

Change = Callable[[str], str]
"""From the old text to the new. Raises `TokenFileError`."""


def new_token() -> str:
    """Make a random token: 256 bits, with a prefix by which secret scanners find leaks."""
    return "kv_" + secrets.token_urlsafe(32)


def add_token(text: str, path: str, name: str, token: str, grants: Sequence[tuple[str, Sequence[Verb]]]) -> str:
    """Return `text` with a further token. `grants`: prefixes, each with its verbs. Raises `TokenFileError`."""
    old = parse_tokens(text, path)
    if any(each.grants.name == name for each in old):
        raise TokenFileError(f"{path} has a token {name} already: revoke that first, or choose another name")
    lines = [
        "[[token]]",
        f"name = {_quote(name)}",
        f'sha256 = "{hash_token(token.encode()).hex()}"',
        "grants = [",
    ]
    for prefix, verbs in grants:
        lines.append(f"    {{ prefix = {_quote(prefix)}, allow = [{', '.join(map(_quote, verbs))}] }},")
    between = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    result = text + between + "\n".join([*lines, "]", ""])
    if parse_tokens(result, path)[:-1] != old:
        raise _unreadable_layout(path)
    return result


def remove_token(text: str, path: str, name: str) -> str:
    """Return `text` without the token `name` and the comment right above it. Raises `TokenFileError`."""
    old = parse_tokens(text, path)
    names = [each.grants.name for each in old]
    if name not in names:
        raise TokenFileError(f"{path} has no token of the name {name}; it has {', '.join(names) or 'none'}")
    index = names.index(name)
    lines = text.splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if TABLE.match(line)]
    if len(headers) != len(old):
        raise _unreadable_layout(path)
    begin, end = _find_extent(lines, headers[index], [*headers, len(lines)][index + 1])
    result = "".join(lines[:begin] + lines[end:])
    if parse_tokens(result, path) != old[:index] + old[index + 1 :]:
        raise _unreadable_layout(path)
    return result


def _find_extent(lines: list[str], header: int, following: int) -> tuple[int, int]:
    """Return the first line of a token, and the line after its last one and the blank lines that follow.

    A comment right above the next token belongs to that.
    """
    begin = header
    while begin and lines[begin - 1].lstrip().startswith("#"):
        begin -= 1
    if begin == 0:
        begin = header  # a comment at the top is about the whole file
    end = following
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    while end < following and not lines[end].strip():
        end += 1
    return begin, end


def _quote(text: str) -> str:
    """Quote `text` as a string of TOML, whose escapes include those of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _unreadable_layout(path: str) -> TokenFileError:
    return TokenFileError(f"{path} is written in a way that is left to its author: change it by hand")


def change_file(path: Path, change: Change) -> None:
    """Replace the file at `path` by what `change` makes of its text, atomically.

    A missing file counts as empty; a new one is readable for its owner only. Concurrent changes wait for each other.
    Follows no link that others than this user and root could have made. Raises `TokenFileError`, `OSError`.
    """
    if is_open(path):
        raise TokenFileError(
            f"{path} is an open stream, not a file, so no token can be added or removed: name the token file itself "
            "with --tokens (a new token is printed to standard output anyway)"
        )
    try:
        real = trust.resolve_trusted(path)
        with _locked_directory(real) as directory:
            status = _read_status(real.name, directory)
            if status is not None:
                trust.check_file(real, status)
            try:
                old = "" if status is None else safe_files.read_regular(Path(real.name), MOST, directory).decode()
            except UnicodeDecodeError as error:
                raise TokenFileError(f"the token file {path} is not UTF-8 (byte {error.start})") from None
            mark = MARK if old.startswith(MARK) else ""
            new = (mark + change(old.removeprefix(MARK))).encode()
            if len(new) > MOST:
                raise TokenFileError(f"{path} would have more than {MOST >> 20} MiB, which no server reads")
            _replace_file(real.name, directory, new, status)
    except trust.Untrusted as error:
        raise TokenFileError(f"the token file {path} cannot be trusted: {error}") from None


@contextlib.contextmanager
def _locked_directory(path: Path) -> Iterator[int]:
    """Lock the token file `path` against other commands; yield the descriptor of its directory.

    The lock is a file of its own that others cannot open: whoever can read a directory can lock that. Raises
    `TokenFileError` if another command holds it for too long.
    """
    name = path.with_name(f".{path.name}.lock")
    lock = _take_lock(name, path)
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        name.unlink(missing_ok=True)
        os.close(lock)


def _take_lock(name: Path, path: Path) -> int:
    """Take the lock `name` of the file at `path`; return its descriptor. Raises `TokenFileError`, `OSError`."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        lock = locks.open_lock(name)
        if not locks.acquire_for_life(lock, timeout_s=give_up_at - time.monotonic()):
            os.close(lock)
            raise TokenFileError(
                f"another command has been changing {path} for {PATIENCE_S:.0f} s: try again when it has ended"
            )
        if inode_of(name) == os.fstat(lock).st_ino:
            return lock
        os.close(lock)  # who had it has removed it


def _read_status(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _replace_file(name: str, directory: int, content: bytes, status: os.stat_result | None) -> None:
    """Replace the file `name` by `content`, durably; its owner, group and mode stay."""
    temporary = name + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
    )
    try:
        with os.fdopen(fd, "wb") as file:
            if status is not None:
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(fd, status.st_uid, status.st_gid)  # so that the server's user can still read it
                os.fchmod(fd, status.st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)
