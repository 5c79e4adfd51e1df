"""Options of the test run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests import effort

effort.register()

_TESTS = Path(__file__).parent
_ROOMS = {"system": 0, "api": 1, "unit": 2}


@pytest.fixture(scope="module")
def make_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes directories that the tests of a module share, removed after the last one: each store takes 128 MiB."""
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(tmp_path_factory.mktemp(name))
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--no-skips`."""
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails: everything it needs must be here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few long tests first, those of many short ones last: no process then works alone at the end."""
    items.sort(key=lambda item: _ROOMS.get(item.path.relative_to(_TESTS).parts[0], 0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips into failures under `--no-skips`."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but nothing may be: {report.longrepr}"
    return report
