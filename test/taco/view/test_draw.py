"""Overlays and contact sheets."""

import numpy as np
import pytest

from taco.errors import ShapeError
from taco.palette import COLOURS, colour_of
from taco.types import VERDICTS, SoundingObject, SoundingScene
from taco.view import draw


def scene(size=(120, 160), boxes=(), verdict="sounding", level=-20.0, heard=()):
    objects = []
    for index, (x, y, w, h) in enumerate(boxes):
        mask = np.zeros(size, bool)
        mask[y : y + h, x : x + w] = True
        objects.append(SoundingObject.from_mask(mask, [("dog", 0.8)], 0.9 - 0.1 * index, id=index + 1))
    return SoundingScene(0, size, 0, 10**9, level, 0.7, verdict, tuple(objects), heard=heard)


@pytest.fixture
def grey():
    return np.full((120, 160, 3), 90, np.uint8)


def test_overlay_paints_the_mask_in_the_colour_of_the_word_and_leaves_the_rest(grey):
    out = draw.overlay(grey, scene(boxes=[(60, 50, 40, 40)]), strip=False, alpha=0.5)
    assert out.shape == grey.shape and out.dtype == np.uint8
    wanted = (np.array(colour_of("dog")) + 90) / 2
    assert np.abs(out[75, 85] - wanted).max() <= 1
    assert (out[110:, :40] == 90).all() and (out[:, 130:] == 90).all()
    assert (grey == 90).all(), "the caller's image must stay as it was"


def test_outline_is_the_full_colour_with_a_dark_line_beside_it(grey):
    out = draw.overlay(grey, scene(boxes=[(60, 50, 40, 40)]), strip=False, alpha=0.0).astype(int)
    row = out[75, 90:106]
    assert (np.abs(row - np.array(colour_of("dog"))).sum(1) < 60).any()
    assert (row.sum(1) < 120).any()


def test_pinholes_get_no_line_but_a_tiny_object_does(grey):
    holed = scene(boxes=[(40, 30, 60, 60)])
    holed.objects[0].mask[60, 70] = False
    out = draw.overlay(grey, holed, strip=False, alpha=0.5)
    assert np.abs(out[59, 69].astype(int) - (np.array(colour_of("dog")) + 90) / 2).max() <= 1
    tiny = draw.overlay(grey, scene(boxes=[(60, 80, 3, 3)]), strip=False, alpha=0.0)
    assert (np.abs(tiny[78:86, 58:66].astype(int) - colour_of("dog")).sum(2) < 60).any()


def test_label_stands_at_the_largest_part(grey, monkeypatch):
    places = []
    place = draw._place
    monkeypatch.setattr(draw, "_place", lambda *args: places.append(args[2]) or place(*args))
    mask = np.zeros((120, 160), bool)
    mask[40:80, 90:130] = mask[100:103, 2:5] = True
    item = SoundingObject.from_mask(mask, [("dog", 0.8)], 0.9)
    draw.overlay(grey, SoundingScene(0, (120, 160), 0, 1, -20.0, 0.7, "sounding", (item,)))
    assert places == [(90, 40, 40, 40)] and item.box[0] == 2


def test_no_objects_and_no_strip_is_the_image_itself(grey):
    assert (draw.overlay(grey, scene(), strip=False) == grey).all()


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_labels_can_be_read_on_any_ground(ground):
    image = np.full((240, 320, 3), ground, np.uint8)
    bare = draw.overlay(image, scene((240, 320), [(100, 100, 80, 80)]), strip=False, alpha=0.0)
    colour, ink = colour_of("dog"), draw.ink_on(colour_of("dog"))
    ys, xs = np.nonzero(np.abs(bare[:98].astype(int) - colour).sum(2) < 12)
    plate = bare[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].reshape(-1, 3).astype(int)
    assert (np.abs(plate - colour).sum(1) < 12).mean() > 0.5
    assert 0.03 < (np.abs(plate - ink).sum(1) < 120).mean() < 0.4


def test_ink_has_a_contrast_of_four_and_a_half_on_every_colour():
    def luminance(colour):
        part = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour]
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2]

    for colour in COLOURS:
        light, dark = sorted((luminance(colour), luminance(draw.ink_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_labels_of_two_objects_do_not_cover_each_other(grey, monkeypatch):
    places = []
    monkeypatch.setattr(
        draw, "_place", lambda out, chip, box, taken, place=draw._place: places.append(r := place(out, chip, box, taken)) or r
    )
    draw.overlay(grey, scene(boxes=[(40, 60, 30, 30), (42, 62, 30, 30)]))
    (ax, ay, aw, ah), (bx, by, bw, bh) = places
    assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (20, 300), (300, 20), (1080, 1920)])
@pytest.mark.parametrize("verdict", VERDICTS)
def test_any_size_and_verdict(size, verdict):
    boxes = [(0, 0, size[1], size[0])] if verdict == "sounding" else []
    out = draw.overlay(np.zeros((*size, 3), np.uint8), scene(size, boxes, verdict, -200.0))
    assert out.shape == (*size, 3)


def test_every_verdict_has_words_and_a_colour_of_its_own():
    assert set(VERDICTS) <= set(draw.VERDICT_WORDS) and len({draw.VERDICT_COLOURS[name] for name in VERDICTS}) == len(VERDICTS)
    assert len({draw.VERDICT_WORDS[name] for name in VERDICTS}) == len(VERDICTS)


def test_words_are_told_best_first_and_not_all():
    words = [("Rain", 0.831), ("Wind", 0.41), ("Thunder", 0.2), ("Hum", 0.1)]
    assert (
        draw.format_words(words) == "Rain 0.83, Wind 0.41, Thunder 0.20"
        and draw.format_words(words, 1) == "Rain 0.83"
        and draw.format_words(()) == ""
    )


def test_the_sentence_says_what_is_heard_and_what_became_of_it():
    heard = (("Rain", 0.83), ("Wind", 0.41), ("Thunder", 0.2), ("Hum", 0.1))
    assert draw.sentence(scene(verdict="not_in_view", heard=heard), 1) == "heard: Rain 0.83 - nothing in view fits"
    assert draw.sentence(scene(verdict="not_in_view", heard=heard)).count("0.") == 3
    assert draw.sentence(scene(verdict="silent")) == "silence" and "something" in draw.sentence(scene(verdict="unknown"))
    assert draw.sentence(scene(heard=heard[:1])) == "heard: Rain 0.83 - outlined 0.70"


@pytest.mark.parametrize(("width", "wanted"), [(1280, ("dBFS", "Rain", "Thunder")), (320, ("Rain",)), (60, ())])
def test_the_strip_holds_as_much_as_there_is_room_for_and_always_the_verdict(width, wanted, monkeypatch):
    said = []
    text = draw.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        draw.ImageDraw.ImageDraw, "text", lambda pen, at, line, **more: said.append(line) or text(pen, at, line, **more)
    )
    heard = (("Rain", 0.83), ("Wind", 0.41), ("Thunder", 0.2))
    draw.overlay(np.zeros((240, width, 3), np.uint8), scene((240, width), verdict="not_in_view", heard=heard))
    (line,) = said
    assert all(part in line for part in wanted) and line.endswith("nothing in view fits")
    assert ("Thunder" in line) == ("Thunder" in wanted)


def test_an_object_without_an_outline_is_a_dashed_box_with_its_word(grey):
    item = SoundingObject.from_box((40, 30, 60, 50), (120, 160), [("dog", 0.8)], 0.9)
    out = draw.overlay(grey, SoundingScene(0, (120, 160), 0, 1, -20.0, 0.7, "no_mask", (item,)), strip=False)
    colour = np.array(colour_of("dog"))
    edge = np.abs(out[30:80, 40].astype(int) - colour).sum(1) < 30
    assert 0.2 < edge.mean() < 0.8 and np.abs(np.diff(edge.astype(int))).sum() >= 4, "dashes, not a line"
    assert (out[45:70, 50:90] == 90).all(), "nothing is filled"
    assert (np.abs(out[:28, 40:100].astype(int) - colour).sum(2) < 12).any(), "its word stands above"


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (159, 119, 1, 1), (0, 0, 160, 120), (0, 60, 160, 1)])
def test_boxes_at_the_rim_are_drawn_too(grey, box):
    item = SoundingObject.from_box(box, (120, 160), [("dog", 0.8)], 0.9)
    assert (draw.overlay(grey, SoundingScene(0, (120, 160), 0, 1, -20.0, 0.7, "no_mask", (item,))) != 90).any()


def test_the_meter_grows_with_the_level(grey):
    def filled(level):
        out = draw.overlay(grey, scene(level=level))[-10:, :25].reshape(-1, 3).astype(int)
        return (np.abs(out - draw.VERDICT_COLOURS["sounding"]).sum(1) < 10).sum()

    assert filled(-200) == 0 and 0 < filled(-40) < filled(-10)


def test_overlay_refuses_a_scene_of_another_size(grey):
    with pytest.raises(ShapeError, match="wanted a scene of"):
        draw.overlay(grey, scene((60, 80)))
    with pytest.raises(ShapeError):
        draw.overlay(grey[..., 0], scene())


def test_contact_sheet_holds_every_picture():
    images = [np.full((40 + 10 * i, 80, 3), 20 + 40 * i, np.uint8) for i in range(5)]
    sheet = draw.contact_sheet(images, [f"picture {i} with a rather long caption to wrap" for i in range(5)], 3, 100)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 8 + 3 * 108
    for i in range(5):
        assert (np.abs(sheet.astype(int) - (20 + 40 * i)).sum(2) == 0).sum() > 1000


def test_contact_sheet_wants_a_caption_for_every_picture():
    with pytest.raises(ShapeError, match="got 0 pictures"):
        draw.contact_sheet([], [])
    with pytest.raises(ShapeError, match="got 1 pictures, 2 captions"):
        draw.contact_sheet([np.zeros((4, 4, 3), np.uint8)], ["a", "b"])


def test_heat_is_warmer_where_the_map_is_high(grey):
    values = np.zeros((4, 4), np.float32)
    values[0, 0] = 1.0
    out = draw.heat(grey, values)
    assert out.shape == grey.shape and out[0, 0].sum() > out[-1, -1].sum()


@pytest.mark.parametrize(("level", "share"), [(-90.0, 0.0), (-60.0, 0.0), (-30.0, 0.5), (-15.0, 0.75), (0.0, 1.0)])
def test_the_level_meter_goes_from_60_db_below_full_scale_to_it(level, share, grey):
    bottom = draw.overlay(grey, scene(level=level, verdict="silent"))[-30:]
    full = (bottom == draw.VERDICT_COLOURS["silent"]).all(-1)[:, :24].sum(1).max()
    assert full == pytest.approx(share * (160 // 8), abs=1)
