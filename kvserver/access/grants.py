"""The rights of a token's bearer. Pure.

A grant allows a verb on every key that starts with its prefix:

    read    the value, and that the key is there: GET, lists, whatever answers a value
    write   changes: PUT, PATCH, POST, DELETE
    feed    changes as they happen, with their values
    admin   what concerns the whole server; its prefix is always empty

A prefix is granted only if it lies inside one grant. Keys under several grants of which none covers the prefix are not
the same thing: other keys may come to be between them.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Final, Literal, get_args

import msgspec

from shards.wire.errors import Forbidden

Verb = Literal["read", "write", "feed", "admin"]

VERBS: Final[tuple[Verb, ...]] = get_args(Verb)


class Grants(msgspec.Struct, frozen=True):
    """The rights of one token's bearer; immutable. Each verb has its prefixes, in byte order, none inside another.

    Attributes:
        name: of the token, empty without tokens.
        id: the beginning of the token's SHA-256: another token of the same name has another. Empty without tokens.
        ends_ms: when these rights end, by the steady clock; 0: with the token. Others are a part of the token's rights
            that its bearer has handed on.
        handed_on: names what was handed on first, if it was; empty otherwise.
    """

    name: str
    id: str
    read: tuple[bytes, ...] = ()
    write: tuple[bytes, ...] = ()
    feed: tuple[bytes, ...] = ()
    admin: tuple[bytes, ...] = ()
    ends_ms: int = 0
    handed_on: str = ""

    @classmethod
    def of(cls, name: str, id: str, allowed: Iterable[tuple[Verb, bytes]]) -> Grants:
        """Make grants of pairs of a verb and a prefix, in any order; prefixes may lie inside others."""
        pairs = list(allowed)
        read, write, feed, admin = (_drop_nested(prefix for each, prefix in pairs if each == verb) for verb in VERBS)
        return cls(name, id, read, write, feed, admin)

    def may(self, verb: Verb, key: bytes) -> bool:
        """Whether `verb` is granted on `key`."""
        return key.startswith(getattr(self, verb))

    def may_all(self, verb: Verb, prefix: bytes) -> bool:
        """Whether `verb` is granted on every key that starts with `prefix`, keys of the future included."""
        return self.may(verb, prefix)

    def prefixes_within(self, verb: Verb, prefix: bytes) -> tuple[bytes, ...]:
        """Return the parts of `prefix` on which `verb` is granted, in byte order, none inside another.

        `prefix` itself if all of it is granted, nothing if no part is.
        """
        if self.may_all(verb, prefix):
            return (prefix,)
        prefixes: tuple[bytes, ...] = getattr(self, verb)
        return tuple(each for each in prefixes if each.startswith(prefix))

    def hand_on(self, allowed: Iterable[tuple[Verb, bytes]], ends_ms: int, name: str) -> Grants:
        """Return a part of these rights, which ends no later than they do: pairs of a verb and a prefix, in any order.

        `name`: a new one for `handed_on`.

        Raises `Forbidden` for a pair that these rights do not cover.
        """
        pairs = list(allowed)
        for verb, prefix in pairs:
            self.require_all(verb, prefix)
        ends_ms = min(ends_ms, self.ends_ms or ends_ms)
        part = Grants.of(self.name, self.id, pairs)
        return msgspec.structs.replace(part, ends_ms=ends_ms, handed_on=self.handed_on or name)

    def within(self, outer: Grants) -> Grants:
        """Return these rights as far as `outer` has them, too."""
        narrowed = {verb: self._common_prefixes(verb, outer) for verb in VERBS}
        return msgspec.structs.replace(self, **narrowed)

    def _common_prefixes(self, verb: Verb, outer: Grants) -> tuple[bytes, ...]:
        own: tuple[bytes, ...] = getattr(self, verb)
        return _drop_nested(part for prefix in own for part in outer.prefixes_within(verb, prefix))

    def require(self, verb: Verb, key: bytes) -> None:
        """Raise `Forbidden` unless `verb` is granted on `key`."""
        if not key.startswith(getattr(self, verb)):
            raise Forbidden(f"the token does not grant {verb} on the key {show_key(key)}")

    def require_all(self, verb: Verb, prefix: bytes) -> None:
        """Raise `Forbidden` unless `verb` is granted on every key that starts with `prefix`."""
        if not self.may_all(verb, prefix):
            what = f"every key that starts with {show_key(prefix)}" if prefix else "all keys"
            raise Forbidden(f"the token does not grant {verb}" + ("" if verb == "admin" else f" on {what}"))

    def fingerprint(self) -> int:
        """Return the CRC-32 of the prefixes of `feed`. If it changes, places in snapshots of the feed are void."""
        crc = 0
        for prefix in self.feed:
            crc = binascii.crc32(b"%d:%b" % (len(prefix), prefix), crc)
        return crc


def _drop_nested(prefixes: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return `prefixes` without those that start with another, in byte order."""
    result: list[bytes] = []
    for prefix in sorted(prefixes):
        if not result or not prefix.startswith(result[-1]):
            result.append(prefix)
    return tuple(result)


NOTHING: Final = Grants("", "")
"""The rights of requests that need no token."""

EVERYTHING: Final = Grants.of("", "", [(verb, b"") for verb in VERBS])
"""The rights of all requests to a server without tokens."""


def show_key(key: bytes) -> str:
    """Return a key or prefix in quotes, as messages show it."""
    return msgspec.json.encode(key.decode(errors="replace")).decode()
