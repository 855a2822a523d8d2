"""The camera's small parts: the slot, the gate, the smoother, the counters, the log, the sources."""

from __future__ import annotations

import dataclasses
import functools
import json
import resource
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_derm.camera import quality, scenes
from edge_derm.camera.counters import Counters
from edge_derm.camera.frames import Frame, Slot
from edge_derm.camera.log import Log
from edge_derm.camera.loop import Answer
from edge_derm.camera.overlay import shown
from edge_derm.camera.smoothing import Smoother
from edge_derm.camera.sources import Broken, opener
from edge_derm.camera.window import draw, headline_of
from edge_derm.errors import DataError
from edge_derm.runtime.decision import decide

LATENCY = {"capture": 1.0, "preprocess": 0.5, "infer": 0.25, "total": 2.0}


@functools.lru_cache
def judged(scene: str) -> quality.Quality:
    return quality.assess(scenes.frame(20, scene=scene))


def answer(p: list[float], *, threshold: float = 0.5, steady: bool = True, scene: str = "sharp") -> Answer:
    prediction = decide(np.array([p]), ["mel", "nv"], conformal_quantile=0.6, abstain_threshold=threshold)[0]
    figures = judged(scene)
    if figures.problem:
        return Answer("rejected", figures, None, None, None, None, LATENCY)
    return Answer("answered", figures, prediction, 0.9, steady, None, LATENCY)


def frame(number: int = 0) -> Frame:
    return Frame(scenes.frame(number), number, 0.0, 1.0)


def test_the_newest_frame_wins_and_what_it_replaced_is_counted() -> None:
    slot: Slot[int] = Slot()
    for number in range(5):
        assert slot.put(number)
    assert (slot.take(0), slot.take(0), slot.dropped) == (4, None, 4)


def test_a_lossless_slot_gives_every_item_in_order() -> None:
    slot: Slot[int] = Slot(lossless=True)
    taken: list[int | None] = []
    reader = threading.Thread(target=lambda: taken.extend(slot.take(5) for _ in range(50)))
    reader.start()
    assert all(slot.put(number) for number in range(50))
    reader.join()
    assert taken == list(range(50)) and slot.dropped == 0


def test_closing_a_slot_frees_a_waiting_writer() -> None:
    slot: Slot[int] = Slot(lossless=True)
    slot.put(1)
    results: list[bool] = []
    writer = threading.Thread(target=lambda: results.append(slot.put(2)))
    writer.start()
    slot.close()
    writer.join(5)
    assert results == [False] and slot.take(0) == 1


@pytest.mark.parametrize(
    ("scene", "problem"),
    [("sharp", None), ("blurred", "blurred"), ("dark", "dark"), ("away", "absent"), ("glare", "glare")],
)
def test_every_scene_of_the_film_is_judged_as_it_was_drawn(scene: str, problem: str | None) -> None:
    found = [quality.assess(scenes.frame(240 * turn + 20, scene=scene)).problem for turn in range(6)]
    assert found == [problem] * 6
    assert problem is None or quality.MESSAGES[problem]


def test_a_blue_lamp_a_far_lesion_and_one_at_the_edge_are_named() -> None:
    skin = np.full((480, 480, 3), (120, 160, 200), np.uint8)
    skin = np.clip(skin + np.random.default_rng(0).normal(0, 12, skin.shape), 0, 255).astype(np.uint8)
    lesion = cv2.circle(skin.copy(), (240, 240), 90, (40, 60, 90), -1)
    assert quality.assess(lesion).problem is None
    assert quality.assess(cv2.circle(skin.copy(), (240, 240), 22, (40, 60, 90), -1)).problem == "small"
    assert quality.assess(cv2.circle(skin.copy(), (440, 430), 70, (40, 60, 90), -1)).problem == "off-centre"
    assert quality.assess((lesion * np.array([1.0, 0.7, 0.3])).astype(np.uint8)).problem == "cast"
    assert quality.assess(np.full_like(skin, 240)).problem == "bright"


def test_a_frame_in_rgb_is_judged_like_the_same_frame_in_bgr() -> None:
    pixels = scenes.frame(33)
    assert quality.assess(pixels) == quality.assess(pixels[..., ::-1].copy(), order="rgb")


def test_smoothing_is_an_exponential_mean_that_forgets_after_a_pause() -> None:
    smoother = Smoother(rate=0.25, pause_s=1.0)
    smoother.add(np.array([1.0, 0.0]), 0.0)
    second = smoother.add(np.array([0.0, 1.0]), 0.1)
    assert second.probabilities.tolist() == [0.75, 0.25]
    assert second.agreement == 0.5 and not second.steady
    after = smoother.add(np.array([0.0, 1.0]), 2.0)
    assert after.probabilities.tolist() == [0.0, 1.0] and after.agreement == 1.0 and after.frames == 1


def test_counters_agree_with_numpy_and_keep_only_what_fits() -> None:
    counters = Counters(0.0)
    times = np.random.default_rng(1).exponential(4, 9000)
    for index, value in enumerate(times):
        counters.frame(
            {"total": value, "capture": 1.0, "infer": None}, "dark" if index % 9 == 0 else None, index / 50
        )
    summary = counters.summary()
    assert summary["frames"] == 9000 and summary["rejected_for"] == {"dark": 1000}
    assert summary["latency_ms"]["infer"] is None
    expected = np.percentile(times[-8192:].astype(np.float32), [50, 95, 99])
    found = summary["latency_ms"]["total"]
    assert np.allclose([found["p50"], found["p95"], found["p99"]], expected)
    assert counters.recent_fps() == pytest.approx(50)


def test_the_log_holds_predictions_and_no_pixels(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log(frame(3), answer([0.9, 0.1]))
    log(frame(4), answer([0.9, 0.1], scene="dark"))
    lines = [json.loads(line) for line in (tmp_path / "predictions-000001.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["answered", "rejected"]
    assert lines[0]["label"] == "mel" and lines[0]["prediction_set"] == ["mel"]
    assert lines[1]["label"] is None and lines[1]["problem"] == "dark"
    assert [path.name for path in tmp_path.rglob("*")] == ["predictions-000001.jsonl"]


def test_the_log_never_outgrows_its_limit(tmp_path: Path) -> None:
    clock = iter(range(10_000))
    log = Log(tmp_path, limit_bytes=60_000, consent="form 12, signed", wall=lambda: float(next(clock)))
    shown = Frame(scenes.frame(20)[::4, ::4].copy(), 0, 0.0, 1.0)
    for _ in range(80):
        log(shown, answer([0.6, 0.4]))
    kept = [*tmp_path.glob("predictions-*"), *tmp_path.glob("frames/*")]
    assert 20_000 < sum(path.stat().st_size for path in kept) <= 60_000
    assert "form 12" in (tmp_path / "consent.txt").read_text() and log.lost == 0
    picture = next(tmp_path.glob("frames/*")).read_bytes()
    assert picture[:2] == b"\xff\xd8" and b"Exif" not in picture


def test_a_full_disk_is_counted_and_a_vanished_folder_too(tmp_path: Path) -> None:
    log, told = Log(tmp_path), []
    log.on_loss = lambda: told.append(log.lost)
    log(frame(), answer([0.9, 0.1]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "predictions-000001.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        log(frame(), answer([0.9, 0.1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.lost == 1 and told == [1]
    (tmp_path / "predictions-000001.jsonl").unlink()
    tmp_path.rmdir()
    log(frame(), answer([0.9, 0.1]))
    assert log.lost == 2


def test_the_headline_never_names_a_class_that_is_in_doubt() -> None:
    assert headline_of(answer([0.9, 0.1]))[0] == "mel"
    assert headline_of(answer([0.55, 0.45], threshold=0.8))[0].startswith("abstained")
    assert headline_of(answer([0.9, 0.1], steady=False))[0].startswith("unsteady: mel?")
    assert (
        headline_of(answer([0.9, 0.1], scene="blurred"))[0] == "abstained: too blurred: hold still and focus"
    )


def test_drawing_leaves_the_frame_itself_untouched() -> None:
    pixels = scenes.frame(5)
    before = pixels.copy()
    shown = draw(pixels, answer([0.9, 0.1]))
    assert (
        np.array_equal(pixels, before) and not np.array_equal(shown, before) and shown.shape == before.shape
    )


@pytest.mark.parametrize("side", [120, 240, 480])
def test_what_is_drawn_fits_into_the_picture_however_small(side: int) -> None:
    shown = draw(np.zeros((side, side, 3), np.uint8), answer([0.9, 0.1], scene="blurred"))
    assert shown.shape[0] >= 360 and shown.shape[0] % side == 0
    assert shown.any() and not shown[:, -2:].any()


def test_a_folder_gives_its_pictures_in_order_and_names_the_broken_one(tmp_path: Path) -> None:
    for number, value in enumerate((10, 200)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), value, np.uint8))
    (tmp_path / "0b.jpg").write_bytes(b"\xff\xd8 cut")
    source = opener(str(tmp_path))()
    first = source.read()
    assert first is not None and first.max() == 10
    with pytest.raises(Broken, match="0b.jpg"):
        source.read()
    assert source.read() is not None and source.read() is None


@pytest.mark.parametrize("spec", ["nowhere.mp4", "synthetic:nonsense", "empty"])
def test_a_source_that_is_not_there_is_refused_with_what_would_do(spec: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected"):
        opener(str(tmp_path / spec) if spec == "empty" else spec)


def test_a_video_file_with_spoilt_bytes_still_gives_its_other_frames(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (640, 480))
    for number in range(40):
        writer.write(scenes.frame(number))
    writer.release()
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 3, len(data) // 3 + 4000, 7):
        data[place] ^= 0xFF
    path.write_bytes(data)
    assert len(_all(opener(str(path))())) >= 35


def _all(source: Any) -> list[np.ndarray]:
    found = []
    while True:
        try:
            pixels = source.read()
        except Broken:
            continue
        if pixels is None:
            return found
        found.append(pixels)


def test_a_mask_lies_over_the_square_that_the_model_saw_and_nowhere_else() -> None:
    plain, taken = answer([0.9, 0.1]), frame()
    assert shown(taken, plain) is taken.pixels
    mask = np.zeros((4, 4), np.float32)
    mask[:, 2:] = 1
    before = taken.pixels.copy()
    picture = shown(taken, dataclasses.replace(plain, mask=mask)).astype(int)
    assert np.array_equal(taken.pixels, before)
    height, width = before.shape[:2]
    left = (width - height) // 2
    assert np.array_equal(picture[:, :left], before[:, :left])
    assert np.array_equal(picture[:, left + height :], before[:, left + height :])
    change = picture - before
    dark, bright = change[:, left : left + height // 4], change[:, left + 3 * height // 4 : left + height]
    assert (bright[..., 2] - bright[..., 0]).mean() > (
        dark[..., 2] - dark[..., 0]
    ).mean() + 50  # yellow, blue
