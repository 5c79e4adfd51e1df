"""What pyproject.toml asks for has an end, and the pinned versions are what it asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVER = [Requirement(text) for text in PROJECT["dependencies"]]
TESTS = [Requirement(text) for text in PROJECT["optional-dependencies"]["test"]]


def pinned(path: str) -> dict[str, Version]:
    """Versions by name in the file of pins at `path`; fails if one of them has no hash."""
    pins = {}
    for entry in re.split(r"\n(?=[a-z])", (ROOT / path).read_text())[1:]:
        name, version = re.match(r"([a-z0-9-]+)==([^\s;]+)", entry).groups()  # type: ignore[union-attr]
        assert "--hash=sha256:" in entry, name
        pins[name] = Version(version)
    return pins


@pytest.mark.parametrize("requirement", SERVER + TESTS, ids=str)
def test_no_version_is_taken_that_may_break_what_we_lean_on(requirement: Requirement) -> None:
    (below,) = [Version(part.version) for part in requirement.specifier if part.operator == "<"]
    (least,) = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    assert least < below
    if least.major == 0:
        assert below.major == 0, "a minor version of 0.x may change anything"


@pytest.mark.parametrize(
    ("path", "wanted"), [("deploy/constraints.txt", SERVER), ("tests/constraints.txt", SERVER + TESTS)]
)
def test_the_pins_are_what_the_project_asks_for(path: str, wanted: list[Requirement]) -> None:
    pins = pinned(path)
    for requirement in wanted:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, f"{requirement}: run .ci/lock"


def test_the_server_is_tested_with_the_pins_that_it_is_deployed_with() -> None:
    assert pinned("deploy/constraints.txt").items() <= pinned("tests/constraints.txt").items()


def test_continuous_integration_installs_and_tests_as_the_readme_says() -> None:
    (command,) = re.findall(r"^python3 -m venv .*pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text().replace("install -q", "install")
