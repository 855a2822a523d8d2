"""The half of a deployment that runs on the board: its own python3 (3.10 or newer) and nothing else.

Everything lives under one root::

    store/<sha256>        what was uploaded, by content; ``<sha256>.part`` while it comes
    unpacked/<sha256>/    a wheel, unpacked once; releases hard-link its files
    releases/<id>/        release.json, sbom.cdx.json, selftest.json, bundle/, venv/: complete, verified, self-tested, read-only
    current               symbolic link to the release that runs; switched by one rename
    previous              the one before it
    pending.json          while a new ``current`` has not shown its health: what to go back to
    trust/*.pub           keys of whom this board accepts bundles (if any)

A process killed or a board without power at any step leaves ``current`` pointing at a complete release. What was half-made is
removed by the next visit, and a ``current`` that never became healthy is taken back by the next start of the service (``settle``)
or the next visit, whichever is first.

Speaks frames on standard input (4-byte length, JSON, and the JSON's ``bytes`` of raw data) and answers JSON lines.
"""

import base64
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

PYTHON = (3, 10)
SETTLE_TRIES = 2
SETTLE_S = 60.0  # how long the next visit waits for it, while the service is not given up
UNIT = "edge-derm.service"
PREFIX = b"\nedge-derm: "


class Refusal(Exception):
    """What this board cannot do; ``code`` and words for the other side."""

    def __init__(self, code, words):
        super().__init__(words)
        self.code = code


class Board:
    """The releases under ``root`` and the service that runs the current one."""

    def __init__(self, root, service):
        self.root, self.service = root, service
        for name in ("store", "unpacked", "releases"):
            os.makedirs(self.path(name), exist_ok=True)
        self._lock = open(self.path("lock"), "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise Refusal("deploy-busy", "another deployment is at work on this board: wait for its end")

    def close(self):
        """Let the next visitor in."""
        self._lock.close()

    def path(self, *parts):
        """A path under the root."""
        return os.path.join(self.root, *parts)

    def tidy(self):
        """Remove what an interrupted visit left, and settle a switch that never showed its health."""
        for folder in ("releases", "unpacked"):
            for name in os.listdir(self.path(folder)):
                if name.startswith("."):
                    remove(self.path(folder, name))
        for name in ("current.new", "previous.new"):
            if os.path.lexists(self.path(name)):
                os.unlink(self.path(name))
        if os.path.exists(self.path("pending.json")):
            if not self.healthy(self.named("current"), SETTLE_S):
                self.back("it was never healthy")
            else:
                self.confirm()

    def missing(self, wanted):
        """``{sha256: bytes that are here already}`` of the wanted ``{sha256: size}`` that are not complete."""
        lacking = {}
        for digest, size in wanted.items():
            if not os.path.exists(self.path("store", digest)):
                part = self.path("store", digest + ".part")
                there = os.path.getsize(part) if os.path.exists(part) else 0
                lacking[digest] = there if there <= size else 0
        return lacking

    def put(self, digest, offset, size, data):
        """Append ``data`` at ``offset`` of an upload; complete ones are verified and renamed."""
        part = self.path("store", digest + ".part")
        with open(part, "r+b" if os.path.exists(part) else "w+b") as sink:
            sink.truncate(offset)
            sink.seek(offset)
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        if offset + len(data) == size:
            if sha256(part) != digest:
                os.unlink(part)
                raise Refusal("upload-digest", "what arrived is not what was sent: run this again")
            os.replace(part, self.path("store", digest))

    def install(self, release):
        """Make ``releases/<id>`` from the store: complete and self-tested, or not at all."""
        goal = self.path("releases", release["id"])
        if os.path.isdir(goal):
            return
        new = self.path("releases", ".new-" + release["id"])
        remove(new)
        os.makedirs(os.path.join(new, "bundle"))
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip"]
            + ["--system-site-packages"] * bool(release["system_site"])
            + [os.path.join(new, "venv")],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        site = os.path.join(new, "venv", "lib", "python%d.%d" % sys.version_info[:2], "site-packages")
        for digest in release["wheels"].values():
            link_tree(self.unpacked(digest), site)
        for name, digest in release["bundle"].items():
            shutil.copyfile(self.path("store", digest), os.path.join(new, "bundle", name))
            os.chmod(os.path.join(new, "bundle", name), 0o444)
        if release.get("sbom"):
            shutil.copyfile(self.path("store", release["sbom"]), os.path.join(new, "sbom.cdx.json"))
        with open(os.open(os.path.join(new, "release.json"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as sink:
            json.dump(release, sink, indent=2)
        self.self_test(new, release)
        sync_tree(os.path.join(new, "bundle"))
        os.sync()
        for digest in release["wheels"].values():
            keep_bytecode(site, self.unpacked(digest))
        os.rename(new, goal)
        sync(self.path("releases"))

    def unpacked(self, digest):
        """The folder of an unpacked wheel."""
        goal = self.path("unpacked", digest)
        if os.path.isdir(goal):
            return goal
        new = self.path("unpacked", ".new-" + digest)
        remove(new)
        with zipfile.ZipFile(self.path("store", digest)) as wheel:
            for entry in wheel.infolist():
                place = os.path.normpath(os.path.join(new, entry.filename))
                if not place.startswith(new + os.sep):
                    raise Refusal("wheel-path", "%s leaves its folder" % entry.filename)
                wheel.extract(entry, new)
        for folder in os.listdir(new):
            if folder.endswith(".data"):
                for kind in ("purelib", "platlib"):
                    source = os.path.join(new, folder, kind)
                    if os.path.isdir(source):
                        shutil.copytree(source, new, dirs_exist_ok=True)
                shutil.rmtree(os.path.join(new, folder))
        os.rename(new, goal)
        return goal

    def self_test(self, folder, release):
        """Run the release's own predictions against its golden ones, in its own environment, within its budgets."""
        command = [os.path.join(folder, "venv", "bin", "python"), "-m", "edge_derm.deploy.selftest"]
        command += [
            os.path.join(folder, "bundle"),
            json.dumps(release["budget"]),
            release["service"] or "none",
        ]
        environment = self.environment()
        del environment["PYTHONDONTWRITEBYTECODE"]  # compiled here, once: the service may write nothing
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            remove(folder)
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise Refusal("self-test", "the release fails its self-test on this board: " + said[-1][:300])
        figures = json.loads(done.stdout or "{}")
        write_json(os.path.join(folder, "selftest.json"), dict(figures, macs=release.get("macs")))

    def environment(self):
        """What the release runs in: no user site, trust as this board was told."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        if os.path.isdir(self.path("trust")):
            kept["EDGE_DERM_TRUST"] = self.path("trust")
        return dict(kept, PYTHONNOUSERSITE="1", PYTHONDONTWRITEBYTECODE="1")

    def activate(self, name, wait_s):
        """Switch to release ``name``; back again if it is not healthy within ``wait_s``. True if it stayed."""
        before = self.named("current")
        if before == name and not os.path.exists(self.path("pending.json")):
            self.service.start(self, self.release(name))
            return self.healthy(name, wait_s)
        write_json(self.path("pending.json"), {"release": name, "previous": before, "starts": 0})
        self.switch("current", name)
        self.service.start(self, self.release(name))
        if self.healthy(name, wait_s):
            self.confirm()
            return True
        found = ask_health(self.release(name)["port"])
        said = "; ".join(found.get("reasons", [])) or self.service.last_words(self)
        self.back(said or "it did not answer", wait_s)
        return False

    def confirm(self):
        """The current release is healthy: what it replaced becomes ``previous``."""
        pending = read_json(self.path("pending.json"))
        if pending.get("previous") and pending["previous"] != self.named("current"):
            self.switch("previous", pending["previous"])
        os.unlink(self.path("pending.json"))

    def back(self, why, wait_s=60.0):
        """Undo a switch: to the release before, or to none if there was none; nothing is left to do where ``settle`` was first."""
        settled = not os.path.exists(self.path("pending.json"))
        before = self.named("current") if settled else read_json(self.path("pending.json")).get("previous")
        if before and os.path.isdir(self.path("releases", before)):
            if not settled:
                self.switch("current", before)
            self.service.start(self, self.release(before))
            self.healthy(before, max(wait_s, 60.0))
        else:
            self.service.stop(self)
            if os.path.lexists(self.path("current")):
                os.unlink(self.path("current"))
        remove(self.path("pending.json"))
        write_json(self.path("last-failure.json"), {"why": why, "at_s": int(time.time())})

    def rollback(self, wait_s):
        """Change places with the previous release."""
        before = self.named("previous")
        if before is None:
            raise Refusal("no-previous", "there is no earlier release on this board to go back to")
        return self.activate(before, wait_s)

    def switch(self, link, name):
        """Point ``link`` at a release by one rename."""
        new = self.path(link + ".new")
        if os.path.lexists(new):
            os.unlink(new)
        os.symlink(os.path.join("releases", name), new)
        os.replace(new, self.path(link))
        sync(self.root)

    def named(self, link):
        """The release that ``link`` points to, or None."""
        try:
            return os.path.basename(os.readlink(self.path(link)))
        except OSError:
            return None

    def release(self, name):
        """What is written in a release's release.json."""
        return read_json(self.path("releases", name, "release.json"))

    def healthy(self, name, wait_s):
        """Whether the service answers with this release's model within ``wait_s``; without a service, whether it is complete."""
        if name is None or not os.path.isdir(self.path("releases", name)):
            return False
        release = self.release(name)
        if not release["service"]:
            return True
        until = time.monotonic() + wait_s
        while True:
            found = ask_health(release["port"])
            answering = found.get("healthy") and found.get("frames", 0) > 0
            if answering and found.get("model_sha256") == release["bundle"]["model.tflite"]:
                return True
            settled = self.named("current") != name  # the service's own start gave it up
            if settled or time.monotonic() > until or self.service.ended(self):
                return False
            time.sleep(0.2)

    def prune(self, keep):
        """Remove all but the newest ``keep`` releases (never current or previous) and what no release needs."""
        kept = {self.named("current"), self.named("previous")}
        aged = sorted(os.listdir(self.path("releases")), key=lambda name: self.release(name)["made_s"])
        for name in aged[: max(0, len(aged) - keep)]:
            if name not in kept:
                self.discard("releases", name)
        needed = set()
        for name in os.listdir(self.path("releases")):
            release = self.release(name)
            needed |= {*release["wheels"].values(), *release["bundle"].values(), release.get("sbom")}
        for folder in ("store", "unpacked"):
            for name in os.listdir(self.path(folder)):
                if name.split(".")[0] not in needed:
                    self.discard(folder, name)

    def discard(self, folder, name):
        """Remove something whole: out of sight by one rename, then for good."""
        hidden = self.path(folder, ".old-" + name)
        remove(hidden)
        os.rename(self.path(folder, name), hidden)
        remove(hidden)

    def status(self):
        """What runs here, and how it is."""
        current = self.named("current")
        release = self.release(current) if current and os.path.isdir(self.path("releases", current)) else None
        health = ask_health(release["port"]) if release and release["service"] else {}
        failure = self.path("last-failure.json")
        return {
            "release": current,
            "previous": self.named("previous"),
            "healthy": self.healthy(current, 0.0),
            "service": self.service.name if release and release["service"] else None,
            "health": health or None,
            "releases": sorted(name for name in os.listdir(self.path("releases")) if name[0] != "."),
            "last_failure": read_json(failure) if os.path.exists(failure) else None,
        }


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


def find_service():
    """systemd where it runs and may be told, else a plain process."""
    return Systemd() if os.path.isdir("/run/systemd/system") and os.geteuid() == 0 else Plain()


def settle(root):
    """At the service's start: a new release that was started ``SETTLE_TRIES`` times without showing health is taken back."""
    where = os.path.join(root, "pending.json")
    if not os.path.exists(where):
        return
    pending = read_json(where)
    pending["starts"] += 1
    write_json(where, pending)
    before = pending.get("previous")
    if pending["starts"] > SETTLE_TRIES and before and os.path.isdir(os.path.join(root, "releases", before)):
        new = os.path.join(root, "current.new")
        if os.path.lexists(new):
            os.unlink(new)
        os.symlink(os.path.join("releases", before), new)
        os.replace(new, os.path.join(root, "current"))
        write_source(root, read_json(os.path.join(root, "current", "release.json")))
        remove(where)
        write_json(
            os.path.join(root, "last-failure.json"), {"why": "it was never healthy", "at_s": int(time.time())}
        )


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


def sha256(path):
    """The digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def link_tree(source, goal):
    """Hard-link every file of ``source`` into ``goal``."""
    for folder, _, names in os.walk(source):
        place = os.path.join(goal, os.path.relpath(folder, source))
        os.makedirs(place, exist_ok=True)
        for name in names:
            if not os.path.exists(os.path.join(place, name)):
                os.link(os.path.join(folder, name), os.path.join(place, name))


def keep_bytecode(site, source):
    """What was compiled in ``site`` of a wheel's modules is hard-linked to the unpacked wheel, for later releases."""
    for folder, _, names in os.walk(source):
        compiled = os.path.join(site, os.path.relpath(folder, source), "__pycache__")
        kept = os.path.join(folder, "__pycache__")
        for name in os.listdir(compiled) if os.path.isdir(compiled) else ():
            if name.split(".")[0] + ".py" in names and not os.path.exists(os.path.join(kept, name)):
                os.makedirs(kept, exist_ok=True)
                os.link(os.path.join(compiled, name), os.path.join(kept, name))


def remove(path):
    """Remove a file or folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


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


def write(path, text, mode=0o644):
    """A whole file or none."""
    remove(path + ".new")
    with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT, mode), "w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    os.replace(path + ".new", path)
    sync(os.path.dirname(path))


def write_json(path, value):
    """A whole JSON file or none."""
    write(path, json.dumps(value))


def read_json(path):
    """A JSON file's value."""
    with open(path) as stream:
        return json.load(stream)


def sync(folder):
    """Make a folder's entries last a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder):
    """Make a folder's files last a power cut."""
    for name in os.listdir(folder):
        sync(os.path.join(folder, name))
    sync(folder)


def serve(root):
    """Answer requests until the input ends."""
    board = None
    while True:
        head = sys.stdin.buffer.read(4)
        if len(head) < 4:
            return
        request = json.loads(sys.stdin.buffer.read(struct.unpack(">I", head)[0]))
        data = sys.stdin.buffer.read(request.get("bytes", 0))
        if len(data) < request.get("bytes", 0):
            return
        try:
            if request["do"] == "open":
                write_agent(root, data)
                board = Board(root, find_service())
                board.tidy()
                answer = {}
            else:
                answer = {"value": act(board, request, data)}
        except Refusal as refusal:
            answer = {"error": refusal.code, "words": str(refusal)}
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                answer = {
                    "error": "board-space",
                    "words": "no space left on the board: remove something there",
                }
            else:
                answer = {"error": "board-failed", "words": str(error)}
        except Exception as error:  # whatever it was, the other side must hear of it
            answer = {"error": "board-failed", "words": "%s: %s" % (type(error).__name__, error)}
        say(answer)


def act(board, request, data):
    """One request."""
    if request["do"] == "put":
        return board.put(request["digest"], request["offset"], request["size"], data)
    if request["do"] == "trust":
        os.makedirs(board.path("trust"), exist_ok=True)
        return write(board.path("trust", request["name"]), data.decode())
    arguments = request.get("arguments", [])
    allowed = ("missing", "install", "activate", "rollback", "prune", "status")
    if request["do"] not in allowed:
        raise Refusal("board-failed", "unknown request %r" % request["do"])
    return getattr(board, request["do"])(*arguments)


def write_agent(root, source):
    """Keep this program beside the releases: the service's start asks it to settle."""
    os.makedirs(root, exist_ok=True)
    write(os.path.join(root, "agent.py"), source.decode())


def say(answer):
    """One line that no login message looks like."""
    os.write(1, PREFIX + json.dumps(answer).encode() + b"\n")


def find_root(asked):
    """The root asked for, else /opt for who may write there, else the user's own."""
    if asked:
        return os.path.abspath(os.path.expanduser(asked))
    return "/opt/edge-derm" if os.geteuid() == 0 else os.path.expanduser("~/.local/share/edge-derm")


def main(arguments):
    """``settle ROOT``, or a conversation."""
    if arguments[:1] == ["settle"]:
        return settle(arguments[1])
    if sys.version_info[:2] < PYTHON:
        return say(
            {
                "error": "board-python",
                "words": "expected Python 3.10 or newer on the board, got %d.%d" % sys.version_info[:2],
            }
        )
    root = find_root(base64.b64decode(arguments[0]).decode() if arguments else "")
    say({"ready": True, "value": probe(root)})
    serve(root)


if __name__ == "__main__":
    main(sys.argv[1:])
