"""Soak: windows cover the time, a machine that slows down is said to, one that does not is steady; memory and heat are kept."""

import mmap
import time

import numpy as np
import pytest

from edge_derm.measure import soak


def test_windows_cover_the_time_and_count_every_run():
    calls = []
    found = soak.soak(lambda: calls.append(time.sleep(0.001)), 0.02)
    assert found["minutes"] >= 0.02 and found["runs"] == len(calls) == sum(
        w["runs"] for w in found["windows"]
    )
    assert len(found["windows"]) >= 8 and all(w["p50_ms"] >= 1 for w in found["windows"])
    starts = [window["at_seconds"] for window in found["windows"]]
    assert (
        starts == sorted(starts)
        and found["drift"]["low"] <= found["drift"]["value"] <= found["drift"]["high"]
    )


@pytest.mark.parametrize(
    "factor, verdict", [(1.0, "steady"), (1.5, "slower"), (0.6, "faster"), (1.03, "steady")]
)
def test_the_verdict_is_about_the_last_quarter_over_the_first(factor, verdict):
    noise = np.random.default_rng(0).uniform(0.99, 1.01, 60)
    medians = np.linspace(1, factor, 60) * noise
    change = soak.drift(medians)
    assert change["value"] == pytest.approx(np.median(medians[-15:]) / np.median(medians[:15]))
    assert soak.verdict(change) == verdict


def test_a_pi_that_throttles_and_warms_is_reported(monkeypatch):
    flags, degrees = iter(["0x0"] * 4 + ["0x50005"] * 1000), iter(range(40, 10_000))
    monkeypatch.setattr(soak, "throttled", lambda: next(flags))
    monkeypatch.setattr(soak, "temperature", lambda: float(next(degrees)))
    found = soak.soak(lambda: None, 0.002)
    assert found["throttled"] is True
    assert (
        found["temperature_c"]["first"] == 40
        and found["temperature_c"]["highest"] == found["temperature_c"]["last"] > 45
    )


def test_flags_of_the_past_are_not_throttling_now(monkeypatch):
    monkeypatch.setattr(soak, "throttled", lambda: "0x50000")
    assert soak.soak(lambda: None, 0.002)["throttled"] is False


def test_memory_that_grows_is_seen():
    held, size = [], 1 << 18

    def leak():
        fresh = mmap.mmap(
            -1, size
        )  # pages of its own: a heap would first hand out what earlier tests gave back
        fresh.write(b"1" * size)
        held.append(fresh)
        time.sleep(0.002)

    found = soak.soak(leak, 0.02)
    assert found["rss_growth_bytes"] > size * len(held) * 0.4
