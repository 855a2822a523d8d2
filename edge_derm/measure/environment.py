"""Where a figure was measured: processor, clocks, temperature, system, packages. What cannot be read is None."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

PACKAGES = (
    "edge-derm",
    "ai-edge-litert",
    "tflite-runtime",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorflow",
)


def environment(*, command: str | None = None) -> dict[str, Any]:
    """A fingerprint of this machine as plain JSON values; temperatures in °C, clocks in MHz, memory in bytes."""
    return {
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": clock(),
        "temperature_c": temperature(),
        "throttled": throttled(),
        "tegrastats": tegrastats(),
        "load_average": _load(),
        "memory_bytes": _memory(),
        "board": (_read("/proc/device-tree/model") or "").strip("\0") or None,
        "os": _os_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "command": command,
    }


def cpu_model() -> str | None:
    """The processor's name as the kernel gives it; on arm64 its implementer and part numbers."""
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" in fields:
        return fields["model name"]
    if "CPU part" in fields:
        return f"implementer {fields.get('CPU implementer')} part {fields['CPU part']}"
    return platform.processor() or None


def temperature() -> float | None:
    """The hottest thermal zone in °C."""
    values = [_read(str(zone)) for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(value) / 1000 for value in values if value and value.lstrip("-").isdigit()]
    return max(degrees) if degrees else None


def throttled() -> str | None:
    """A Raspberry Pi's throttling flags (``0x0``: never throttled), where ``vcgencmd`` is there to ask."""
    if shutil.which("vcgencmd") is None:
        return None
    try:
        answer = subprocess.run(
            ["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.strip().partition("=")[2] or None


def tegrastats() -> str | None:
    """One line of a Jetson's own ``tegrastats`` (memory, load, clocks, temperatures, power), where it is there."""
    if shutil.which("tegrastats") is None:
        return None
    with subprocess.Popen(
        ["tegrastats", "--interval", "100"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as asked:  # it never ends by itself
        stop = threading.Timer(5, asked.kill)
        stop.start()
        line = asked.stdout.readline().strip() if asked.stdout else ""
        stop.cancel()
        asked.kill()
    return line or None


def clock() -> float | None:
    """The first core's present clock in MHz."""
    text = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return int(text) / 1000 if text and text.isdigit() else None


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load() -> list[float] | None:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _os_name() -> str:
    for line in (_read("/etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
