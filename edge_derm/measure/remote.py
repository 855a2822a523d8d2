"""The half of an SSH measurement that runs on the board, on its own python3 and nothing else; sent over standard input.

It makes one folder, runs one program in it, writes one line of answer, and removes the folder: also when it is told to stop,
when the connection's input ends, and when its heartbeat stays away (a cable pulled out ends no connection). What a killed
ancestor left is swept at the next visit. The syntax is that of Python 3.6, so that an old Python gets to say it is old.
"""

import errno
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading

PREFIX = "edge-derm-"
SILENCE_S = 30  # the other side sends a byte every five seconds
BLOCK = 65536
_open = {}  # type: dict  # the "folder" and "child" of this visit
_closing = threading.RLock()  # a signal may come while the folder is being removed


def main():
    """Greet, read the order and its files, run, answer."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())
    say({"ready": True})
    order = json.loads(take(struct.unpack(">I", take(4))[0]).decode())
    answer = refusal(order)
    if answer is None:
        try:
            answer = serve(order)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            answer = no_space(order["bytes"], os.strerror(error.errno))
    clean()
    say(answer)


def refusal(order):
    """What this board lacks, as an answer, or None."""
    if sys.version_info[:2] < tuple(order["python"]):
        return {"error": "board-python", "got": "%d.%d" % sys.version_info[:2]}
    if order["wide"] and sys.maxsize < 2**32:
        return {"error": "board-machine", "got": os.uname().machine}
    from importlib.util import find_spec

    missing = [name for name in order["modules"] if find_spec(name) is None]
    if missing:
        return {"error": "board-package", "got": missing, "python": sys.executable}
    sweep()
    if shutil.disk_usage(tempfile.gettempdir()).free < 2 * order["bytes"]:
        return no_space(order["bytes"])
    return None


def serve(order):
    """Store the files, run the program in their folder, and return how it ended."""
    _open["folder"] = folder = tempfile.mkdtemp(prefix="%s%d-" % (PREFIX, os.getpid()))
    for name, size in order["files"]:
        store(os.path.join(folder, name), size)
    environment = dict(
        os.environ, PYTHONPATH=os.path.join(folder, order["path"]), PYTHONDONTWRITEBYTECODE="1"
    )
    together = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    _open["child"] = child = subprocess.Popen(
        together + [sys.executable, "-s"] + order["arguments"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    threading.Thread(target=watch, daemon=True).start()
    out, err = child.communicate()
    return {
        "status": child.returncode,
        "out": out.decode("utf-8", "replace"),
        "err": err.decode("utf-8", "replace")[-4000:],
    }


def store(path, size):
    """Write the next ``size`` bytes of input to ``path``."""
    with open(path, "wb") as sink:
        while size:
            block = take(min(size, BLOCK))
            sink.write(block)
            size -= len(block)


def take(size):
    """The next ``size`` bytes of input; the end of input before them ends everything."""
    parts = []
    while size:
        block = os.read(0, size) if select.select([0], [], [], SILENCE_S)[0] else b""
        if not block:
            stop()
        parts.append(block)
        size -= len(block)
    return b"".join(parts)


def watch():
    """Read heartbeats until they end."""
    while select.select([0], [], [], SILENCE_S)[0] and os.read(0, BLOCK):
        pass
    stop()


def stop():
    """Leave nothing, and end."""
    clean()
    os._exit(1)


def clean():
    """Kill the program with its children and remove the folder."""
    with _closing:
        child, folder = _open.get("child"), _open.get("folder")
        if child is not None:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except OSError:
                pass
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def sweep():
    """Remove folders whose maker is gone."""
    for name in os.listdir(tempfile.gettempdir()):
        maker = name[len(PREFIX) :].split("-")[0]
        if name.startswith(PREFIX) and maker.isdigit() and not os.path.exists("/proc/" + maker):
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)


def no_space(wanted, reason=None):
    """The answer of a full board; ``reason``: of the write that failed."""
    where = tempfile.gettempdir()
    return {
        "error": "board-space",
        "got": shutil.disk_usage(where).free,
        "needed": 2 * wanted,
        "where": where,
        "reason": reason,
    }


def say(answer):
    """One line that no login message looks like."""
    os.write(1, b"\nedge-derm: " + json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
