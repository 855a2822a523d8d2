"""The smallest first file system that finds the disk: BusyBox, a dozen lines of shell, and the kernel's virtio modules.

It takes the place of update-initramfs, which takes half an hour under emulation. The archive is cpio "newc"
(Documentation/driver-api/early-userspace/buffer-format.rst of Linux), gzipped, the same bytes every time.
"""

from __future__ import annotations

import gzip
import re
import stat
from pathlib import Path
from typing import Iterator

from edge_derm.errors import TargetError

DRIVERS = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng")
_DIRECTORIES = ("bin", "dev", "proc", "sys", "root", "modules")
_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
for module in {modules}; do /bin/busybox insmod /modules/$module.ko || echo "initramfs: $module failed"; done
waited=0
until [ -b /dev/vda ] || [ $waited -ge 100 ]; do /bin/busybox sleep 0.1; waited=$((waited + 1)); done
/bin/busybox mount -t ext4 /dev/vda /root || {{ echo 'initramfs: no root file system on /dev/vda'; /bin/busybox poweroff -f; }}
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
"""


def make(tree: Path, release: str) -> bytes:
    """The initramfs for the kernel ``release`` unpacked in ``tree``, which holds ``bin/busybox`` (static).

    Raises:
        TargetError: ``initramfs-module``: the kernel package holds no such module.
    """
    modules = in_order(
        {path.stem: path for path in (tree / "usr/lib/modules" / release).rglob("*.ko")}, DRIVERS
    )
    files: list[tuple[str, int, bytes]] = [(name, stat.S_IFDIR | 0o755, b"") for name in _DIRECTORIES]
    files += [(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()) for path in modules]
    files += [("bin/busybox", stat.S_IFREG | 0o755, (tree / "bin/busybox").read_bytes())]
    script = _INIT.format(modules=" ".join(path.stem for path in modules))
    files += [("init", stat.S_IFREG | 0o755, script.encode())]
    return gzip.compress(b"".join(archive(files)), 6, mtime=0)


def in_order(available: dict[str, Path], wanted: tuple[str, ...]) -> list[Path]:
    """The wanted modules, each after those it depends on.

    Args:
        available: module file by name; names are compared with ``-`` as ``_``, as the kernel does.

    Raises:
        TargetError: ``initramfs-module``.
    """
    found = {name.replace("-", "_"): path for name, path in available.items()}
    order: list[Path] = []

    def add(name: str) -> None:
        path = found.get(name.replace("-", "_"))
        if path is None:
            raise TargetError(
                f"initramfs: expected the kernel module {name}, found none: is this another kernel package?",
                code="initramfs-module",
            )
        if path not in order:
            for needed in dependencies(path.read_bytes()):
                add(needed)
            order.append(path)

    for name in wanted:
        add(name)
    return order


def dependencies(module: bytes) -> list[str]:
    """The ``depends=`` line in a module's ``.modinfo`` section."""
    line = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in line[1].decode("ascii").split(",") if name] if line else []


def archive(files: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """``(name, mode, contents)`` as a cpio "newc" archive, owned by root, without dates."""
    for number, (name, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0]
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        yield head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
