"""The token file: TOML that people write, or have `kvserver token` write.

    [[token]]
    name = "deploy"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"   # of the token's text, in hexadecimal
    grants = [
        { prefix = "flags/", allow = ["read", "write"] },
        { prefix = "", allow = ["feed"] },
    ]

Unknown and duplicate entries are refused, since a grant that its author did not mean is worse than a server that does
not start.
"""

from __future__ import annotations

import errno
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from kvserver.access import trust
from kvserver.access.grants import VERBS, Grants, Verb, show_key
from kvserver.access.tokens import Token, hash_token
from shards.files import trusted_path
from shards.files.safe_files import open_named
from shards.files.trusted_path import DESCRIPTOR, Care
from shards.wire.keys import MAX_KEY

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""A token's name."""

TABLE: Final = re.compile(r"^[ \t]*\[\[[ \t]*(token|\"token\"|'token')[ \t]*\]\]", re.MULTILINE)
"""The line that begins a token."""
MARK: Final = "\ufeff"
"""The byte order mark that some editors begin a file with."""
MOST: Final = 16 << 20
"""Bytes that a token file may have."""
_NAME_THE_FILE: Final = "name the token file itself with --tokens"
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


class TokenFileError(Exception):
    """The token file cannot be used; the message names file and line, what is wrong and what would be right."""


class _Grant(msgspec.Struct, forbid_unknown_fields=True):
    prefix: str
    allow: list[str]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
    grants: list[_Grant]


def read_file(path: Path) -> list[Token]:
    """Read the tokens of the file at `path`. Raises `TokenFileError`."""
    return parse_tokens(read_text(path), str(path))


def read_open(path: Path) -> list[Token]:
    """Read the tokens of an open descriptor of this process, such as a pipe, by its `path`. Raises `TokenFileError`."""
    try:
        with open_named(path, Care.READ) as file:
            content = file.read(MOST + 1)  # it may have no end
            if len(content) > MOST:
                raise TokenFileError(f"{path} gives more than {MOST >> 20} MiB, which no token file has")
            return parse_tokens(content.decode(), str(path))
    except OSError as error:
        raise TokenFileError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TokenFileError(f"what {path} gives is not UTF-8 (byte {error.start})") from None


def is_open(path: Path) -> bool:
    """Whether `path` names an open descriptor, such as /dev/stdin or a pipe of the shell (`<(...)`), not a file that
    can be read again or replaced."""
    try:
        return DESCRIPTOR.fullmatch(str(trusted_path.resolve_path(path, Care.READ))) is not None
    except OSError:
        return False


def read_text(path: Path) -> str:
    """Read the text of the file at `path`, if only this user and root could write it. Raises `TokenFileError`."""
    if is_open(path):
        raise TokenFileError(f"{path} is an open stream, not a file, and cannot be read again: {_NAME_THE_FILE}")
    try:
        real = trust.resolve_trusted(path)
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            trust.check_file(real, status)
            content = file.read(MOST + 1) if status.st_size <= MOST else b""
            if max(len(content), status.st_size) > MOST:
                raise OSError(errno.EFBIG, f"it has more than {MOST >> 20} MiB, which no token file has")
            return content.decode()
    except FileNotFoundError:
        raise TokenFileError(
            f"there is no token file {path}: kvserver token new NAME --grant read,write --tokens {path} makes it"
        ) from None
    except trust.Untrusted as error:
        raise TokenFileError(f"the token file {path} cannot be trusted: {error}") from None
    except OSError as error:
        raise TokenFileError(f"the token file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TokenFileError(f"the token file {path} is not UTF-8 (byte {error.start})") from None


def parse_tokens(text: str, path: str) -> list[Token]:
    """Read the tokens in `text`; `path` is for messages. Raises `TokenFileError`."""
    try:
        document = tomllib.loads(text.removeprefix(MARK))
    except tomllib.TOMLDecodeError as error:
        place = _AT_LINE.search(str(error))
        raise _error_at(path, int(place[1]) if place else 0, f"not TOML: {_AT_LINE.sub('', str(error))}") from None
    except RecursionError:
        raise _error_at(path, 0, "lists or tables are nested too deeply: those of a token are not nested") from None
    except ValueError as error:  # a number of thousands of digits, for instance
        raise _error_at(path, 0, f"not TOML that can be read: {error}") from None
    entries = document.pop("token", [])
    if document:
        raise _error_at(
            path, 0, f"{show_key(next(iter(document)).encode())} is unknown: the file contains only [[token]] tables"
        )
    if not isinstance(entries, list):
        raise _error_at(path, 0, "each token is a table of its own: [[token]], in double brackets")
    lines = [text.count("\n", 0, found.start()) + 1 for found in TABLE.finditer(text.removeprefix(MARK))]
    tokens: list[Token] = []
    for index, entry in enumerate(entries):
        try:
            token = _convert_entry(entry)
            _refuse_doubles(token, tokens)
        except (ValueError, msgspec.ValidationError) as error:
            line = lines[index] if len(lines) == len(entries) else 0
            raise _error_at(path, line, f"token {index + 1}{_show_name(entry)}: {error}") from None
        tokens.append(token)
    return tokens


def _error_at(path: str, line: int, why: str) -> TokenFileError:
    return TokenFileError(f"the token file {path}{f', line {line}' if line else ''}: {why}")


def _show_name(entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return f" ({show_key(name.encode())})" if isinstance(name, str) else ""


def _convert_entry(entry: Any) -> Token:
    """Raises `ValueError` or `msgspec.ValidationError`."""
    try:
        given = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}; {_WANTED}") from None
    if not given.grants:
        raise ValueError(f"it grants nothing; {_WANTED}")
    sha256 = bytes.fromhex(given.sha256)
    if sha256 == hash_token(b""):
        raise ValueError("its sha256 is that of an empty text")
    pairs = [pair for grant in given.grants for pair in pairs_of(grant.prefix, grant.allow)]
    return Token(sha256, Grants.of(given.name, sha256.hex()[:16], pairs))


_WANTED: Final = (
    'wanted are name = "letters, digits and . _ - (at most 64)", sha256 = "64 hexadecimal digits", '
    'grants = [{ prefix = "flags/", allow = ["read"] }]'
)


def pairs_of(prefix: str, verbs: list[str]) -> list[tuple[Verb, bytes]]:
    """Make the arguments of `Grants.of` from one grant of the file. Raises `ValueError`: what is expected."""
    if not verbs:
        raise ValueError(f"a grant allows nothing: {', '.join(VERBS)} can be allowed")
    encoded = prefix.encode()
    if len(encoded) > MAX_KEY:
        raise ValueError(f"a prefix has {len(encoded)} bytes, and no key more than {MAX_KEY}")
    pairs: list[tuple[Verb, bytes]] = []
    for word in verbs:
        verb = next((verb for verb in VERBS if verb == word), None)
        if verb is None:
            raise ValueError(f"{show_key(word.encode())} cannot be allowed: {', '.join(VERBS)} can")
        if verb == "admin" and prefix:
            raise ValueError('admin concerns the whole server: allow it with prefix ""')
        pairs.append((verb, encoded))
    return pairs


def _refuse_doubles(token: Token, others: list[Token]) -> None:
    for other in others:
        if other.grants.name == token.grants.name:
            raise ValueError("another token has this name: names must be unique")
        if other.sha256 == token.sha256:
            raise ValueError(f"its sha256 is also that of {other.grants.name}: give one of them all grants")
