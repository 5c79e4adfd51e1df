"""The lines of a tree of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserver.commands.data.ls import tree_lines


def test_each_part_stands_once_below_what_is_before_it() -> None:
    keys = ["a", "a/", "a/b", "a/b/c", "a/d", "b//x", "e"]
    assert list(tree_lines(keys, "/")) == [
        "a",
        "a/",
        "  (itself)",
        "  b",
        "  b/",
        "    c",
        "  d",
        "b/",
        "  /",
        "    x",
        "e",
    ]


def test_another_delimiter() -> None:
    assert list(tree_lines(["pkg:a", "pkg:b:c"], ":")) == ["pkg:", "  a", "  b:", "    c"]


@given(st.lists(st.text("ab/", min_size=1, max_size=6), unique=True).map(sorted))
def test_every_key_can_be_read_from_the_tree(keys: list[str]) -> None:
    stack: list[str] = []
    found = []
    for line in tree_lines(keys, "/"):
        word = line.lstrip(" ")
        depth = (len(line) - len(word)) // 2
        stack = [*stack[:depth], "" if word == "(itself)" else word]
        if not word.endswith("/"):
            found.append("".join(stack))
    assert found == keys
