"""Chapters of Markdown: headings, links, examples, text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.description.html import markdown
from kvserver.description.html.markdown import Entry, Section, find_page, make_anchor, render_chapter
from tests.unit.kvserver.description.html.pages import Page


def test_title_and_sections() -> None:
    chapter = render_chapter(
        "# The `feed`\n\nAll *of* it.\n\n## One\n\na\nb\n\n```sh\nls\n```\n\n### One\n\n- c\n", "/docs/"
    )
    assert chapter.title == "The feed"
    assert chapter.sections == (
        Section("", "The feed", 1, "All of it."),
        Section("one", "One", 2, "a b ls"),
        Section("one-1", "One", 3, "c"),
    )
    assert "<h1" not in chapter.content and "The <code>" not in chapter.content
    assert '<h2 id="one">One <a class="here" href="#one"' in chapter.content
    assert '<h3 id="one-1">' in chapter.content


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Conditional writes", "conditional-writes"),
        ("1. What runs", "1-what-runs"),
        ("The feed /wal", "the-feed-wal"),
        ("Limits and back-pressure: what is bounded where", "limits-and-back-pressure-what-is-bounded-where"),
        ("a & b", "a--b"),
        ("snake_case", "snake_case"),
    ],
)
def test_anchors_are_those_of_forges(heading: str, anchor: str) -> None:
    assert make_anchor(heading) == anchor
    assert make_anchor(heading, [anchor]) == f"{anchor}-1"
    assert make_anchor(heading, [anchor, f"{anchor}-1"]) == f"{anchor}-2"


@pytest.mark.parametrize(
    ("target", "page"),
    [
        ("keys.md", "/docs/keys"),
        ("lists-and-batches.md#batches", "/docs/lists-and-batches#batches"),
        ("index.md", "/docs/"),
        ("index.md#use-it", "/docs/#use-it"),
        ("#here", "#here"),
        ("https://a.example/keys.md", "https://a.example/keys.md"),
        ("../sdk/README.md", "../sdk/README.md"),
        ("/sdk/", "/sdk/"),
    ],
)
def test_links_lead_to_pages(target: str, page: str) -> None:
    assert find_page(target, "/docs/") == page
    assert f'href="{page}"' in render_chapter(f"# A\n\n[b]({target})\n", "/docs/").content


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (
            "![A `b` <c>](pictures/d.light.svg)",
            '<picture><source srcset="/docs/pictures/d.dark.svg" media="(prefers-color-scheme: dark)">'
            '<img src="/docs/pictures/d.light.svg" alt="A b &lt;c&gt;"></picture>',
        ),
        ("![a](pictures/d.webp)", '<img src="/docs/pictures/d.webp" alt="a">'),
        ("![a](https://b.example/c.png)", '<img src="https://b.example/c.png" alt="a">'),
    ],
)
def test_a_picture_comes_with_its_dark_one(source: str, shown: str) -> None:
    content = render_chapter(f"# A\n\n{source}\n", "/docs/").content
    assert content == f"<p>{shown}</p>\n"
    Page(content.replace("https://b.example", "/docs/pictures"))


def test_examples_tell_what_is_typed() -> None:
    content = render_chapter("# A\n\n```console\n$ echo '<b>'\n<b>\n```\n", "/docs/").content
    assert '<span class="prompt">$ </span><span class="typed">echo &#x27;&lt;b&gt;&#x27;</span>\n' in content
    assert '<span class="out">&lt;b&gt;</span>' in content
    assert "typed" not in render_chapter("# A\n\n```sh\n$ x\n```\n", "/docs/").content
    assert '<pre class="drawing"' in render_chapter("# A\n\n```\n┌─┐\n```\n", "/docs/").content


def test_the_address_of_the_server_can_be_told_from_the_default_of_clients() -> None:
    url = "http://localhost:8080"
    shown = {
        text: render_chapter(f"# A\n\n{text}\n", "/docs/").content.count(url)
        for text in (f"`{url}`", f"`curl {url}/k`", f"```sh\ncurl {url}/k\n```", f"```c\nf() /* else {url} */\n```")
    }
    assert list(shown.values()) == [0, 1, 1, 0]


def test_raw_html_is_shown_and_links_run_nothing() -> None:
    content = render_chapter("# A\n\n<b>x</b> [y](javascript:alert(1))\n\n<script>z</script>\n", "/docs/").content
    assert "<b>" not in content and "<script" not in content and "href=" not in content


@given(st.text(st.sampled_from("#`*[]()<>\"'&|-:.$ \n\tab1"), max_size=80))
def test_whatever_it_says_elements_nest(text: str) -> None:
    chapter = render_chapter(f"# A\n\n{text}\n", "/docs/")
    page = Page(chapter.content)
    assert set(page.names) <= {
        *("p", "h2", "h3", "h4", "h5", "h6", "a", "code", "pre", "div", "span", "em", "strong", "ul", "ol", "li", "br"),
        *("blockquote", "hr", "table", "thead", "tbody", "tr", "th", "td"),
    }


def test_a_table_of_contents() -> None:
    source = "# M\n\nSee [x](x.md).\n\n## Use\n\n- [Keys, and *more*](keys.md): a [b](b.md)\n- none\n"
    source += "\n## Run\n\n- [D](d.md)\n"
    assert markdown.list_chapters(source) == [Entry("Use", "keys", "Keys, and more"), Entry("Run", "d", "D")]
