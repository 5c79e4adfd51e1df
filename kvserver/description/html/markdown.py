"""Chapters of Markdown as HTML: anchors as forges make them, links among pages, examples at the address of the server.

Raw HTML is shown, never obeyed. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape
from typing import Any, Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from kvserver.description.html.elements import render_example
from kvserver.description.operations import EXAMPLE_URL

_ENDING: Final = ".md"
_START: Final = "index"
_PICTURES: Final = "pictures/"
_LIGHT, _DARK = ".light.", ".dark."
"""What the names of two pictures of the same differ in; a chapter names the light one."""
_NOT_OF_ANCHORS: Final = re.compile(r"[^\w\- ]")
_LABELS: Final = {"console": "Commands and what they print", "sh": "Commands", "": "Text"}
_LEVELS: Final = ("h2", "h3")


class Section(NamedTuple):
    """A part of a chapter: what stands below one heading.

    Attributes:
        anchor: behind `#`; empty for the beginning of the chapter.
        heading: in plain text.
        level: 1 for the beginning of the chapter, 2 and 3 for the headings below it.
        text: all of it, without markup.
    """

    anchor: str
    heading: str
    level: int
    text: str


class Entry(NamedTuple):
    """A chapter in the list of all: the group it is in, its name and its title."""

    group: str
    name: str
    title: str


class Chapter(NamedTuple):
    """A chapter: title, HTML without the title, parts in order."""

    title: str
    content: str
    sections: tuple[Section, ...]


def render_chapter(source: str, above: str) -> Chapter:
    """Render a chapter whose pages lie below the path `above`: `keys.md` becomes `/docs/keys`."""
    tokens = _parser().parse(source)
    sections = tuple(_name_sections(tokens))
    for token in tokens:
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("href", find_page(str(child.attrGet("href")), above))
            elif child.type == "image":
                child.attrSet("src", find_picture(str(child.attrGet("src")), above))
    body = [token for token in tokens if token.tag != "h1" and not token.meta.get("title")]
    return Chapter(sections[0].heading, _parser().renderer.render(body, _parser().options, {}), sections)


def find_page(target: str, above: str) -> str:
    """Return the address of what a link of a chapter leads to."""
    path, mark, anchor = target.partition("#")
    if ":" in path or "/" in path or not path.endswith(_ENDING):
        return target
    name = path.removesuffix(_ENDING)
    return above + ("" if name == _START else name) + mark + anchor


def find_picture(target: str, above: str) -> str:
    """Return the address of a picture of a chapter."""
    return above + target if target.startswith(_PICTURES) else target


def list_chapters(source: str) -> list[Entry]:
    """Return the chapters that a table of contents names, in order: each the first link of an item below a heading."""
    entries, group, in_heading = [], "", False
    for token in _parser().parse(source):
        if token.type == "heading_open":
            in_heading = True
        elif token.type == "inline" and in_heading:
            group, in_heading = _plain(token), False
        elif token.type == "inline" and token.level > 1 and (children := token.children):
            name = str(children[0].attrGet("href") or "")
            if name.endswith(_ENDING):
                end = next(place for place, child in enumerate(children) if child.type == "link_close")
                title = _join_text(children[:end])
                entries.append(Entry(group, name.removesuffix(_ENDING), title))
    return entries


def make_anchor(heading: str, taken: Iterable[str] = ()) -> str:
    """Return the anchor of a heading as forges make it; a number follows if it is `taken`."""
    anchor = _NOT_OF_ANCHORS.sub("", heading.lower()).replace(" ", "-")
    used = set(taken)
    return next(each for each in (anchor, *(f"{anchor}-{n}" for n in range(1, len(used) + 2))) if each not in used)


def _name_sections(tokens: Sequence[Token]) -> Iterator[Section]:
    """Give each heading its anchor, and yield the sections."""
    taken: list[str] = []
    anchor, heading, level, text = "", "", 1, list[str]()
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            if before.tag == "h1":
                heading, token.meta = _plain(token), {"title": True}
                continue
            yield Section(anchor, heading, level, " ".join(text))
            anchor, heading, level, text = make_anchor(_plain(token), taken), _plain(token), int(before.tag[1]), []
            taken.append(anchor)
            before.attrSet("id", anchor)
            before.meta = {"heading": heading}
        elif token.type in ("inline", "fence", "code_block"):
            text.append(_plain(token) if token.type == "inline" else token.content.strip())
    yield Section(anchor, heading, level, " ".join(text))


def _plain(token: Token) -> str:
    """Return the text of an inline token without its markup."""
    return _join_text(token.children or ())


def _join_text(tokens: Iterable[Token]) -> str:
    return "".join(" " if token.type.endswith("break") else token.content for token in tokens)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for name, rule in (
        ("fence", _render_fence),
        ("code_block", _render_fence),
        ("code_inline", _render_code),
        ("image", _render_picture),
        ("heading_close", _render_heading_end),
        ("table_open", _render_table_start),
        ("table_close", _render_table_end),
    ):
        parser.add_render_rule(name, rule)
    return parser


def _render_fence(_: Any, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    language = tokens[index].info.strip()
    return render_example(tokens[index].content.rstrip("\n"), language, _LABELS.get(language, "Program"))


def _render_code(_: Any, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    """Render code in a sentence. There the bare address is the one that clients take by default: it stays as it is."""
    content = tokens[index].content
    shown = escape(content, quote=False)
    return f"<code>{shown.replace(':', '&#58;') if content == EXAMPLE_URL else shown}</code>"


def _render_picture(_: Any, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    """Render a picture, and the dark one of the same for who prefers that."""
    token = tokens[index]
    source, told = escape(str(token.attrGet("src"))), escape(_plain(token))
    shown = f'<img src="{source}" alt="{told}">'
    if _LIGHT not in source:
        return shown
    dark = source.replace(_LIGHT, _DARK)
    return f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">{shown}</picture>'


def _render_heading_end(_: Any, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    """End a heading with a link to itself."""
    start = tokens[index - 2]
    label = escape(f"Link to: {start.meta.get('heading', '')}")
    return f' <a class="here" href="#{start.attrGet("id")}" aria-label="{label}">#</a></{tokens[index].tag}>\n'


def _render_table_start(*_: Any) -> str:
    return '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>'


def _render_table_end(*_: Any) -> str:
    return "</table></div>"
