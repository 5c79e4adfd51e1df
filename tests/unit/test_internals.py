"""The manual's chapters about the source name what is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kvserver.description.pictures import MEDIA_TYPES
from tests.unit.test_layers import FLOORS, MODULES, PURE, ROOT, is_package

CHAPTER = ROOT / "kvserver" / "manual" / "internals.md"
TEXT = CHAPTER.read_text()
PATHS = sorted(set(re.findall(r"(?<![\w./-])(?:shards|kvserver|tests|deploy)/[\w./-]*\w/?", TEXT)))
NAMES = sorted(set(re.findall(r"(?<![\w./-])(?:shards|kvserver)(?:\.[A-Za-z_]\w*)+", TEXT)))
PACKAGES = ("shards", "kvserver", "kvserver.gateway")
"""The houses of `FLOORS`, in the order of the table of layers."""


def defined(nodes: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What the body of a module or a class defines, by name."""
    found: dict[str, ast.stmt] = {}
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            names = [name for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            found |= dict.fromkeys([name.id for name in names], node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module or a class in it defines."""
    module, rest = name, list[str]()
    while module not in MODULES:
        module, dot, last = module.rpartition(".")
        if not dot:
            return False
        rest.insert(0, last)
    body = ast.parse(MODULES[module].read_text()).body
    for part in rest:
        node = defined(body).get(part)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


def section(text: str, heading: str) -> str:
    """The text below the heading that begins like this, up to the next heading of its level."""
    (found,) = re.findall(rf"^## {re.escape(heading)}.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of all tables in `text`, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


INVARIANTS = re.split(r"^(?=\d+\. )", section(TEXT, "12. "), flags=re.MULTILINE)[1:]
CONTRIBUTING = (CHAPTER.parent / "contributing.md").read_text()
DAILY = section((ROOT / "README.md").read_text(), "Working on it") + CONTRIBUTING
WORKING_PATHS = sorted(set(re.findall(r"`((?:shards|kvserver|tests|deploy|\.ci)/[\w./-]+)`", DAILY)))
LAYERS = rows(section(CONTRIBUTING, "The layers"))
LISTED = [row[0].strip("`/").removesuffix(".py").replace("/", ".") for row in LAYERS]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_in_the_chapter_is_there(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_dotted_name_in_the_chapter_is_there(name: str) -> None:
    assert is_there(name)


@pytest.mark.parametrize("name", ["shards.host.boards", "shards.host.board.Bord", "shards.host.board.Board.tide"])
def test_a_name_that_is_nowhere_is_noticed(name: str) -> None:
    assert not is_there(name)


def test_every_layer_is_in_the_chapter() -> None:
    """A chapter that is silent about a whole package has a hole."""
    packages = {name.rpartition(".")[0] for name in MODULES if not is_package(name) and name.count(".") > 1}
    silent = (
        "kvserver.client",
        "kvserver.transfer",
        "kvserver.commands",
    )  # they use the public API, or a stopped store
    named = "\n".join([*PATHS, *(name.replace(".", "/") for name in NAMES)])
    packages = {package for package in packages if not package.startswith(silent)}
    assert not {package for package in packages if package.replace(".", "/") not in named}


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda text: text.partition(".")[0])
def test_an_invariant_names_who_keeps_it_and_what_shows_it(invariant: str) -> None:
    modules = re.findall(r"`((?:shards|kvserver)/[\w./]*)`", invariant)
    tests = re.findall(r"`(tests/[\w./]+/test_\w+\.py)`", invariant)
    assert modules and tests
    assert all((ROOT / test).is_file() for test in tests)


def test_sections_and_invariants_are_counted() -> None:
    sections = [int(number) for number in re.findall(r"^## (\d+)\. ", TEXT, re.MULTILINE)]
    assert sections == list(range(1, 14))
    assert [int(text.partition(".")[0]) for text in INVARIANTS] == list(range(1, len(INVARIANTS) + 1))


def test_tables_of_the_chapter_are_whole() -> None:
    """Each block of rows begins with a head, a rule below it, and has as many cells in each row."""
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        lines = table.splitlines()
        assert re.fullmatch(r"\|(?: --- \|)+", lines[1]), table
        assert len({line.count("|") for line in lines}) == 1, table


def test_the_chapter_is_laid_out_for_terminals() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > 120 or line != line.rstrip()] == []


PICTURES = CHAPTER.parent / "pictures"


def test_the_manual_is_no_python_package() -> None:
    assert {path.suffix for path in CHAPTER.parent.iterdir() if path != PICTURES} == {".md"}
    assert {path.suffix for path in PICTURES.iterdir()} <= MEDIA_TYPES.keys()


def test_every_picture_is_shown_and_has_its_dark_one() -> None:
    """A picture that no page shows is weight in every installation."""
    texts = "".join(path.read_text() for path in (ROOT / "README.md", *sorted(CHAPTER.parent.glob("*.md"))))
    shown = set(re.findall(r"pictures/([\w.-]+)", texts))
    there = {path.name for path in PICTURES.iterdir()}
    assert there == shown | {name.replace(".light.", ".dark.") for name in shown}


def test_pictures_are_light() -> None:
    sizes = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert {name: size for name, size in sizes.items() if size >= (60 if name.endswith(".svg") else 200) << 10} == {}
    assert sum(sizes.values()) < 2 << 20


def test_the_layers_are_the_floors_in_their_order() -> None:
    assert [f"{package}.{floor}" for package in PACKAGES for floor in FLOORS[package]] == LISTED
    assert all((ROOT / row[0].strip("`")).exists() for row in LAYERS)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_layers_say_what_each_may_import(package: str) -> None:
    cells = dict(zip(LISTED, (row[2] for row in LAYERS), strict=True))
    said = [cells[f"{package}.{floor}"] for floor in FLOORS[package]]
    assert said[1:] == [f"`{below}`" for below in FLOORS[package][:-1]]


def test_the_layers_say_which_are_pure() -> None:
    pure = {row[0].strip("`/").replace("/", ".") for row in LAYERS if row[1].startswith("Pure: ")}
    modules = {layer: [name for name in MODULES if name.startswith(layer + ".")] for layer in LISTED}
    inside = {layer: {name for name in names if not is_package(name)} for layer, names in modules.items()}
    assert pure == {layer for layer, names in inside.items() if names and names <= set(PURE)}


@pytest.mark.parametrize("path", WORKING_PATHS)
def test_a_path_of_the_daily_work_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted(CHAPTER.parent.glob("*.md"))], ids=lambda path: path.stem
)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", document.read_text()):
        there = (document.parent / target).resolve() if target else document
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_the_index_lists_every_chapter() -> None:
    chapters = {path.name for path in CHAPTER.parent.glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\((\w[\w-]*\.md)\)", (CHAPTER.parent / "index.md").read_text())) == chapters


def test_the_readme_fits_a_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_manual_ships_in_the_wheel() -> None:
    """hatchling takes every file below a package that `.gitignore` does not name."""
    ignored = (ROOT / ".gitignore").read_text().split()
    assert 'packages = ["kvserver", "shards"]' in (ROOT / "pyproject.toml").read_text()
    assert not any(Path(pattern).suffix == ".md" or "manual" in pattern for pattern in ignored)
