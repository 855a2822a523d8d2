"""A network camera over RTSP: its frames arrive, its loss is seen and counted, and it is there again when it is back."""

import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_derm.camera.loop import Loop
from edge_derm.camera.sources import opener
from test_camera_arm import free_port

PYTHON = "/usr/bin/python3"  # Debian's, which has its GStreamer
SERVER = Path(__file__).with_name("rtsp_server.py")


class Camera:
    """A server that can be killed and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.plug()

    def plug(self) -> None:
        command = [PYTHON, str(SERVER), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self._process.stdout.readline().strip() != "ready":
            said = self._process.communicate()[1].strip().splitlines()[-1:]
            pytest.skip(
                f"no RTSP server: {said}: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good"
            )

    def unplug(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture()
def network_camera():
    made = Camera()
    yield made
    made.unplug()


class Unasked:
    """The gate refuses GStreamer's ball, so no inference is reached."""

    trouble, restarts = None, 0

    def infer(self, pixels):
        return np.full(4, 0.25, np.float32), 0.0


def wait_until(met, seconds=60):
    until = time.monotonic() + seconds
    while not met() and time.monotonic() < until:
        time.sleep(0.05)
    assert met()


@pytest.mark.slow
def test_a_stream_that_drops_is_seen_counted_and_taken_up_again(network_camera):
    loop = Loop(opener(f"rtsp://127.0.0.1:{network_camera.port}/camera"), Unasked(), lambda p: [], 32)
    shapes = set()
    loop.attach(lambda frame, answer: shapes.add(frame.pixels.shape))
    running = threading.Thread(target=loop.run, daemon=True)
    running.start()
    try:
        for drops in (1, 2):
            before = loop.counters.summary()["frames"]
            wait_until(lambda: loop.counters.summary()["frames"] >= before + 10)
            network_camera.unplug()
            wait_until(lambda: loop.source_lost is not None)
            assert running.is_alive()
            network_camera.plug()
            wait_until(lambda: loop.counters.summary()["reopened"] == drops and loop.source_lost is None)
        after = loop.counters.summary()["frames"]
        wait_until(lambda: loop.counters.summary()["frames"] >= after + 10)
    finally:
        loop.stop()
        running.join(20)
    counted = loop.counters.summary()
    assert not running.is_alive() and shapes == {(480, 640, 3)}
    assert counted["reopened"] == 2 and counted["broken"] > 0 and counted["sink_errors"] == 0
