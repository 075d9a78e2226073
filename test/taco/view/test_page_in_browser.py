"""view.html in a real browser, where a Chromium is installed: on a desk and on a phone."""

import asyncio

import pytest

from taco import cli, segment
from test import browser
from test.taco.cli.made_inputs import MadePipeline, make_clip

pytestmark = [pytest.mark.live, pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium: apt-get install chromium")]


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_the_page_of_a_clip_can_be_read(monkeypatch, tmp_path, width):
    monkeypatch.setattr(segment, "make_pipeline", MadePipeline)
    clip = make_clip(tmp_path / "clip.mp4", 1.5, size=(240, 320))
    assert cli.main(["segment", str(clip), "-o", str(tmp_path / "out"), "--html"]) == 0

    async def visit():
        async with browser.opened((tmp_path / "out/view.html").as_uri(), tmp_path / "profile", width) as page:
            await page.until("document.querySelector('video').readyState >= 2")  # an image of the video is there
            text = await page.value("document.body.innerText")
            assert "dog" in text and "Bark" in text and "nothing in view fits" in text, "words, what was heard, the legend"
            inked = "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0))"
            assert await page.value(f"{inked}(document.querySelector('canvas'))"), "words over time are drawn"
            assert await page.too_wide() <= 0, "nothing to scroll sideways"
            small = "[...document.querySelectorAll('body *')].filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length"
            assert await page.value(small) == 0, "letters of 12 px and more"
            assert not page.logged, page.logged

    asyncio.run(visit())
