"""The generated folder stands alone: it compiles, tests itself, and is the same bytes every time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge import cli

STRICT = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wmissing-prototypes", "-Werror"]


@pytest.fixture(scope="module")
def model(tiny_models, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.tflite"
    path.write_bytes(tiny_models["uint8"])
    return path


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "net"
    assert call("generate", str(model), "--out", str(out)) == 0
    return out


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leave:
        cli.main(list(arguments))
    return int(leave.value.code or 0)


def compile_all(folder: Path, program: Path, *extra: str, compiler: str = "cc") -> None:
    sources = [path.name for path in sorted(folder.glob("*.c"))]
    done = subprocess.run(
        [compiler, *STRICT, *extra, *sources, "-o", str(program)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:2000]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_folder_compiles_alone_without_a_warning_and_passes_its_self_test(compiler, folder, tmp_path):
    sanitize = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    compile_all(folder, tmp_path / "program", *sanitize, compiler=compiler)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "self-test passed\n", "")


def test_the_self_test_fails_when_a_weight_is_wrong(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    data = (broken / "net_data.c").read_text()
    start = data.index("{", data.index("_bias[")) + 1
    end = data.index("}", start)
    values = [int(word) + 5000 for word in data[start:end].replace(",", " ").split()]
    (broken / "net_data.c").write_text(data[:start] + ", ".join(map(str, values)) + data[end:])
    compile_all(broken, tmp_path / "program")
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert done.returncode == 1 and "FAILED" in done.stdout


@pytest.mark.slow
def test_cmake_builds_it_and_runs_its_test(folder, tmp_path):
    for command in (
        ["cmake", "-S", str(folder), "-B", str(tmp_path)],
        ["cmake", "--build", str(tmp_path)],
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "100% tests passed" in done.stdout


def test_generating_in_two_processes_gives_identical_bytes(model, folder, tmp_path):
    program = "from firmware_bridge.cli import main; main()"
    arguments = ["generate", str(model), "--out", str(tmp_path / "again")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_the_inference_needs_no_libc_beyond_memcpy_and_memset(folder, tmp_path):
    for source in sorted(folder.glob("*.c")):
        if source.name != "main.c":
            target = tmp_path / f"{source.stem}.o"
            subprocess.run(["gcc", "-std=c99", "-O2", "-c", str(source), "-o", str(target)], check=True)
    objects = [str(path) for path in tmp_path.glob("*.o")]
    listed = subprocess.run(["nm", *objects], capture_output=True, text=True, check=True).stdout
    defined = set(re.findall(r" [A-TV-Z] (\w+)$", listed, re.MULTILINE))
    wanted = set(re.findall(r" U (\w+)$", listed, re.MULTILINE))
    assert wanted - defined <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}


@pytest.mark.mcu
def test_the_inference_uses_no_floating_point(folder, tmp_path):
    soft = ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb", "-std=c99", "-O2", "-c"]
    for source in sorted(folder.glob("*.c")):
        if source.name != "main.c":
            subprocess.run([*soft, str(source), "-o", str(tmp_path / f"{source.stem}.o")], check=True)
    objects = [str(path) for path in tmp_path.glob("*.o")]
    listed = subprocess.run(["arm-none-eabi-nm", *objects], capture_output=True, text=True, check=True).stdout
    called = set(re.findall(r" U (__aeabi_\w+)$", listed, re.MULTILINE))
    assert not {name for name in called if re.match(r"__aeabi_(f|d(?!iv)|[iul]+2[fd])", name)}, called


def test_generate_tells_what_it_made(model, tmp_path, capsys):
    assert call("generate", str(model), "--out", str(tmp_path / "n"), "--name", "lesion", "--json", "-") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["files"] == sorted(path.name for path in (tmp_path / "n").iterdir())
    assert {"lesion.c", "lesion.h", "lesion_data.c", "CMakeLists.txt", "README.md"} <= set(record["files"])
    assert record["operators"]["DEPTHWISE_CONV_2D"] == 1 and record["operators"]["QUANTIZE"] == 2
    assert 0 < record["arena_bytes"] < 32 * 32 * 3 * 3
    assert f"{record['arena_bytes']:,} bytes" in (tmp_path / "n/README.md").read_text()
    assert record["inputs"][0]["dtype"] == record["outputs"][0]["dtype"] == "uint8"


def test_two_networks_live_in_one_program(folder, model, tmp_path):
    assert call("generate", str(model), "--out", str(tmp_path / "b"), "--name", "second") == 0
    for name in ("second.c", "second.h", "second_data.c", "second_data.h", "second_selftest.c"):
        shutil.copy(tmp_path / "b" / name, tmp_path / name)
    for path in folder.iterdir():
        if path.name != "main.c":
            shutil.copy(path, tmp_path / path.name)
    (tmp_path / "main.c").write_text(
        '#include "net.h"\n#include "second.h"\n'
        "int main(void) { return net_self_test() + second_self_test() + net_self_test(); }\n"
    )
    compile_all(tmp_path, tmp_path / "program")
    assert subprocess.run([tmp_path / "program"]).returncode == 0


def test_step_returns_after_each_step_and_begins_anew(folder, tmp_path):
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "main.c").write_text("""
#include "net.h"
#include <string.h>
int main(void) {
    unsigned char first[NET_OUTPUT_BYTES];
    int steps = 1;
    memset(net_input(), 77, NET_INPUT_BYTES);
    net_run();
    memcpy(first, net_output(), NET_OUTPUT_BYTES);
    memset(net_input(), 3, NET_INPUT_BYTES);
    for (int i = 0; i < NET_STEPS / 2; ++i) { if (!net_step()) { return 1; } }
    net_reset(); /* an inference given up half way leaves no trace */
    memset(net_input(), 77, NET_INPUT_BYTES);
    while (net_step()) { ++steps; }
    if (steps != NET_STEPS) { return 2; }
    return memcmp(first, net_output(), NET_OUTPUT_BYTES) ? 3 : 0;
}
""")
    compile_all(tmp_path, tmp_path / "program")
    assert subprocess.run([tmp_path / "program"]).returncode == 0


def test_run_prints_what_was_asked_for(model, tmp_path, capsys):
    pixels = np.arange(32 * 32 * 3, dtype=np.int64).astype(np.uint8).reshape(32, 32, 3)
    np.save(tmp_path / "x.npy", pixels)
    assert call("run", str(model), "--input", str(tmp_path / "x.npy"), "--check", "--json", "-") == 0
    record = json.loads(capsys.readouterr().out)
    promised = "board output instructions arena_bytes text_bytes weights_bytes stack_bytes exact".split()
    assert set(promised) <= set(record)
    assert record["board"] == "host" and record["exact"] is True and len(record["output"]) == 4
    assert record["instructions"] is None and record["stack_bytes"] is None


@pytest.mark.slow
@pytest.mark.mcu
def test_run_counts_a_board_and_its_layers(model, capsys):
    arguments = ["run", str(model), "--board", "mps2-an500", "--profile", "--json", "-"]
    records = []
    for _ in range(2):
        assert call(*arguments) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert records[0] == records[1]  # repeats to the tick
    stages = sum(stage["instructions"] for stage in records[0]["stages"])
    assert abs(stages - records[0]["instructions"]) <= 80 * records[0]["steps"]
    assert 0 < records[0]["text_bytes"] < 32_000 and records[0]["exact"] is None


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--input", "lcg:x"], "lcg:SEED"),
        (["--input", "missing.npy"], "missing.npy"),
    ],
)
def test_a_bad_input_is_one_line(arguments, said, model, capsys):
    assert call("run", str(model), *arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_array_of_another_type_is_refused(model, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((32, 32, 3), np.float32))
    assert call("run", str(model), "--input", str(tmp_path / "x.npy")) == 1
    assert "expected uint8 [1, 32, 32, 3]" in capsys.readouterr().err


def test_a_strangers_folder_is_not_overwritten(model, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert call("generate", str(model), "--out", str(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert "choose another folder" in capsys.readouterr().err
