"""Calibrated class and abstention as constants for integer arithmetic on the device (``firmware/ed_decide.c``).

The decision is the one of the bundle: logits (of a softmax model the logarithms of its probabilities, at least half a
step) over the temperature, class by class scaled and shifted where that was fitted, softmax, the first class whose
weight · probability is largest, abstained where its probability is below the threshold. Since that probability is
1 / Σ 2^(l − l_named), a table of l for each stored byte, the limit 1 / threshold and, where the class named is not the
most probable one, the weights are all a device needs.

The device rounds l to 2^-20 and each term to about 2^-30: it decides as real arithmetic does unless the named class's
probability is within ``MARGIN`` of the threshold (relatively), or two classes' l differ by less than 2^-20. With weights, l
within 2^-16 are equal and the earlier class is named, on the device as in ``edge_derm``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np

from firmware_bridge import ctext
from firmware_bridge.board import FIRMWARE
from firmware_bridge.graph import BridgeError, Tensor
from firmware_bridge.part import Part

MARGIN = 3e-6
PLACES = 20
_NEVER = -(
    1 << 29
)  # log2 of a probability of zero: far below every span that counts, and a difference fits 32 bits
_SPAN = 500.0  # of log2, the widest a row may be: differences stay within 32 bits


@dataclass(frozen=True)
class Decision:
    """What calibration fitted, as plain numbers; None leaves that part out.

    ``activation``: what the model's outputs are, ``softmax`` probabilities or ``logits``.
    """

    temperature: float | None = None
    abstain_threshold: float | None = None
    scale: tuple[float, ...] | None = None
    shift: tuple[float, ...] | None = None
    activation: str = "softmax"
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Tables:
    """The constants of ``struct ed_decision``.

    ``logits`` is int32 [rows, 256], one row or one a class; ``weights`` int32 [classes] or None.
    """

    logits: np.ndarray
    classes: int
    flip: int
    limit: int
    weights: np.ndarray | None = None


def read_manifest(stored: Any, where: str) -> tuple[Decision, tuple[str, ...]]:
    """Return the decision and the labels of a bundle's manifest (decoded JSON); BridgeError ``manifest``."""
    try:
        calibration = stored.get("calibration") or {}
        vector: dict[str, Any] = {
            key: tuple(map(float, calibration[key])) if calibration.get(key) is not None else None
            for key in ("scale", "shift", "weights")
        }
        numbers: dict[str, Any] = {
            key: None if stored.get(key) is None else float(stored[key])
            for key in ("temperature", "abstain_threshold")
        }
        labels = tuple(map(str, stored["labels"]))
        return Decision(**numbers, **vector, activation=str(stored["output"]["activation"])), labels
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BridgeError(
            f"{where}: expected a bundle's manifest.json with labels, output, temperature and abstain_threshold, "
            f"got {type(error).__name__}: {error}",
            code="manifest",
        ) from error


def digest_labels(labels: Sequence[str]) -> str:
    """Return the SHA-256 of labels as ``SPEC.md`` defines it, hexadecimal."""
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()


def make_tables(decision: Decision, output: Tensor) -> Tables:
    """Return the constants for a network whose stored scores are ``output``, int8 or uint8 [1, classes].

    Raises BridgeError ``decision-output`` (not such a tensor), ``decision-value`` (a figure out of its range).
    """
    quantization = output.quantization
    if output.dtype not in ("int8", "uint8") or output.elements < 2 or quantization is None:
        raise BridgeError(
            f"decision: expected a quantised int8 or uint8 output of at least 2 classes, got {output.dtype} "
            f"{list(output.shape)}",
            code="decision-output",
        )
    _check(decision, output.elements)
    lowest = -128 if output.dtype == "int8" else 0
    step = float(quantization.scale[0])
    raw = (np.arange(256, dtype=np.float64) + lowest - int(quantization.zero_point[0])) * step
    logits = _logits(decision, raw, step)
    finite = np.isfinite(logits)
    if logits[finite].max() - logits[finite].min() > _SPAN:
        raise _out_of_range("a temperature under which logits span at most 2^500", str(decision.temperature))
    top = logits[finite].max()
    fixed = np.where(finite, np.round((np.where(finite, logits, top) - top) * (1 << PLACES)), _NEVER)
    limit = _limit(decision.abstain_threshold)
    return Tables(fixed.astype(np.int32), output.elements, -lowest, limit, _weights(decision))


def decision_part(decision: Decision, output: Tensor, *, name: str = "net") -> Part:
    """Return what gives NAME.h ``NAME_decide`` and ``NAME_confidence``; raises as ``make_tables``."""
    tables = make_tables(decision, output)
    own = {file: (FIRMWARE / file).read_text(encoding="utf-8") for file in ("ed_decide.c", "ed_decide.h")}
    vector = ", vector scaling" if decision.scale else ", a shift a class" if decision.shift else ""
    vector += ", named by weight times probability" if decision.weights else ""
    threshold = decision.abstain_threshold
    limit = "no threshold, so it never abstains" if threshold is None else f"threshold {threshold:g}"
    figures = f"temperature {decision.temperature or 1.0:g}, {limit}{vector}"
    weighted = {
        "@classes@": str(tables.classes),
        "@values@": "" if tables.weights is None else ctext.integers(tables.weights.tolist()),
    }
    constants = {
        "@count@": str(tables.logits.size),
        "@values@": ctext.integers(tables.logits.ravel().tolist()),
        "@row@": str(256 if len(tables.logits) > 1 else 0),
        "@classes@": str(tables.classes),
        "@flip@": f"0x{tables.flip:02X}",
        "@limit@": f"UINT64_C({tables.limit})",
        "@weights@": "" if tables.weights is None else _fill(_WEIGHTS, weighted),
        "@preferred@": "0" if tables.weights is None else "weights",
        "@figures@": figures,
        "@name@": name,
        "@NAME@": name.upper(),
    }
    files = {**own, f"{name}_decide.c": _fill(_DECIDE, constants)}
    return Part(files, _fill(_DECLARE, constants), _fill(_EXPLAIN, constants))


def labels_part(labels: Sequence[str], output: Tensor, *, name: str = "net") -> Part:
    """Return the digest of the labels, for the link; BridgeError ``labels-mismatch``."""
    if len(labels) != output.elements:
        raise BridgeError(
            f"labels: expected {output.elements}, one for each output of the model, got {len(labels)}",
            code="labels-mismatch",
        )
    line = f'#define {name.upper()}_LABELS_SHA256 "{digest_labels(labels)}"\n'
    return Part({}, "/* SHA-256 of the labels, joined by line feeds. */\n" + line)


def _fill(text: str, constants: Mapping[str, str]) -> str:
    for key, value in constants.items():
        text = text.replace(key, value)
    return text


def _logits(decision: Decision, raw: np.ndarray, step: float) -> np.ndarray:
    """Return log2 of the unnormalised probability, [1, 256] or [classes, 256]; −inf for a probability of zero."""
    fitted = (
        decision.temperature not in (None, 1.0) or decision.scale is not None or decision.shift is not None
    )
    if decision.activation == "logits":
        natural = raw
    elif fitted:
        natural = np.log(np.maximum(raw, step / 2))
    else:
        natural = np.full(256, -np.inf)
        np.log(raw, out=natural, where=raw > 0)
    rows = natural[None, :] / (decision.temperature or 1.0)
    if decision.scale is not None:
        rows = rows * np.array(decision.scale)[:, None]
    if decision.shift is not None:
        rows = rows + np.array(decision.shift)[:, None]
    return np.asarray(rows / math.log(2.0))


def _weights(decision: Decision) -> np.ndarray | None:
    """Return log2 of the weights over the largest of them, in the tables' fixed point."""
    if decision.weights is None:
        return None
    logs = np.log2(np.array(decision.weights))
    return np.asarray(np.round((logs - logs.max()) * (1 << PLACES)).astype(np.int32))


def _limit(threshold: float | None) -> int:
    """Return floor(2^30 / threshold), at most 64 bits; without a threshold nothing is above it."""
    highest = (1 << 64) - 1
    if not threshold:
        return highest
    numerator, denominator = threshold.as_integer_ratio()
    return min((denominator << 30) // numerator, highest)


def _check(decision: Decision, classes: int) -> None:
    temperature, threshold = decision.temperature, decision.abstain_threshold
    if decision.activation not in ("softmax", "logits"):
        raise _out_of_range("the activation softmax or logits", repr(decision.activation))
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise _out_of_range("a temperature above 0", str(temperature))
    if threshold is not None and not 0 <= threshold <= 1:
        raise _out_of_range("an abstain threshold in [0, 1]", str(threshold))
    for what, values in (("scale", decision.scale), ("shift", decision.shift)):
        if values is not None and (len(values) != classes or not all(map(math.isfinite, values))):
            raise _out_of_range(f"{classes} finite values of {what}, one a class", str(list(values))[:80])
    weights = decision.weights
    if weights is not None and (len(weights) != classes or not all(0 < w < math.inf for w in weights)):
        raise _out_of_range(f"{classes} weights above 0, one a class", str(list(weights))[:80])
    if weights is not None and math.log2(max(weights)) - math.log2(min(weights)) > _SPAN:
        raise _out_of_range("weights that span at most 2^500", str(list(weights))[:80])


def _out_of_range(expected: str, got: Any) -> BridgeError:
    return BridgeError(f"decision: expected {expected}, got {got}", code="decision-value")


_EXPLAIN = """
## Decision
`@name@_decide(@name@_output())` is the calibrated class, or -1 where its probability is below the threshold: @figures@.
`@name@_confidence()` is that probability times 65536. Both in integers; they decide as floating point does unless the
probability is within a relative 3e-6 of the threshold. Not a medical device.
"""

_DECLARE = """\
#define @NAME@_DECISION 1
/* The calibrated class of an output, or -1: abstain. In integers; see ed_decide.h. */
int32_t @name@_decide(const @name@_output_t *output);
/* The calibrated probability of that class, times 65536. */
uint32_t @name@_confidence(const @name@_output_t *output);
"""

_WEIGHTS = """
/* log2 of each class's weight, 20 binary places. */
static const int32_t weights[@classes@] = @values@;
"""

_DECIDE = """\
/* Calibration of the network as constants for ed_decide.c. */
#include "ed_decide.h"
#include "@name@.h"

static const int32_t logits[@count@] = @values@;
@weights@
static const struct ed_decision decision = {logits, @row@, @classes@, @flip@, @limit@, @preferred@};

int32_t @name@_decide(const @name@_output_t *output) { return ed_decide(&decision, output); }

uint32_t @name@_confidence(const @name@_output_t *output) { return ed_decide_confidence(&decision, output); }
"""
