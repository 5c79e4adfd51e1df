"""The frame of a page: its head, its parts, and the policy that it is served with.

A page comes whole: its style sheet and its script are inside, both read from the package. The policy names them by
their digests, so nothing else runs, not even a script that somebody stored as a value of this server. Without the
script a page lacks the search and the buttons that copy, nothing else.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

from kvserver.http.routes import CONSOLE, DOCS, ERRORS, REFERENCE, SDK

_STYLE: Final = Path(__file__).with_name("style.css").read_text("utf-8")
_SCRIPT: Final = Path(__file__).with_name("page.js").read_text("utf-8")


def _digest(source: str) -> str:
    return "'sha256-" + b64encode(hashlib.sha256(source.encode()).digest()).decode() + "'"


SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src {_digest(_STYLE)}; script-src {_digest(_SCRIPT)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""The Content-Security-Policy of the pages: their own style sheet and script run, and they fetch from this server."""
POLICY_WITH_PICTURES: Final = f"{SECURITY_POLICY}; img-src 'self'"
"""That of the manual's chapters, which show pictures of this server too."""

PLACES: Final = (
    (DOCS, "Manual"),
    (REFERENCE, "Reference"),
    (ERRORS, "Errors"),
    (SDK, "Libraries"),
    (CONSOLE, "Console"),
)
"""Where the bar above every page leads; that of the console, too."""
_CURRENT: Final = ' aria-current="true"'
_BRAND: Final = f'<a class="brand" href="{DOCS}">kvserver</a>'
_SEARCH: Final = (
    '<form class="search" role="search" hidden>'
    '<input type="search" placeholder="Search" aria-label="Search the manual" '
    'autocomplete="off" spellcheck="false" aria-keyshortcuts="/"><div class="found" hidden>'
    '<p role="status"></p><ul aria-label="Found"></ul></div></form>'
)


def _render_bar(current: str) -> str:
    """Render what is above every page. `current`: the place of the site that the page belongs to."""
    places = "".join(f'<a href="{place}"{_CURRENT if place == current else ""}>{name}</a>' for place, name in PLACES)
    return f'<header class="bar">{_BRAND}<nav class="places" aria-label="Site">{places}</nav>{_SEARCH}</header>'


def render_section(title: str, content: str) -> str:
    """Render a part of a page; `content` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def render_navigation(groups: Iterable[tuple[str, list[str]]], name: str = "Contents") -> str:
    """Render a table of contents: named groups of links, which are HTML. On narrow screens it is folded."""
    shown = "".join(
        f"<h2>{escape(group)}</h2><ul>{''.join(f'<li>{entry}</li>' for entry in entries)}</ul>"
        for group, entries in groups
    )
    return (
        f'<details class="menu"><summary>{escape(name)}</summary>'
        f'<nav aria-label="{escape(name)}">{shown}</nav></details>'
    )


def render_page(place: str, title: str, about: str, navigation: str, content: str) -> str:
    """Render a whole page; all but the title is HTML. `place`: the route of the part of the site that it belongs to."""
    kind = "" if navigation else ' class="alone"'
    told = f'<p class="about">{about}</p>' if about else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · kvserver</title><style>{_STYLE}</style></head><body{kind}>"
        f'<a class="skip" href="#content">To the content</a>{_render_bar(place)}{navigation}'
        f'<main id="content" tabindex="-1"><h1>{escape(title)}</h1>{told}{content}</main>'
        f'<script type="module">{_SCRIPT}</script></body></html>\n'
    )
