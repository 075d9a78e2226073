"""The page of a run survives any word."""

import json

from taco.view.html import write_page

WORD = "@PICTURE@</script><script>alert('x')</script><!-- {{ picture }}"


def test_a_word_is_a_word_on_the_page(tmp_path):
    (tmp_path / "overlay.png").write_bytes(b"picture")
    item = {"id": 1, "label": WORD, "score": 0.5}
    record = {"time_s": 0.0, "verdict": "sounding", "heard": [[WORD, 0.5]], "objects": [item]}
    page = write_page(tmp_path / "view.html", WORD, [record], tmp_path / "overlay.png").read_text()
    assert page.count("<script>") == page.count("</script>") == 1 and "<!--" not in page and page.count("cGljdHVyZQ==") == 1
    frames = json.JSONDecoder().raw_decode(page.partition("const frames = ")[2])[0]
    assert frames[0]["h"][0][0] == frames[0]["o"][0]["w"] == WORD
