"""The releases under a root, and the links that say which of them runs."""

import json
import os
import shutil
import subprocess
import sys
import time

from .files import keep_bytecode, link_tree, read_json, remove, sync, sync_tree, write_json
from .refusal import Refusal
from .store import Store


class Releases:
    """Releases are made whole and self-tested from the store, and removed whole."""

    def __init__(self, root):
        self.root, self.store = root, Store(root)

    def path(self, *parts):
        """A path under the root."""
        return os.path.join(self.root, *parts)

    def named(self, link):
        """The release that ``link`` points to, or None."""
        try:
            return os.path.basename(os.readlink(self.path(link)))
        except OSError:
            return None

    def switch(self, link, name):
        """Point ``link`` at a release by one rename."""
        new = self.path(link + ".new")
        if os.path.lexists(new):
            os.unlink(new)
        os.symlink(os.path.join("releases", name), new)
        os.replace(new, self.path(link))
        sync(self.root)

    def release(self, name):
        """What is written in a release's release.json."""
        return read_json(self.path("releases", name, "release.json"))

    def note_failure(self, why):
        """Keep why a release was taken back, for ``status``."""
        write_json(self.path("last-failure.json"), {"why": why, "at_s": int(time.time())})

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
            link_tree(self.store.unpacked(digest), site)
        for name, digest in release["bundle"].items():
            shutil.copyfile(os.path.join(self.store.uploads, digest), os.path.join(new, "bundle", name))
            os.chmod(os.path.join(new, "bundle", name), 0o444)
        if release.get("sbom"):
            shutil.copyfile(
                os.path.join(self.store.uploads, release["sbom"]), os.path.join(new, "sbom.cdx.json")
            )
        with open(os.open(os.path.join(new, "release.json"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as sink:
            json.dump(release, sink, indent=2)
        self.self_test(new, release)
        sync_tree(os.path.join(new, "bundle"))
        os.sync()
        for digest in release["wheels"].values():
            keep_bytecode(site, self.store.unpacked(digest))
        os.rename(new, goal)
        sync(self.path("releases"))

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
