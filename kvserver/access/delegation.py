"""Signed grants: rights for minutes that the bearer of a token hands on, say a backend to a page of its user.

The text is a bearer token of its own: `kvd_`, then in base64url the grants and when they end, by the steady clock (see
`shards.wire.clock`), and a code of that (HMAC-SHA-256, RFC 2104) under a key of this run of the server. No process
stores anything, so there may be any number of them, and all end with the run. They never grant more than the token that
they come from does at the time of use: `Tokens` sees to that. They disclose nothing about it: in place of its id, which
is a part of its hash, is a label, made of the id and the key.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from kvserver.access.grants import Grants
from shards.host.board import Board

MOST_SECONDS: Final = 3600
"""The longest lifetime."""
MOST_GRANTS: Final = 16
"""Prefixes in one text."""
MOST_PREFIX_BYTES: Final = 4096
"""Bytes of all its prefixes: they travel with each request."""
BEGINNING: Final = b"kvd_"

_CODE_BYTES: Final = 32

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Grants).decode


def derive_key(board: Board, purpose: bytes) -> bytes:
    """Return the secret key of this run for `purpose`, at most 16 bytes that no other purpose has."""
    # Two random words that no client ever gets: of this run, and of the store.
    words = b"%016x%016x" % (board.id, board.facts.secret)
    return hashlib.blake2b(words, digest_size=32, person=purpose).digest()


class Signer:
    """Signs grants, and reads what was signed in this run."""

    def __init__(self, board: Board) -> None:
        self._key = derive_key(board, b"kvserver grants")

    def label_of(self, id: str) -> str:
        """Return what stands for the token `id` in a text."""
        return hashlib.blake2b(id.encode(), key=self._key, digest_size=8, person=b"label").hexdigest()

    def sign(self, grants: Grants) -> str:
        """Return `grants` as text, with a label in place of the id of their token and without its name."""
        content = _encode(msgspec.structs.replace(grants, name="", id=self.label_of(grants.id)))
        return (BEGINNING + urlsafe_b64encode(self._compute_code(content) + content).rstrip(b"=")).decode()

    def read(self, text: bytes) -> Grants | None:
        """Return what was signed, which may have ended; None if `text` is not what `sign` returned in this run.

        Its id is the label of its token.
        """
        encoded = text.removeprefix(BEGINNING)
        try:
            signed = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        except (binascii.Error, ValueError):
            return None
        if urlsafe_b64encode(signed).rstrip(b"=") != encoded:  # another way to write the same
            return None
        code, content = signed[:_CODE_BYTES], signed[_CODE_BYTES:]
        return _decode(content) if hmac.compare_digest(code, self._compute_code(content)) else None

    def _compute_code(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")
