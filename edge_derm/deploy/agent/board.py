"""One visit to a board: its releases and its service, with the lock held; a release that is not healthy is taken back."""

import fcntl
import os
import time

from .files import read_json, remove, write_json
from .refusal import Refusal
from .releases import Releases
from .service import ask_health, write_source

SETTLE_TRIES = 2
SETTLE_S = 60.0  # how long the next visit waits for it, while the service is not given up


class Board(Releases):
    """The releases under ``root`` and the service that runs the current one."""

    def __init__(self, root, service):
        super().__init__(root)
        self.service = service
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
        self.note_failure(why)

    def rollback(self, wait_s):
        """Change places with the previous release."""
        before = self.named("previous")
        if before is None:
            raise Refusal("no-previous", "there is no earlier release on this board to go back to")
        return self.activate(before, wait_s)

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


def settle(root):
    """At the service's start: a new release that was started ``SETTLE_TRIES`` times without showing health is taken back."""
    releases = Releases(root)
    where = releases.path("pending.json")
    if not os.path.exists(where):
        return
    pending = read_json(where)
    pending["starts"] += 1
    write_json(where, pending)
    before = pending.get("previous")
    if pending["starts"] > SETTLE_TRIES and before and os.path.isdir(releases.path("releases", before)):
        releases.switch("current", before)
        write_source(root, releases.release(before))
        remove(where)
        releases.note_failure("it was never healthy")
