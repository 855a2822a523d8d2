"""The drift watch keeps its false-alarm rate, finds what changed, and counts looks instead of video frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from statsmodels.stats.multitest import multipletests

from edge_derm import watching
from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.camera import looks, watch
from edge_derm.camera.frames import Frame
from edge_derm.camera.log import Log
from edge_derm.camera.loop import Answer
from edge_derm.camera.quality import Quality
from edge_derm.cli.drift import drift as command
from edge_derm.errors import BundleError, DataError
from edge_derm.runtime.decision import Prediction
from edge_derm.trust import drift
from edge_derm.trust.drift import Sample

LABELS = ("akiec", "bcc", "mel", "nv")
SHARES = np.array([0.05, 0.1, 0.15, 0.7])


def draw(rng: np.random.Generator, count: int, *, shares: np.ndarray = SHARES, **shifts: float) -> Sample:
    """Independent observations with figures that depend on one another and on the class, as real ones do."""
    labels = rng.choice(4, count, p=shares)
    common = rng.normal(size=count) + 0.5 * (labels == 3)
    figures = {
        name: np.round(common + rng.normal(size=count) + shifts.get(name, 0.0), 1) for name in looks.FIGURES
    }
    return Sample(labels, figures)


@pytest.mark.parametrize("sizes", [(40, 1000), (300, 60), (100, 100)])
def test_the_gap_and_its_p_value_are_those_of_scipy(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(sizes))
    for shift in (0.0, 0.2, 0.5, 2.0):
        a, b = rng.normal(size=sizes[0]), rng.normal(shift, size=sizes[1])
        gap, p = drift.ks(a, b)
        exact = stats.ks_2samp(a, b, method="exact")
        assert gap == pytest.approx(exact.statistic, abs=1e-12)
        assert p == pytest.approx(exact.pvalue, rel=0.25, abs=0.02)
    assert drift.ks(np.zeros(50), np.zeros(30)) == (0.0, 1.0)


def test_the_class_mix_is_tested_as_scipy_does_where_counts_are_large_and_exactly_where_not() -> None:
    for before, now in (([400, 300, 300], [45, 30, 25]), ([400, 300, 300], [55, 20, 25])):
        table = stats.chi2_contingency([before, now], correction=False).pvalue
        assert drift.mix(np.array(before), np.array(now)) == pytest.approx(table, abs=0.02)
    exact = stats.fisher_exact([[97, 3], [30, 10]]).pvalue
    assert drift.mix(np.array([97, 3]), np.array([30, 10])) == pytest.approx(exact, rel=0.5, abs=2e-4)


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for p in (rng.random(11), np.array([0.001, 0.001, 0.5]), np.array([0.3])):
        assert drift.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.slow
def test_without_drift_alarms_are_no_more_frequent_than_promised() -> None:
    rng = np.random.default_rng(1)
    alarms = [
        drift.compare(draw(rng, 500), draw(rng, 100), 4, false_alarm=0.1)["verdict"] == "drift"
        for _ in range(300)
    ]
    assert sum(alarms) <= stats.binom.ppf(0.999, 300, 0.1)
    assert sum(alarms) > 0  # and the rate is not kept by never saying anything


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({"shares": np.array([0.2, 0.2, 0.3, 0.3])}, drift.CLASS_MIX),
        ({"confidence": -1.2}, "confidence"),
        ({"entropy": 1.2}, "entropy"),
        ({"focus": -1.5}, "focus"),
    ],
)
def test_a_change_is_found_and_named(change: dict[str, Any], figure: str) -> None:
    rng = np.random.default_rng(2)
    found = [drift.compare(draw(rng, 500), draw(rng, 100, **change), 4) for _ in range(10)]
    assert all(figure in one["drifted"] and one["verdict"] == "drift" for one in found)
    row = next(row for row in found[0]["rows"] if row["figure"] == figure)
    assert row["p"] <= row["p_adjusted"] <= 0.01 and row["statistic"] > 0.2


def test_nothing_is_said_of_a_few_looks() -> None:
    rng = np.random.default_rng(3)
    assert drift.compare(draw(rng, 500), draw(rng, 29, focus=9.0), 4)["verdict"] == "waiting"


def answer(label: str = "nv", *, light: float = 120.0, status: str = "answered") -> Answer:
    quality = Quality(light, 0.0, 20.0, 15.0, 9.0, 40.0, 0.2, 0.1, None if status == "answered" else "dark")
    p = {name: 0.7 if name == label else 0.1 for name in LABELS}
    prediction = Prediction(label, 0.7, p, 0.94, None, None) if status == "answered" else None
    return Answer(status, quality, prediction, 1.0, True, None, {"total": 1.0})


def frame(at_s: float) -> Frame:
    return Frame(np.zeros((8, 8, 3), np.uint8), 0, at_s, 0.0)


def write(folder: Path, looks_of: list[list[Answer]]) -> None:
    """A log by the camera's own writer: each look's frames 0.1 s apart, 5 s between looks."""
    now = [0.0]
    log = Log(folder, wall=lambda: now[0])
    for frames in looks_of:
        for one in frames:
            log(frame(now[0]), one)
            now[0] += 0.1
        now[0] += 5.0


def test_frames_of_one_look_are_one_observation_with_their_most_frequent_label_and_medians(
    tmp_path: Path,
) -> None:
    first = [answer("mel", light=100.0), answer("nv", light=110.0), answer("nv", light=500.0)]
    write(tmp_path, [first, [answer(status="rejected")], [answer("bcc")] * 400])
    found, torn = looks.read_log(tmp_path)
    assert torn == 0
    assert [label for label, _ in found] == ["nv", "bcc", "bcc"]  # 40 s are more than one look
    sample = looks.sample(found, LABELS)
    assert sample.labels.tolist() == [3, 1, 1]
    assert sample.figures["light"].tolist() == [110.0, 120.0, 120.0]
    assert sample.figures["confidence"] == pytest.approx([0.7] * 3)


def test_a_torn_line_is_left_out_and_a_strange_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [[answer()], [answer()]])
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert [len(found) if isinstance(found, list) else found for found in looks.read_log(path)] == [1, 1]
    for text in (
        "x\n",
        "[]\n",
        "{}\n",
        whole.splitlines()[0].replace('"entropy": 0.94', '"entropy": NaN') + "\n",
    ):
        path.write_text(whole + text)
        with pytest.raises(DataError, match="line 3") as caught:
            looks.read_log(path)
        assert caught.value.code == "log-line"
    with pytest.raises(DataError) as caught:
        looks.read_log(tmp_path / "nowhere")
    assert caught.value.code == "log-missing"
    with pytest.raises(DataError) as caught:
        looks.sample([("unheard of", (0.0,) * 10)], LABELS)
    assert caught.value.code == "log-labels"


def test_the_running_camera_judges_each_block_of_looks_once() -> None:
    rng = np.random.default_rng(4)

    def see(camera: watch.Watch, count: int, light: float) -> None:
        for _ in range(count):
            clock[0] += 5.0
            label = str(rng.choice(LABELS, p=SHARES))
            camera(frame(clock[0]), answer(label, light=light + rng.normal()))

    clock = [0.0]
    known = [
        (label, (0.7, 0.94, 120 + rng.normal(), 0.0, 20.0, 15.0, 9.0, 40.0, 0.2, 0.1))
        for label in rng.choice(LABELS, 400, p=SHARES)
    ]
    camera = watch.Watch(looks.sample(known, LABELS), LABELS)
    see(camera, watch.BLOCK, 120.0)
    assert camera.state() | {"looks": 0} == camera.state() | {"verdict": "waiting", "blocks": 0, "looks": 0}
    see(camera, 1, 120.0)  # a look is over when the next begins
    assert (camera.state()["verdict"], camera.state()["blocks"], camera.state()["looks"]) == ("none", 1, 0)
    see(camera, watch.BLOCK, 60.0)
    state = camera.state()
    assert (state["verdict"], state["drifted"], state["drifted_blocks"]) == ("drift", ["light"], 1)
    see(camera, watch.BLOCK, 120.0)
    state = camera.state()
    assert (state["verdict"], state["blocks"], state["drifted_blocks"]) == ("none", 3, 1)


@pytest.mark.slow
def test_the_reference_is_learnt_once_and_is_void_when_the_calibration_changes(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    update_bundle(open_bundle(tiny_bundle), labels=("keratosis", "melanoma", "nevus", "vascular"))
    record = watching.learn(tiny_bundle, data="synthetic:48")
    bundle = open_bundle(tiny_bundle)
    known = watch.reference(bundle)
    assert known is not None and len(known) == record["images"] >= drift.LEAST
    assert (known.figures["light"] > 0).all() and (known.figures["confidence"] <= 1).all()
    with pytest.raises(BundleError) as caught:
        watch.reference(update_bundle(bundle, temperature=2.0))
    assert caught.value.code == "reference-stale"
    broken = update_bundle(bundle, parts={watch.NAME: (watch.ROLE, b'{"schema": 1}')})
    with pytest.raises(BundleError) as caught:
        watch.reference(broken)
    assert caught.value.code == "reference-json"


def test_the_command_compares_logs_and_its_exit_status_tells(tiny_bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name, light in (("well", 120.0), ("same", 120.0), ("dark", 70.0)):
        write(tmp_path / name, [[answer(light=light + rng.normal())] * 3 for _ in range(60)])

    def run(*words: object) -> Any:
        return CliRunner().invoke(command, ["--bundle", str(tiny_bundle), *map(str, words)])

    same = run("--log", tmp_path / "same", "--against", tmp_path / "well", "--json", "-")
    assert same.exit_code == 0 and json.loads(same.stdout)["verdict"] == "none"
    dark = run("--log", tmp_path / "dark", "--against", tmp_path / "well")
    assert dark.exit_code == 1 and dark.exception.code == "drift" and "DRIFT light" in dark.output
    missing = run("--log", tmp_path / "same")
    assert missing.exception.code == "reference-missing" and "--learn" in str(missing.exception)
    assert run("--log", tmp_path / "same", "--learn", "synthetic").exit_code == 2


def test_a_release_with_a_reference_answers_for_drift_in_its_health() -> None:
    """``metrics.health`` with the watch's state: drift is told, and is no fault of the service."""
    from edge_derm.camera.counters import Counters
    from edge_derm.camera.metrics import health

    rng = np.random.default_rng(6)
    state = watch.Watch(draw(rng, 100), LABELS).state()
    told = health(
        Counters(0.0), {"now_s": 1.0, "source_lost": None, "trouble": None, "restarts": 0, "drift": state}, {}
    )
    assert told["healthy"] and told["drift"] == state
