"""The page: a real server, real requests, slow viewers; and in Chromium what a person sees."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from edge_derm.camera import scenes
from edge_derm.camera.counters import Counters
from edge_derm.camera.frames import Frame
from edge_derm.camera.guard import is_loopback
from test_camera_parts import answer

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install 'edge-derm[camera]'")
from edge_derm.camera.web import MOST_VIEWERS, Page  # noqa: E402
from edge_derm.errors import DataError  # noqa: E402


class Serving:
    """A page, what it said, and a way to ask it."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.counters, self.said = Counters(time.monotonic()), []  # type: ignore[var-annotated]
        self.trouble: str | None = None
        self.page = Page(
            {"model_sha256": "ab" * 32, "labels": ["mel", "nv"]},
            lambda: self.counters,
            self.state,
            host=host,
            port=port,
            say=self.said.append,
        )

    def state(self) -> dict[str, Any]:
        return {
            "now_s": time.monotonic(),
            "source_lost": None,
            "trouble": self.trouble,
            "restarts": 0,
            "dropped": 0,
        }

    def give(self, number: int = 0) -> None:
        self.counters.frame({"total": 2.0}, None, time.monotonic())
        self.page(Frame(scenes.frame(20), number, time.monotonic(), 1.0), answer([0.9, 0.1]))

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=20)
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        try:
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()


@pytest.fixture()
def serving() -> Iterator[Serving]:
    made = Serving()
    yield made
    made.page.close()


@pytest.fixture()
def on_the_network() -> Iterator[Serving]:
    made = Serving(host="0.0.0.0")
    yield made
    made.page.close()


def test_the_page_needs_nothing_from_elsewhere(serving: Serving) -> None:
    for path in ("/", "/page.css", "/page.js"):
        status, headers, body = serving.ask(path)
        assert status == 200 and not re.search(rb"(src|href|url\()\W*https?:", body)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"Not a medical device" in serving.ask("/")[2]


def test_health_turns_with_the_worker_and_says_why(serving: Serving) -> None:
    serving.give()
    status, _, body = serving.ask("/health")
    assert status == 200 and json.loads(body)["healthy"] and json.loads(body)["frames"] == 1
    serving.trouble = "the inference process ended"
    status, _, body = serving.ask("/health")
    assert status == 503 and json.loads(body)["reasons"] == ["inference: the inference process ended"]


def test_metrics_are_well_formed_exposition(serving: Serving) -> None:
    serving.give()
    _, headers, body = serving.ask("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r"[a-z_]+(\{[a-z]+=\"[^\"]+\"(,[a-z]+=\"[^\"]+\")*\})? -?[0-9.e+-]+")
    lines = body.decode().splitlines()
    assert "edge_derm_frames_total 1" in lines
    assert all(line.startswith("# TYPE ") or sample.fullmatch(line) for line in lines)


def test_a_snapshot_is_the_frame_as_jpeg(serving: Serving) -> None:
    assert serving.ask("/snapshot.jpg")[0] == 503
    serving.give()
    status, headers, body = serving.ask("/snapshot.jpg")
    assert status == 200 and headers["Content-Type"] == "image/jpeg" and body[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ({"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
    ],
)
def test_other_names_and_other_sites_are_refused(
    serving: Serving, headers: dict[str, str], status: int
) -> None:
    assert serving.ask("/about", **headers)[0] == status


def test_nothing_can_be_changed_over_the_page(serving: Serving) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = serving.ask("/", method=method)
        assert status == 405 and "Access-Control-Allow-Origin" not in headers


def test_on_a_network_each_link_works_once_and_a_session_stays(on_the_network: Serving) -> None:
    assert on_the_network.ask("/")[0] == 401 and on_the_network.ask("/video.mjpg")[0] == 401
    token = on_the_network.page.address.partition("token=")[2]
    status, headers, _ = on_the_network.ask(f"/?token={token}")
    cookie = headers["Set-Cookie"]
    assert status == 303 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert on_the_network.ask(f"/?token={token}")[0] == 401
    assert on_the_network.ask("/about", Cookie=cookie.partition(";")[0])[0] == 200
    assert on_the_network.ask("/about", Cookie="edge-derm-session=guess")[0] == 401
    fresh = on_the_network.said[0].partition("token=")[2]
    assert fresh != token and on_the_network.ask(f"/?token={fresh}")[0] == 303


def test_health_needs_no_session_on_loopback(on_the_network: Serving) -> None:
    on_the_network.give()
    assert on_the_network.ask("/health")[0] == 200


def test_a_port_in_use_is_named(serving: Serving) -> None:
    with pytest.raises(DataError, match="--port"):
        Serving(port=serving.page.port)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("pi", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.slow
def test_fifty_viewers_that_read_nothing_hold_up_nobody(serving: Serving) -> None:
    stuck = []
    for _ in range(50):
        viewer = socket.create_connection(("127.0.0.1", serving.page.port))
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.sendall(b"GET /video.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stuck.append(viewer)
    try:
        film = threading.Thread(target=lambda: [(serving.give(n), time.sleep(0.03)) for n in range(200)])
        film.start()
        assert _pictures(serving.page.port, 5) == 5  # a reader beside them still sees the film
        assert serving.ask("/health")[0] == 200
        film.join(30)
        assert serving.counters.summary()["frames"] == 200
    finally:
        for viewer in stuck:
            viewer.close()


def _pictures(port: int, count: int) -> int:
    """How many whole JPEGs arrive, up to ``count``, while frames keep coming."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/video.mjpg", headers={"Host": "localhost"})
    with contextlib.closing(connection), connection.getresponse() as response:
        seen, data, until = 0, b"", time.monotonic() + 15
        while seen < count and time.monotonic() < until:
            data += response.read1(65536)
            seen = data.count(b"\xff\xd9\r\n--frame")
    return seen


@pytest.mark.slow
def test_more_viewers_than_allowed_are_told_so(serving: Serving) -> None:
    serving.give()
    viewers = []
    for _ in range(MOST_VIEWERS):
        viewer = socket.create_connection(("127.0.0.1", serving.page.port))
        viewer.sendall(b"GET /video.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert viewer.recv(12) == b"HTTP/1.1 200"
        viewers.append(viewer)
    assert serving.ask("/events")[0] == 503
    for viewer in viewers:
        viewer.close()


@pytest.fixture()
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    if not (Path("/usr/bin/chromium").exists() and Path("/usr/bin/chromedriver").exists()):
        pytest.skip("Chromium and its driver are not installed: scripts/tools installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for switch in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
    ):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def _camera(bundle: Path, port: int, source: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-c",
        "from edge_derm.cli import main; main()",
        "camera",
        "--bundle",
        str(bundle),
    ]
    command += ["--source", source, "--view", "web", "--port", str(port), "--deadline", "10"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with running.stderr:  # type: ignore[union-attr]
        assert f"open http://127.0.0.1:{port}/" in running.stderr.readline()  # type: ignore[union-attr]
    return running


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _wait(check: Any, what: str) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not seen within 60 s: {what}")


@pytest.mark.slow
@pytest.mark.browser
def test_a_person_sees_video_a_label_an_abstention_and_a_clean_reconnect(
    browser: Any, tiny_bundle: Path
) -> None:
    port = _free_port()
    grab = (
        "const c = document.createElement('canvas'), v = document.getElementById('video'); c.width = c.height = 32;"
        "c.getContext('2d').drawImage(v, 0, 0, 32, 32); return c.toDataURL();"
    )

    def kind() -> str:
        return browser.find_element("id", "verdict").get_attribute("data-kind")

    def pixels() -> Any:
        return browser.execute_script(
            "return document.getElementById('video').naturalWidth"
        ) and browser.execute_script(grab)

    running = _camera(tiny_bundle, port, "synthetic:sharp")
    try:
        browser.get(f"http://127.0.0.1:{port}/")
        first = _wait(pixels, "a picture")
        _wait(lambda: pixels() != first, "the video moving")
        _wait(lambda: kind() in ("named", "unsteady"), "a label")
        assert browser.find_elements("css selector", "#bars .bar")
        running.terminate()
        assert running.wait(20) == 0
        _wait(lambda: "lost" in browser.find_element("id", "link").text, "the loss of the connection")
        running = _camera(tiny_bundle, port, "synthetic:blurred")
        _wait(lambda: browser.find_element("id", "link").text == "live", "the reconnect")
        _wait(lambda: kind() == "rejected", "an abstention on a blurred source")
        assert browser.find_element("id", "verdict").text == "abstained: too blurred: hold still and focus"
        assert "earlier picture" in browser.find_element("id", "detail").text
        again = _wait(pixels, "a picture after the reconnect")
        _wait(lambda: pixels() != again, "the video moving after the reconnect")
        browser.find_element("tag name", "body").send_keys("f")
        _wait(lambda: browser.find_element("id", "still").is_displayed(), "the frozen picture")
        severe = [
            entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]
        ]
        assert severe == []
    finally:
        running.terminate()
        running.wait(20)
