"""Signed grants: what was signed is read, nothing else is."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.access.delegation import BEGINNING, Signer
from kvserver.access.grants import VERBS, Grants
from shards.host.board import Board
from tests.facts import make_facts

GRANTS = Grants.of("deploy", "0123456789abcdef", [("read", b"a/"), ("feed", "é/".encode())])


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Board]]:
    """Of two runs of one store."""
    where = tmp_path_factory.mktemp("boards")
    made = [Board.create(Path(where / name), make_facts(str(where))) for name in ("one", "other")]
    yield made
    for board in made:
        board.close()


@given(
    st.text(max_size=20),
    st.lists(st.tuples(st.sampled_from(VERBS), st.binary(max_size=20)), max_size=8),
    st.integers(0, 1 << 50),
)
def test_what_is_signed_is_read(boards: list[Board], name: str, pairs: list[tuple[str, bytes]], ends_ms: int) -> None:
    grants = msgspec.structs.replace(Grants.of(name, "id", pairs), ends_ms=ends_ms)  # type: ignore[arg-type]
    signer = Signer(boards[0])
    text = signer.sign(grants)
    assert text.isascii() and text.startswith(BEGINNING.decode())
    assert signer.read(text.encode()) == msgspec.structs.replace(grants, name="", id=signer.label_of("id"))
    assert Signer(boards[1]).read(text.encode()) is None


@given(st.data())
def test_nothing_else_is_read(boards: list[Board], data: st.DataObject) -> None:
    signer = Signer(boards[0])
    text = bytearray(signer.sign(GRANTS).encode())
    at = data.draw(st.integers(len(BEGINNING), len(text) - 2))  # the last character has spare bits
    text[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[at]))
    assert signer.read(bytes(text)) is None
    assert signer.read(bytes(text[:at])) is None


def test_a_text_tells_nothing_of_its_token_and_has_one_form(boards: list[Board]) -> None:
    signer = Signer(boards[0])
    text = signer.sign(GRANTS).encode()
    content = urlsafe_b64decode(text[len(BEGINNING) :] + b"==")
    assert GRANTS.id.encode() not in content and GRANTS.name.encode() not in content
    for other in (text + b"=", text + b".", text[:9] + b"!" + text[9:], text[:9] + b"\n" + text[9:]):
        assert signer.read(other) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_taken(boards: list[Board], junk: bytes) -> None:
    assert Signer(boards[0]).read(BEGINNING + junk) is None
