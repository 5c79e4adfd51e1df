"""The table of settings, and the loader the whole server uses.

A group of settings is a frozen dataclass whose fields are made by `setting`: type, default, help. Everything else comes
from that table: the command line's options (`--max-value`), the environment (`KVSERVER_MAX_VALUE`), the manual in
`--help`, the checks. Precedence: option, `KVSERVER_…`, an alias (MemoryKV's names), default.

A variable that a container platform sets for a service of the same name counts as not given: see `ignored_variables`.

Only what a process cannot learn from the board is a setting of it: see `board.Facts`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shards.host import logs

ENV_PREFIX = "KVSERVER_"

_LINK = re.compile(r"(?:tcp|udp|sctp)://[0-9A-Za-z.:\[\]-]+:[0-9]+")
"""What Kubernetes and `docker run --link` put into KVSERVER_PORT for a service of the name `kvserver`, and likewise
into KVSERVER_FEED_PORT for `kvserver-feed`. No setting has such a value."""


class SettingError(ValueError):
    """A setting has a value that cannot be used; the message names the setting, the value and what would be right."""


@dataclass(frozen=True)
class Spec:
    """A row of the table.

    Attributes:
        parse: makes the value of its text; raises ValueError that says what would be right.
        metavar: the placeholder for the value in the manual.
        help: what it does, and what follows from the choice.
        aliases: other environment variables, read if `KVSERVER_…` is not set: name to a function that makes this
            setting's text of the variable's, or None to leave it alone.
    """

    parse: Callable[[str], Any]
    metavar: str
    help: str
    aliases: Mapping[str, Callable[[str], str | None]] = dataclasses.field(default_factory=dict)


def setting(
    default: Any,
    parse: Callable[[str], Any],
    metavar: str,
    help: str,
    aliases: Mapping[str, Callable[[str], str | None]] | None = None,
) -> Any:
    """A field of a settings dataclass; see `Spec`."""
    return dataclasses.field(default=default, metadata={"spec": Spec(parse, metavar, help, aliases or {})})


def setting_specs(table: type) -> dict[str, Spec]:
    """Return name and spec of every setting of a settings dataclass, in order."""
    return {field.name: field.metadata["spec"] for field in dataclasses.fields(table)}


def env_name(name: str) -> str:
    """The environment variable of the setting `name`."""
    return ENV_PREFIX + name.upper()


def option_name(name: str) -> str:
    """The command line option of the setting `name`."""
    return "--" + name.replace("_", "-")


T = TypeVar("T")


def load_settings(
    table: type[T], options: Mapping[str, str | None] | None = None, environ: Mapping[str, str] = os.environ
) -> T:
    """Load the settings of `table` from `options` (name to text; None: not given), `environ` and the defaults.

    Raises `SettingError`.
    """
    values = {}
    for name, spec in setting_specs(table).items():
        text, origin = (options or {}).get(name), option_name(name)
        if text is None and not _is_absent(environ.get(env_name(name), "")):
            text, origin = environ[env_name(name)], env_name(name)
        for alias, translate in spec.aliases.items():
            if text is None and not _is_absent(environ.get(alias, "")):
                text, origin = translate(environ[alias]), alias
        if text is None:
            continue
        try:
            values[name] = spec.parse(text)
        except ValueError as error:
            raise SettingError(f"{origin} is {text!r}: {error}") from None
    return table(**values)


def _is_absent(text: str) -> bool:
    """Whether a variable with this text counts as not given."""
    return text == "" or _LINK.fullmatch(text) is not None


def ignored_variables(table: type, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield a sentence for each variable of `environ` that `load_settings` ignores as a container platform's."""
    for name, spec in setting_specs(table).items():
        for variable in (env_name(name), *spec.aliases):
            text = environ.get(variable, "")
            if _LINK.fullmatch(text):
                yield f"{variable}={text} is ignored: container platforms set it for a service of that name"


def to_environ(settings: Any, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build the environment from which a child loads the same settings.

    It is `inherited` without the variables of settings, and those that are needed. `None` values are left out.
    """
    table = setting_specs(type(settings))
    ours = {variable for name, spec in table.items() for variable in (env_name(name), *spec.aliases)}
    result = {variable: text for variable, text in (inherited or {}).items() if variable not in ours}
    for name in table:
        value = getattr(settings, name)
        if value is not None:
            result[env_name(name)] = "true" if value is True else "false" if value is False else str(value)
    return result


# Parsers: text to value, ValueError says what would be right.


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        digits = text.strip()
        if not _is_number(digits) or not low <= int(digits) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(digits)

    return parse


def _is_number(text: str) -> bool:
    """Whether `text` is decimal digits of ASCII, and not so many that int() refuses them."""
    return text.isascii() and text.isdigit() and len(text) < 100


def size(low: int, high: int) -> Callable[[str], int]:
    """Bytes from `low` to `high`: a whole number, with KiB, MiB or GiB after it if wanted."""
    units = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "": 1}

    def parse(text: str) -> int:
        digits = text.strip().rstrip("KMGIBkmgib ")
        unit = text.strip()[len(digits) :].strip().lower()
        if not _is_number(digits) or unit not in units or not low <= int(digits) * units[unit] <= high:
            raise ValueError(f"expected a number of bytes from {low} to {high}, for instance 5120000 or 512MiB")
        return int(digits) * units[unit]

    return parse


def choice(*choices: str) -> Callable[[str], str]:
    """One of `choices`."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def boolean(text: str) -> bool:
    """true, yes, on, 1 or false, no, off, 0."""
    if text.lower() in {"true", "yes", "on", "1"}:
        return True
    if text.lower() in {"false", "no", "off", "0"}:
        return False
    raise ValueError("expected true or false")


def path(text: str) -> Path:
    """A path; `~` is the home directory."""
    if not text or "\0" in text:
        raise ValueError("expected a path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("expected a path; there is no such home directory") from None


LOG_LEVELS = ("trace", "debug", "info", "warning", "error")


@dataclass(frozen=True)
class ProcessSettings:
    """The settings of every process of a store: where the store is, and how much to log."""

    data_dir: Path = setting(
        Path("kvserver-data"),
        path,
        "DIR",
        "Where log, snapshots and locks live. One server at a time. With --in-memory it is not touched.",
    )
    in_memory: bool = setting(
        False,
        boolean,
        "BOOL",
        "Keep everything in shared memory: nothing is written to the data directory, nothing survives a stop of the "
        "server. Single processes may still die and restart without loss.",
    )
    run_dir: Path | None = setting(
        None,
        path,
        "DIR",
        "Sockets, the board and metrics of the running server. Short, because socket paths are limited to 107 bytes. "
        "New, empty or a server's: it is emptied at each start, and one that holds other files is refused. "
        "Default: /run/user/UID/kvserver-ID, else /tmp/kvserver-UID-ID; ID comes from the data directory's device and "
        "inode.",
    )
    log_level: str = setting(
        "info",
        choice(*LOG_LEVELS),
        "LEVEL",
        "How much is written to standard error: trace, debug, info, warning or error.",
        aliases={
            "TRACE": lambda text: "trace" if text.lower() == "true" else None,
            "DEBUG": lambda text: "debug" if text.lower() == "true" else None,
        },
    )

    log_format: str = setting(
        "text",
        choice(*logs.FORMATS),
        "FORMAT",
        "How events are written to standard error: text: for people, a traceback indented below its line; json: an "
        "object a line with time, process, pid, level, message and, if there is one, traceback.",
    )

    def resolved_run_dir(self) -> Path:
        """`run_dir`, or its default, which needs the data directory to exist. Creates nothing.

        Raises `SettingError` if neither is given: an in-memory store, or a data directory that is not there.
        """
        if self.run_dir is not None:
            return self.run_dir
        if self.in_memory:
            raise SettingError("an in-memory store has no data directory to find its run directory by: give --run-dir")
        try:
            status = self.data_dir.stat()
        except OSError as error:
            raise SettingError(f"the data directory {self.data_dir} cannot be read: {error.strerror}") from None
        return default_run_dir(f"{status.st_dev:x}-{status.st_ino:x}")

    @property
    def board_path(self) -> Path:
        """The path of the running server's board."""
        return self.resolved_run_dir() / "board"


def default_run_dir(id: str) -> Path:
    """The run directory of the store `id` for this user: in the user's run directory if there is one."""
    uid = os.getuid()
    user = Path(f"/run/user/{uid}")
    try:
        status = user.stat()
    except OSError:
        status = None
    if status is not None and status.st_uid == uid and stat.S_ISDIR(status.st_mode) and os.access(user, os.W_OK):
        return user / f"kvserver-{id}"
    return Path(f"/tmp/kvserver-{uid}-{id}")
