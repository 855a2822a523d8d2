"""The C kernels give the bytes of the definition, on every path, compiler and board."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kernel_cases
from firmware_bridge import board

KERNELS = board.FIRMWARE / "kernels"
SOURCES = sorted(KERNELS.glob("*.c"))
NAMES = ("pointwise", "depthwise", "conv", "fully_connected")
BOARDS = [name for name, place in board.BOARDS.items() if place.emulated]


def _cases(seed: int, count: int) -> list[kernel_cases.Case]:
    rng = np.random.default_rng(seed)
    return [kernel_cases.random_case(NAMES[k % 4], rng) for k in range(count)]


def _check(cases, place: str, folder: Path, **options) -> None:
    source = folder / "cases.c"
    source.write_text(kernel_cases.program(cases))
    said = board.run([source, *SOURCES], place, include=[KERNELS], **options).output
    right = [kernel_cases.answer(case).tobytes() for case in cases]
    assert len(said) == sum(map(len, right))
    start = 0
    for number, (case, expected) in enumerate(zip(cases, right)):
        got = said[start : start + len(expected)]
        assert got == expected, f"case {number}: {replace(case, x=case.x[:0], weights=case.weights[:0])}"
        start += len(expected)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_portable_kernels_are_the_definition_and_clean_under_sanitizers(compiler, tmp_path):
    _check(_cases(1, 400), "host", tmp_path, compiler=compiler, optimize="-O1", extra=board.SANITIZE)


@pytest.mark.slow
@pytest.mark.mcu
@pytest.mark.parametrize("name", BOARDS)
def test_every_board_gives_the_bytes_of_the_definition(name, tmp_path):
    _check(_cases(2, 240), name, tmp_path)
    _check(_cases(3, 240), name, tmp_path, optimize="-O3")


@pytest.mark.slow
@pytest.mark.mcu
def test_the_portable_path_is_right_on_a_board_with_faster_ones(tmp_path):
    _check(_cases(4, 120), "mps2-an500", tmp_path, defines=["ED_PORTABLE=1"])


@pytest.mark.slow
@pytest.mark.mcu
@pytest.mark.parametrize("name", ["mps2-an500", "mps3-an547"])
def test_windows_larger_than_the_patch_are_walked(name, tmp_path):
    _check(_cases(5, 160), name, tmp_path, defines=["ED_PATCH_BYTES=256"])


@pytest.mark.mcu
@pytest.mark.parametrize("core", ["thumbv7em/cortex-m7", "thumbv8.1m.main/cortex-m55"])
def test_clang_assembles_the_fast_paths_too(core, tmp_path):
    target, cpu = core.split("/")
    said = subprocess.run(
        ["arm-none-eabi-gcc", "-E", "-v", "-xc", "/dev/null"], capture_output=True, text=True, check=True
    ).stderr
    places = said.split("search starts here:\n")[-1].split("End of search list")[0].split()
    library = next(place for place in places if (Path(place) / "newlib.h").exists())
    command = [
        "clang",
        f"--target={target}-none-eabi",
        f"-mcpu={cpu}",
        "-mfloat-abi=hard",
        "-O2",
        *board.STRICT,
    ]
    for source in SOURCES:
        made = tmp_path / f"{source.stem}.o"
        subprocess.run([*command, "-isystem", library, "-c", str(source), "-o", str(made)], check=True)
        assert made.stat().st_size > 0
