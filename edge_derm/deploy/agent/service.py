"""The service that runs the current release: a systemd unit, or a plain process."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from .files import write
from .refusal import Refusal

UNIT = "edge-derm.service"


def find_service():
    """systemd where it runs and may be told, else a plain process."""
    return Systemd() if os.path.isdir("/run/systemd/system") and os.geteuid() == 0 else Plain()


class Systemd:
    """The service as a systemd unit of the whole machine."""

    name = "systemd"
    started_s = 0

    def start(self, board, release):
        """Write the unit if it changed, and (re)start it."""
        if not release["service"]:
            return self.stop(board)
        write_source(board.root, release)
        text = release["unit"].replace("@ROOT@", board.root).replace("@PYTHON@", sys.executable)
        where = "/etc/systemd/system/" + UNIT
        if not os.path.exists(where) or open(where).read() != text:
            write(where, text)
            run(["systemctl", "daemon-reload"])
        run(["systemctl", "reset-failed", UNIT], check=False)
        self.started_s = int(time.time())
        run(["systemctl", "enable", "-q", UNIT])
        run(
            ["systemctl", "stop", UNIT], check=False
        )  # before the start: the old one must not answer for the new
        run(["systemctl", "start", "--no-block", UNIT])

    def stop(self, board):
        """Stop it and do not start it at boot."""
        run(["systemctl", "disable", "-q", "--now", UNIT], check=False)

    def ended(self, board):
        """Whether systemd has given it up."""
        return subprocess.run(["systemctl", "is-failed", "-q", UNIT]).returncode == 0

    def last_words(self, board):
        """The last line of its journal since it was started."""
        since = ["--since", "@%d" % self.started_s]
        said = subprocess.run(
            ["journalctl", "-u", UNIT, *since, "-o", "cat"], capture_output=True, text=True
        ).stdout
        lines = [line for line in said.splitlines() if line.startswith("edge-derm: ")] or said.splitlines()
        return lines[-1][-200:] if lines else ""


class Plain:
    """The service as a plain process, for machines without systemd: nobody starts it again after a crash or a reboot."""

    name = "process"
    started = None  # the process this visit started: for a moment it has no command line yet

    def start(self, board, release):
        """Stop the one that runs, start the release's."""
        self.stop(board)
        if not release["service"]:
            return
        folder = board.path("releases", board.named("current"))
        command = [
            os.path.join(folder, "venv", "bin", "python"),
            "-c",
            "from edge_derm.cli import main; main()",
        ]
        command += [word.replace("@ROOT@", board.root) for word in release["arguments"]]
        with open(board.path("service.log"), "ab") as log, open(os.devnull) as nothing:
            # Not subprocess: the service outlives this program on purpose.
            self.started = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", 'cd "$0" && exec "$@"', folder, *command],
                dict(board.environment(), EDGE_DERM_SOURCE=release["source"]),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, handle, number)
                    for number, handle in enumerate((nothing.fileno(), log.fileno(), log.fileno()))
                ],
                setsid=True,
            )

    def stop(self, board):
        """End the process and its children."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids(board):
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
            until = time.monotonic() + 5.0
            while self.pids(board) and time.monotonic() < until:
                time.sleep(0.05)

    def pids(self, board):
        """Every process that runs something of a release; found by its command line, so that none is ever forgotten."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cmdline" % name, "rb") as stream:
                    ours = os.path.join(board.root, "releases", "").encode() in stream.read()
            except OSError:
                continue
            if ours and not zombie(name):
                found.append(int(name))
        return found

    def ended(self, board):
        """Whether the process is gone."""
        return (self.started is None or zombie(self.started)) and not self.pids(board)

    def last_words(self, board):
        """The last line of its log."""
        try:
            with open(board.path("service.log"), "rb") as stream:
                lines = stream.read()[-2000:].decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return lines[-1][-200:] if lines else ""


def zombie(pid):
    """Whether the process has ended and waits to be collected."""
    try:
        with open("/proc/%s/stat" % pid) as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def run(command, check=True):
    """Run a program of the system; its last words are the refusal."""
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise Refusal("service", "%s: %s" % (" ".join(command), done.stderr.strip()[-200:]))


def write_source(root, release):
    """Where the unit finds the release's source, which may hold a password."""
    write(os.path.join(root, "source.env"), 'EDGE_DERM_SOURCE="%s"\n' % quoted(release["source"]), 0o600)


def quoted(text):
    """For the inside of double quotes in an EnvironmentFile of systemd."""
    return "".join("\\" + letter if letter in '"\\$`' else letter for letter in text)


def ask_health(port):
    """The service's own words on loopback, or {}."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:%d/health" % port, timeout=5) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        try:
            return json.load(error)
        except ValueError:
            return {}
    except (OSError, ValueError):
        return {}
