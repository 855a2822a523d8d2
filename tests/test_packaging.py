"""Generated packages build where their people build them, as far as their tools exist here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge_derm.data.preprocess import preprocess
from firmware_bridge import board, cli
from firmware_bridge.device import Device, Patience
from firmware_bridge.graph import BridgeError
from firmware_bridge.inputs import make_lcg
from firmware_bridge.packaging import package_files, rename_header
from firmware_bridge.transports import Program
from test_bridge_infer import reference

# What a Zephyr build gives a module's CMakeLists.txt, in terms of plain CMake.
ZEPHYR = """
cmake_minimum_required(VERSION 3.13)
project(module C)
set(CONFIG_EDGE_DERM_SKIN y)
set(CONFIG_EDGE_DERM_SKIN_SELF_TEST y)
set(CONFIG_EDGE_DERM_SKIN_LINK y)
macro(zephyr_library)
  add_library(module STATIC)
endmacro()
macro(zephyr_library_sources)
  foreach(source ${ARGN})
    target_sources(module PRIVATE ${CMAKE_CURRENT_LIST_DIR}/${source})
  endforeach()
endmacro()
macro(zephyr_library_sources_ifdef condition)
  if(${condition})
    zephyr_library_sources(${ARGN})
  endif()
endmacro()
macro(zephyr_library_compile_options)
  target_compile_options(module PRIVATE ${ARGN} -std=c99 -Wall -Wextra -pedantic -Werror)
endmacro()
macro(zephyr_include_directories)
  include_directories(${ARGN})
endmacro()
add_subdirectory(package/zephyr)
add_executable(app package/main.c)
target_include_directories(app PRIVATE package)
target_link_libraries(app PRIVATE module)
"""
# The part of Arduino's and Zephyr's headers that the examples use.
ARDUINO = """
#include <stddef.h>
#include <stdint.h>
struct Stream {
  void begin(unsigned long); size_t write(uint8_t); int read(); explicit operator bool();
  size_t println(const char *); size_t print(unsigned long);
};
extern Stream Serial;
unsigned long micros();
"""


@pytest.fixture
def generate(tiny_int8, tmp_path):
    """``generate --package`` of the small model under the name skin: the folder."""
    model = tmp_path / "model.tflite"
    model.write_bytes(tiny_int8)

    def make(*options: str, name: str = "skin") -> Path:
        out = tmp_path / "package"
        arguments = ["generate", str(model), "--out", str(out), "--name", name, "--json", "-", *options]
        result = CliRunner().invoke(cli.cli, arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return out

    return make


def call(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}")


@pytest.mark.slow
def test_the_plain_folder_builds_a_device_with_cmake_that_answers(generate, tiny_int8, tmp_path):
    need("cmake", "cc")
    folder = generate("--link")
    call("cmake", "-S", folder, "-B", tmp_path / "build", "-DCMAKE_C_FLAGS=-Wall -Wextra -pedantic -Werror")
    call("cmake", "--build", tmp_path / "build")
    call("ctest", "--test-dir", tmp_path / "build")
    call("cc", "-O2", *folder.glob("*.c"), "-o", tmp_path / "alone")  # still compiles alone
    assert "passed" in call(tmp_path / "alone")
    line = Program([str(tmp_path / "build" / "skin_device")])
    try:
        device = Device(line, patience=Patience(timeout_s=10))
        data = make_lcg(7, 3072)
        assert device.infer(data).output.tobytes() == reference(tiny_int8, data)
        assert device.describe().self_check.name == "PASSED"
    finally:
        line.close()


@pytest.mark.slow
def test_the_zephyr_module_builds_from_its_own_cmake_and_kconfig(generate, tmp_path):
    """West itself is not here: its CMake functions are stood in for, its Kconfig language is read by kconfiglib."""
    need("cmake", "cc")
    folder = generate("--package", "zephyr", "--link")
    (tmp_path / "CMakeLists.txt").write_text(ZEPHYR)
    call("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    call("cmake", "--build", tmp_path / "build")
    assert "passed" in call(tmp_path / "build" / "app")
    symbols = call("nm", *(tmp_path / "build").rglob("*.a"))
    assert "skin_run" in symbols and "ed_link_net_poll" in symbols
    assert (folder / "zephyr/module.yml").read_text().splitlines() == [
        "name: edge_derm_skin",
        "build:",
        "  cmake: zephyr",
        "  kconfig: zephyr/Kconfig",
    ]


def test_the_zephyr_kconfig_says_what_the_cmake_reads(generate):
    kconfiglib = pytest.importorskip("kconfiglib", reason="kconfiglib is not installed")
    folder = generate("--package", "zephyr", "--link")
    kconfig = kconfiglib.Kconfig(str(folder / "zephyr/Kconfig"), warn_to_stderr=False)
    names = {symbol.name for symbol in kconfig.unique_defined_syms}
    assert names == {f"EDGE_DERM_SKIN{end}" for end in ("", "_SELF_TEST", "_LINK")} and not kconfig.warnings
    assert kconfig.syms["EDGE_DERM_SKIN_SELF_TEST"].str_value == "n"  # depends on the network
    for sample in ("selftest", "link"):
        kconfig.load_config(str(folder / "samples" / sample / "prj.conf"))
        assert kconfig.syms["EDGE_DERM_SKIN_SELF_TEST"].str_value == "y"
        assert (kconfig.syms["EDGE_DERM_SKIN_LINK"].str_value == "y") == (sample == "link")


@pytest.mark.mcu
@pytest.mark.slow
def test_the_arduino_library_compiles_for_a_cortex_m_and_its_examples_are_cpp(generate, tmp_path):
    """All of src/ as the Arduino builder does: each file alone, src/ the only include folder."""
    need("arm-none-eabi-gcc", "clang")
    folder = generate("--package", "arduino", "--link")
    assert not list(folder.glob("*.c")) and not list((folder / "src").glob("main.c"))
    m4 = [
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m4",
        "-mthumb",
        "-Os",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-std=gnu11",
    ]
    for source in sorted((folder / "src").glob("*.c")):
        call(*m4, "-I", folder / "src", "-c", source, "-o", tmp_path / "out.o")
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    for example in ("selftest", "link"):
        sketch = folder / "examples" / example / f"{example}.ino"
        cpp = [
            "clang",
            "-x",
            "c++",
            "-std=c++11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            "-nostdinc++",
        ]
        call(*cpp, "-I", folder / "src", "-include", tmp_path / "Arduino.h", sketch)
    properties = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
    needed = {
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "category",
        "url",
        "architectures",
    }
    assert needed <= set(properties) and properties["includes"] == "skin.h"


@pytest.mark.parametrize("package", ["plain", "zephyr", "arduino"])
def test_a_package_is_the_same_every_time_and_may_be_written_again(generate, package):
    def read(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    first = read(generate("--package", package, "--link"))
    assert first == read(generate("--package", package, "--link"))
    assert not any(
        b"@" + word in text for text in first.values() for word in (b"name@", b"NAME@", b"sources@")
    )


def test_a_network_of_another_name_is_called_net_by_the_link(tmp_path):
    header = "#define SKIN_INPUT_BYTES 4\ntypedef int8_t skin_input_t;\n/* skin_old() */\nskin_input_t *skin_input(void);\n"
    lines = rename_header(header, "skin").splitlines()
    assert "#define NET_INPUT_BYTES SKIN_INPUT_BYTES" in lines
    assert {"#define net_input_t skin_input_t", "#define net_input skin_input"} <= set(lines)
    assert not any("old" in line for line in lines)


@pytest.mark.slow
def test_a_frame_goes_in_and_a_decision_comes_out_of_a_generated_folder(generate, tmp_path):
    """--pixels and --abstain with a main of a firmware engineer's own: training's bytes in, a class out."""
    need("cc")
    folder = generate("--pixels", "--temperature", "1.5", "--abstain", "0.01")
    frame = np.random.default_rng(5).integers(0, 256, (50, 70, 3), np.uint8)
    (tmp_path / "frame.h").write_text("static uint8_t frame[] = {" + ",".join(map(str, frame.ravel())) + "};")
    (tmp_path / "app.c").write_text("""
#include "skin.h"
#include "frame.h"
#include <stdio.h>
int main(void) {
    skin_input_from_rgb(frame, 70, 50);
    fwrite(skin_input(), 1, SKIN_INPUT_BYTES, stdout);
    skin_run();
    const int32_t label = skin_decide(skin_output());
    return label < 0 || skin_confidence(skin_output()) > 65536u;
}
""")
    sources = [path for path in folder.glob("*.c") if path.name not in ("main.c", "skin_selftest.c")]
    call(
        "cc",
        *board.STRICT,
        *board.SANITIZE,
        "-I",
        folder,
        tmp_path / "app.c",
        *sources,
        "-o",
        tmp_path / "app",
    )
    done = subprocess.run([tmp_path / "app"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (preprocess(frame, 32) ^ np.uint8(0x80)).tobytes()


def test_an_unknown_package_is_named():
    with pytest.raises(BridgeError) as caught:
        package_files({}, "debian")
    assert caught.value.code == "package-kind"
