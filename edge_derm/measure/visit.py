"""One visit to a board: a program and its files go out over one ssh connection, an answer comes back, nothing stays.

The other half is ``remote``, whose source is an argument of python3 there. Its heartbeat is a byte every few seconds; when either
side, or the line between them, goes away, the board's half removes everything.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import struct
import subprocess
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from edge_derm import errors
from edge_derm.errors import TargetError
from edge_derm.measure import payload, process

if TYPE_CHECKING:
    from edge_derm.measure.ssh import Address

PYTHON = (3, 10)
PYTHON_VARIABLE = "EDGE_DERM_BOARD_PYTHON"
HEARTBEAT_S = 5.0
_SSH_FAILED = 255  # the client's own failures; any other status is the program's
_MODULES = {
    "litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
    "onnxruntime": "onnxruntime",
    "opencv": "cv2",
}
_INSTALLS = {
    "ai_edge_litert": "ai-edge-litert",
    "tflite_runtime": "tflite-runtime",
    "cv2": "opencv-python-headless",
}
# What Python says of a package made for another processor or another Python.
_UNLOADABLE = re.compile(
    r"^(?:ImportError|ModuleNotFoundError|Original error was): \S.*|"
    r"^.*(?:cannot open shared object file|wrong ELF class|invalid ELF header).*",
    re.MULTILINE,
)
_START = "exec {python} -c 'import base64, zlib; exec(zlib.decompress(base64.b64decode(\"{source}\")))'"
_UNREACHABLE = (
    "Connection timed out|No route to host|Connection refused|Could not resolve|Network is unreachable|"
    "Connection (?:closed|reset) by|closed by remote host|Broken pipe|banner exchange|Name or service not known"
)
# What ssh says on its way out, the code of it, and what was expected and is to be done.
_REASONS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "ssh-host-key-changed",
        "expected the host key this machine knows, got another: if the board was set up anew, run: ssh-keygen -R {known_as}; then "
        "connect once by hand; if not, someone may stand in between",
    ),
    (
        "Host key verification failed",
        "ssh-host-key-unknown",
        "expected a host whose key is known: connect once with 'ssh {by_hand}' and compare the fingerprint with the board's",
    ),
    (
        "Permission denied|Too many authentication failures",
        "ssh-key",
        "expected the board to accept a key of this user, but {said}: run 'ssh-copy-id {by_hand}' (a password is never asked for)",
    ),
    (
        _UNREACHABLE,
        "ssh-unreachable",
        "expected a board that answers, but {said}: is it on, on this network, with sshd at this port?",
    ),
)


def bench(address: Address, path: Path, *, compare: Path | None = None, **options: Any) -> dict[str, Any]:
    """The record that ``onboard`` makes on the board. Raises as ``visit`` does."""
    sent = [payload.model_file(each, name) for each, name in ((path, "model"), (compare, "other")) if each]
    job = {"models": [name for name, _ in sent], "bench": options}
    files = [(payload.RUNNER, payload.runner()), *sent]
    return dict(json.loads(run_job(address, files, job, backend=options.get("backend") or "litert")))


def run_job(
    address: Address, files: Sequence[tuple[str, bytes]], job: dict[str, Any], *, backend: str
) -> str:
    """What ``onboard`` answers to ``job`` there. Raises as ``visit`` does."""
    modules = ["numpy", "flatbuffers", _MODULES.get(backend, "numpy")]
    order = [*files, ("job.json", json.dumps(job).encode())]
    return visit(address, order, ["-m", "edge_derm.measure.onboard", "job.json"], modules=modules)


def visit(
    address: Address, files: Sequence[tuple[str, bytes]], arguments: Sequence[str], *, modules: Sequence[str]
) -> str:
    """Standard output of the board's ``python3`` with ``arguments`` in a folder of its own that holds ``files``.

    Args:
        files: ``(name, bytes)``; the one called ``payload.RUNNER`` is importable.
        modules: what its Python must be able to import.

    Raises:
        TargetError: ``ssh-unreachable``, ``ssh-host-key-unknown``, ``ssh-host-key-changed``, ``ssh-key``, ``ssh-lost``,
            ``ssh-failed``; ``board-no-python``, ``board-python``, ``board-machine``, ``board-package``, ``board-package-broken``,
            ``board-space``, ``board-killed``, ``board-failed``; an error of this package raised there, as itself.
    """
    order = {
        "python": PYTHON,
        "wide": "ai_edge_litert" in modules,
        "modules": list(modules),
        "files": [(name, len(data)) for name, data in files],
        "bytes": sum(len(data) for _, data in files),
        "path": payload.RUNNER,
        "arguments": list(arguments),
    }
    head = json.dumps(order).encode()
    parts = [struct.pack(">I", len(head)), head, *(data for _, data in files)]
    command = [
        *address.command(),
        _START.format(python=shlex.quote(_python(address)), source=_source()),
    ]
    with process.started(command, what=str(address)) as client:
        answers, said = _converse(client, parts)
    if not answers or answers[-1].get("ready"):
        raise refused(address, client.returncode, said, greeted=bool(answers))
    return _result(address, answers[-1])


def _python(address: Address) -> str:
    return address.python or os.environ.get(PYTHON_VARIABLE) or "python3"


def _source() -> str:
    return base64.b64encode(zlib.compress(Path(__file__).with_name("remote.py").read_bytes())).decode()


def _converse(client: subprocess.Popen[bytes], parts: Sequence[bytes]) -> tuple[list[dict[str, Any]], str]:
    """Send everything and then heartbeats until the client ends; the answers it gave, and what ssh said."""
    assert client.stdout is not None and client.stderr is not None
    ended = threading.Event()
    said: list[bytes] = []
    sender = threading.Thread(target=_send, args=(client, parts, ended), daemon=True)
    listener = threading.Thread(target=lambda: said.append(client.stderr.read()), daemon=True)  # type: ignore[union-attr]
    for thread in (sender, listener):
        thread.start()
    answers = [answer for answer in map(_answer, client.stdout) if answer]
    ended.set()
    client.wait()
    for thread in (sender, listener):
        thread.join()
    return answers, b"".join(said).decode("utf-8", "replace")


def _answer(line: bytes) -> dict[str, Any]:
    """The answer in a line that the board said; empty for whatever else it says, such as a login message."""
    if not line.startswith(b"edge-derm: "):
        return {}
    try:
        found = json.loads(line[11:])
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.keys() & {"ready", "status", "error"} else {}


def _send(client: subprocess.Popen[bytes], parts: Sequence[bytes], ended: threading.Event) -> None:
    assert client.stdin is not None
    try:
        for part in parts:
            client.stdin.write(part)
        client.stdin.flush()
        while not ended.wait(HEARTBEAT_S):
            os.write(client.stdin.fileno(), b".")
    except OSError:
        pass  # the client has ended; why is in what it said
    finally:
        try:
            client.stdin.close()
        except OSError:
            pass


def refused(address: Address, status: int, said: str, *, greeted: bool) -> TargetError:
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing was said"]
    by_hand = f"{address.user}@{address.host}" if address.user else address.host
    words = {
        "said": lines[-1][:200],
        "by_hand": f"-p {address.port} {by_hand}" if address.port else by_hand,
        "known_as": f"'[{address.host}]:{address.port}'" if address.port else address.host,
    }
    if greeted and status != _SSH_FAILED:
        return TargetError(
            f"{address}: expected an answer from the board, but the program there was killed (status {status}): look for the "
            "out-of-memory killer in its 'dmesg'",
            code="board-killed",
        )
    if greeted:
        return TargetError(
            f"{address}: the connection was lost while it measured ({words['said']}): the board removes what was sent; "
            "look at its power and network and run this again",
            code="ssh-lost",
        )
    for pattern, code, advice in _REASONS if status == _SSH_FAILED else ():
        if re.search(pattern, said):
            return TargetError(f"{address}: " + advice.format(**words), code=code)
    if status in (126, 127):  # sh: found and not to be run, not found
        return TargetError(
            f"{address}: expected {_python(address)} on the board, found none ({words['said']}): install it there, or name "
            f"another Python: {PYTHON_VARIABLE}=…/bin/python",
            code="board-no-python",
        )
    return TargetError(f"{address}: ssh ended with status {status}: {words['said']}", code="ssh-failed")


def _result(address: Address, answer: dict[str, Any]) -> str:
    if "error" in answer:
        raise TargetError(f"{address}: {_lack(answer)}", code=answer["error"])
    if answer["status"] == 0:
        return str(answer["out"])
    raised = re.search(r"^edge-derm-error: (\w+) (\S+) (.*)$", answer["err"], re.MULTILINE)
    if raised and isinstance(getattr(errors, raised[1], None), type):
        raise getattr(errors, raised[1])(f"{address}: {raised[3]}", code=raised[2])
    unloadable = _UNLOADABLE.search(answer["err"])
    if (
        unloadable and answer["status"] > 0
    ):  # one that was killed may have said so of a part it can do without
        raise TargetError(
            f"{address}: expected packages that load on the board, got one that does not ({unloadable[0].strip()[:300]}): "
            "is it for its processor and its Python? Install it again there, "
            f"or name another Python: {PYTHON_VARIABLE}=…/bin/python",
            code="board-package-broken",
        )
    ending = process.failure(str(address), answer["status"], answer["err"])
    raise TargetError(str(ending), code=ending.code.replace("process-", "board-"))


def _lack(answer: dict[str, Any]) -> str:
    got = answer["got"]
    if answer["error"] == "board-python":
        return f"expected Python {PYTHON[0]}.{PYTHON[1]} or newer on the board, got {got}"
    if answer["error"] == "board-machine":
        return (
            f"expected a 64-bit system, because LiteRT has no 32-bit packages, got a 32-bit Python on {got}: install the 64-bit "
            "system, or measure with --backend tflite-runtime"
        )
    if answer["error"] == "board-package":
        names = " ".join(_INSTALLS.get(name, name) for name in got)
        return (
            f"expected {names} on the board, found none: run there '{answer['python']} -m pip install {names}' "
            f"(or name the Python of a virtual environment there: {PYTHON_VARIABLE}=…/bin/python)"
        )
    if answer["reason"] and answer["got"] >= answer["needed"]:  # a quota or a limit of the user's
        return (
            f"expected room for {answer['needed']:,} bytes in {answer['where']} on the board, but writing there failed "
            f"({answer['reason']}): make room there, or lift the limit"
        )
    return f"expected {answer['needed']:,} free bytes in {answer['where']} on the board, got {answer['got']:,}: make room there"
