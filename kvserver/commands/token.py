"""`kvserver token`: makes, lists and revokes the tokens in the file that `kvserver serve --tokens` reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from kvserver.access import tokenedit, tokenfile
from kvserver.access.grants import VERBS, Verb, shown
from kvserver.access.tokenedit import Change, changing
from kvserver.access.tokenfile import TokenFileError
from kvserver.commands.options import options
from kvserver.commands.place import Refused, running, settings_of
from kvserver.commands.terminal import fail, say
from kvserver.settings import ServerSettings
from shards.logs import complain
from shards.settings import env_name, option_name

HELP: Final = f"""Make, list and revoke tokens.

They stand in the file that {option_name("tokens")} names ({env_name("tokens")}), by their SHA-256 alone. A server reads
it when it starts, and again at SIGHUP.
"""
HELP_NEW: Final = """Make the token NAME and print it, once: it cannot be told again.

--grant says what its bearer may: read, write, feed, admin, or several with commas; behind a colon, on which keys: all
that start with that prefix. Without one, on all keys.

\b
    kvserver token new deploy --grant read,write:flags/ --grant feed
"""
HELP_REVOKE: Final = "Take the token NAME out of the file, with the comment right above it."


def new(name: str, grant: tuple[str, ...], **given: str | None) -> None:
    """The command."""
    settings, path = _file_of(given)
    if not re.fullmatch(tokenfile.NAME, name):
        raise click.UsageError("NAME is letters, digits and . _ -, at most 64, and does not begin with a sign")
    grants = [_grant(text) for text in grant]
    token = tokenedit.new_token()
    _change(path, lambda text: tokenedit.add(text, str(path), name, token, grants))
    say(token)
    _tell(settings, path)


def revoke(name: str, **given: str | None) -> None:
    """The command."""
    settings, path = _file_of(given)
    if not path.exists():
        fail(f"there is no file of tokens {path}")
    _change(path, lambda text: tokenedit.remove(text, str(path), name))
    _tell(settings, path)


def list_(**given: str | None) -> None:
    """The command."""
    _, path = _file_of(given)
    try:
        tokens = tokenfile.read(path)
    except TokenFileError as error:
        fail(error)
    width = max((len(token.grants.name) for token in tokens), default=0)
    for token in tokens:
        grants = [(verb, prefix) for verb in VERBS for prefix in getattr(token.grants, verb)]
        words = [f"{verb}:{shown(prefix)}" if prefix else verb for verb, prefix in grants]
        say(f"{token.grants.name:<{width}}  {' '.join(words)}")


def _file_of(given: dict[str, Any]) -> tuple[ServerSettings, Path]:
    settings = settings_of(given)
    if settings.tokens is None:
        raise click.UsageError(f"name the file of tokens with {option_name('tokens')} or {env_name('tokens')}")
    return settings, settings.tokens


def _grant(text: str) -> tuple[str, list[Verb]]:
    """Prefix and verbs of `read,write:flags/`."""
    words, colon, prefix = text.partition(":")
    if colon and not prefix:  # as of a variable that is not set
        raise click.UsageError(f"--grant {text!r}: the prefix is empty; on all keys that is {words!r}, without a colon")
    try:
        prefix.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"--grant {text!r}: the prefix is not UTF-8, which all keys are") from None
    try:
        pairs = tokenfile.pairs_of(prefix, [word.strip() for word in words.split(",")])
    except ValueError as error:
        raise click.UsageError(f"--grant {text!r}: {error}") from None
    return prefix, list(dict.fromkeys(verb for verb, _ in pairs))


def _change(path: Path, change: Change) -> None:
    try:
        changing(path, change)
    except TokenFileError as error:
        fail(error)
    except OSError as error:
        fail(f"the file of tokens {path} cannot be written: {error.strerror} ({error.filename})")


def _tell(settings: ServerSettings, path: Path) -> None:
    """How a server comes to know of it. It is not told by itself: who changes several things wants them at once."""
    try:
        board = running(settings)
    except Refused:
        return
    if board is None:
        return
    if board.log.tokens:
        pid = board.facts.supervisor_pid
        complain(f"the running server takes it over if it is told to: kill -HUP {pid}")
    else:
        complain(f"the running server has no tokens: start it anew with {option_name('tokens')} {path}")
    board.close()


_WHERE: Final = ("tokens", "data_dir", "run_dir")
_NAME: Final = click.Argument(["name"], metavar="NAME")
_GRANT: Final = click.Option(
    ["--grant"], multiple=True, required=True, metavar="VERBS[:PREFIX]", help="What it allows; may be repeated."
)

COMMAND = click.Group(
    "token",
    help=HELP,
    short_help="Make, list and revoke tokens.",
    commands=[
        click.Command("new", callback=new, params=[_NAME, _GRANT, *options(*_WHERE)], help=HELP_NEW),
        click.Command("list", callback=list_, params=options("tokens"), help="Print names and grants of all tokens."),
        click.Command("revoke", callback=revoke, params=[_NAME, *options(*_WHERE)], help=HELP_REVOKE),
    ],
)
