"""The arrows between the rooms of the source, by its syntax alone: who may import what."""

from __future__ import annotations

import ast
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

PURE = (
    "shards.wire.errors",
    "shards.wire.slots",
    "shards.wire.limits",
    "shards.wire.protocol",
    "shards.keys.entries",
    "shards.keys.keyspace",
    "shards.keys.group",
    "shards.keys.rules",
    "shards.keys.value_edits",
    "shards.keys.large_json",
    "shards.server.request_queue",
    "shards.keys.eviction",
    "shards.log.records",
    "shards.wire.clock",
    "shards.keys.expiries",
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

ZMQ_ROOMS = ("shards.server.loop", "kvserver.store", "kvserver.gateway")
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


def test_the_rooms_are_there() -> None:
    assert {"shards.host.board", "shards.log.appender", "kvserver.app", "kvserver.gateway.app", *PURE} <= set(MODULES)


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "shards")])
def test_shards_know_nothing_of_the_server_and_its_frameworks(name: str) -> None:
    assert not {top(module) for module in imports(MODULES[name])} & NOT_FOR_SHARDS


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_that_does_something(name: str) -> None:
    imported = set(imports(MODULES[name]))
    assert not {top(module) for module in imported} & IO
    # ... nor by a detour over another module of ours.
    ours = {module for module in imported if module in MODULES and MODULES[module].name != "__init__.py"}
    assert ours <= set(PURE), f"{name} imports {ours - set(PURE)}, which is not pure"


@pytest.mark.parametrize("name", MODULES)
def test_zmq_is_imported_at_the_ends_of_the_wire_alone(name: str) -> None:
    if not any(within(name, room) for room in ZMQ_ROOMS):
        assert "zmq" not in {top(module) for module in imports(MODULES[name])}


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
