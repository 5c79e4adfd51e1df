"""What all pages have in common."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

from kvserver.description.html import frame
from kvserver.http import routes


def test_the_policy_admits_style_sheet_and_script_of_a_page() -> None:
    page = frame.render_page(routes.DOCS, "A page", "", "", "")
    for directive, element in (("style-src", "style"), ("script-src", 'script type="module"')):
        (inside,) = re.findall(rf"<{element}>(.*?)</{element.split()[0]}>", page, re.DOTALL)
        digest = b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in frame.SECURITY_POLICY


def test_titles_are_text_and_the_rest_is_html() -> None:
    page = frame.render_page(
        routes.SDK, "<b>", "<i>about</i>", frame.render_navigation([("<b>", ["<a>x</a>"])]), "<p>content</p>"
    )
    assert (
        "<title>&lt;b&gt; · kvserver</title>" in page and "<h1>&lt;b&gt;</h1>" in page and "<h2>&lt;b&gt;</h2>" in page
    )
    assert all(part in page for part in ("<i>about</i>", "<li><a>x</a></li>", "<p>content</p>"))
    assert frame.render_section("<b>", "<p>x</p>") == "<section><h2>&lt;b&gt;</h2><p>x</p></section>"
