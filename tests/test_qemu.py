"""The emulated arm64 cores: what is counted is exact, outputs are compared, and an emulator that dies is told from a slow one."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from edge_derm.cli.bench import agreement
from edge_derm.errors import TargetError
from edge_derm.measure import arm64, cache, emulated, onboard, process, qemu, record, targets, wheels
from processes import alive, wait_for

SAME = {"images": 4, "max_difference": 0.0, "unit": "LSB", "decisions_changed": 0}
CLI = [sys.executable, "-c", "from edge_derm.cli import main; main()"]


def test_an_inference_costs_what_lies_between_its_marks_less_an_empty_pair():
    assert emulated.inferences([100, 107, 200, 307, 400, 517]) == (100, 110)


def test_parity_counts_steps_and_changed_decisions():
    here = {"default": [[10, 20], [5, 4]], "reference": [[1, 0]]}
    there = {"default": [[10, 17], [4, 5]], "reference": [[1, 0]]}
    found = emulated.differences(here, there)
    assert found["default"] == {"images": 2, "max_difference": 3.0, "unit": "LSB", "decisions_changed": 1}
    assert found["reference"]["max_difference"] == 0
    assert (
        emulated.differences({"default": [[0.25, 0.75]]}, {"default": [[0.5, 0.5]]})["default"]["unit"]
        == "score"
    )
    said = agreement({"backend_here": "a 2", "backend_there": "a 1", **found})
    assert "default kernels 3 LSB, 1 of 2 decisions changed; reference kernels 0 LSB" in said


def test_every_core_is_listed_with_the_command_that_makes_it_ready(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = [target.row() for target in qemu.targets()]
    assert [row["name"] for row in rows] == ["qemu:cortex-a53", "qemu:cortex-a72", "qemu:cortex-a76"]
    assert all(not row["ready"] and "edge-derm targets --prepare qemu:" in row["missing"] for row in rows)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        qemu.targets()[0]
        .row()["missing"]
        .startswith("sudo apt-get install --no-install-recommends qemu-user gcc")
    )
    with pytest.raises(TargetError, match="sudo apt-get install qemu-user") as caught:
        arm64.prepare()
    assert caught.value.code == "arm64-tools" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "said",
    [
        "version 10.0.2 (Debian)\n-plugin",
        "version 9.1.0\n-plugin",
        "version 7.2.22\n-strace",
        "nonsense -plugin",
    ],
)
def test_an_emulator_that_cannot_count_is_refused_with_another_way(tmp_path, monkeypatch, said):
    (tmp_path / "qemu-aarch64").write_text(f"#!/bin/sh\necho 'qemu-aarch64 {said}'\n")
    (tmp_path / "qemu-aarch64").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(TargetError, match="7.2.*board:virt-a72") as caught:
        arm64.check_emulator()
    assert caught.value.code == "arm64-emulator"
    (tmp_path / "qemu-aarch64").write_text("#!/bin/sh\necho 'qemu-aarch64 version 7.2.22'; echo -plugin\n")
    arm64.check_emulator()


def test_another_recipe_never_finds_an_old_tree(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = arm64.folder()
    monkeypatch.setattr(arm64, "WHEELS", ("ai-edge-litert==9",))
    assert arm64.folder() != before and before.parent == tmp_path / "edge-derm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification: ignore what is not absolute
    assert cache.cache_folder() == Path.home() / ".cache/edge-derm"


def test_a_library_for_another_processor_is_refused(tmp_path):
    library = tmp_path / "x86.so"
    library.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62))
    with pytest.raises(TargetError, match="ELF machine 183.*got 62") as caught:
        wheels.check_machine(library)
    assert caught.value.code == "wheels-machine"
    library.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 183))
    wheels.check_machine(library)


def test_a_process_that_ends_badly_says_how():
    def code(script, timeout_s=60):
        with pytest.raises(TargetError) as caught:
            process.run(["sh", "-c", script], what="it", timeout_s=timeout_s)
        return caught.value.code, str(caught.value)

    assert (
        code("kill -KILL $$") == ("process-killed", code("kill -KILL $$")[1])
        and "SIGKILL" in code("kill -9 $$")[1]
    )
    assert code("kill -SEGV $$")[0] == "process-crashed"
    assert code("echo first >&2; echo last words >&2; exit 3") == (
        "process-failed",
        "it: failed with exit status 3: last words",
    )
    assert code("sleep 60", timeout_s=0.2)[0] == "process-timeout"
    with pytest.raises(TargetError) as caught:
        process.run(["no-such-program"], what="it", timeout_s=1)
    assert caught.value.code == "process-missing"


def test_the_children_of_a_stopped_process_are_stopped_too():
    mark = f"9{os.getpid()}.25"  # a duration nobody else sleeps
    with pytest.raises(TargetError):
        process.run(["sh", "-c", f"sleep {mark} & sleep {mark}; true"], what="it", timeout_s=0.5)
    wait_for(lambda: not alive(f"sleep {mark}"), 10)


def program(loops):
    """A static arm64 ELF whose path between two marks is ``2 * loops`` instructions and six more, as listed."""
    mark = [
        0xD2800000,  # mov x0, #0
        0xD2981BC1,  # mov x1, #0xc0de
        0xF2ABDDA1,  # movk x1, #0x5eed, lsl #16
        0xD2800002,  # mov x2, #0
        0xD28007C8,  # mov x8, #62 (lseek)
        0xD4000001,  # svc #0
    ]
    loop = [0xD2800003 | loops << 5, 0xF1000463, 0x54FFFFE1]  # mov x3, #loops; subs x3, x3, #1; b.ne -4
    end = [0xD2800000, 0xD2800BA8, 0xD4000001]  # exit(0)
    code = struct.pack("<18I", *mark, *loop, *mark, *end)
    base, head = 0x400000, 64 + 56
    elf = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    size = head + len(code)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


@pytest.mark.arm
@pytest.mark.parametrize("loops", [1, 1000, 65535])
def test_the_counter_counts_a_hand_assembled_loop_exactly(tmp_path, loops):
    try:
        arm64.compile_counter(tmp_path / "count.so")
        (tmp_path / "loop").write_bytes(program(loops))
        (tmp_path / "loop").chmod(0o755)
        plugin = f"{tmp_path}/count.so,out={tmp_path}/counts"
        process.run([arm64.EMULATOR, "-plugin", plugin, tmp_path / "loop"], what="loop", timeout_s=60)
    except TargetError as error:
        if error.code == "process-missing":
            pytest.skip(str(error))
        raise
    first, second = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert first == 6  # the instructions up to and with the first call
    assert second - first == 1 + 2 * loops + 6


@pytest.mark.arm
@pytest.mark.slow
def test_the_record_of_an_emulated_core_holds_counts_and_parity_and_no_time(tree, tiny_bundle):
    made = json.loads(
        subprocess.run(
            [
                *CLI,
                "bench",
                str(tiny_bundle),
                "--target",
                "qemu:cortex-a53",
                "--compare",
                str(tiny_bundle),
                "--json",
                "-",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    jsonschema.Draft202012Validator(record.schema()).validate(made)
    assert made["emulated"] and made["latency_ms"] is None and made["memory"]["peak_rss_bytes"] is None
    assert made["emulator"]["machine"] == "aarch64"
    for kernels in ("default", "reference"):  # int8: arm64 and this machine agree to the last bit
        assert made["parity"][kernels] == SAME
    low, high = made["instructions_range"]
    assert low <= made["instructions"] <= high <= 1.2 * low
    assert made["ratio"]["value"] == pytest.approx(1, abs=0.02) and made["ratio_of"] == "instructions"


@pytest.mark.arm
@pytest.mark.slow
def test_a_core_with_dot_products_needs_fewer_instructions(tree, tiny_int8, tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny_int8)
    counts = {
        cpu: targets.bench(tmp_path / "m.tflite", target=f"qemu:{cpu}")["instructions"] for cpu in qemu.CORES
    }
    assert counts["cortex-a53"] == pytest.approx(
        counts["cortex-a72"], rel=0.01
    )  # one instruction set, Armv8.0
    assert counts["cortex-a76"] < counts["cortex-a72"]  # Armv8.2 with SDOT


@pytest.mark.arm
@pytest.mark.slow
def test_pixels_of_the_emulated_core_are_those_of_this_machine(tree, tmp_path):
    script = (
        "import numpy as np, sys, hashlib, cv2; from edge_derm.data import preprocess\n"
        "image = np.random.default_rng(5).integers(0, 256, (480, 640, 3), dtype=np.uint8)\n"
        "jpeg = cv2.imdecode(cv2.imencode('.jpg', cv2.blur(image, (9, 9)))[1], cv2.IMREAD_COLOR)\n"
        "print([hashlib.sha256(preprocess(x, s).tobytes()).hexdigest() for x in (image, jpeg) for s in (64, 96, 128, 224)])"
    )
    there = arm64.run(tree, "cortex-a72", ["-c", script]).decode()
    here = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert there == here


@pytest.mark.arm
@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, number", [("emulator", signal.SIGKILL), ("command", signal.SIGINT), ("command", signal.SIGKILL)]
)
def test_a_killed_emulator_is_named_and_nothing_is_left(tree, tiny_bundle, tmp_path, victim, number):
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    command = [*CLI, "bench", str(tiny_bundle), "--target", "qemu:cortex-a72"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        ours = f"out={tmp_path}"
        emulator = wait_for(
            lambda: [pid for pid, line in alive(ours).items() if line.startswith(("/usr/bin/qemu", "qemu"))]
        )[0]
        time.sleep(1)
        os.kill(emulator if victim == "emulator" else running.pid, number)
        said = running.communicate(timeout=60)[1]
    wait_for(lambda: not alive(ours), 10)
    if victim == "emulator":
        assert running.returncode == 1
        assert re.search("qemu:cortex-a72: expected it to finish, but it was killed by SIGKILL", said), said
    if number == signal.SIGINT or victim == "emulator":
        assert list((tmp_path / "tmp").iterdir()) == []


def test_marks_come_in_pairs_around_every_call():
    calls = []
    marks = onboard.mark_inferences(lambda: calls.append(1), 3, lambda: len(calls))
    assert [mark - onboard.WARMUP for mark in marks] == [0, 0, 0, 1, 1, 2, 2, 3]


def test_without_golden_vectors_the_images_are_seeded_noise(tiny_int8, tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny_int8)
    images = emulated.images_for(tmp_path / "m.tflite")
    assert images.shape == (emulated.IMAGES, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images, emulated.images_for(tmp_path / "m.tflite"))
    assert images[0].std() > 60 and images[-1].std() == 0
