"""Completion of keys: segment by segment, as files are, silent on every failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:  # older click has no type arguments
    _Word = click.ParamType[str]
else:
    _Word = click.ParamType

COMPLETION_S: Final = 0.3
"""Seconds that a shell waits for the server at most."""
_MOST: Final = 200
_DELIMITER: Final = "/"

PART: Final = "part"
"""Type of a completion that is not a whole key: no space follows it."""


class KeyName(_Word):
    """A key. Keys that exist are offered as completions."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the key. Raises `click.BadParameter` for what is no UTF-8, which all keys are."""
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("a key is UTF-8, and this is not", param, ctx)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the keys, and the beginnings of keys up to the next slash, that begin with `incomplete`."""
        try:
            return _complete(ctx.params, incomplete)
        except Exception:  # whatever it is: a message would appear in the line that is being typed
            return []


def _complete(params: dict[str, Any], incomplete: str) -> list[CompletionItem]:
    from kvserver.client import Client
    from kvserver.commands.parts.servers import read_token, server_url

    token = read_token(params.get("token_file"))
    with Client(server_url(params.get("url")), token=token, timeout=COMPLETION_S, patience=0) as client:
        page = client.page(incomplete, limit=_MOST, delimiter=_DELIMITER)
    names = [(item.key, "plain") for item in page.items] + [(prefix, PART) for prefix in page.prefixes]
    return [CompletionItem(name, type=kind) for name, kind in sorted(names) if name.isprintable()]
