"""Where frames come from: a camera, a video file, a folder of pictures, a network stream, or drawn ones.

A source has ``read() -> BGR frame | None`` (None: the recording is over), ``close()``, and ``live``: a live source does
not wait for a slow reader, a recording does. ``read`` raises ``Broken`` for one frame that cannot be decoded (the
source goes on) and ``Lost`` when the source is gone (open it again).
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Protocol

import cv2
import numpy as np

from edge_derm.camera import scenes
from edge_derm.data.preprocess import read_image
from edge_derm.errors import DataError

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_NETWORK_TIMEOUT_MS = 5000
_BROKEN_RUN = 30  # so many undecodable frames on end: the source is gone


class Broken(DataError):
    """One frame could not be decoded; the next may be fine."""


class Lost(DataError):
    """The source is gone: unplugged, disconnected, or it stopped answering."""


class Source(Protocol):
    """Anything that gives frames."""

    live: bool

    def read(self) -> np.ndarray | None:
        """The next frame, uint8 BGR [H, W, 3]; None at the end of a recording."""

    def close(self) -> None:
        """Give the device or file back."""


def opener(spec: str, *, repeat: bool = False) -> Callable[[], Source]:
    """What opens ``spec``, again and again if need be.

    Args:
        spec: a V4L2/USB index (``0``), a video file, a folder of pictures, ``rtsp://…`` or another stream address,
            ``picamera2``, ``synthetic`` or one scene of it (``synthetic:blurred``).
        repeat: start a file or folder again at its end.

    Raises:
        DataError: ``source-missing``, ``source-empty``, ``source-package``.
    """
    name, _, scene = spec.partition(":")
    if name == "synthetic" and scene in ("", *scenes.SCENES):
        return lambda: Synthetic(scene=scene or None)
    if spec == "picamera2":
        return _picamera
    if spec.isdecimal():
        return lambda: Video(int(spec))
    if "://" in spec:
        return lambda: Video(spec)
    path = Path(spec)
    if path.is_dir():
        pictures = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
        if not pictures:
            raise DataError(
                f"{path}: expected a folder with pictures ({' '.join(sorted(PICTURES))}), found none: "
                "give another folder, or synthetic to try without one",
                code="source-empty",
            )
        return lambda: Folder(pictures, repeat=repeat)
    if path.is_file():
        return lambda: Video(str(path), live=False, repeat=repeat)
    raise DataError(
        f"{spec}: expected a camera number, a video file, a folder, rtsp://…, picamera2 or synthetic, found no such "
        "file or folder",
        code="source-missing",
    )


class Video:
    """A camera, a stream or a file through OpenCV."""

    def __init__(self, where: int | str, *, live: bool = True, repeat: bool = False) -> None:
        self.live = live
        self._where, self._repeat = where, repeat
        self._given = self._failed = self._broken = 0
        self._capture = self._open()

    def read(self) -> np.ndarray | None:
        """See ``Source``; raises ``Lost``, ``Broken``."""
        got, pixels = self._capture.read()
        if got and usable(pixels):
            self._given, self._failed = self._given + 1, 0
            return pixels
        self._failed, self._broken = self._failed + 1, self._broken + 1
        if not self.live and self._at_end():
            return self.read() if self._again() else None
        if self._failed < _BROKEN_RUN:
            raise Broken(f"{self._where}: a frame does not decode", code="frame-broken")
        if not self.live:
            return None
        raise Lost(f"{self._where}: gave no frame {_BROKEN_RUN} times", code="source-lost")

    def close(self) -> None:
        """See ``Source``."""
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _NETWORK_TIMEOUT_MS]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, _NETWORK_TIMEOUT_MS]
        if isinstance(self._where, int):
            if not os.path.exists(f"/dev/video{self._where}"):
                raise Lost(
                    f"camera {self._where}: found no /dev/video{self._where}: plug it in, or list them with "
                    "'ls /dev/video*'",
                    code="source-lost",
                )
            capture = cv2.VideoCapture(self._where)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            capture = cv2.VideoCapture(self._where, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            raise Lost(f"{self._where}: cannot be opened as a video", code="source-lost")
        return capture

    def _again(self) -> bool:
        if not self._repeat or not self._given:
            return False
        self._capture.release()
        self._capture, self._given, self._failed, self._broken = self._open(), 0, 0, 0
        return True

    def _at_end(self) -> bool:
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return not self._given or self._capture.get(cv2.CAP_PROP_POS_FRAMES) + self._broken > count


class Folder:
    """Pictures of a folder in the order of their names."""

    live = False

    def __init__(self, pictures: list[Path], *, repeat: bool = False) -> None:
        self._pictures: Iterator[Path] = itertools.cycle(pictures) if repeat else iter(pictures)

    def read(self) -> np.ndarray | None:
        """See ``Source``; raises ``Broken``."""
        path = next(self._pictures, None)
        if path is None:
            return None
        try:
            return cv2.cvtColor(read_image(path), cv2.COLOR_RGB2BGR)
        except DataError as error:
            raise Broken(str(error), code="frame-broken") from error

    def close(self) -> None:
        """See ``Source``."""


class Synthetic:
    """Drawn lesions under a hand-held lens at ``fps``: sharp, then blurred, dark, away from the lesion, and so on."""

    live = True

    def __init__(self, *, fps: float = 30.0, scene: str | None = None) -> None:
        self._period_s = 1.0 / fps
        self._scene = scene
        self._number = 0
        self._next_s = time.monotonic()

    def read(self) -> np.ndarray | None:
        """See ``Source``."""
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        self._next_s = max(self._next_s + self._period_s, time.monotonic() - self._period_s)
        pixels = scenes.frame(self._number, scene=self._scene)
        self._number += 1
        return pixels

    def close(self) -> None:
        """See ``Source``."""


def usable(pixels: Any) -> bool:
    """Whether ``pixels`` is uint8 [H, W, 3] and not empty."""
    return (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.ndim == 3
        and pixels.shape[2] == 3
        and 0 not in pixels.shape
    )


class _Picamera:
    """A Raspberry Pi camera through picamera2 (libcamera)."""

    live = True

    def __init__(self, camera: Any) -> None:
        self._camera = camera
        # picamera2 names formats by their order in a word: RGB888 gives arrays in BGR order.
        camera.configure(camera.create_video_configuration(main={"size": (640, 480), "format": "RGB888"}))
        camera.start()

    def read(self) -> np.ndarray | None:
        """See ``Source``; raises ``Lost``."""
        try:
            return self._camera.capture_array("main")
        except Exception as error:  # the driver's own kinds
            raise Lost(f"picamera2: {error}", code="source-lost") from error

    def close(self) -> None:
        """See ``Source``."""
        self._camera.close()


def _picamera() -> Source:
    try:
        from picamera2 import Picamera2
    except ImportError as error:
        raise DataError(
            "picamera2: this Python does not have it: on Raspberry Pi OS run 'sudo apt-get install python3-picamera2' "
            "and make the environment with --system-site-packages",
            code="source-package",
        ) from error
    try:
        return _Picamera(Picamera2())
    except Exception as error:  # no camera, busy, wrong cable: the driver's own kinds
        raise Lost(f"picamera2: no camera could be started: {error}", code="source-lost") from error
