"""The page of ``taco live``: pictures as MJPEG, answers and commands over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from taco.errors import MissingPackageError, TacoError
from taco.live import Answer, LiveSession
from taco.view.html import render

try:
    from aiohttp import WSMsgType, web
except ImportError:
    raise MissingPackageError(
        "taco live: wanted the package aiohttp, got none; run `pip install 'taco-sounding[live]'`"
    ) from None

BOUNDARY = "picture"
LONGEST_MESSAGE = 20_000  # bytes of a command; ours: a bank of a thousand words
PUSH_S = 2.0  # ours: longest wait for a picture, so that a page that has gone is noticed


class LivePage:
    """A server of one page. ``show`` may be called from any thread.

    session: set before the server starts. host: address that it listens on.
    """

    session: LiveSession

    def __init__(self, host: str):
        self.host = host
        self._picture = b""
        self._answer: Answer = {}
        self._number = 0
        self._news: asyncio.Condition | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def show(self, answer: Answer, jpeg: bytes) -> None:
        """Show an answer and its picture; the newest wins for a slow reader."""
        self._answer, self._picture = answer, jpeg
        self._number += 1
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                asyncio.run_coroutine_threadsafe(self._tell(), self._loop)

    async def _tell(self) -> None:
        assert self._news is not None
        async with self._news:
            self._news.notify_all()

    @contextlib.asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[int]:
        """Listen until the block ends; gives the port, also for port 0."""
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Condition()
        app = web.Application(middlewares=[self._only_from_here])
        app.router.add_get("/", self._page)
        app.router.add_get("/video", self._video)
        app.router.add_get("/live", self._live)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self.host, port)
        try:
            await site.start()
            yield runner.addresses[0][1]
        finally:
            self._loop = None
            await runner.cleanup()

    @web.middleware
    async def _only_from_here(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse what another website makes a browser ask: it could see the camera (DNS rebinding, embedding, WebSocket)."""
        name = re.sub(r":\d+$", "", request.host).strip("[]")
        origin = request.headers.get("Origin")
        foreign = origin is not None and origin.partition("://")[2] != request.host
        if not self._is_our_name(name) or foreign or request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise web.HTTPForbidden(text="only from this machine's own page")
        return await handler(request)

    def _is_our_name(self, name: str) -> bool:
        """Whether a name of the Host header is an address or localhost: a website has another name."""
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in ("localhost", self.host)

    async def _page(self, request: web.Request) -> web.Response:
        session = self.session
        page = render("live.html.j2", words=list(session.words), folder=str(session.folder))
        return web.Response(text=page, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def _next(self, seen: int) -> int:
        """Wait for something newer than ``seen``, or ``PUSH_S``; the newest number."""
        assert self._news is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PUSH_S), self._news:
                await self._news.wait_for(lambda: self._number != seen)
        return self._number

    async def _video(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": f"multipart/x-mixed-replace; boundary={BOUNDARY}", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        seen = 0
        with contextlib.suppress(ConnectionError):  # the page has gone
            while True:
                seen = await self._next(seen)
                if self._picture:
                    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(self._picture)}\r\n\r\n".encode()
                    # Twice: a browser shows a picture when the next one begins.
                    await response.write(2 * (head + self._picture + b"\r\n"))
        return response

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=LONGEST_MESSAGE)
        await socket.prepare(request)
        pushing = asyncio.ensure_future(self._push(socket))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    await socket.send_json(await self._command(message.data))
        finally:
            pushing.cancel()
        return socket

    async def _push(self, socket: web.WebSocketResponse) -> None:
        seen = 0
        with contextlib.suppress(ConnectionError):
            while not socket.closed:
                seen = await self._next(seen)
                await socket.send_json({**self._answer, "paused": self.session.paused, "problems": dict(self.session.problems)})

    async def _command(self, text: str) -> dict[str, Any]:
        """Do what the page asks; the answer to it, with "error" where it cannot be done."""
        session = self.session
        try:
            asked = json.loads(text)
            what = asked["do"]
            if what == "pause":
                session.paused = bool(asked["on"])
                return {"paused": session.paused}
            if what == "words":
                words = [word.strip() for word in str(asked["words"]).split(",")]
                await asyncio.wrap_future(session.set_words([word for word in words if word]))
                return {"bank": list(session.words)}
            if what == "record":
                path = session.record() if asked["on"] else await asyncio.to_thread(session.clip.stop)
                return {"clip": str(path or ""), "recording": str(session.clip.path or "")}
        except TacoError as error:
            return {"error": str(error)}
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        return {"error": "wanted a command of this page"}
