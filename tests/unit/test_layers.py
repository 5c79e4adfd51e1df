"""The arrows between the rooms of the source, by its syntax alone: who may import what."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("shards", "kvserver")
    for path in sorted((ROOT / package).rglob("*.py"))
}

FLOORS = {
    "shards": ("wire", "files", "host", "order", "keys", "log", "maps", "server", "backup", "__main__"),
    "kvserver": (
        "api",
        "http",
        "settings",
        "access",
        "one_key",
        "store",
        "web",
        "rest",
        "sdk",
        "console",
        "description",
        "app",
        "gateway",
        "client",
        "transfer",
        "serve",
        "commands",
        "cli",
        "__main__",
    ),
    "kvserver.gateway": ("transport", "feed", "wal", "history", "sessions", "app", "worker"),
}
"""The rooms of a house, from the ground up: a room imports from lower floors only."""

WEB = ("kvserver.api", "kvserver.http", "kvserver.one_key", "kvserver.store", "kvserver.web", "kvserver.rest")
GATEWAY = ("kvserver.gateway",)
WEB_DOOR = frozenset(
    (
        "shards.wire.errors",
        "shards.wire.keys",
        "shards.wire.protocol",
        "shards.wire.clock",
        "shards.wire.json_text",
        "shards.host.board",
        "shards.host.process",
        "shards.keys.last_use",
        "shards.maps.reader",
        "shards.maps.layout",
    )
)
"""What web workers know of the shards: ten modules at most."""
GATEWAY_DOOR = frozenset(
    (
        "shards.wire.errors",
        "shards.wire.keys",
        "shards.wire.protocol",
        "shards.wire.clock",
        "shards.files.kept_file",
        "shards.host.board",
        "shards.host.logs",
        "shards.log.reader",
        "shards.log.records",
        "shards.maps.reader",
    )
)
"""What gateways know of them."""
MOST_FILES = 12
"""Of a folder."""


def _is_pure(name: str) -> bool:
    folders = ("shards.wire.", "shards.keys.", "kvserver.api.", "kvserver.gateway.feed.", "kvserver.gateway.wal.")
    folders += ("kvserver.client.core.",)
    return name.startswith(folders) and name != "shards.keys.last_use"


PURE = (
    *filter(_is_pure, MODULES),
    "kvserver.client.changes",
    "kvserver.client.errors",
    "kvserver.client.model",
    "shards.log.records",
    "shards.order.history",
    "shards.order.link",
    "shards.order.membership",
    "shards.order.messages",
    "shards.order.order",
    "shards.order.proposer",
    "shards.order.replica",
    "shards.order.stream",
    "shards.server.proposals",
    "shards.server.request_queue",
    "shards.server.room",
    "kvserver.access.grants",
    "kvserver.http.compression",
    "kvserver.http.head_rules",
    "kvserver.http.idempotency",
    "kvserver.http.proxies",
    "kvserver.http.scope",
    "kvserver.web.parsing.body_end",
    "kvserver.gateway.transport.frames",
    "kvserver.gateway.transport.send_budget",
)
"""Data in, data out."""

IO = {
    "asyncio",
    "http",
    "lmdb",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "zmq",
    "gevent",
}
"""What a pure module must not import: files, sockets, clocks, threads, chance, logs."""

NOT_FOR_SHARDS = {
    "falcon",
    "gevent",
    "geventwebsocket",
    "prometheus_client",
    "gunicorn",
    "uvicorn",
    "uvicorn_worker",
    "websockets",
    "click",
    "rich",
    "kvserver",
}

OF_THE_CLIENT = {"urllib3", "aiohttp", "yarl"}
"""What the client needs beside the standard library: it is a distribution of its own."""

WIRE_ENDS = ("shards.server.sockets", "kvserver.store", "kvserver.gateway")
"""The ends of the wire."""


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in it."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def top(module: str) -> str:
    return module.partition(".")[0]


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def is_package(module: str) -> bool:
    return MODULES[module].name == "__init__.py"


def ours(module: str) -> set[str]:
    """The modules of ours that `module` imports."""
    return {name for name in imports(MODULES[module]) if name in MODULES and not is_package(name)}


@pytest.mark.parametrize(("house", "floors"), FLOORS.items())
def test_the_table_of_floors_names_what_is_there(house: str, floors: tuple[str, ...]) -> None:
    rooms = {name.removeprefix(house + ".").partition(".")[0] for name in MODULES if name.startswith(house + ".")}
    assert rooms == set(floors)


@pytest.mark.parametrize("house", FLOORS)
def test_a_floor_imports_lower_ones_alone(house: str) -> None:
    floor = {f"{house}.{room}": height for height, room in enumerate(FLOORS[house])}

    def height(module: str) -> int | None:
        return next((floor[room] for room in floor if within(module, room)), None)

    upwards = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in ours(module)
        if (at := height(module)) is not None and (other := height(imported)) is not None and other > at
    ]
    assert not upwards


def test_no_modules_import_each_other() -> None:
    """By any detour, and not for types either."""
    rest = {module: ours(module) - {module} for module in MODULES if not is_package(module)}
    while free := [module for module, imported in rest.items() if not imported & rest.keys()]:
        for module in free:
            del rest[module]
    assert not rest


@pytest.mark.parametrize(("users", "door"), [(WEB, WEB_DOOR), (GATEWAY, GATEWAY_DOOR)])
def test_the_door_to_the_shards_is_narrow(users: tuple[str, ...], door: frozenset[str]) -> None:
    """But for the two modules that gunicorn starts, which follow the rules of every process of a store."""
    inside = [name for name in MODULES if any(within(name, user) for user in users) and not name.endswith(".worker")]
    assert {imported for name in inside for imported in ours(name) if within(imported, "shards")} <= door
    assert len(door) <= 10


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}))
def test_a_folder_is_small_and_its_docstring_names_what_is_in_it(folder: Path) -> None:
    rooms = {path.stem for path in folder.glob("*.py")} | {
        path.name for path in folder.iterdir() if any(path.glob("*.py"))
    }
    assert len(list(folder.glob("*.py"))) <= MOST_FILES
    described = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = set(re.findall("`([a-z_0-9]+)`", described))
    assert rooms - {"__init__", "__main__"} <= named


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "shards")])
def test_shards_know_nothing_of_the_server_and_its_frameworks(name: str) -> None:
    assert not {top(module) for module in imports(MODULES[name])} & NOT_FOR_SHARDS


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "kvserver.client")])
def test_the_client_needs_little_and_nothing_of_the_server(name: str) -> None:
    foreign = {module for module in imports(MODULES[name]) if top(module) not in sys.stdlib_module_names}
    assert {top(module) for module in foreign} <= OF_THE_CLIENT | {"kvserver"}
    assert all(within(module, "kvserver.client") for module in foreign if top(module) == "kvserver")


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_that_does_something(name: str) -> None:
    imported = {module for module in imports(MODULES[name]) if not within(module, "urllib.parse")}
    assert not {top(module) for module in imported} & IO
    # ... nor by a detour over another module of ours.
    assert ours(name) <= set(PURE), f"{name} imports {ours(name) - set(PURE)}, which is not pure"


@pytest.mark.parametrize("name", MODULES)
def test_zmq_is_imported_at_the_ends_of_the_wire_alone(name: str) -> None:
    if not any(within(name, room) for room in WIRE_ENDS):
        assert "zmq" not in {top(module) for module in imports(MODULES[name])}


@pytest.mark.parametrize("name", MODULES)
def test_nats_is_known_to_the_process_that_carries_the_order_alone(name: str) -> None:
    if not within(name, "shards.order.carrier"):
        assert "nats" not in {top(module) for module in imports(MODULES[name])}


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "kvserver")])
def test_the_gateway_s_gevent_stays_in_the_gateway(name: str) -> None:
    if not within(name, "kvserver.gateway"):
        assert not {top(module) for module in imports(MODULES[name])} & {"gevent", "geventwebsocket"}


@pytest.mark.parametrize("name", MODULES)
def test_imported_packages_are_declared(name: str) -> None:
    declared = (ROOT / "pyproject.toml").read_text().replace("-", "_").lower()
    foreign = {top(module) for module in imports(MODULES[name])} - sys.stdlib_module_names - {"shards", "kvserver"}
    aliases = {"zmq": "pyzmq", "geventwebsocket": "gevent_websocket"}
    undeclared = {module for module in foreign if aliases.get(module, module) not in declared}
    assert not undeclared
