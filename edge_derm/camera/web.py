"""The page in the browser: video as MJPEG, state as server-sent events, health and metrics; aiohttp in a thread of its own.

The loop hands over its newest frame and never waits: one encoder serves all viewers at most ``view_fps`` times a second,
each viewer gets the newest picture when it is ready for one, and a viewer that takes none for ten seconds is let go.
Who may look is decided in ``guard``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import threading
import time
from typing import Any, AsyncIterator, Callable, Mapping

import cv2
from aiohttp import web

from edge_derm.camera import guard, metrics
from edge_derm.camera.counters import Counters
from edge_derm.camera.frames import Frame
from edge_derm.camera.log import describe
from edge_derm.camera.loop import Answer
from edge_derm.camera.overlay import shown
from edge_derm.errors import DataError

MOST_VIEWERS = 64
_STUCK_S = 10.0
_STATE_EVERY_S = 0.1
_PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class Page:
    """A sink of the loop that serves the browser view until ``close``."""

    def __init__(
        self,
        about: Mapping[str, Any],
        counters: Callable[[], Counters],
        state: Callable[[], Mapping[str, Any]],
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        view_fps: float = 30.0,
        say: Callable[[str], None] = print,
    ) -> None:
        self._about, self._counters, self._state = dict(about), counters, state
        self._period_s = 1.0 / view_fps
        self._newest: tuple[Frame, Answer] | None = None
        self._viewers = 0
        self._jpeg, self._jpeg_number = b"", -1
        self._guard = guard.Guard(host, say=say)
        self._ready: threading.Event = threading.Event()
        self._problem: OSError | None = None
        self._thread = threading.Thread(target=self._serve, args=(host, port), name="web", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._problem:
            raise DataError(
                f"--port {port}: {host} cannot be listened on: {self._problem.strerror or self._problem}: choose another "
                "--port (0 for any free one), or end the program that has it",
                code="view-port",
            ) from self._problem

    @property
    def address(self) -> str:
        """Where the page is: ``http://host:port/``, with the one-time token where one is needed."""
        return self._guard.link(self.port)

    def __call__(self, frame: Frame, answer: Answer) -> None:
        """Take the newest frame; returns at once."""
        self._newest = (frame, answer)
        with contextlib.suppress(RuntimeError):  # the server has ended already
            self._loop.call_soon_threadsafe(self._arrived.set)

    def close(self) -> None:
        """End the server; open connections are cut."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5.0)

    def _serve(self, host: str, port: int) -> None:
        asyncio.run(self._main(host, port))

    async def _main(self, host: str, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived, self._stop = asyncio.Event(), asyncio.Event()
        self._encoded = asyncio.Condition()
        server = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.5)
        await server.setup()
        try:
            site = web.TCPSite(server, host, port, reuse_address=True)
            await site.start()
        except OSError as error:
            self._problem = error
            self._ready.set()
            await server.cleanup()
            return
        self.port = server.addresses[0][1]
        self._guard.port = self.port
        encoder = asyncio.create_task(self._encode())
        self._ready.set()
        await self._stop.wait()
        encoder.cancel()
        async with self._encoded:
            self._encoded.notify_all()
        await server.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard.middleware])
        application.on_response_prepare.append(self._guard.sign)
        routes = [web.get(path, self._file) for path in _PAGE]
        routes += [
            web.get("/video.mjpg", self._video),
            web.get("/snapshot.jpg", self._snapshot),
            web.get("/events", self._events),
            web.get("/about", self._tell),
            web.get("/health", self._health),
            web.get("/metrics", self._metrics),
        ]
        application.add_routes(routes)
        return application

    async def _encode(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            begun_s = time.monotonic()
            if self._viewers and self._newest:
                frame, answer = self._newest
                data = await self._loop.run_in_executor(None, _jpeg, frame, answer)
                async with self._encoded:
                    self._jpeg, self._jpeg_number = data, frame.number
                    self._encoded.notify_all()
            await asyncio.sleep(max(0.0, self._period_s - (time.monotonic() - begun_s)))

    async def _pictures(self) -> AsyncIterator[bytes]:
        sent = -1
        while not self._stop.is_set():
            async with self._encoded:
                await self._encoded.wait_for(lambda: self._jpeg_number > sent or self._stop.is_set())
                data, sent = self._jpeg, self._jpeg_number
            yield data

    @contextlib.contextmanager
    def _viewing(self) -> Any:
        if self._viewers >= MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_VIEWERS} viewers are watching already\n")
        self._viewers += 1
        try:
            yield
        finally:
            self._viewers -= 1

    async def _video(self, request: web.Request) -> web.StreamResponse:
        with self._viewing():
            response = web.StreamResponse(
                headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame"}
            )
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                async for data in self._pictures():
                    head = (
                        f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                    )
                    await asyncio.wait_for(response.write(head + data + b"\r\n"), _STUCK_S)
            return response

    async def _snapshot(self, request: web.Request) -> web.Response:
        if self._newest is None:
            raise web.HTTPServiceUnavailable(text="no frame yet\n")
        data = await self._loop.run_in_executor(None, _jpeg, *self._newest)
        return web.Response(body=data, content_type="image/jpeg")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        with self._viewing():
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await response.write(b"retry: 1000\n\n")
                while not self._stop.is_set():
                    text = f"data: {json.dumps(self._now())}\n\n"
                    await asyncio.wait_for(response.write(text.encode()), _STUCK_S)
                    await asyncio.sleep(_STATE_EVERY_S)
            return response

    def _now(self) -> dict[str, Any]:
        counters = self._counters()
        shown = describe(*self._newest) if self._newest else {"status": "waiting"}
        return {**shown, "fps": counters.recent_fps(), "viewers": self._viewers, **self._state()}

    async def _file(self, request: web.Request) -> web.Response:
        name = _PAGE[request.path]
        text = importlib.resources.files("edge_derm.camera").joinpath("page", name).read_text("utf-8")
        return web.Response(text=text, content_type=_TYPES[name.rpartition(".")[2]])

    async def _tell(self, request: web.Request) -> web.Response:
        return web.json_response(self._about)

    async def _health(self, request: web.Request) -> web.Response:
        health = metrics.health(self._counters(), self._state(), self._about)
        return web.json_response(health, status=200 if health["healthy"] else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        text = metrics.exposition(self._counters(), self._state(), self._viewers)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _jpeg(frame: Frame, answer: Answer) -> bytes:
    return cv2.imencode(".jpg", shown(frame, answer), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
