"""Looking at the machine's processes, for tests that promise to leave none."""

import time
from pathlib import Path


def alive(pattern):
    """``{pid: command line}`` of running processes whose command line holds ``pattern``."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if pattern in line:
                found[int(entry.name)] = line
    return found


def children(parent):
    """``{pid: name}`` of the processes that ``parent`` started."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == parent:
            found[int(entry.name)] = name
    return found


def wait_for(condition, seconds=60):
    """The first true value of ``condition``, asked until ``seconds`` have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")
