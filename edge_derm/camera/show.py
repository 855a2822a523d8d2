"""``show``: a bundle, a source and a view joined to one running loop, and its record at the end."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import cv2
import numpy as np

from edge_derm import __version__, files
from edge_derm.bundle import Bundle, open_bundle
from edge_derm.bundle.cut import mask_shape
from edge_derm.camera import watch
from edge_derm.camera.log import Log
from edge_derm.camera.loop import Loop
from edge_derm.camera.notify import Notifier
from edge_derm.camera.sources import opener
from edge_derm.camera.window import Window
from edge_derm.camera.worker import Inline, Worker
from edge_derm.errors import BackendError
from edge_derm.runtime.classifier import decide_by


def show(
    bundle: Path,
    *,
    source: str = "synthetic",
    view: str = "none",
    host: str = "127.0.0.1",
    port: int = 8080,
    frames: int | None = None,
    repeat: bool = False,
    threads: int = 1,
    backend: str = "litert",
    deadline_s: float = 1.0,
    inline: bool = False,
    view_fps: float = 30.0,
    mask: bool = False,
    log: Path | None = None,
    log_limit_mb: float = 200.0,
    consent: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the camera loop until its source ends, ``frames`` are through, or SIGINT/SIGTERM; return its record.

    Args:
        view: ``web``, ``window`` or ``none``.
        consent: a note of who agreed to keep pictures; with ``log``, keeps at most one a second.
        mask: show where a bundle trained with attention looks; the network then runs twice a frame.
        deadline_s: an inference that takes longer is given up and its process replaced.
        inline: infer in this process instead, without a deadline.

    Raises:
        BundleError: the bundle must not be loaded. BackendError: ``inference``: it does not start.
        ModelError: ``attention-missing``: a mask was asked for.
        DataError: the source or the view cannot be opened.
    """
    opened = open_bundle(bundle)
    open_source = opener(source, repeat=repeat)
    with contextlib.ExitStack() as closing:
        worker: Worker | Inline = (
            Inline(opened, threads=threads, backend=backend, masked=mask)
            if inline
            else Worker(
                opened.path,
                len(opened.manifest.labels),
                threads=threads,
                backend=backend,
                deadline_s=deadline_s,
                mask_shape=mask_shape(opened.model) if mask else None,
            )
        )
        closing.callback(worker.close)
        if not worker.wait():
            raise BackendError(f"inference does not start: {worker.trouble}", code="inference")
        loop = Loop(
            open_source, worker, functools.partial(decide_by, opened.manifest), opened.manifest.input.size_px
        )
        logging = Log(log, limit_bytes=int(log_limit_mb * 1e6), consent=consent) if log else None
        if logging:
            logging.on_loss = lambda: loop.counters.count("not_logged")
            loop.attach(logging)
        known = watch.reference(opened)
        watching = None if known is None else watch.Watch(known, opened.manifest.labels)
        if watching:
            loop.attach(watching)
        notifier = Notifier()
        closing.callback(notifier.close)
        loop.attach(notifier)
        if view == "window":
            window = Window(loop.stop, _keep)
            closing.callback(window.close)
            loop.attach(window)
        if view == "web":
            page = _page(
                loop,
                worker,
                watching,
                _about(opened, source),
                host=host,
                port=port,
                view_fps=view_fps,
                say=say,
            )
            closing.callback(page.close)
            loop.attach(page)
            say(f"open {page.address}")
        with _signals(loop.stop):
            loop.run(frames)
        return {
            "record": "camera",
            "source": source,
            "view": view,
            "model_sha256": opened.manifest.files["model.tflite"].sha256,
            **loop.counters.summary(),
            "not_logged": logging.lost if logging else None,
            "restarts": worker.restarts,
            "drift": watching.state() if watching else None,
        }


def _page(
    loop: Loop, worker: Worker | Inline, watching: watch.Watch | None, about: dict[str, Any], **options: Any
) -> Any:
    try:
        from edge_derm.camera.web import Page
    except ImportError as error:
        raise BackendError(
            "--view web needs aiohttp: pip install 'edge-derm[camera]' (or use --view none)",
            code="view-package",
        ) from error

    def state() -> dict[str, Any]:
        return {
            "now_s": time.monotonic(),
            "source_lost": loop.source_lost,
            "trouble": worker.trouble,
            "restarts": worker.restarts,
            "dropped": loop.dropped,
            "drift": watching.state() if watching else None,
        }

    return Page(about, lambda: loop.counters, state, **options)


def _about(opened: Bundle, source: str) -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "bundle": opened.path.name,
        "model_sha256": manifest.files["model.tflite"].sha256,
        "labels": list(manifest.labels),
        "input_px": manifest.input.size_px,
        "recipe": manifest.recipe,
        "source": source.partition("@")[2] or source,  # never the user and password of a stream's address
        "abstains": manifest.abstain_threshold is not None,
        "version": __version__,
    }


def _keep(picture: np.ndarray) -> None:
    name = time.strftime("snapshot-%Y%m%d-%H%M%S.png")
    files.write_bytes(Path(name), cv2.imencode(".png", picture)[1].tobytes())


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the loop cleanly; a second one interrupts as usual. Nothing outside the main thread."""
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        signal.signal(number, previous[number])
        stop()

    with contextlib.suppress(ValueError):
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
