"""SAM 3: instances chosen by region, presence as a rejection, and the whole line on tiny models of the real classes."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from taco import cli
from taco.cli.doctor import weights_state
from taco.config import SegmentationConfig, TacoConfig
from taco.errors import ConfigError, WeightsError
from taco.pipeline import TacoPipeline
from taco.segmentation.activation import ActivationSegmenter
from taco.segmentation.base import Segmenter
from taco.segmentation.instances import sounding_instances
from taco.segmentation.sam3 import Sam3Segmenter
from taco.segmentation.sam3_network import Instances, Sam3Network
from taco.types import AudioWindow, VideoFrame
from test.taco import synthetic_weights as synthetic
from test.taco import tiny_saved

SIZE = (240, 320)
LEFT, RIGHT = (90, 120), (230, 120)  # x, y of two discs


def disc(place, radius=40, size=SIZE):
    mask = np.zeros(size, np.uint8)
    cv2.circle(mask, place, radius, 1, -1)
    return mask > 0


def picture(**colours):
    """Grey, with a disc of each colour at the place ``left`` or ``right``."""
    rgb = np.full((*SIZE, 3), 110, np.uint8)
    for where, colour in colours.items():
        rgb[disc(LEFT if where == "left" else RIGHT)] = colour
    return np.clip(rgb + np.random.default_rng(0).normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)


def tone(hertz):
    time_s = np.arange(16000) / 16000
    return AudioWindow((0.3 * np.sin(2 * np.pi * hertz * time_s)).astype(np.float32), 16000, 0)


class MadeNetwork:
    """Stands for SAM 3: finds what it was told at whatever it is shown, and counts."""

    name, tracker = "sam3", None

    def __init__(self, found, presence=0.9, score=0.8):
        self.found, self.presence, self.score = found, presence, score
        self.encoded, self.words = 0, []

    def encode(self, rgb):
        self.encoded += 1
        return rgb

    def find(self, image, word):
        self.words.append(word)
        masks = np.stack([*self.found.get(word, []), np.zeros(SIZE, bool)])  # the last one: a query that found nothing
        small = np.stack([cv2.resize(mask.astype(np.float32), (72, 72), interpolation=cv2.INTER_AREA) for mask in masks])
        scores = torch.full((len(masks),), self.score)
        scores[-1] = 0.01
        return Instances(self.presence, scores, torch.from_numpy(small))


def line(network, **settings):
    always = {"models.image": "standin", "segmentation.refine": "edges"}
    config = TacoConfig().updated({**always, **{key.replace("__", "."): value for key, value in settings.items()}})
    return TacoPipeline(config, segmenter=Sam3Segmenter(network, ActivationSegmenter()))


def iou(one, other):
    return (one & other).sum() / max(1, (one | other).sum())


def test_of_two_instances_the_one_under_the_map_sounds():
    heat = cv2.GaussianBlur(disc(LEFT).astype(np.float32), (61, 61), 20)
    masks = np.stack([disc(RIGHT), disc(LEFT), disc(LEFT, 38)])
    assert sounding_instances(heat, masks, np.array([0.9, 0.7, 0.6])) == [1]  # the third is the second once more
    assert sounding_instances(heat[:, ::-1].copy(), masks, np.array([0.9, 0.7, 0.6])) == [0]
    both = np.maximum(heat, 0.9 * np.roll(heat, RIGHT[0] - LEFT[0], 1))
    assert sounding_instances(both, masks, np.array([0.9, 0.7, 0.6])) == [1, 0]


@pytest.mark.parametrize(
    "masks, heat",
    [
        ([disc(RIGHT)], 1.0),  # beside the map
        ([disc(LEFT)], 0.4),  # a map that is weak everywhere
        ([disc(LEFT, 2)], 1.0),  # smaller than least_area
    ],
)
def test_an_instance_away_from_the_map_is_none(masks, heat):
    assert sounding_instances(heat * disc(LEFT), np.stack(masks), np.ones(len(masks)), least_area=100) == []


def test_a_large_instance_that_the_map_touches_at_its_edge_is_none():
    wall = np.ones(SIZE, bool)
    heat = disc(LEFT).astype(np.float32)
    assert sounding_instances(heat, np.stack([wall, disc(LEFT)]), np.array([0.6, 0.9])) == [1]


def test_the_word_says_what_the_region_says_which():
    network = MadeNetwork({"red": [disc(LEFT), disc(RIGHT)]})
    pipeline = line(network)
    assert isinstance(pipeline.segmenter, Segmenter)
    for where, place in (("left", LEFT), ("right", RIGHT)):
        pipeline.reset()
        scene = pipeline.process(VideoFrame(picture(**{where: (220, 30, 30)}), 0), tone(300))
        (item,) = scene.objects
        assert scene.verdict == "sounding" and item.label == "red"
        assert iou(item.mask, disc(place)) > 0.85
        assert (scene.confidence >= 0.5).sum() == item.mask.sum() and (item.mask == (scene.confidence >= 0.5)).all()
    assert set(network.words) == {"red"} and pipeline.segmenter.outcomes == {"instances": 2}


@pytest.mark.parametrize("instances, count", [("together", 1), ("apart", 2)])
def test_two_that_sound_are_one_object_or_two(instances, count):
    network = MadeNetwork({"red": [disc(LEFT), disc(RIGHT, 60)]})
    frame = VideoFrame(picture(left=(220, 30, 30), right=(220, 30, 30)), 0)
    scene = line(network, segmentation__instances=instances).process(frame, tone(300))
    assert len(scene.objects) == count and {item.label for item in scene.objects} == {"red"}
    assert [item.id for item in scene.objects] == list(range(1, count + 1))
    assert np.sum([item.mask for item in scene.objects], 0).max() == 1
    assert iou(np.any([item.mask for item in scene.objects], 0), disc(LEFT) | disc(RIGHT, 60)) > 0.85


def test_a_word_that_sam_does_not_see_is_not_reported():
    network = MadeNetwork({"red": [disc(LEFT)]}, presence=0.3)
    frame = VideoFrame(picture(left=(220, 30, 30)), 0)
    pipeline = line(network)
    scene = pipeline.process(frame, tone(300))
    assert scene.objects == () and scene.verdict == "not_in_view" and not (scene.confidence > 0).any()
    assert pipeline.segmenter.outcomes == {"absent": 1}
    assert line(network, segmentation__min_presence=0.2).process(frame, tone(300)).verdict == "sounding"


@pytest.mark.parametrize("found, outcome", [([], "no instance"), ([disc(RIGHT)], "elsewhere")])
def test_where_no_instance_sounds_the_map_is_outlined(found, outcome):
    pipeline = line(MadeNetwork({"red": found}))
    scene = pipeline.process(VideoFrame(picture(left=(220, 30, 30)), 0), tone(300))
    (item,) = scene.objects
    assert iou(item.mask, disc(LEFT)) > 0.6 and pipeline.segmenter.outcomes == {outcome: 1}
    assert (item.mask == (scene.confidence >= 0.5)).all()


def test_a_still_image_is_encoded_once():
    pipeline = line(MadeNetwork({"red": [disc(LEFT)]}))
    encode = pipeline.backbones.image.encode
    features = encode(VideoFrame(picture(left=(220, 30, 30)), 0))
    pipeline.backbones.image.encode = lambda frame: features  # as a still image shares its features
    try:
        for stamp in range(3):
            pipeline.process(VideoFrame(picture(left=(220, 30, 30)), stamp), tone(300))
        assert pipeline.segmenter.network.encoded == 1
        features = encode(VideoFrame(picture(left=(220, 30, 30)), 4))
        pipeline.process(VideoFrame(picture(left=(220, 30, 30)), 4), tone(300))
        assert pipeline.segmenter.network.encoded == 2
    finally:
        del pipeline.backbones.image.encode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_saved.save_sam3(folder)
    tiny_saved.save_sam3(folder, lite=True)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a start touched the network"))


@pytest.mark.parametrize("name", ["sam3", "sam3_lite_text"])
def test_frames_go_down_the_whole_line(folder, name):
    chosen = {"models.image": "standin", "models.segmenter": name, "models.model_dir": str(folder), "models.device": "cpu"}
    pipeline = TacoPipeline(TacoConfig().updated(chosen))
    for stamp, where in enumerate(("left", "left", "right")):
        scene = pipeline.process(VideoFrame(picture(**{where: (220, 30, 30)}), stamp), tone(300))
        assert scene.verdict == "sounding" and np.isfinite(scene.confidence).all()
        assert all(item.mask.shape == SIZE for item in scene.objects)
    assert sum(pipeline.segmenter.outcomes.values()) == 3


def test_the_command_segments_a_picture_with_its_sound(folder, tmp_path, monkeypatch, capsys):
    import soundfile

    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(left=(220, 30, 30))).save("image.png")
    soundfile.write("sound.wav", tone(300).samples, 16000)
    options = ["models.image=standin", "models.segmenter=sam3", f"models.model_dir={folder}"]
    assert (
        cli.main(["segment", "image.png", "sound.wav", "-o", "out", *(part for one in options for part in ("--set", one))]) == 0
    )
    (record,) = [json.loads(text) for text in Path("out/objects.jsonl").read_text().splitlines()]
    assert record["verdict"] == "sounding" and record["objects"][0]["label"] == "red"


def test_masks_and_scores_are_those_of_the_processor(folder):
    """Against transformers' own post-processing."""
    network = Sam3Network.from_folder(folder / "sam3", device="cpu")
    tiny_saved.certain(network.model, presence=0.4, instances=2.0)
    image = network.encode(synthetic.picture())
    found = network.find(image, "dog")
    ids = network._processor(text="dog", return_tensors="pt")
    with torch.inference_mode():
        output = network.model(vision_embeds=image, **{key: ids[key] for key in ("input_ids", "attention_mask")})
        (wanted,) = network._processor.post_process_instance_segmentation(output, threshold=0.0, mask_threshold=0.5)
    torch.testing.assert_close(found.scores, wanted["scores"])
    assert torch.equal(found.masks > 0.5, wanted["masks"] > 0)
    assert found.presence == pytest.approx(1 / (1 + np.exp(-0.4)))


def test_words_are_encoded_once_and_cut_where_they_are_too_long(folder, caplog):
    network = Sam3Network.from_folder(folder / "sam3", device="cpu")
    image, runs = network.encode(synthetic.picture()), []
    features = network.model.get_text_features
    network.model.get_text_features = lambda *a, **k: runs.append(a) or features(*a, **k)
    with caplog.at_level(logging.WARNING):
        first = network.find(image, "dog")
        assert not caplog.records
        again, long = network.find(image, "dog"), network.find(image, "d" * 80)
    assert len(runs) == 2 and torch.equal(first.masks, again.masks) and torch.isfinite(long.masks).all()
    assert "first 30 of 80 tokens" in caplog.text
    with pytest.raises(ConfigError, match="got an empty one"):
        network.find(image, "  ")


def test_files_with_the_tracker_and_older_names_load_the_same(folder, tmp_path, caplog):
    state = load_file(folder / "sam3" / "model.safetensors")
    published = {
        f"detector_model.{key.replace('text_encoder.text_model.', 'text_encoder.')}": value for key, value in state.items()
    }
    published |= {
        "tracker_model.no_memory_embedding": torch.zeros(1),
        "tracker_neck.x": torch.zeros(1),
        "detector_model.new": torch.zeros(1),
    }
    there = tmp_path / "sam3"
    there.mkdir()
    for path in (folder / "sam3").iterdir():
        if path.suffix == ".json":
            (there / path.name).write_bytes(path.read_bytes())
    config = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps({"model_type": "sam3_video", "detector_config": config}))
    save_file(published, there / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        found = Sam3Network.from_folder(there, device="cpu").model.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    assert "1 tensors of the checkpoint are not used: detector_model.new" in caplog.text


def broken(path):
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


def without(name):
    def change(path):
        state = load_file(path / "model.safetensors")
        save_file({key: value for key, value in state.items() if name not in key}, path / "model.safetensors")

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (broken, "truncated.*taco weights fetch sam3"),
        (without("text_encoder"), "missing .text_encoder.*taco weights fetch sam3"),
        (lambda path: (path / "config.json").write_text("{"), "configuration files.*taco weights fetch sam3"),
        (
            lambda path: (path / "config.json").write_text('{"model_type": "sam3_lite_text"}'),
            "wanted model_type sam3 or sam3_video",
        ),
        (lambda path: (path / "processor_config.json").unlink(), "configuration files|not found"),
        (lambda path: (path / "model.safetensors").write_text("<html>"), "HTML.*taco weights fetch sam3"),
    ],
)
def test_what_is_wrong_with_the_folder_is_said_in_a_line(folder, tmp_path, change, said):
    there = tmp_path / "sam3"
    there.mkdir()
    for path in (folder / "sam3").iterdir():
        (there / path.name).write_bytes(path.read_bytes())
    change(there)
    with pytest.raises(WeightsError, match=said) as found:
        Sam3Network.from_folder(there, device="cpu")
    assert "\n" not in str(found.value)


def test_missing_weights_say_how_to_get_access(tmp_path, monkeypatch):
    chosen = {"models.image": "standin", "models.segmenter": "sam3", "models.model_dir": str(tmp_path)}
    with pytest.raises(WeightsError, match="fetch sam3.*gated.*accept the terms.*HF_TOKEN") as found:
        TacoPipeline(TacoConfig().updated(chosen))
    assert "\n" not in str(found.value)


def test_the_licence_is_said_at_first_use(folder, tmp_path, capsys):
    from taco.weights import locate

    there = tmp_path / "sam3"
    there.mkdir()
    for path in (folder / "sam3").iterdir():
        if path.name != "sha256.json":
            (there / path.name).write_bytes(path.read_bytes())
    models = TacoConfig().updated({"models.model_dir": str(tmp_path)}).models
    locate("sam3", models)
    assert "SAM License" in capsys.readouterr().err
    locate("sam3", models)
    assert capsys.readouterr().err == ""


def test_a_gated_download_without_a_token_says_how_to_get_access(tmp_path, monkeypatch, capsys):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    class Refusal(GatedRepoError):
        def __init__(self):
            Exception.__init__(self, "401 Client Error. (Request ID: 1)\n\nCannot access gated repo for url ...")

        def __str__(self):
            return self.args[0]

    def refuse(*args, **kwargs):
        raise Refusal

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    assert cli.main(["weights", "fetch", "sam3", "--dir", str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert "SAM License" in said[0]
    assert "401" in said[-1] and "accept the terms" in said[-1] and "HF_TOKEN=" in said[-1]


def test_weights_are_copied_listed_and_looked_for_by_name(folder, tmp_path, capsys):
    for name in ("sam3", "sam3_lite_text"):
        assert cli.main(["weights", "fetch", name, "--from", str(folder), "--dir", str(tmp_path)]) == 0
        assert Sam3Network.from_folder(tmp_path / name, name, "cpu").name == name
    assert cli.main(["weights", "list", "sam3", "pe-audio", "--dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[:3] for line in out.splitlines()]
    assert rows.count(["here", "optional", "sam3"]) == 5 and rows.count(["missing", "optional", "pe-audio"]) == 4
    assert "facebook/sam3@main" in out and "Apache-2.0" in out
    found = weights_state(TacoConfig().updated({"models.segmenter": "sam3", "models.model_dir": str(tmp_path)}).models)
    assert {row["part"] for row in found["files"]} >= {"sam3"} and "sam3" not in "".join(found["problems"])
    found = weights_state(TacoConfig().updated({"models.segmenter": "sam3", "models.model_dir": str(tmp_path / "no")}).models)
    assert "sam3 are missing; run `taco weights fetch" in found["problems"][0]


def test_settings_name_the_segmenter():
    assert TacoConfig().updated({"models.segmenter": "sam3_lite_text"}).models.segmenter == "sam3_lite_text"
    assert SegmentationConfig().min_presence == 0.5
