"""The page of `taco live` in a real browser, where a Chromium is installed: a file as camera and microphone."""

import asyncio
import contextlib
import time

import pytest

from taco.config import TacoConfig
from taco.io import files
from taco.io.live_inputs import open_camera, open_microphone
from taco.live import LiveSession
from taco.web import LivePage
from test import browser
from test.taco.cli.made_inputs import make_clip
from test.taco.test_live import Made

pytestmark = [pytest.mark.live, pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium: apt-get install chromium")]


@contextlib.asynccontextmanager
async def served(clip):
    """The address of a page on which the clip plays, with a made pipeline."""
    start_ns, period_s, page = time.monotonic_ns(), files.probe(clip).duration_s, LivePage("127.0.0.1")
    inputs = open_camera(str(clip), start_ns, period_s), open_microphone(str(clip), start_ns, period_s)
    page.session = LiveSession(TacoConfig(), *inputs, clip.parent, page.show, Made(TacoConfig()))
    page.session.start()
    try:
        async with page.serve(0) as port:
            yield f"http://127.0.0.1:{port}/"
    finally:
        page.session.close()


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_page_shows_the_camera_and_heeds_its_buttons(tmp_path, width):
    clip = make_clip(tmp_path / "clip.mp4", 1.5)

    async def visit():
        async with served(clip) as address, browser.opened(address, tmp_path / "profile", width) as page:
            await page.until("document.getElementById('now').innerText.includes('dog 0.75')")
            await page.until("document.getElementById('video').naturalWidth === 64")  # the camera's image is shown
            assert "images/s" in await page.value("document.getElementById('state').innerText")
            assert "Bark 0.90" in await page.value("document.getElementById('heard').innerText")
            assert await page.value("parseFloat(document.getElementById('meter').style.width)") > 50
            inked = "chart.getContext('2d').getImageData(0, 0, chart.width, chart.height).data.some(v => v > 0)"
            assert await page.value(inked), "words over time are drawn"
            assert await page.too_wide() <= 0, "nothing to scroll sideways"
            await page.value("$('bank').value = 'cat, bell'; $('words').requestSubmit()")
            await page.until("document.getElementById('said').innerText === 'listening for 2 words'")
            await page.value("$('pause').click()")
            await page.until("document.getElementById('pause').innerText === 'go on'")
            await page.value("$('pause').click()")
            await page.value("$('record').click()")
            await page.until("document.getElementById('said').innerText.startsWith('recording ')")
            await asyncio.sleep(1.0)
            await page.value("$('record').click()")
            await page.until("document.getElementById('said').innerText.startsWith('saved ')")
            assert not page.logged, page.logged

    asyncio.run(visit())
    assert len(list(tmp_path.glob("*.mp4"))) == 2, "the clip, and the one that was recorded"
