"""Tickets: sent instead of a token by browsers, which cannot set headers, for one WebSocket or SSE stream.

A ticket is valid for `LIFETIME_S`, for one use, and only while the token exists that it was issued to. It is a file
below `tickets` in the run directory, named by the ticket's SHA-256; the process that unlinks it has redeemed it. Its
time of modification is when it ends, by the steady clock (see `shards.wire.clock`).

The files of each token are in a directory of their own, which any process can count: a token has its share, and none
can take another's. The directory's name, which a ticket begins with, is made of the token's id and a key of this run:
it discloses nothing about the token.

EventSource comes back to the same URL, so to the same ticket, which is used up. The ids of an SSE stream that a ticket
opened therefore end in a resume token: a time stamp and a code (HMAC, RFC 2104) of it and the ticket under the key of
this run. A client with both ticket and resume token resumes the stream. No process stores either. Who has only a part
of a token's rights (`delegation`) asks for a new ticket instead.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import hashlib
import hmac
import os
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from kvserver.access.delegation import derive_key
from kvserver.access.grants import Grants
from kvserver.access.tokens import Tokens
from shards.host.board import Board
from shards.wire.errors import BadTicket, Forbidden, Overloaded, kv_error_of

Kind = Literal["sse", "websocket"]

DIRECTORY: Final = "tickets"
LIFETIME_S: Final = 30
RESUME_S: Final = 600
"""Seconds after its last message in which an SSE stream may be resumed with the ticket that opened it."""
RENEW_S: Final = 10
"""Age in seconds after which the messages of a stream carry a new resume token."""
MOST: Final = 16_384
"""Unused, unexpired tickets of all tokens, which share them: each is a small file in memory."""
SHARE: Final = range(16, 1025)
"""Least and most tickets of one token. A part of its rights that was handed on has the least."""

_FORM: Final = re.compile(rb"kvt_([0-9a-f]{16})[A-Za-z0-9_-]{43}")
_LABEL: Final = re.compile(r"[0-9a-f]{16}")
_FILE: Final = re.compile(r"[0-9a-f]{64}")
_DIRECTORY_ONLY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_THE_WAY: Final = (errno.ENOTDIR, errno.ELOOP, errno.EEXIST)
_STAMP_BYTES: Final = 5
_CODE_BYTES: Final = 16


class _Ticket(msgspec.Struct, frozen=True):
    """The content of a ticket's file. `grants`: of who asked for it."""

    grants: Grants
    kind: Kind
    ends_ms: int  # steady time


_decode = msgspec.msgpack.Decoder(_Ticket).decode


def max_tickets(tokens: int) -> int:
    """Return how many unused tickets each of so many tokens may have. Pure."""
    return min(SHARE[-1], max(SHARE[0], MOST // max(1, tokens)))


class Tickets:
    """Issues and redeems tickets in one process. Their lifetime counts by the steady clock, which cannot be set."""

    def __init__(self, board: Board, tokens: Tokens) -> None:
        self._board, self._tokens = board, tokens
        self._directory = board.path.with_name(DIRECTORY)
        self._next_end_ms: dict[Path, int] = {}
        """By token that has used up its share: when the first of its tickets ends."""
        self._key = derive_key(board, b"kvserver tickets")

    def issue(self, grants: Grants, kind: Kind) -> tuple[str, int]:
        """Issue a ticket to the bearer of a token; return it, and when it ends, in Unix milliseconds.

        On a server without tokens it is only a text, since all requests are accepted.

        Raises `Forbidden` without a grant of `feed`; `Overloaded` if too many of this token are out, if nothing can
        be written there, or if something else is in the place of a directory; `InsufficientStorage`; `KVError` for
        other errors of the system.
        """
        if not grants.feed:
            raise Forbidden("the token grants feed on no key")
        now = self._board.now()
        label, ends_ms = self._label_of(grants), now.steady_ms + LIFETIME_S * 1000
        ticket = b"kvt_" + label.encode() + secrets.token_urlsafe(32).encode()
        if self._tokens.required:
            directory = self._directory / label
            try:
                share = SHARE[0] if grants.handed_on else max_tickets(self._tokens.count)
                self._require_share(directory, share, now.steady_ms)
                _write_ticket(directory / _file_name(ticket), _Ticket(grants, kind, ends_ms))
            except OSError as error:
                if error.errno in _IN_THE_WAY:
                    raise Overloaded(f"the ticket cannot be written: {_find_obstacle(directory)}") from None
                if error.errno == errno.EROFS:
                    raise Overloaded(f"the ticket cannot be written: {error.strerror}") from None
                raise kv_error_of(error, "the ticket cannot be written") from None
        return ticket.decode(), ends_ms - now.behind_ms

    def _require_share(self, directory: Path, share: int, now_ms: int) -> None:
        """Raise `Overloaded` if the token whose tickets are in `directory` has its `share` of them."""
        if _count_files(directory) < share:
            self._next_end_ms.pop(directory, None)
            return
        if now_ms >= self._next_end_ms.get(directory, 0):  # not at each of many requests
            self._next_end_ms[directory] = remove_ended(directory, now_ms)
            if _count_files(directory) < share:
                return
        raise Overloaded(f"{share} tickets of this token are out, neither used nor older than {LIFETIME_S} s")

    def redeem(self, ticket: bytes, kind: Kind) -> Grants:
        """Redeem `ticket`; return the rights of the token that it was issued to, as they are now.

        Raises `BadTicket`; `Overloaded` if the process is out of descriptors.
        """
        unknown = BadTicket("it is unknown, or was used before")
        form = _FORM.fullmatch(ticket)
        if form is None:
            raise unknown
        name = _file_name(ticket)
        try:
            with _open_directory(self._directory / form[1].decode()) as directory:
                found = _decode(_read_file(name, directory))
                os.unlink(name, dir_fd=directory)  # of several at once, one succeeds
        except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
            raise unknown from None
        except OSError as error:
            raise Overloaded(f"the ticket cannot be verified now: {error.strerror}") from None
        if found.ends_ms <= self._board.steady_ms():
            raise BadTicket(f"it is older than {LIFETIME_S} seconds")
        if found.kind != kind:
            raise BadTicket(f"it is for {found.kind}, not for {kind}")
        grants = self._tokens.current_grants(found.grants)
        if grants is None:
            raise BadTicket("the token it was issued to was revoked")
        return grants

    def make_resume_token(self, ticket: bytes) -> bytes:
        """Make a resume token: with it the stream that `ticket` opened may be resumed for `RESUME_S` from now."""
        stamp = (self._board.steady_ms() // 1000).to_bytes(_STAMP_BYTES, "big")
        return urlsafe_b64encode(stamp + self._authentication_code(ticket, stamp)).rstrip(b"=")

    def resume_stream(self, ticket: bytes, word: bytes) -> Grants:
        """Return the rights of the bearer of a used ticket and a resume token of its stream. Raises `BadTicket`."""
        form, decoded = _FORM.fullmatch(ticket), _decode_resume_token(word)
        stamp, code = decoded[:_STAMP_BYTES], decoded[_STAMP_BYTES:]
        if form is None or not hmac.compare_digest(code, self._authentication_code(ticket, stamp)):
            raise BadTicket("it is unknown, or another stream used it")
        grants = next((each for each in self._tokens.all_grants() if self._label_of(each).encode() == form[1]), None)
        too_old = int.from_bytes(stamp, "big") + RESUME_S <= self._board.steady_ms() // 1000
        if grants is None or too_old:
            raise BadTicket("its stream ended too long ago, or the token it was issued to was revoked")
        return grants

    def _label_of(self, grants: Grants) -> str:
        """Return the name of the directory for the tickets of a token's bearer.

        What was handed on has one of its own: its bearers take no ticket away from others, and a stream of theirs is
        not resumed, since its ticket does not say with which part of the rights.
        """
        if not grants.handed_on:
            return hashlib.blake2b(grants.id.encode(), key=self._key, digest_size=8, person=b"token").hexdigest()
        whose = f"{grants.id} {grants.handed_on}".encode()
        return hashlib.blake2b(whose, key=self._key, digest_size=8, person=b"part of a token").hexdigest()

    def _authentication_code(self, ticket: bytes, stamp: bytes) -> bytes:
        return hmac.digest(self._key, stamp + ticket, "sha256")[:_CODE_BYTES]


def sweep_tickets(board: Board) -> None:
    """Remove tickets that have ended unused, and directories of tokens that have none. Looks at every ticket there is:
    for a thread that has time. Raises `OSError`."""
    now_ms, directory = board.steady_ms(), board.path.with_name(DIRECTORY)
    try:
        fd = os.open(directory, _DIRECTORY_ONLY)
    except FileNotFoundError:
        return
    try:
        for label in _list_names(fd):
            if not _LABEL.fullmatch(label):
                continue  # nobody has a token for it: not ours
            remove_ended(directory / label, now_ms)
            try:
                os.rmdir(label, dir_fd=fd)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
    finally:
        os.close(fd)


def remove_ended(directory: Path, now_ms: int) -> int:
    """Remove the ended tickets of one token; return when the next one ends. Raises `OSError`."""
    next_end_ms = now_ms + LIFETIME_S * 1000
    try:
        with _open_directory(directory) as fd:
            for name in _list_names(fd):
                if not _FILE.fullmatch(name):
                    continue
                with contextlib.suppress(FileNotFoundError):  # used in the meantime
                    end_ms = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime_ns // 1_000_000
                    if end_ms <= now_ms:
                        os.unlink(name, dir_fd=fd)
                    else:
                        next_end_ms = min(next_end_ms, end_ms)
    except FileNotFoundError:
        pass
    return next_end_ms


def _count_files(directory: Path) -> int:
    try:
        with _open_directory(directory) as fd:
            return len(_list_names(fd))
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _open_directory(directory: Path) -> Iterator[int]:
    """Open the directory of one token; neither it nor its parent may be a link. Raises
    `OSError`."""
    above = os.open(directory.parent, _DIRECTORY_ONLY)
    try:
        fd = os.open(directory.name, _DIRECTORY_ONLY, dir_fd=above)
    finally:
        os.close(above)
    try:
        yield fd
    finally:
        os.close(fd)


def _list_names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _read_file(name: str, directory: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _find_obstacle(directory: Path) -> str:
    """Say which of a token's directory and its parent is not a directory."""
    for path in (directory.parent, directory):
        if path.is_symlink() or not path.is_dir():
            return f"{path.relative_to(directory.parent.parent)} in the run directory is not a directory: remove it"
    return "something stood in its place"


def _file_name(ticket: bytes) -> str:
    return hashlib.sha256(ticket).hexdigest()


def _decode_resume_token(word: bytes) -> bytes:
    try:
        return urlsafe_b64decode(word + b"=" * (-len(word) % 4))
    except (binascii.Error, ValueError):
        return b""


def _write_ticket(path: Path, ticket: _Ticket) -> None:
    """Make the file of a ticket, and the directories it is in if they were taken away. Raises `OSError`."""
    for attempts_left in (2, 1, 0):  # a sweep may take an empty directory away at any moment
        try:
            with _open_directory(path.parent) as directory:
                _write_into(directory, path.name, ticket)
            return
        except FileNotFoundError:
            if not attempts_left:
                raise
            path.parent.parent.mkdir(mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)


def _write_into(directory: int, name: str, ticket: _Ticket) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.msgpack.encode(ticket))
        os.utime(name, ns=(ticket.ends_ms * 1_000_000,) * 2, dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
