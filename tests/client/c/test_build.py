"""The C client compiles without a warning, in every combination of what may be left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kvserver.commands.operate.sdk import USES
from tests.client.c import building
from tests.client.c.building import SDK, run
from tests.effort import times

NO_WEBSOCKET, NO_MEMORYKV = "-DKV_NO_WEBSOCKET", "-DKV_NO_MEMORYKV"
COMBINATIONS = ([], [NO_WEBSOCKET], [NO_MEMORYKV], [NO_WEBSOCKET, NO_MEMORYKV])


@pytest.mark.parametrize("compiler", building.COMPILERS)
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: " ".join(options) or "whole")
def test_it_compiles_without_warnings(tmp_path: Path, compiler: str, options: list[str]) -> None:
    """Optimized a little: some warnings come from the analysis that this needs."""
    compiled = building.compile_object(tmp_path / "kvclient.o", "-O1", *options, compiler=compiler)
    names = run(["nm", compiled])
    assert ("wslay_event_recv" in names) == (NO_WEBSOCKET not in options)
    assert ("memkv_get_key" in names) == (NO_MEMORYKV not in options)


def test_a_program_without_websockets_links_without_wslay(tmp_path: Path) -> None:
    program = tmp_path / "conform"
    sources = [SDK / "tests" / "conform.c", SDK / "kvclient.c"]
    run(["gcc", *building.WARNINGS, NO_WEBSOCKET, *sources, "-o", program, *building.libraries(websocket=False)])
    answer = '{"error":{"half":"refused","code":"bad_request","status":0,"revision":null,"detail":"built with'
    assert answer in run(["sh", "-c", f'echo \'{{"id":1,"do":"wal","args":{{}}}}\' | {program}'])


def test_the_command_that_kvserver_sdk_tells_builds_a_program(tmp_path: Path) -> None:
    for name in ("kvclient.c", "kvclient.h", "libMemoryKV.h"):
        shutil.copy(SDK / name, tmp_path)
    (tmp_path / "app.c").write_text('#include "kvclient.h"\nint main(void) { kv_close(kv_open(0, 0)); return 0; }\n')
    run(["sh", "-ec", f"cd {tmp_path}; {USES['c']} -o app; ./app"])


def test_it_exports_its_own_names_alone(client_object: Path) -> None:
    """It is compiled into other people's programs."""
    exported = [line.split()[-1] for line in run(["nm", "-g", "--defined-only", client_object]).splitlines() if line]
    assert [name for name in exported if not name.startswith(("kv_", "memkv_", "__asan", "__odr_asan", "_sub_"))] == []
    assert "kv_get" in exported and "memkv_watch" in exported


@pytest.mark.parametrize("header", ["kvclient.h", "libMemoryKV.h"])
def test_headers_stand_alone(tmp_path: Path, header: str) -> None:
    """Also in C11, and in C++, where there is a compiler for it."""
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header}"\n#include "{header}"\nint main(void) {{ return 0; }}\n')
    for standard in ("c99", "c11", "c17"):
        run(["gcc", f"-std={standard}", *building.WARNINGS[1:], f"-I{SDK}", "-fsyntax-only", source])
    if shutil.which("g++"):
        run(["g++", "-xc++", "-Wall", "-Wextra", "-Werror", f"-I{SDK}", "-fsyntax-only", source])


def test_an_installed_library_is_found_by_pkg_config(tmp_path: Path) -> None:
    library, include = tmp_path / "lib", tmp_path / "include"
    library.mkdir()
    include.mkdir()
    shutil.copy(SDK / "kvclient.h", include)
    text = (SDK / "kvclient.pc").read_text().replace("prefix=/usr/local", f"prefix={tmp_path}")
    (library / "kvclient.pc").write_text(text)
    run(["ar", "rcs", library / "libkvclient.a", building.compile_object(tmp_path / "kvclient.o")])
    paths = run(["pkg-config", "--variable", "pc_path", "pkg-config"]).strip()
    flags = run(["pkg-config", "--static", "--cflags", "--libs", "kvclient"], PKG_CONFIG_PATH=f"{library}:{paths}")
    source = tmp_path / "app.c"
    source.write_text("#include <kvclient.h>\nint main(void) { kv_close(kv_open(NULL, NULL)); return 0; }\n")
    flags = flags.replace("-lkvclient", f"{library}/libkvclient.a")
    program = tmp_path / "app"
    wanted = [flag for flag in flags.split() if flag in ("-lcurl", "-ljansson", "-lwslay") or not flag.startswith("-l")]
    run(["gcc", source, "-o", program, *wanted])
    run([program])


def test_mutated_input_does_no_harm(tmp_path: Path) -> None:
    """Lines, answers, handshakes and frames, with bits turned and bytes cut, under the sanitizers.

    For five seconds, and a minute in a long run.
    """
    program = tmp_path / "fuzz"
    sources = [SDK / "tests" / "fuzz.c"]
    run(["gcc", *building.WARNINGS, *building.SANITIZERS, *sources, "-o", program, *building.libraries()])
    tried = int(run([program, str(min(60, 5 * times(2) // 2))]).split()[0])
    assert tried > 1000
