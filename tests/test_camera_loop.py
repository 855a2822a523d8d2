"""The loop under faults, with real inference in its process and small real sources."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest

from edge_derm.bundle import open_bundle
from edge_derm.camera import scenes
from edge_derm.camera.frames import Frame
from edge_derm.camera.loop import Answer, Loop
from edge_derm.camera.sources import Broken, Lost
from edge_derm.camera.worker import Inline, Worker
from edge_derm.data import preprocess
from edge_derm.runtime import Classifier, decision
from edge_derm.runtime.decision import Prediction

CLASSES = 4


class Film:
    """``count`` sharp frames; ``fault(number)`` may raise instead of giving one."""

    def __init__(self, count: int, fault: Callable[[int], None] | None = None, *, live: bool = False) -> None:
        self.live, self._left, self._fault, self._number = live, count, fault, 0
        self.opened = 0

    def __call__(self) -> Film:
        self.opened += 1
        return self

    def read(self) -> np.ndarray | None:
        if self._left == 0:
            return None
        self._left, self._number = self._left - 1, self._number + 1
        if self._fault:
            self._fault(self._number)
        return STILL

    def close(self) -> None:
        pass


STILL = scenes.frame(20)


class Instant:
    """Inference in this process that always answers the same."""

    trouble: str | None = None
    restarts = 0
    mask: np.ndarray | None = None

    def infer(self, pixels: np.ndarray) -> tuple[np.ndarray, float] | None:
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        return np.array([0.7, 0.1, 0.1, 0.1], np.float32), 0.1


def decide(p: np.ndarray) -> list[Prediction]:
    return decision.decide(p, list("abcd"), abstain_threshold=0.5)


def make(source: Any, inference: Any = None) -> tuple[Loop, list[tuple[Frame, Answer]]]:
    loop = Loop(source, inference or Instant(), decide, 32)
    seen: list[tuple[Frame, Answer]] = []
    loop.attach(lambda frame, answer: seen.append((frame, answer)))
    return loop, seen


def test_a_recording_loses_no_frame() -> None:
    loop, seen = make(Film(200))
    loop.run()
    assert [frame.number for frame, _ in seen] == list(range(200)) and loop.dropped == 0
    assert {answer.status for _, answer in seen} == {"answered"}
    latency = seen[-1][1].latency_ms
    assert latency["total"] >= latency["preprocess"] > 0


def test_a_live_source_drops_what_is_old_and_counts_it() -> None:
    loop, seen = make(Film(300, live=True))
    loop.attach(lambda frame, answer: time.sleep(0.002))
    loop.run()
    assert len(seen) + loop.counters.summary()["dropped"] == 300
    assert loop.counters.summary()["dropped"] > 0


def test_the_loop_stops_after_the_frames_it_was_asked_for() -> None:
    loop, seen = make(Film(1000))
    loop.run(17)
    assert len(seen) == 17


@pytest.mark.slow
def test_a_camera_unplugged_a_hundred_times_comes_back_each_time() -> None:
    def unplug(number: int) -> None:
        if number % 3 == 0:
            raise Lost("unplugged", code="source-lost")

    film = Film(300, unplug)
    loop, seen = make(film)
    loop.run()
    assert (len(seen), loop.counters.summary()["reopened"], film.opened) == (200, 100, 101)
    assert loop.source_lost is None


def test_a_camera_that_stays_away_is_asked_again_until_it_is_back() -> None:
    film, refusals = Film(
        10, lambda number: _raise(Lost("gone", code="source-lost")) if number == 5 else None
    ), [3]

    def opening() -> Film:
        if film.opened and refusals[0]:
            refusals[0] -= 1
            raise Lost("still gone", code="source-lost")
        return film()

    loop, seen = make(opening)
    loop.run()
    assert len(seen) == 9 and refusals == [0]


def test_broken_frames_and_a_drivers_own_exceptions_are_survived_and_counted() -> None:
    def fault(number: int) -> None:
        if number % 10 == 0:
            raise Broken("cut", code="frame-broken")
        if number % 25 == 1:
            raise RuntimeError("driver")

    loop, seen = make(Film(100, fault))
    loop.run()
    summary = loop.counters.summary()
    assert (summary["broken"], summary["reopened"], len(seen)) == (10, 4, 86)


def test_the_resolution_may_change_from_frame_to_frame() -> None:
    sizes = [(480, 640), (240, 320), (1080, 1920), (33, 47)]

    class Changing(Film):
        def read(self) -> np.ndarray | None:
            pixels = super().read()
            if pixels is None:
                return None
            height, width = sizes[self._number % len(sizes)]
            return np.resize(pixels, (height, width, 3))

    loop, seen = make(Changing(20))
    loop.run()
    assert len(seen) == 20 and loop.counters.summary()["sink_errors"] == 0


def test_a_failing_view_is_counted_and_the_others_still_see_every_frame() -> None:
    loop, seen = make(Film(20))
    loop.attach(lambda frame, answer: _raise(OSError("screen gone")))
    loop.run()
    assert len(seen) == 20 and loop.counters.summary()["sink_errors"] == 20


def test_a_rejected_frame_is_never_classified() -> None:
    class Refusing(Instant):
        def infer(self, pixels: np.ndarray) -> tuple[np.ndarray, float] | None:
            raise AssertionError("a frame the gate refused was classified")

    class Dark(Film):
        def read(self) -> np.ndarray | None:
            pixels = super().read()
            return None if pixels is None else pixels // 10

    loop, seen = make(Dark(5), Refusing())
    loop.run()
    assert {(answer.status, answer.quality.problem, answer.prediction) for _, answer in seen} == {
        ("rejected", "dark", None)
    }


def test_stop_ends_a_live_loop_from_another_thread() -> None:
    loop, _ = make(Film(-1, lambda number: time.sleep(0.001), live=True))
    threading.Timer(0.2, loop.stop).start()
    loop.run()
    assert loop.counters.summary()["frames"] > 0


@pytest.fixture()
def worker(tiny_bundle: Path) -> Iterator[Worker]:
    made = Worker(tiny_bundle, CLASSES, deadline_s=0.5)
    assert made.wait(), made.trouble
    yield made
    made.close()


@pytest.mark.slow
def test_worker_and_inline_answer_what_the_classifier_answers(worker: Worker, tiny_bundle: Path) -> None:
    classifier = Classifier.open(open_bundle(tiny_bundle))
    for number in range(5):
        pixels = preprocess(scenes.frame(50 * number), classifier.size_px, order="bgr")
        for inference in (worker, Inline(open_bundle(tiny_bundle))):
            found = inference.infer(pixels)
            assert found and np.array_equal(found[0], classifier.predict(pixels)[0]) and found[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_a_killed_hung_or_crashed_worker_is_replaced_and_the_reason_is_shown(
    worker: Worker, fault: int
) -> None:
    pixels = preprocess(scenes.frame(20), 32, order="bgr")
    assert worker.infer(pixels) and worker.pid
    os.kill(worker.pid, fault)
    assert worker.infer(pixels) is None and worker.trouble
    until = time.monotonic() + 60
    while (found := worker.infer(pixels)) is None and time.monotonic() < until:
        time.sleep(0.05)
    assert found is not None and worker.restarts == 1 and worker.trouble is None


@pytest.mark.slow
def test_a_worker_that_cannot_load_says_why(tiny_bundle: Path) -> None:
    (tiny_bundle / "model.tflite").write_bytes(b"swapped")
    worker = Worker(tiny_bundle, CLASSES)
    try:
        assert not worker.wait()
        assert worker.trouble and "model.tflite" in worker.trouble
    finally:
        worker.close()


def _raise(error: Exception) -> None:
    raise error
