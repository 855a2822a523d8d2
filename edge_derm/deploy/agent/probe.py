"""What a release must know about this board."""

import os
import platform
import shutil
import sys

from .files import read_json
from .service import find_service


def probe(root):
    """What a release must know about this board."""
    place = root
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    with open("/proc/meminfo") as stream:
        memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in stream}
    return {
        "python": list(sys.version_info[:3]),
        "machine": platform.machine(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "libc": list(platform.libc_ver()),
        "system": read_os(),
        "root": root,
        "free_bytes": shutil.disk_usage(place).free,
        "memory_bytes": memory["MemTotal"],
        "available_bytes": memory.get("MemAvailable"),
        "service": find_service().name,
        "measured": read_measured(os.path.join(root, "current", "selftest.json")),
        "trusts": os.path.isdir(os.path.join(root, "trust")),
        "user": os.geteuid(),
    }


def read_measured(path):
    """What the release that runs measured of itself before it was switched to, or None."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def read_os():
    """The PRETTY_NAME of os-release."""
    try:
        with open("/etc/os-release") as stream:
            named = [
                line.split("=", 1)[1].strip().strip('"') for line in stream if line.startswith("PRETTY_NAME=")
            ]
        return named[0]
    except (OSError, IndexError):
        return platform.platform()
