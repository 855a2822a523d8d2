"""A real sshd on loopback that stands for a board: its own keys, port and folder for temporary files."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = "/usr/sbin/sshd"


@dataclass(frozen=True)
class Server:
    folder: Path
    port: int
    pid: int

    @property
    def name(self):
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def temporary(self):
        return self.folder / "board"

    def client(self, *, key="key", known="known"):
        """The words for EDGE_DERM_SSH."""
        return (
            f"ssh -F none -i {self.folder / key} -o IdentitiesOnly=yes -o UserKnownHostsFile={self.folder / known} "
            "-o GlobalKnownHostsFile=/dev/null"
        )


@contextlib.contextmanager
def serving(folder):
    """Start it, yield it, stop it."""
    if not Path(SSHD).is_file() or shutil.which("ssh-keygen") is None:
        pytest.skip("sshd is not installed: sudo apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "key", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "board").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    at = f"[127.0.0.1]:{port}"
    for name, key in (("known", "host"), ("changed", "stranger")):
        (folder / name).write_text(f"{at} {(folder / (key + '.pub')).read_text()}")
    (folder / "unknown").touch()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 50\n"
        f"SetEnv TMPDIR={folder}/board\n"
    )
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        else:
            raise AssertionError((folder / "log").read_text())
        yield Server(folder, port, server.pid)
    finally:
        server.terminate()
        server.wait(10)
