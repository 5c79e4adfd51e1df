"""What cannot be right is refused by the C client before anything is sent."""

from __future__ import annotations

from pathlib import Path

from tests.client.c import building
from tests.client.c.building import run


def test_what_is_null_is_refused_with_a_text(tmp_path: Path, client_object: Path) -> None:
    """Under the sanitizers: a null pointer that is used ends the program."""
    source = Path(__file__).parent / "arguments_program.c"
    program = building.link(tmp_path / "program", source, client_object)
    assert int(run([program]).split()[0]) > 80
