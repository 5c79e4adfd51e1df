"""Paths whose names are not UTF-8 go through JSON and come back."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shards.files.path_text import path_to_text, text_to_path
from shards.host.board import Board
from shards.maps.directory.ownership import Owner
from tests.facts import make_facts

NOT_UTF_8 = os.fsdecode(b"d\xff\xfe")


@given(st.binary().filter(lambda name: b"\0" not in name))
def test_every_path_comes_back(name: bytes) -> None:
    path = os.fsdecode(name)
    assert text_to_path(msgspec.json.decode(msgspec.json.encode(path_to_text(path)), type=str)) == path


@given(st.text().filter(lambda text: "\0" not in text))
def test_what_is_utf_8_stays_as_it_is(text: str) -> None:
    assert path_to_text(text) == text


def test_the_owner_of_maps_is_known_whatever_the_name_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / NOT_UTF_8).mkdir()
    owner = Owner.of("s", tmp_path / NOT_UTF_8)
    assert msgspec.json.decode(msgspec.json.encode(owner), type=Owner) == owner
    assert not owner.exists(), "there is no store in it"
    for wrong in ("\0xyz", "\0" + "00"):
        assert not Owner("s", wrong).exists()


def test_the_board_tells_such_paths(tmp_path: Path) -> None:
    where = str(tmp_path / NOT_UTF_8)
    facts = make_facts(where, tokens=where)
    made = Board.create(tmp_path / "board", facts)
    made.install()
    found = Board.open(tmp_path / "board")
    assert found.facts == made.facts == facts
    found.close()
    made.close()
