"""What was uploaded, by content, and the wheels among it, unpacked once."""

import os
import shutil
import zipfile

from .files import remove, sha256
from .refusal import Refusal


class Store:
    """``store/`` and ``unpacked/`` under a root."""

    def __init__(self, root):
        self.uploads, self.wheels = os.path.join(root, "store"), os.path.join(root, "unpacked")

    def missing(self, wanted):
        """``{sha256: bytes that are here already}`` of the wanted ``{sha256: size}`` that are not complete."""
        lacking = {}
        for digest, size in wanted.items():
            if not os.path.exists(os.path.join(self.uploads, digest)):
                part = os.path.join(self.uploads, digest + ".part")
                there = os.path.getsize(part) if os.path.exists(part) else 0
                lacking[digest] = there if there <= size else 0
        return lacking

    def put(self, digest, offset, size, data):
        """Append ``data`` at ``offset`` of an upload; complete ones are verified and renamed."""
        part = os.path.join(self.uploads, digest + ".part")
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
            os.replace(part, os.path.join(self.uploads, digest))

    def unpacked(self, digest):
        """The folder of a wheel, unpacked if it is not yet."""
        goal = os.path.join(self.wheels, digest)
        if os.path.isdir(goal):
            return goal
        new = os.path.join(self.wheels, ".new-" + digest)
        remove(new)
        with zipfile.ZipFile(os.path.join(self.uploads, digest)) as wheel:
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
