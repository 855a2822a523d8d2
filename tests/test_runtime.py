"""``Classifier`` gives exactly what the raw interpreter gives, for every kind of edge, thread and batch."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings

import operator_models
from edge_derm.bundle import Calibration, Input, describe_model, open_bundle, update_bundle, write_bundle
from edge_derm.errors import BackendError, BundleError, DataError
from edge_derm.runtime import Classifier, load_engine

LABELS = ("akiec", "bcc", "mel", "nv")
RECIPES = ("int8", "uint8", "int16", "float32")
RESOLVERS = {"default": OpResolverType.AUTO, "reference": OpResolverType.BUILTIN_REF}


def interpret(model: bytes, images: np.ndarray, *, kernels: str) -> np.ndarray:
    """The oracle: one image at a time through LiteRT's documented calls, quantised by the formula."""
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=RESOLVERS[kernels])
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        real = image[None].astype(np.float64) / 128 - 1
        if given["dtype"] is not np.float32:
            scale, zero = given["quantization"]
            limits = np.iinfo(given["dtype"])
            real = np.clip(np.round(real / scale) + zero, limits.min, limits.max)
        interpreter.set_tensor(given["index"], real.astype(given["dtype"]))
        interpreter.invoke()
        row = interpreter.get_tensor(made["index"])[0]
        if made["dtype"] is not np.float32:
            scale, zero = made["quantization"]
            row = (row.astype(np.float64) - zero) * scale
        rows.append(row)
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_raw_scores_are_the_interpreters(
    tiny_models: Mapping[str, bytes], tiny_images: np.ndarray, recipe: str, kernels: str
) -> None:
    classifier = Classifier.of(tiny_models[recipe], LABELS, kernels=kernels)
    np.testing.assert_array_equal(
        classifier.raw(tiny_images), interpret(tiny_models[recipe], tiny_images, kernels=kernels)
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_probabilities_sum_to_one_and_keep_the_decision(
    tiny_models: Mapping[str, bytes], tiny_images: np.ndarray, recipe: str
) -> None:
    classifier = Classifier.of(tiny_models[recipe], LABELS)
    p = classifier.predict(tiny_images)
    assert p.shape == (12, 4) and p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(p.argmax(axis=1), classifier.raw(tiny_images).argmax(axis=1))
    assert len(set(p.argmax(axis=1))) > 1


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_gives_what_single_images_give(
    tiny_models: Mapping[str, bytes], tiny_images: np.ndarray, recipe: str, threads: int, tmp_path: Path
) -> None:
    from edge_derm.bundle import describe_model, write_bundle

    bundle = write_bundle(tmp_path / "b", describe_model(tiny_models[recipe]), model=tiny_models[recipe])
    single = Classifier.open(bundle)
    one_by_one = np.concatenate([single.stored(image) for image in tiny_images])
    np.testing.assert_array_equal(single.stored(tiny_images), one_by_one)
    for batch in (2, 5, 12, 13):
        grouped = Classifier.open(bundle, batch=batch, threads=threads)
        np.testing.assert_array_equal(grouped.stored(tiny_images), one_by_one)


def test_one_image_and_no_image_have_their_shapes(tiny_int8: bytes, tiny_images: np.ndarray) -> None:
    classifier = Classifier.of(tiny_int8, LABELS)
    assert classifier.predict(tiny_images[0]).shape == (1, 4)
    assert classifier.predict(tiny_images[:0]).shape == (0, 4)
    assert classifier.classify([]) == []


def test_strided_and_read_only_images_are_taken(tiny_int8: bytes, tiny_images: np.ndarray) -> None:
    classifier = Classifier.of(tiny_int8, LABELS)
    flipped = tiny_images[:, :, ::-1]
    frozen = tiny_images.copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(classifier.raw(flipped), classifier.raw(np.ascontiguousarray(flipped)))
    np.testing.assert_array_equal(classifier.raw(frozen), classifier.raw(tiny_images))


def test_images_are_never_written_to(tiny_models: Mapping[str, bytes], tiny_images: np.ndarray) -> None:
    for model in tiny_models.values():
        before = tiny_images.copy()
        Classifier.of(model, LABELS).predict(tiny_images)
        np.testing.assert_array_equal(tiny_images, before)


def test_results_do_not_change_when_the_classifier_runs_again(
    tiny_int8: bytes, tiny_images: np.ndarray
) -> None:
    classifier = Classifier.of(tiny_int8, LABELS)
    first = classifier.stored(tiny_images[:1])
    kept = first.copy()
    classifier.stored(tiny_images[1:])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("images", "code"),
    [
        (np.zeros((32, 32, 3), np.float32), "images-dtype"),
        (np.zeros((32, 32, 3), np.int8), "images-dtype"),
        ([[0]], "images-dtype"),
        (np.zeros((32, 32), np.uint8), "images-shape"),
        (np.zeros((1, 3, 32, 32), np.uint8), "images-shape"),
        (np.zeros((1, 32, 32, 4), np.uint8), "images-shape"),
        (np.zeros((1, 64, 64, 3), np.uint8), "images-shape"),
        (np.zeros((1, 1, 32, 32, 3), np.uint8), "images-shape"),
    ],
)
def test_wrong_images_are_named(tiny_int8: bytes, images: Any, code: str) -> None:
    with pytest.raises(DataError) as refused:
        Classifier.of(tiny_int8, LABELS).predict(images)
    assert refused.value.code == code


def test_classify_preprocesses_and_decides(tiny_bundle: Path) -> None:
    from edge_derm.data import preprocess

    bundle = update_bundle(
        open_bundle(tiny_bundle), temperature=1.5, conformal_quantile=0.7, abstain_threshold=0.99
    )
    classifier = Classifier.open(bundle)
    rng = np.random.default_rng(4)
    images = [
        rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((32, 32, 3), (90, 61, 3), (33, 200, 3))
    ]
    p = classifier.predict(np.stack([preprocess(image, 32) for image in images]))
    for row, prediction in zip(p, classifier.classify(images), strict=True):
        assert prediction.label == LABELS[row.argmax()] and prediction.abstained is True
        assert list(prediction.probabilities) == list(LABELS)
        np.testing.assert_array_equal(list(prediction.probabilities.values()), row)
        assert set(prediction.prediction_set or ()) == {label for label, v in zip(LABELS, row) if v >= 0.3}


def test_the_manifests_temperature_is_applied(tiny_bundle: Path, tiny_images: np.ndarray) -> None:
    cold = Classifier.open(tiny_bundle)
    hot = Classifier.open(update_bundle(open_bundle(tiny_bundle), temperature=2.0))
    raw = np.maximum(cold.raw(tiny_images).astype(np.float64), 1 / 512)
    expected = np.sqrt(raw) / np.sqrt(raw).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(hot.predict(tiny_images), expected, atol=1e-6)
    np.testing.assert_array_equal(hot.raw(tiny_images), cold.raw(tiny_images))


@pytest.mark.parametrize(
    "fitted",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 30.0, "calibration": Calibration(shift=(0.3, -2.0, 0.0, 5.0))},
        {"calibration": Calibration(scale=(1.5, 0.2, 1.0, 3.0), shift=(0.0, 0.1, -0.1, 1.0))},
        {"temperature": 0.004},  # powers that no float64 holds: no table
    ],
)
@pytest.mark.parametrize("recipe", ["int8", "uint8", "int16", "float32"])
def test_a_table_of_what_was_fitted_gives_what_the_arithmetic_gives(
    tiny_models: Mapping[str, bytes],
    tmp_path: Path,
    tiny_images: np.ndarray,
    recipe: str,
    fitted: dict[str, Any],
) -> None:
    model = tiny_models[recipe]
    bundle = write_bundle(
        tmp_path / "b", replace(describe_model(model, labels=LABELS), **fitted), model=model
    )
    classifier = Classifier.open(bundle)
    stored = np.concatenate([classifier.stored(tiny_images), extreme(classifier.stored(tiny_images))])
    p = classifier.scores.probabilities(stored)
    np.testing.assert_allclose(
        p, classifier.scores.calibrated(classifier.scores.real(stored)), rtol=1e-6, atol=1e-30
    )
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    alone = [classifier.scores.probabilities(stored[i : i + 1]) for i in range(len(stored))]
    np.testing.assert_array_equal(np.concatenate(alone), p)


def extreme(stored: np.ndarray) -> np.ndarray:
    """Scores that no image gives: all the same, or one class alone."""
    limits = np.iinfo(stored.dtype) if stored.dtype.kind in "iu" else np.finfo(np.float32)
    low, high = (limits.min, limits.max) if stored.dtype.kind in "iu" else (0.0, 1.0)
    rows = [[low] * stored.shape[1], [high] * stored.shape[1], [high, *[low] * (stored.shape[1] - 1)]]
    return np.array(rows, stored.dtype)


def test_threads_sharing_a_classifier_get_their_own_answers(
    tiny_int8: bytes, tiny_images: np.ndarray
) -> None:
    classifier = Classifier.of(tiny_int8, LABELS)
    expected = [classifier.stored(image) for image in tiny_images]
    wrong: list[int] = []

    def work(start: int) -> None:
        for turn in range(300):
            i = (start + turn) % len(tiny_images)
            if not np.array_equal(classifier.stored(tiny_images[i]), expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"backend": "tensorrt"}, "backend-unknown"),
        ({"kernels": "fast"}, "kernels-unknown"),
        ({"threads": 0}, "threads-invalid"),
        ({"threads": True}, "threads-invalid"),
        ({"batch": 0}, "batch-invalid"),
    ],
)
def test_wrong_requests_are_named(tiny_bundle: Path, asked: dict[str, Any], code: str) -> None:
    with pytest.raises(BackendError) as refused:
        Classifier.open(tiny_bundle, **asked)
    assert refused.value.code == code


def test_a_missing_backend_says_how_to_install_it(tiny_bundle: Path) -> None:
    try:
        import tflite_runtime  # noqa: F401
    except ImportError:
        with pytest.raises(BackendError) as refused:
            Classifier.open(tiny_bundle, backend="tflite-runtime")
        assert refused.value.code == "backend-missing" and "pip install" in str(refused.value)
    else:
        Classifier.open(tiny_bundle, backend="tflite-runtime")


def test_a_bare_file_that_is_no_model_never_reaches_the_engine() -> None:
    with pytest.raises(BundleError):
        Classifier.of(b"not a model")


def test_an_engine_that_refuses_is_translated() -> None:
    with pytest.raises(BackendError) as refused:
        load_engine(b"no flatbuffer, straight to the engine")
    assert refused.value.code == "backend-refused" and "\n" not in str(refused.value)


@settings(max_examples=100, deadline=None)
@given(operator_models.operators())
def test_what_the_default_kernels_crash_on_is_refused_and_nothing_else(
    operator: operator_models.Operator,
) -> None:
    model = operator_models.build([operator])
    if operator.kind == "DEPTHWISE_CONV_2D" and not operator.fields["bias"]:
        with pytest.raises(BackendError) as refused:
            load_engine(model)
        assert refused.value.code == "kernels-crash" and "zeros will do" in str(refused.value)
        engine = load_engine(model, kernels="reference")
    else:
        engine = load_engine(model)
    made = engine.run(lambda *inputs: [tensor.fill(3) for tensor in inputs])
    assert [found.shape for found in made] == [spec.shape for spec in engine.outputs]


SILENT = """
import sys
import numpy as np
from edge_derm.runtime import Classifier
for kernels in ("default", "reference"):
    Classifier.open(sys.argv[1], kernels=kernels).predict(np.zeros((1, 32, 32, 3), np.uint8))
banned = ("tensorflow", "keras", "tf_keras", "matplotlib", "cv2")
print(sorted(name for name in sys.modules if name.split(".")[0] in banned))
import os
os.write(2, b"the process still has its stderr")
"""


def test_predicting_is_silent_and_never_imports_tensorflow(tiny_bundle: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", SILENT, str(tiny_bundle)], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"
    assert ran.stderr == "the process still has its stderr"
    assert ran.returncode == 0


def test_a_process_without_stderr_predicts(tiny_bundle: Path) -> None:
    code = (
        "import os, sys; os.close(2); from edge_derm.runtime import Classifier; Classifier.open(sys.argv[1])"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tiny_bundle)]).returncode == 0


def test_adopted_normalisation_is_honoured(tiny_float: bytes, tiny_images: np.ndarray) -> None:
    from edge_derm.bundle import embed_metadata

    model = embed_metadata(tiny_float, labels=LABELS, mean=(127.5,), std=(127.5,))
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], (tiny_images[:1] / 127.5 - 1).astype("f4")
    )
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(Classifier.of(model).raw(tiny_images[:1]), expected, atol=1e-6)


def test_a_bgr_model_gets_its_channels_turned(
    tiny_models: Mapping[str, bytes], tiny_images: np.ndarray
) -> None:
    from edge_derm.bundle import describe_model

    for model in tiny_models.values():
        rgb = describe_model(model)
        bgr = rgb.updated(input=Input(32, rgb.input.dtype, colour_order="bgr"))
        plain = Classifier(load_engine(model), rgb).stored(np.ascontiguousarray(tiny_images[..., ::-1]))
        np.testing.assert_array_equal(Classifier(load_engine(model), bgr).stored(tiny_images), plain)
