"""Frames on standard input (4-byte length, JSON, and the JSON's ``bytes`` of raw data), answered with JSON lines."""

import base64
import errno
import json
import os
import struct
import sys

from .board import Board, settle
from .files import write
from .probe import probe
from .refusal import Refusal
from .service import find_service

PYTHON = (3, 10)
PREFIX = b"\nedge-derm: "


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
    """One request, after the board was opened."""
    if board is None:
        raise Refusal("board-failed", "expected the request 'open' first, got %r" % request["do"])
    if request["do"] == "put":
        return board.store.put(request["digest"], request["offset"], request["size"], data)
    if request["do"] == "trust":
        os.makedirs(board.path("trust"), exist_ok=True)
        return write(board.path("trust", request["name"]), data.decode())
    known = {
        "missing": board.store.missing,
        "install": board.install,
        "activate": board.activate,
        "rollback": board.rollback,
        "prune": board.prune,
        "status": board.status,
    }
    if request["do"] not in known:
        raise Refusal("board-failed", "unknown request %r" % request["do"])
    return known[request["do"]](*request.get("arguments", []))


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
