"""Files that are whole or not there, folders that outlast a power cut, and trees of hard links."""

import hashlib
import json
import os
import shutil


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


def remove(path):
    """Remove a file or folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


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
