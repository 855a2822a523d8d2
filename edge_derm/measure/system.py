"""What makes a folder of unpacked Debian packages start as a system: accounts, network, sshd, PAM, and what starts at boot.

Debian's own configuration step runs each package's scripts, which takes minutes under emulation and needs root. Nothing of it is
run: these few files stand for it, so the system is Debian's programs but not a machine that apt can manage.
"""

from __future__ import annotations

import shutil
from pathlib import Path

USER, UID = "pi", 1000
HOST = "virt-a72"
_PAM = {  # what pam-auth-update writes, without a password quality check
    "common-auth": "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\n",
    "common-account": (
        "account [success=1 default=ignore] pam_unix.so\naccount requisite pam_deny.so\naccount required pam_permit.so\n"
    ),
    "common-password": "password [success=1 default=ignore] pam_unix.so yescrypt\npassword requisite pam_deny.so\n",
    "common-session": "session required pam_unix.so\nsession optional pam_systemd.so\n",
    "common-session-noninteractive": "session required pam_unix.so\n",
}
_FILES = {
    "etc/hostname": f"{HOST}\n",
    "etc/hosts": f"127.0.0.1 localhost {HOST}\n::1 localhost\n",
    "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 0\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/nsswitch.conf": "passwd: files systemd\ngroup: files systemd\nshadow: files\nhosts: files dns\n",
    "etc/environment": "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    # QEMU's user-mode network, docs/system/devices/net.rst: the guest is 10.0.2.15, the gateway 10.0.2.2.
    "etc/systemd/network/80-board.network": (
        "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
    ),
    "etc/ssh/sshd_config.d/board.conf": "PasswordAuthentication no\nUseDNS no\n",
    "etc/sudoers.d/board": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "etc/tmpfiles.d/board.conf": (
        f"d /home/{USER} 0755 {USER} {USER}\nZ /home/{USER} - {USER} {USER}\nd /run/sshd 0755 root root\n"
    ),
    "etc/systemd/journald.conf.d/board.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n",
}
# What the configuration scripts of udev and openssh-server would have made.
_ACCOUNTS = "g input\ng kvm\ng render\ng sgx\nu sshd"
_ENABLED = {
    "multi-user.target.wants": ("ssh.service", "systemd-networkd.service"),
    "sockets.target.wants": ("systemd-networkd.socket",),
}
_MASKED = (
    "systemd-networkd-wait-online.service",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "getty-static.service",
)


def configure(tree: Path, *, host_key: Path, client_key: Path) -> None:
    """Write the configuration into ``tree``.

    Args:
        host_key: private OpenSSH key of the board; its public half is beside it (``.pub``).
        client_key: the same of the one client that may log in, as ``pi`` (who may use sudo) or root.
    """
    for name, text in {**_FILES, **{f"etc/pam.d/{name}": text for name, text in _PAM.items()}}.items():
        _write(tree / name, text)
    _accounts(tree)
    shutil.copyfile(tree / "usr/share/openssh/sshd_config", tree / "etc/ssh/sshd_config")
    for suffix in ("", ".pub"):
        _write(
            tree / f"etc/ssh/ssh_host_ed25519_key{suffix}",
            host_key.with_name(host_key.name + suffix).read_text(),
            0o600,
        )
    allowed = client_key.with_name(client_key.name + ".pub").read_text()
    for home in ("root", f"home/{USER}"):
        _write(tree / home / ".ssh/authorized_keys", allowed, 0o600)
        (tree / home / ".ssh").chmod(0o700)
    (tree / "etc/sudoers.d/board").chmod(0o440)
    _units(tree)
    for link, goal in (("usr/bin/awk", "mawk"), ("usr/bin/sh", "dash"), ("etc/mtab", "/proc/self/mounts")):
        if not (tree / link).is_symlink():
            (tree / link).symlink_to(goal)
    for name, mode in (
        ("usr/bin/sudo", 0o4755),
        ("usr/bin/su", 0o4755),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
    ):
        (tree / name).chmod(mode)


def _accounts(tree: Path) -> None:
    masters = tree / "usr/share/base-passwd"
    users = [line.replace(":*:", ":x:", 1) for line in (masters / "passwd.master").read_text().splitlines()]
    groups = [line.replace(":*:", ":x:", 1) for line in (masters / "group.master").read_text().splitlines()]
    declared = [(tree / name).read_text() for name in sorted(_declarations(tree))]
    more_users, more_groups = accounts(
        "\n".join([*declared, _ACCOUNTS]), {line.split(":")[0] for line in groups}
    )
    users += more_users + [f"{USER}:x:{UID}:{UID}::/home/{USER}:/bin/bash"]
    groups += more_groups + [f"{USER}:x:{UID}:"]
    _write(tree / "etc/passwd", "\n".join(users) + "\n")
    _write(tree / "etc/group", "\n".join(groups) + "\n")
    shadow = [f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in users]
    _write(tree / "etc/shadow", "".join(shadow), 0o640)
    _write(tree / "etc/gshadow", "".join(f"{line.split(':')[0]}:*::\n" for line in groups), 0o640)


def accounts(declared: str, existing: set[str]) -> tuple[list[str], list[str]]:
    """Lines of passwd and group for the system accounts in sysusers.d(5) text, numbered downwards from 999.

    Lines whose account exists already, and those that give an account no number of its own (``m``, ``r``), are passed over.
    """
    users: list[str] = []
    groups: list[str] = []
    known = set(existing)
    for line in declared.splitlines():
        kind, name, *_ = [*line.split(), "", ""]
        if kind not in ("u", "g") or name in known:
            continue
        number = 999 - len(known - existing)
        known.add(name)
        groups.append(f"{name}:x:{number}:")
        if kind == "u":
            users.append(f"{name}:x:{number}:{number}::/run/{name}:/usr/sbin/nologin")
    return users, groups


def _declarations(tree: Path) -> list[str]:
    return [f"usr/lib/sysusers.d/{path.name}" for path in (tree / "usr/lib/sysusers.d").glob("*.conf")]


def _units(tree: Path) -> None:
    folder = tree / "etc/systemd/system"
    for wants, units in _ENABLED.items():
        (folder / wants).mkdir(parents=True, exist_ok=True)
        for unit in units:
            (folder / wants / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")
    for unit in _MASKED:
        (folder / unit).symlink_to("/dev/null")
    (folder / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
