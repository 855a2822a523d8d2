"""The emulated boards count what they should, and a program that fails says so."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from firmware_bridge import board
from firmware_bridge.graph import BoardError
from processes import alive, wait_for

EMULATED = [name for name, place in board.BOARDS.items() if place.emulated]
TICK = 50  # the coarsest timer tick, in instructions

pytestmark = pytest.mark.mcu

# Two instructions a turn, written in assembly so that the expected count is arithmetic, not the compiler's.
COUNTED = """
#include "port.h"
int main(void) {
    uint32_t turns = TURNS;
    ed_port_init();
    ed_port_count_start();
    __asm__ volatile("1: subs %0, %0, #1\\n\\tbne 1b" : "+r"(turns) : : "cc");
    ed_port_report("instructions", ed_port_count());
    return 0;
}
"""
DEEP = """
#include "port.h"
int touch(int depth);
__attribute__((noinline)) int touch(int depth) {
    volatile char frame[1000];
    for (int i = 0; i < 1000; ++i) { frame[i] = (char)(depth + i); }
    return frame[depth];
}
int main(void) {
    ed_port_init();
    ed_port_stack_paint();
    int kept = touch(3);
    ed_port_report("stack", ed_port_stack_used());
    return kept - 6;
}
"""
ECHO = """
#include "port.h"
int main(void) {
    ed_port_init();
    for (int n = 0; n < 4;) {
        int byte = ed_port_uart_receive();
        if (byte >= 0) { ed_port_uart_send((uint8_t)(byte + 1)); ++n; }
    }
    return 0;
}
"""


@pytest.fixture
def source(tmp_path):
    def write(text: str) -> list[Path]:
        path = tmp_path / "given.c"
        path.write_text(text)
        return [path]

    return write


@pytest.mark.parametrize("name", EMULATED)
def test_a_board_counts_the_instructions_that_were_written(name, source):
    for turns in (100_000, 1_000_000):
        outcome = board.run(source(COUNTED), name, defines=[f"TURNS={turns}"])
        assert abs(outcome.values["instructions"] - 2 * turns) <= 2 * TICK


def test_the_counter_survives_one_wrap_of_the_timer(source):
    outcome = board.run(source(COUNTED), "mps3-an547", defines=["TURNS=300000000"])
    assert abs(outcome.values["instructions"] - 600_000_000) <= 2 * TICK


@pytest.mark.slow
@pytest.mark.parametrize("name, turns", [("mps3-an547", 560_000_000)])
def test_counter_and_clock_survive_wraps_that_nobody_asked_about(name, turns, source):
    """1.12 thousand million instructions of a nanosecond each: two wraps of the 24-bit timer."""
    text = COUNTED.replace(
        "ed_port_count_start();", "ed_port_count_start(); const uint32_t t = ed_port_microseconds();"
    )
    text = text.replace(
        "    return 0;", '    ed_port_report("us", ed_port_microseconds() - t);\n    return 0;'
    )
    outcome = board.run(source(text), name, defines=[f"TURNS={turns}"])
    assert abs(outcome.values["instructions"] - 2 * turns) <= 20 * TICK
    assert abs(outcome.values["us"] - 2 * turns // 1000) <= 10


@pytest.mark.parametrize("name", EMULATED)
def test_a_count_repeats_to_the_tick(name, source):
    first, second = (board.run(source(COUNTED), name, defines=["TURNS=54321"]) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", EMULATED)
def test_the_painted_stack_shows_how_deep_a_call_went(name, source):
    assert 1000 <= board.run(source(DEEP), name).values["stack"] <= 1200


@pytest.mark.parametrize("name", EMULATED)
def test_the_uart_carries_bytes_both_ways(name, source, tmp_path):
    made = board.build(source(ECHO), board.find_board(name), out=tmp_path / "built")
    command = board.emulator(made.board, made.executable, serial="stdio")
    done = subprocess.run(command, input=b"\x00\x41\x7f\xfe", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"\x01\x42\x80\xff")


@pytest.mark.parametrize("name", board.BOARDS)
def test_the_exit_status_is_the_programs(name, source):
    assert board.run(source("int main(void) { return 7; }"), name).status == 7


@pytest.mark.parametrize("name", EMULATED)
def test_a_fault_on_a_board_is_an_error(name, source):
    with pytest.raises(BoardError, match="crashed") as caught:
        board.run(source('int main(void) { __asm__ volatile("udf #0"); return 0; }'), name)
    assert caught.value.code == "fault"


def test_a_sanitizers_report_is_an_error(source):
    wild = "int main(int c, char **v) { (void)v; int a[2] = {0, 0}; return a[c + 4]; }"
    with pytest.raises(BoardError) as caught:
        board.run(source(wild), "host", extra=board.SANITIZE, optimize="-O0")
    assert caught.value.code == "fault"


def test_a_program_that_never_ends_is_an_error(source):
    with pytest.raises(BoardError) as caught:
        board.run(source("int main(void) { for (;;) { } }"), "mps2-an500", timeout_s=1)
    assert caught.value.code == "timeout"


@pytest.mark.parametrize("name, what", [("mps2-an500", "the emulator"), ("host", "the program")])
def test_what_is_killed_is_told_from_what_crashed(name, what, source, tmp_path):
    made = board.build(
        source("int main(void) { for (;;) { } }"), board.find_board(name), out=tmp_path / "built"
    )

    def kill():
        mine = list(wait_for(lambda: alive(str(made.executable))))
        os.kill(mine[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(BoardError, match=f"{name}: expected {what} .* killed by SIGKILL") as caught:
        board.execute(made, timeout_s=60)
    killer.join()
    assert caught.value.code == "killed" and not alive(str(made.executable))


def test_a_warning_is_an_error_that_quotes_the_compiler(source):
    with pytest.raises(BoardError, match="unused") as caught:
        board.run(source("int main(void) { int unused; return 0; }"), "host")
    assert caught.value.code == "compile-failed"


def test_an_unknown_board_is_refused_with_the_list():
    with pytest.raises(BoardError, match="mps2-an500") as caught:
        board.find_board("mps2-an999")
    assert caught.value.code == "unknown-board"


def test_the_map_lists_what_is_linked_and_nothing_else(source, tmp_path):
    text = """
    int used(int x); int dead(int x);
    __attribute__((noinline)) int used(int x) { return x * 3; }
    int dead(int x) { return x / 7; }
    int main(void) { return used(0); }
    """
    made = board.build(source(text), board.find_board("mps2-an500"), out=tmp_path / "built")
    own = {piece.section for piece in made.pieces if piece.source == "0-given.o"}
    assert ".text.used" in own and ".text.dead" not in own
