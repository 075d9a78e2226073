"""``taco live``: a camera and a microphone in real time, on a page of this machine. No ROS."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from taco.cli import add_config_arguments, config_from
from taco.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from taco.live import LiveSession
    from taco.web import LivePage

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco live``."""
    parser.add_argument(
        "--camera", default="0", metavar="N|FILE|URL", help="number of a camera (default 0), video or picture file, address"
    )
    parser.add_argument(
        "--mic",
        metavar="NAME|FILE",
        help="sound device (number or part of its name), or sound or video file (default: the system's, or the camera file's)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8765, help="port of the page; 0 takes a free one (default 8765)")
    parser.add_argument("-o", "--out", default=".", metavar="DIR", help="folder of the clips that are recorded (default: here)")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; with ``--json`` also a line for each image on standard output."""
    from taco.io.files import probe
    from taco.io.live_inputs import open_camera, open_microphone
    from taco.live import Answer, LiveSession
    from taco.web import LivePage

    config = config_from(args)
    if not 0 <= args.port < 65536:
        raise ConfigError(f"--port: wanted 0 to 65535, got {args.port}")
    own_sound = args.mic is None and Path(args.camera).is_file()
    mic = args.camera if own_sound else args.mic or ""
    period_s = probe(mic).duration_s if mic == args.camera and Path(mic).is_file() else 0.0
    start_ns = time.monotonic_ns()
    camera, microphone = open_camera(args.camera, start_ns, period_s), open_microphone(mic, start_ns, period_s)
    page = LivePage(args.host)

    def on_answer(answer: Answer, jpeg: bytes) -> None:
        page.show(answer, jpeg)
        if args.json:
            print(json.dumps(answer), flush=True)

    print(f"loading the models {config.models.name} ...", file=sys.stderr)
    page.session = LiveSession(config, camera, microphone, Path(args.out), on_answer)
    page.session.start()
    try:
        asyncio.run(_serve(page, page.session, args.port))
    finally:
        page.session.close()
    return 0


async def _serve(page: LivePage, session: LiveSession, port: int) -> None:
    try:
        async with page.serve(port) as got:
            name = f"[{page.host}]" if ":" in page.host else page.host
            print(f"open http://{name}:{got}/ (Ctrl-C ends)", file=sys.stderr, flush=True)
            if page.host not in LOOPBACK:
                print("taco: whoever reaches this address sees the camera; there is no password", file=sys.stderr, flush=True)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
    except OSError as error:
        raise MediaError(f"--host, --port: cannot listen on {page.host}:{port}: {error.strerror or error}") from None
