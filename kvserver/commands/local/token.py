"""`kvserver token`: creates, lists and revokes tokens in the file that `kvserver serve --tokens` reads."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from kvserver.access import tokenedit, tokenfile
from kvserver.access.grants import VERBS, Verb, show_key
from kvserver.access.tokenedit import Change, change_file
from kvserver.access.tokenfile import TokenFileError
from kvserver.access.tokens import are_in_effect
from kvserver.commands.local.local_store import believed, settings_of
from kvserver.commands.local.running import default_run_dirs
from kvserver.commands.options import setting_options
from kvserver.commands.terminal import exit_with, print_line
from kvserver.settings import ServerSettings
from shards.host.board import Board, BoardError, BoardNotBelieved
from shards.host.logs import print_error
from shards.host.settings import SettingError, env_name, option_name

HELP: Final = f"""Create, list and revoke tokens.

The file that {option_name("tokens")} names ({env_name("tokens")}) stores only their SHA-256. A running server applies a
change within two seconds. Each command waits for that and prints which servers have applied it: the one that
{option_name("data_dir")} or {option_name("run_dir")} names, and all with a default run directory. If one of them has
not, the status is 1.

Only this user and root may be able to write the file and its directory.
"""
PATIENCE_S: Final = 5.0
"""Seconds that a server may take to apply a change."""

HELP_NEW: Final = """Create the token NAME and print it. It is printed only once.

--grant gives its permissions: read, write, feed, admin, or several separated by commas. A colon and a prefix limit them
to the keys that start with it; without a prefix they apply to all keys.

\b
    kvserver token new deploy --grant read,write:flags/ --grant feed
"""
HELP_REVOKE: Final = "Remove the token NAME from the file, with the comment directly above it."


def create_token(name: str, grant: tuple[str, ...], **given: str | None) -> None:
    """Create a token and print it; exit with 1 if a server does not apply it."""
    settings, path = _file_of(given)
    if not re.fullmatch(tokenfile.NAME, name):
        raise click.UsageError("NAME is letters, digits and . _ -, at most 64, and does not begin with a sign")
    grants = [_parse_grant(text) for text in grant]
    token = tokenedit.new_token()
    _edit_file(path, lambda text: tokenedit.add_token(text, str(path), name, token, grants))
    print_line(token)
    print_error(f"{path} has the token {name} now")
    _report_servers(settings, path)


def revoke_token(name: str, **given: str | None) -> None:
    """Remove a token from the file; exit with 1 if a server does not apply the change."""
    settings, path = _file_of(given)
    if not path.exists():
        exit_with(f"there is no token file {path}")
    _edit_file(path, lambda text: tokenedit.remove_token(text, str(path), name))
    print_error(f"{path} no longer has the token {name}")
    _report_servers(settings, path)


def list_tokens(**given: str | None) -> None:
    """Print name and grants of all tokens."""
    settings, path = _file_of(given)
    given_open = tokenfile.is_open(path)
    try:
        tokens = tokenfile.read_open(path) if given_open else tokenfile.read_file(path)
    except TokenFileError as error:
        exit_with(error)
    width = max((len(token.grants.name) for token in tokens), default=0)
    for token in tokens:
        grants = [(verb, prefix) for verb in VERBS for prefix in getattr(token.grants, verb)]
        words = [f"{verb}:{show_key(prefix)}" if prefix else verb for verb, prefix in grants]
        print_line(f"{token.grants.name:<{width}}  {' '.join(words)}")
    if not given_open:  # no server uses it
        _report_servers(settings, path)


def _file_of(given: dict[str, Any]) -> tuple[ServerSettings, Path]:
    settings = settings_of(given)
    if settings.tokens is None:
        raise click.UsageError(f"name the token file with {option_name('tokens')} or {env_name('tokens')}")
    if str(settings.tokens) == "-":
        raise click.UsageError(
            "- is not a file that can be read again: name the token file itself (./- if it has that name)"
        )
    return settings, settings.tokens


def _parse_grant(text: str) -> tuple[str, list[Verb]]:
    """Parse `read,write:flags/` into prefix and verbs. Raises `click.UsageError`."""
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


def _edit_file(path: Path, change: Change) -> None:
    try:
        change_file(path, change)
    except TokenFileError as error:
        exit_with(error)
    except OSError as error:
        exit_with(f"the token file {path} cannot be written: {error.strerror} ({error.filename})")


def _report_servers(settings: ServerSettings, path: Path) -> None:
    """Wait until the running servers that use the file apply it, and print them. Exits with 1 if one does not."""
    try:
        tokens = tokenfile.read_file(path)
    except TokenFileError as error:
        exit_with(error)
    served = behind = False
    for board in _running_boards(settings):
        server = f"the server of {_store_name(board)} (pid {board.facts.supervisor_pid})"
        if _is_file_of(board, path):
            served = True
            if _wait_until(lambda: are_in_effect(board, tokens)):  # noqa: B023
                print_error(f"{server} has applied it")
            else:
                behind = True
                print_error(f"{server} has not applied it within {PATIENCE_S:.0f} s: its log says why")
        elif board.path == _board_path(settings):
            theirs = board.facts.tokens
            print_error(
                f"{server} uses another token file: {theirs}"
                if theirs
                else f"{server} has no tokens: restart it with {option_name('tokens')} {path}"
            )
        board.close()
    if not served:
        print_error(
            "no running server that is known here uses it; a server that does applies it within two seconds "
            f"({option_name('run_dir')} makes it known)"
        )
    if behind:
        sys.exit(1)


def _store_name(board: Board) -> str:
    return "a store in memory" if board.facts.in_memory else board.facts.data_dir


def _running_boards(settings: ServerSettings) -> Iterator[Board]:
    """Yield the boards of running servers: the one that the settings name, and all with a default run directory of
    this user. The caller closes them."""
    paths = [path / "board" for path in default_run_dirs()]
    named = _board_path(settings)
    for path in dict.fromkeys([*([named] if named else []), *paths]):
        try:
            board = Board.open(path, believed(settings))
        except BoardNotBelieved as error:  # of another version, for instance
            if path == named:
                print_error(f"there is no server in the run directory: {error}")
            continue
        except (BoardError, OSError):
            continue
        if board.is_over():
            board.close()
        else:
            yield board


def _board_path(settings: ServerSettings) -> Path | None:
    try:
        return settings.board_path
    except SettingError:  # a store in memory has a random run directory
        return None


def _is_file_of(board: Board, path: Path) -> bool:
    if not board.facts.tokens:
        return False
    if board.facts.tokens == str(path.absolute()):
        return True
    try:
        return path.samefile(board.facts.tokens)
    except OSError:
        return False


def _wait_until(condition: Callable[[], bool]) -> bool:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(0.05)
    return True


_WHERE: Final = ("tokens", "data_dir", "run_dir")
_NAME: Final = click.Argument(["name"], metavar="NAME")
_GRANT: Final = click.Option(
    ["--grant"],
    multiple=True,
    required=True,
    metavar="VERBS[:PREFIX]",
    help="Permissions of the token; may be repeated.",
)

COMMAND = click.Group(
    "token",
    help=HELP,
    commands=[
        click.Command("new", callback=create_token, params=[_NAME, _GRANT, *setting_options(*_WHERE)], help=HELP_NEW),
        click.Command(
            "list", callback=list_tokens, params=setting_options(*_WHERE), help="Print names and grants of all tokens."
        ),
        click.Command("revoke", callback=revoke_token, params=[_NAME, *setting_options(*_WHERE)], help=HELP_REVOKE),
    ],
)
