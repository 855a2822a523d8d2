"""C sources -> an executable for this machine or an emulated Cortex-M board, and what it said and cost.

The boards are QEMU's; `-icount shift=0` makes an instruction last one nanosecond of virtual time, so the
board's own timer counts instructions, repeatably. Instructions are not cycles: nothing here is a latency.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

from firmware_bridge.graph import BoardError

FIRMWARE = Path(__file__).parent / "firmware"
PORTS = FIRMWARE / "port"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wmissing-prototypes", "-Werror")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


@dataclass(frozen=True)
class Board:
    """A place to run C: ``core`` as people say it, compiler and its flags, the emulator's command line."""

    name: str
    core: str
    compiler: str
    flags: tuple[str, ...] = ()

    @property
    def emulated(self) -> bool:
        return self.name != "host"

    @property
    def port(self) -> tuple[Path, ...]:
        """Sources that start the board, print and count."""
        return (PORTS / ("cortex_m" if self.emulated else "host") / "port.c",)


def _cortex(name: str, core: str, *flags: str) -> Board:
    cpu = f"-mcpu={core.lower()}"
    return Board(name, core, "arm-none-eabi-gcc", (cpu, "-mthumb", *flags))


BOARDS: Mapping[str, Board] = {
    board.name: board
    for board in (
        Board("host", "host", "cc"),
        _cortex("mps2-an385", "Cortex-M3"),
        _cortex("mps2-an386", "Cortex-M4"),
        _cortex("mps2-an500", "Cortex-M7"),
        _cortex("mps2-an505", "Cortex-M33"),
        _cortex("mps3-an547", "Cortex-M55", "-mfloat-abi=hard"),
    )
}


@dataclass(frozen=True)
class Piece:
    """One linked section of one object file."""

    section: str
    source: str  # the object's file name: net.o, ed_conv.o, libc_nano.a(memcpy.o)
    size: int


@dataclass(frozen=True)
class Build:
    """A linked program and the pieces it is made of."""

    board: Board
    executable: Path
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Outcome:
    """What one run said: all bytes of its output, and its ``name=value`` lines."""

    status: int
    output: bytes
    values: Mapping[str, int]


def find_board(name: str) -> Board:
    """Return the board called ``name``; BoardError ``unknown-board`` lists the others."""
    if name not in BOARDS:
        raise BoardError(
            f"expected a board, one of {', '.join(BOARDS)}; got {name[:60]!r}", code="unknown-board"
        )
    return BOARDS[name]


def missing_tools(board: Board) -> list[str]:
    """Return the programs that ``board`` needs and this machine lacks."""
    needed = [board.compiler, *(["qemu-system-arm"] if board.emulated else [])]
    return [tool for tool in needed if shutil.which(tool) is None]


def build(
    sources: Sequence[Path],
    board: Board,
    *,
    out: Path,
    include: Sequence[Path] = (),
    defines: Sequence[str] = (),
    optimize: str = "-O2",
    compiler: str | None = None,
    extra: Sequence[str] = (),
) -> Build:
    """Compile and link ``sources`` with the board's port into the folder ``out``.

    Every warning is an error. ``defines`` are ``NAME=VALUE``; ``compiler`` replaces the board's own (clang
    on the host). Raises BoardError: ``tool-missing`` or ``compile-failed`` with the compiler's first error.
    """
    _need(board)
    out.mkdir(parents=True, exist_ok=True)
    command = [compiler or board.compiler, *board.flags, *STRICT, optimize, *extra]
    command += ["-ffunction-sections", "-fdata-sections"]
    command += [f"-I{folder}" for folder in (*include, PORTS, *_board_folder(board))]
    command += [f"-D{define}" for define in defines]
    objects = []
    for number, source in enumerate((*sources, *board.port)):
        objects.append(out / f"{number}-{source.stem}.o")
        _call([*command, "-c", str(source), "-o", str(objects[-1])])
    executable, listing = out / "program", out / "program.map"
    link = [compiler or board.compiler, *board.flags, *extra, *map(str, objects), "-o", str(executable)]
    _call([*link, *_link_flags(board), "-Wl,--gc-sections", f"-Wl,-Map={listing}"])
    return Build(board, executable, read_map(listing.read_text(errors="replace")))


def execute(build: Build, *, timeout_s: float = 120, arguments: Sequence[str] = ()) -> Outcome:
    """Run a build to its end; BoardError ``timeout``, ``killed`` or ``fault`` (a hard fault, a sanitizer's report)."""
    command = [str(build.executable)]
    if build.board.emulated:
        command = emulator(build.board, build.executable)
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise BoardError(
            f"expected {build.board.name} to finish within {timeout_s:.0f} s; it still runs", code="timeout"
        ) from None
    if -done.returncode in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        what = "the emulator" if build.board.emulated else "the program"
        raise BoardError(
            f"{build.board.name}: expected {what} to finish, but it was killed by {signal.Signals(-done.returncode).name}: "
            "run it again; if you did not do that, look for the out-of-memory killer in 'dmesg'",
            code="killed",
        )
    sanitized = b"ERROR: AddressSanitizer" in done.stderr or b": runtime error: " in done.stderr
    if done.returncode < 0 or done.returncode == 99 or sanitized:
        said = (done.stderr + done.stdout[-200:]).decode(errors="replace").strip()
        raise BoardError(f"{build.board.name}: the program crashed: {said[:600]}", code="fault")
    return Outcome(done.returncode, done.stdout, _read_values(done.stdout))


def run(
    sources: Sequence[Path],
    board: str | Board,
    *,
    include: Sequence[Path] = (),
    defines: Sequence[str] = (),
    optimize: str = "-O2",
    compiler: str | None = None,
    extra: Sequence[str] = (),
    timeout_s: float = 120,
) -> Outcome:
    """Build ``sources`` in a temporary folder and run them on ``board``; see ``build`` and ``execute``."""
    place = find_board(board) if isinstance(board, str) else board
    with tempfile.TemporaryDirectory(prefix="firmware-") as folder:
        made = build(
            sources,
            place,
            out=Path(folder),
            include=include,
            defines=defines,
            optimize=optimize,
            compiler=compiler,
            extra=extra,
        )
        return execute(made, timeout_s=timeout_s)


def emulator(board: Board, executable: Path, *, serial: str = "none") -> list[str]:
    """Return the command that runs ``executable`` on an emulated board; ``serial`` is QEMU's, e.g. ``tcp::PORT``."""
    return [
        "qemu-system-arm",
        *("-M", board.name, "-nographic", "-monitor", "none", "-serial", serial),
        *("-semihosting-config", "enable=on,target=native", "-icount", "shift=0"),
        *("-kernel", str(executable)),
    ]


def read_map(text: str) -> tuple[Piece, ...]:
    """Return the linked pieces of a GNU ld map (discarded input sections are not among them)."""
    start = text.find("Linker script and memory map")
    found = re.finditer(
        r"^ (\.[\w.$]+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+) (\S+)$", text[max(start, 0) :], re.MULTILINE
    )
    pieces = (Piece(m[1], Path(m[3]).name, int(m[2], 16)) for m in found)
    return tuple(piece for piece in pieces if piece.size)


def _board_folder(board: Board) -> tuple[Path, ...]:
    return (PORTS / board.name,) if board.emulated else ()


def _link_flags(board: Board) -> list[str]:
    if not board.emulated:
        return []
    script = PORTS / board.name / "link.ld"
    return ["-nostartfiles", f"-L{PORTS / 'cortex_m'}", "-T", str(script)]


def _need(board: Board) -> None:
    missing = missing_tools(board)
    if missing:
        raise BoardError(
            f"{board.name} needs {' and '.join(missing)}, not found on this machine; on Debian: "
            "apt install gcc gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
            code="tool-missing",
        )


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        said = errors[0] if errors else done.stderr.strip()
        raise BoardError(f"{command[0]} failed: {said[:400]}", code="compile-failed")


def _read_values(output: bytes) -> dict[str, int]:
    return {m[1].decode(): int(m[2]) for m in re.finditer(rb"^(\w+)=(\d+)$", output, re.MULTILINE)}
