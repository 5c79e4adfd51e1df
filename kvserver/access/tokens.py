"""The tokens in effect, as every process of a store sees them.

The supervisor alone reads the token file. What it has found good it writes to `tokens` in the run directory, whole
or not at all, and then raises the board's word of that name, which counts such changes; 0 means that the server has no
tokens and everybody may do everything. The others look at the word a few times a second, and show in their rows of the
board which change they go by.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from kvserver.access.delegation import BEGINNING, Signer
from kvserver.access.grants import EVERYTHING, Grants, Verb
from shards.host.board import Board, LogWords, ProcessRow
from shards.wire.errors import InvalidToken, Unauthorized

FILE: Final = "tokens"
_MOST_KNOWN: Final = 1024
"""Headers that are remembered: some clients of one token write it in another way."""


class Token(msgspec.Struct, frozen=True):
    """A token as the server knows it.

    Attributes:
        sha256: 32 bytes, of the token's text.
    """

    sha256: bytes
    grants: Grants


class _InEffect(msgspec.Struct, frozen=True, array_like=True):
    """The content of the file in the run directory.

    Attributes:
        generation: the board's word as it is raised to with them.
    """

    generation: int
    tokens: list[Token]


_decode = msgspec.msgpack.Decoder(_InEffect).decode


class TokensError(Exception):
    """The tokens in effect cannot be read."""


def hash_token(token: bytes) -> bytes:
    """Return the SHA-256 by which a token is known."""
    return hashlib.sha256(token).digest()


def publish_tokens(board: Board, tokens: Sequence[Token]) -> None:
    """Put `tokens` into effect in all processes of the store. For the supervisor. Raises `OSError`."""
    path = board.path.with_name(FILE)
    temporary = path.with_name(FILE + ".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        generation = board.log.tokens + 1
        file.write(msgspec.msgpack.encode(_InEffect(generation, list(tokens))))
    temporary.rename(path)
    board.log.store_after_file(LogWords.tokens, generation)


def are_published(board: Board) -> bool:
    """Return whether what `publish_tokens` wrote is still there, and nothing else in its place."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISREG(board.path.with_name(FILE).lstat().st_mode)
    return False


def are_in_effect(board: Board, tokens: Sequence[Token]) -> bool:
    """Whether every process of the store that answers clients goes by `tokens`."""
    try:
        found = _decode(_read_file(board.path.with_name(FILE)))
    except (OSError, msgspec.MsgspecError):
        return False
    rows = [row for rows in (board.workers, board.gateways) for _, row in rows.living_rows()]
    return found.tokens == list(tokens) and all(
        row.tokens >= found.generation for row in rows if row.state in (ProcessRow.UP, ProcessRow.STOPPING)
    )


def _read_file(path: Path) -> bytes:
    """Read what `publish_tokens` wrote, without waiting for what was put in its place. Raises `OSError`."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        return file.read()


class Tokens:
    """The tokens in effect, in one process.

    Attributes:
        required: whether a request needs one.
        generation: another number when others are in effect.
    """

    def __init__(self, board: Board) -> None:
        """Raises `TokensError`: without tokens no request can be authenticated."""
        self._board, self._path = board, board.path.with_name(FILE)
        self._signer = Signer(board)
        self.required = False
        self.generation = 0
        self._tokens: list[Token] = []
        self._known: dict[bytes, Grants] = {}  # by the SHA-256 of headers that named one of them
        self._labels: dict[str, Grants] = {}  # by label, made when the first is looked up
        try:
            self._read_published()
        except (OSError, msgspec.MsgspecError) as error:
            raise TokensError(f"{self._path} cannot be read: {error}") from None

    def refresh(self) -> bool:
        """Follow the supervisor; True if tokens changed. While the file cannot be read, the old ones stay in effect."""
        if self._board.log.tokens == self.generation:
            return False
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            self._read_published()
            return True
        return False

    def _read_published(self) -> None:
        # Before the file, which may be newer than the word says, never older.
        generation = self._board.log.load_before_file(LogWords.tokens)
        if generation:
            self._tokens = _decode(_read_file(self._path)).tokens
        self._known.clear()
        self._labels.clear()
        self.generation = generation
        self.required = generation > 0

    def authenticate(self, authorization: bytes | None) -> Grants:
        """Return the rights of the sender of an Authorization header, None without one.

        The duration depends only on the number of tokens, and on whether this very header named one before. Raises
        `InvalidToken` if a token was sent, else `Unauthorized`.
        """
        if not self.required:
            return EVERYTHING
        header = hash_token(authorization or b"")  # no process keeps a token
        known = self._known.get(header)
        if known is not None:
            return known
        grants = self._find_grants(authorization or b"")
        if grants.ends_ms:
            return grants
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[header] = grants
        return grants

    def _find_grants(self, authorization: bytes) -> Grants:
        """Return the rights that the token in an Authorization header gives. Raises as `authenticate` does."""
        scheme, _, text = authorization.strip(b" \t").partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized
        text = text.lstrip(b" ")
        if text.startswith(BEGINNING):
            return self._authenticate_delegate(text)
        sent, found = hash_token(text), None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, sent):
                found = token.grants
        if found is None:
            raise InvalidToken
        return found

    def _authenticate_delegate(self, text: bytes) -> Grants:
        """Return the rights that were handed on as `text`. Raises `InvalidToken`."""
        signed = self._signer.read(text)
        token = None if signed is None else self._find_labelled(signed.id)
        if signed is None or token is None:
            raise InvalidToken
        current = self.current_grants(msgspec.structs.replace(signed, name=token.name, id=token.id))
        if current is None:
            raise InvalidToken
        return current

    def _find_labelled(self, label: str) -> Grants | None:
        """Return the grants of the token with the label `label`; None if there is none."""
        if not self._labels:
            self._labels = {self._signer.label_of(grants.id): grants for grants in self.all_grants()}
        return self._labels.get(label)

    def hand_on(self, grants: Grants, allowed: Iterable[tuple[Verb, bytes]], seconds: float) -> tuple[str, int]:
        """Hand a part of the rights of a token's bearer on; return the text to send as a token, and when it ends.

        `allowed`: pairs of a verb and a prefix. `seconds`: how long they last; the end is in Unix milliseconds. Raises
        `Forbidden` if the bearer does not have them.
        """
        now = self._board.now()
        part = grants.hand_on(allowed, now.steady_ms + int(seconds * 1000), secrets.token_hex(8))
        return self._signer.sign(part), part.ends_ms - now.behind_ms

    @property
    def count(self) -> int:
        """The number of tokens."""
        return len(self._tokens)

    def all_grants(self) -> Iterator[Grants]:
        """Return the grants of each token."""
        return (token.grants for token in self._tokens)

    def current_grants(self, grants: Grants) -> Grants | None:
        """Return what `grants` are now that their token may grant less; None if it was revoked, or if they ended."""
        current = self.grants_of(grants.id)
        if not grants.ends_ms or current is None:
            return current
        return grants.within(current) if self._board.steady_ms() < grants.ends_ms else None

    def unix_end(self, grants: Grants) -> int | None:
        """Return when `grants` end, in Unix milliseconds; None: with their token."""
        return grants.ends_ms - self._board.now().behind_ms if grants.ends_ms else None

    def has_ended(self, grants: Grants) -> bool:
        """Whether `grants` were for a time that is over."""
        return 0 < grants.ends_ms <= self._board.steady_ms()

    def grants_of(self, id: str) -> Grants | None:
        """Return the grants of the token `id`; None if it does not exist."""
        if not self.required:
            return EVERYTHING if id == EVERYTHING.id else None
        return next((grants for grants in self.all_grants() if grants.id == id), None)
