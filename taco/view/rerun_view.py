"""Frames, masks, sound maps and words in the Rerun viewer (optional)."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from taco.errors import MediaError, MissingPackageError
from taco.io import scratch
from taco.palette import colour_of
from taco.types import SoundingScene
from taco.view.draw import VERDICT_COLOURS, VERDICT_WORDS

PORT = 9876  # Rerun's own
FIRST_CLOCK_NS = 10**17  # smaller stamps (before 1973) count from the start of a file
QUIETEST_DBFS = -100.0  # of the curve, so that digital silence does not flatten it


def mask_png(scene: SoundingScene) -> bytes:
    """The objects' masks in their colours, half transparent on nothing, as a PNG of the image's size."""
    import cv2

    tint = np.zeros((256, 4), np.uint8)  # blue, green, red, alpha
    for index, item in enumerate(scene.objects[:255]):
        tint[index + 1] = (*colour_of(item.label)[::-1], 128)
    return cv2.imencode(".png", tint[scene.instance_mask()], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _line(scene: SoundingScene) -> str:
    """The words of a frame without scores, so that the log gets a line only where they change."""
    outcome = VERDICT_WORDS[scene.verdict]
    if scene.verdict == "silent":
        return outcome
    heard = ", ".join(word for word, _ in scene.heard[:2]) or "something"
    outlined = ", ".join(sorted({item.label for item in scene.objects}))
    return f"{outlined} (heard: {heard})" if scene.verdict == "sounding" else f"heard: {heard} - {outcome}"


def rerun_sdk() -> Any:
    """The module; MissingPackageError names the package to install."""
    try:
        import rerun
    except ImportError:
        raise MissingPackageError("the viewer needs rerun-sdk; `pip install rerun-sdk`") from None
    return rerun


def check_display() -> None:
    """MediaError where there is no screen for the viewer's window."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise MediaError("the viewer's window: wanted a display, got none ($DISPLAY is not set); --rrd FILE saves it instead")


class Viewer:
    """One recording. Use from one thread.

    name: of the recording. target: "rerun" opens the viewer's window, an address (rerun+http://HOST:9876/proxy) sends
    to one that runs, a path that ends in .rrd saves a file. MissingPackageError without rerun-sdk.
    """

    def __init__(self, name: str, target: str = "rerun"):
        rerun = rerun_sdk()
        self._rerun, self._file = rerun, None
        self._stream = rerun.RecordingStream("taco", recording_id=f"taco-{name}-{np.random.default_rng().integers(2**32)}")
        try:
            if target == "rerun":
                check_display()
                # Not the module's own spawn(): its viewer listens on every network interface.
                command = [sys.executable, "-m", "rerun", "--bind", "127.0.0.1", "--port", str(PORT)]
                subprocess.Popen(command, start_new_session=True, env={**os.environ, "RERUN_APP_ONLY": "true"})
                self._stream.connect_grpc(f"rerun+http://127.0.0.1:{PORT}/proxy")
            elif "://" in target:
                self._stream.connect_grpc(target)
            elif target.endswith(".rrd"):
                self._file = Path(target)
                self._part = self._file.with_name(f".{self._file.stem}.part.rrd")
                self._file.parent.mkdir(parents=True, exist_ok=True)
                os.close(scratch.create(self._part))
                self._stream.save(self._part)
            else:
                raise MediaError(f"viewer: wanted rerun, an address rerun+http://... or a path .rrd, got {target!r}")
        except (OSError, RuntimeError, ValueError) as error:
            raise MediaError(f"viewer {target}: {' '.join(str(error).split())}") from None
        self._closed = False
        atexit.register(self.close)
        self._stream.send_blueprint(self._layout())
        self._words: str | None = None

    def _layout(self) -> Any:
        """Image on the left; sound, scores and words on the right."""
        import rerun.blueprint as layout

        right = layout.Vertical(
            layout.Spatial2DView(origin="sound/map", name="sounding factor on the sound (time to the right)"),
            layout.TimeSeriesView(origin="score", name="scores"),
            layout.TimeSeriesView(origin="sound/level", name="level (dBFS)"),
            layout.TextLogView(origin="words", name="heard"),
        )
        image = layout.Spatial2DView(origin="camera", name="heard and outlined")
        return layout.Blueprint(layout.Horizontal(image, right, column_shares=[3, 2]), collapse_panels=True)

    def log(self, rgb: np.ndarray, scene: SoundingScene) -> None:
        """Show one frame, (H, W, 3) uint8, and what was found in it, at its own stamp."""
        rr, stream = self._rerun, self._stream
        stamp = int(scene.stamp_ns)
        if stamp < FIRST_CLOCK_NS:  # time in a file, not of a clock
            stream.set_time("image", duration=np.timedelta64(stamp, "ns"))
        else:
            stream.set_time("image", timestamp=np.datetime64(stamp, "ns"))
        stream.log("camera/image", rr.Image(rgb).compress(jpeg_quality=85))
        stream.log("camera/mask", rr.EncodedImage(contents=mask_png(scene), media_type="image/png", draw_order=1))
        stream.log(
            "camera/boxes",
            rr.Boxes2D(
                array=np.array([item.box for item in scene.objects], np.float32).reshape(-1, 4),
                array_format=rr.Box2DFormat.XYWH,
                labels=[f"{item.label} {item.score:.2f}" for item in scene.objects],
                colors=[colour_of(item.label) for item in scene.objects],
            ),
        )
        if scene.sound_map is not None:
            stream.log("sound/map", rr.DepthImage(scene.sound_map.astype(np.float32), colormap="inferno", depth_range=(0.0, 1.0)))
        stream.log("sound/level", rr.Scalars(max(scene.level_dbfs, QUIETEST_DBFS)))
        stream.log("score/sounding", rr.Scalars(scene.sounding_score))
        words = _line(scene)
        if words != self._words:
            self._words = words
            stream.log("words", rr.TextLog(words, level="INFO", color=VERDICT_COLOURS[scene.verdict]))

    def close(self, keep: bool = True) -> None:
        """End the recording; a file gets its name now, or with ``keep`` false goes. Also done at the end of the process."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._stream.flush()
        self._stream.disconnect()
        if self._file is not None:
            if keep:
                self._part.replace(self._file)
            else:
                self._part.unlink(missing_ok=True)
