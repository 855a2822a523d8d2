"""The figures of a model card: few enough to travel in a bundle, with the interval and the number of images of each."""

from __future__ import annotations

from typing import Any, Mapping

KEPT = ("value", "low", "high", "n")


def summary(record: Mapping[str, Any], *, data: str) -> dict[str, Any]:
    """What of an ``evaluate`` record a bundle keeps.

    Args:
        data: name of the data set it was judged on.
    """
    task = record["task"]
    return {
        "data": data,
        "part": record["part"],
        "images": record["images"],
        "accuracy": _figure(record["accuracy"]),
        "balanced_accuracy": _figure(record["balanced_accuracy"]),
        "ece": _figure(record["ece"]),
        "auroc": {label: _figure(value) for label, value in record["auroc"].items()},
        "task": (
            None
            if task is None
            else {
                "positive": task["positive"],
                "negative": task["negative"],
                "chosen_on": task["chosen_on"],
                "auroc": _figure(task["auroc"]),
                "operating_points": {
                    name: {
                        "sensitivity": _figure(point["sensitivity"]),
                        "specificity": _figure(point["specificity"]),
                        "threshold": point["threshold"],
                    }
                    for name, point in record["operating_points"].items()
                },
            }
        ),
        "subgroups": {
            key: {value: _figure(row) for value, row in rows.items()}
            for key, rows in record["subgroups"].items()
        },
    }


def _figure(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in KEPT}
