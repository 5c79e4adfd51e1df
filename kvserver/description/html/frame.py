"""The frame of a page: its head, its parts, and the policy that it is served with.

Pages need nothing else: no script, no other host, one style sheet inside, which is read from the package.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

_STYLE: Final = Path(__file__).with_name("style.css").read_text("utf-8")
_DIGEST: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the pages: they get their style sheet and nothing else."""


def render_section(title: str, content: str) -> str:
    """Render a part of a page; `content` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def render_navigation(groups: Iterable[tuple[str, list[str]]]) -> str:
    """Render a table of contents: named groups of links, which are HTML."""
    shown = "".join(
        f"<h2>{escape(name)}</h2><ul>{''.join(f'<li>{entry}</li>' for entry in entries)}</ul>"
        for name, entries in groups
    )
    return f'<nav aria-label="Contents">{shown}</nav>'


def render_page(title: str, about: str, navigation: str, content: str) -> str:
    """Render a whole page; all but the title is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#content">To the content</a>'
        f"<header><h1>{escape(title)}</h1><p>{about}</p></header>{navigation}"
        f'<main id="content">{content}</main></body></html>\n'
    )
