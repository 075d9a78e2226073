"""FC-CLIP: maps against figures of upstream's own classes, read-outs, and several objects in one region."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taco.backbones.base import Backbones
from taco.backbones.openclip import OpenCLIPImageEncoder
from taco.config import FactorizationConfig, SegmentationConfig, TacoConfig
from taco.errors import ConfigError, ShapeError, WeightsError
from taco.factorization import factorize
from taco.segmentation import load_segmenter
from taco.segmentation.fcclip import FCCLIPSegmenter
from taco.segmentation.fcclip_head import MaskDecoder, Proposals, classify, pool_under_masks, semantic_maps
from taco.segmentation.instances import choose_queries, label_scores, split_region
from taco.types import Anchors, Concept, Factorization, ImageFeatures, VideoFrame
from test import ROOT
from test.taco import synthetic_weights as synthetic

FIGURES = np.load(ROOT / "test/taco/reference_figures.npz")  # of upstream FC-CLIP, by tools/parity.py
SIDE = synthetic.TINY_SIDE


@pytest.fixture(scope="module")
def encoder():
    return OpenCLIPImageEncoder(*synthetic.tiny_clip(), image_size=SIDE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("fcclip") / "fcclip_cocopan.pth"
    synthetic.save_fcclip(path, **synthetic.TINY_FCCLIP)
    return path


@pytest.fixture(scope="module")
def segmenter(checkpoint, encoder):
    return FCCLIPSegmenter.from_checkpoint(checkpoint, encoder)


@pytest.fixture(scope="module")
def features(encoder):
    return encoder.encode(VideoFrame(synthetic.picture(), 0))


def test_maps_are_those_of_upstreams_own_classes(segmenter, features):
    maps = segmenter.maps(features, synthetic.prompts())  # the last row is all zero
    assert maps.shape == (8, SIDE, SIDE) and torch.isfinite(maps).all()
    np.testing.assert_allclose(maps[:, ::4, ::4].numpy(), FIGURES["maps"], atol=5e-4)


def test_length_of_the_prompts_does_not_matter(segmenter, features):
    rows = synthetic.prompts()
    assert torch.allclose(segmenter.maps(features, rows), segmenter.maps(features, 100 * rows), atol=1e-5)


def test_maps_and_void_share_every_query(segmenter, features):
    proposals = segmenter.propose(features)
    shares = segmenter.shares(proposals, synthetic.prompts())
    assert shares.shape == (20, 8) and (shares > 0).all()
    assert (shares.sum(1) < 1).all()
    assert torch.equal(segmenter.maps(features, synthetic.prompts(), proposals), segmenter.maps(features, synthetic.prompts()))


def test_ensemble_in_plain_numpy():
    rng = np.random.RandomState(0)
    unit = lambda *shape: (lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True))(rng.standard_normal(shape))  # noqa: E731
    prompts, void, inside, outside = unit(3, 6), unit(1, 6), unit(5, 6), unit(5, 6)
    seen, scales, alpha, beta = np.array([1, 0, 0]), (20.0, 90.0), 0.4, 0.8
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)  # noqa: E731
    logits = scales[0] * inside @ np.concatenate([prompts, void]).T
    weight = np.where(seen, alpha, beta)
    mixed = softmax(logits[:, :3]) ** (1 - weight) * softmax(scales[1] * outside @ prompts.T) ** weight
    void_share = softmax(logits)[:, -1:]
    wanted = mixed / mixed.sum(1, keepdims=True) * (1 - void_share)
    tensors = [torch.from_numpy(x) for x in (inside, outside, prompts, void, seen)]
    proposals = Proposals(torch.zeros(5, 1, 1), tensors[0], tensors[1])
    got = classify(proposals, tensors[2], tensors[3], scales, alpha, beta, tensors[4])
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-6)
    unseen = classify(proposals, tensors[2], tensors[3], scales, alpha, 1.0)
    np.testing.assert_allclose(unseen.numpy(), softmax(scales[1] * outside @ prompts.T) * (1 - void_share), atol=1e-6)


def test_pooling_is_the_mean_under_positive_logits():
    features = torch.arange(8.0).reshape(1, 2, 2, 2)
    masks = torch.tensor([[[[1.0, -1.0], [3.0, -2.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert pool_under_masks(features, masks).tolist() == [[[1.0, 5.0], [0.0, 0.0]]]


def test_maps_do_not_depend_on_how_many_masks_are_enlarged_at_once():
    shares, masks = torch.rand(7, 3), torch.randn(7, 8, 8)
    sizes = (32, 32), (31, 30)
    one, all_at_once = semantic_maps(shares, masks, *sizes, chunk=1), semantic_maps(shares, masks, *sizes, chunk=99)
    whole = F.interpolate(masks[None], size=(32, 32), mode="bilinear", align_corners=False)[0, :, :31, :30].sigmoid()
    assert torch.allclose(one, all_at_once, atol=1e-5)
    assert torch.allclose(one, torch.einsum("qk,qhw->khw", shares, whole), atol=1e-5)


def test_a_batch_of_two_gives_what_one_gives(segmenter, encoder):
    frames = [VideoFrame(synthetic.picture(), 0), VideoFrame(synthetic.picture()[::-1].copy(), 0)]
    images = torch.cat([encoder.preprocess(frame) for frame in frames])
    with torch.inference_mode():
        together = segmenter.decoder([encoder.pyramid(images)[level] for level in ("res2", "res3", "res4", "res5")])
        for index, frame in enumerate(frames):
            alone = segmenter.decoder([encoder.encode(frame).pyramid[level] for level in ("res2", "res3", "res4", "res5")])
            for both, single in zip(together, alone):
                assert torch.isfinite(both).all()
                assert (both[index] - single[0]).abs().max() < 1e-3 * single.abs().max()


def test_full_size_checkpoint_loads_strictly(tmp_path, caplog):
    path = tmp_path / "fcclip_cocopan.pth"
    synthetic.save_fcclip(path, fill=lambda name, *shape: torch.zeros(shape))
    state = torch.load(path, weights_only=False)["model"]
    decoder = MaskDecoder.from_state(state, path)
    assert sum(p.numel() for p in decoder.pixel.parameters()) == 5_790_144
    assert sum(p.numel() for p in [*decoder.queries.parameters(), *decoder.head.parameters()]) == 14_930_689
    assert decoder.channels == list(synthetic.FULL_CHANNELS) and decoder.void.shape == (1, 768)
    assert not caplog.records


@pytest.mark.parametrize(
    "key, said",
    [
        ("sem_seg_head.predictor.query_feat.weight", "wanted sem_seg_head.predictor.query_feat.weight"),
        ("void_embedding.weight", "wanted void_embedding.weight"),
        ("sem_seg_head.pixel_decoder.layer_1.norm.bias", "pixel decoder: .* 1 missing .layer_1.1.bias"),
        ("sem_seg_head.predictor.transformer_ffn_layers.1.norm.weight", "query decoder: .* 1 missing"),
        ("sem_seg_head.predictor.class_embed.layers.0.weight", "class head: .* 1 missing"),
    ],
)
def test_what_a_checkpoint_lacks_is_named(encoder, tmp_path, key, said):
    state = synthetic.fcclip(**synthetic.TINY_FCCLIP)
    del state[key]
    torch.save({"model": state}, tmp_path / "fcclip.pth")
    with pytest.raises(WeightsError, match=said) as error:
        FCCLIPSegmenter.from_checkpoint(tmp_path / "fcclip.pth", encoder)
    assert "taco weights fetch" in str(error.value)


def test_a_clip_of_another_width_is_refused(encoder, tmp_path):
    sizes = {**synthetic.TINY_FCCLIP, "channels": (24, 32, 48, 96)}
    synthetic.save_fcclip(tmp_path / "fcclip.pth", **sizes)
    with pytest.raises(ConfigError, match=r"\[24, 32, 48, 96, 768\] wide, .* gives \[24, 32, 48, 64, 768\]"):
        FCCLIPSegmenter.from_checkpoint(tmp_path / "fcclip.pth", encoder)


def test_wrong_prompts_and_features_are_refused(segmenter, features):
    for rows in (torch.zeros(8, 512), torch.zeros(0, 768), torch.zeros(768)):
        with pytest.raises(ShapeError, match="768"):
            segmenter.maps(features, rows)
    bare = ImageFeatures(features.tokens, {"res5": features.pyramid["res5"]}, features.padded_size, features.size)
    with pytest.raises(ShapeError, match="res2"):
        segmenter.maps(bare, synthetic.prompts())


# Read-outs and several objects in one region, on made proposals: two squares, a dog's and a siren's.

WORDS = ("dog", "siren", "table", "rain")
AXES = torch.eye(768)[:4]  # the word vectors


def factorization():
    """Factor 1 points at dog and siren, factor 0 at the table."""
    factors = torch.stack([AXES[2], AXES[0] + AXES[1]])
    return Factorization(torch.rand(16, 2), factors, torch.full((64, 2), 0.5), torch.ones(2, 4), 1)


def anchors(scale=10.0):
    return Anchors(WORDS, AXES, torch.eye(4), None, scale)


def concept(score=0.8, sound=(0.5, 0.5, 0.0, 0.0)):
    heard = (10 * F.normalize(torch.tensor(sound), dim=0)).softmax(0)
    return Concept(1, (("dog", 0.6), ("siren", 0.3)), score, AXES[0], heard)


class Made(FCCLIPSegmenter):
    """Proposals as given: (rows, columns, word) of each query's box on a 31 x 31 map of a 124 px image."""

    def __init__(self, boxes, base):
        self.decoder, self.encoder, self.scales = base.decoder, base.encoder, base.scales
        self.alpha, self.beta = 0.4, 1.0
        masks = torch.full((len(boxes), 32, 32), -8.0)
        for mask, (rows, columns, _) in zip(masks, boxes):
            mask[rows, columns] = 8.0
        vectors = torch.stack([AXES[WORDS.index(word)] for *_, word in boxes])
        self.made = Proposals(masks, F.normalize(vectors - 0.5 * self.decoder.void, dim=-1), vectors)

    def propose(self, features):
        return self.made


LEFT, RIGHT, TOP = slice(2, 12), slice(18, 28), slice(4, 20)
SCENE = [(TOP, LEFT, "dog"), (TOP, RIGHT, "siren"), (slice(24, 30), slice(2, 28), "table")]


def outline(rows, columns):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[rows.start * 4 : rows.stop * 4, columns.start * 4 : columns.stop * 4] = True
    return mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def run(base, features, boxes=SCENE, size=(SIDE, SIDE), sound=(0.5, 0.5, 0.0, 0.0), concepts=None, **settings):
    made, config = Made(boxes, base), SegmentationConfig(**settings)
    frame = VideoFrame(np.zeros((*size, 3), np.uint8), 0)
    asked = (concept(sound=sound),) if concepts is None else concepts
    return made.segment(frame, features, factorization(), asked, anchors(), config)


@pytest.mark.parametrize("readout", ["minmax", "argmax"])
def test_two_sounding_objects_are_outlined_and_named_apart(segmenter, features, readout):
    found = run(segmenter, features, readout=readout)
    assert {item.label for item in found.objects} == {"dog", "siren"}
    for item in found.objects:
        assert iou(item.mask, outline(TOP, LEFT if item.label == "dog" else RIGHT)) > 0.85
        assert 0 < item.score <= 0.8 and item.labels[0][1] > 0.5
    assert not (found.objects[0].mask & found.objects[1].mask).any()
    assert found.confidence.dtype == np.float32 and 0 <= found.confidence.min() <= found.confidence.max() <= 1


def test_without_split_the_region_is_one_object_with_the_concepts_label(segmenter, features):
    (item,) = run(segmenter, features, split=False).objects
    assert item.labels == concept().labels and item.score == 0.8
    assert iou(item.mask, outline(TOP, LEFT) | outline(TOP, RIGHT)) > 0.85


def test_the_object_that_fits_the_sound_scores_higher(segmenter, features):
    first, second = run(segmenter, features, sound=(0.1, 0.9, 0.0, 0.0)).objects
    assert first.label == "siren" and first.score == pytest.approx(0.8) and second.score < 0.6


def test_a_single_object_keeps_the_whole_region_and_the_concepts_label(segmenter, features):
    (item,) = run(segmenter, features, [SCENE[0], SCENE[2]]).objects
    assert item.label == "dog" and item.score == 0.8 and iou(item.mask, outline(TOP, LEFT)) > 0.85


def test_silent_objects_are_left_out(segmenter, features):
    found = run(segmenter, features)
    table = outline(slice(24, 30), slice(2, 28))
    assert all(iou(item.mask, table) < 0.05 for item in found.objects)


def test_masks_are_at_image_size(segmenter, features):
    found = run(segmenter, features, size=(60, 200))
    assert found.confidence.shape == (60, 200) and all(item.mask.shape == (60, 200) for item in found.objects)
    assert len(found.objects) == 2


def test_small_objects_are_dropped(segmenter, features):
    boxes = [(TOP, LEFT, "dog"), (slice(6, 10), slice(18, 22), "siren"), SCENE[2]]
    assert {item.label for item in run(segmenter, features, boxes).objects} == {"dog", "siren"}
    assert [item.label for item in run(segmenter, features, boxes, min_area=0.03).objects] == ["dog"]


def test_no_concept_gives_nothing_and_no_region_the_place_of_the_factor(segmenter, features):
    nothing = run(segmenter, features, concepts=())
    assert nothing.objects == () and not nothing.confidence.any()
    (item,) = run(segmenter, features, [SCENE[2]], readout="argmax").objects
    assert not item.mask.any() and item.labels == concept().labels and item.score == 0.8


def test_objects_of_a_kind_are_one_object_or_one_each(segmenter, features):
    boxes = [(TOP, LEFT, "dog"), (TOP, RIGHT, "dog"), SCENE[2]]
    (together,) = run(segmenter, features, boxes, instances="together").objects
    assert iou(together.mask, outline(TOP, LEFT) | outline(TOP, RIGHT)) > 0.85
    apart = run(segmenter, features, boxes, instances="apart").objects
    assert [item.label for item in apart] == ["dog", "dog"] and not (apart[0].mask & apart[1].mask).any()


def test_threshold_one_keeps_the_top_only(segmenter, features):
    loose, strict = (run(segmenter, features, split=False, threshold=t) for t in (0.05, 0.95))
    assert loose.objects[0].mask.sum() > strict.objects[0].mask.sum() > 0


def test_queries_of_one_object_are_taken_once():
    masks = torch.full((3, 10, 10), 0.01)
    masks[0, 2:8, 2:8] = 0.95
    masks[1, 2:8, 2:7] = 0.9
    masks[2, 0:1, 0:1] = 0.9
    region = masks[0] > 0.5
    parts = choose_queries(region, masks, torch.tensor([0.9, 0.8, 0.9]))
    assert parts.queries == [0] and 0 < float(parts.shares[0]) < 1
    assert choose_queries(torch.zeros(10, 10, dtype=torch.bool), masks, torch.ones(3)).queries == []


def test_a_query_that_lies_mostly_outside_is_not_a_part():
    masks = torch.full((2, 10, 10), 0.01)
    masks[0, :, :] = 0.9
    masks[1, 0:3, 0:3] = 0.9
    region = masks[1] > 0.5
    assert choose_queries(region, masks, torch.ones(2)).queries == [1]


def test_shared_pixels_go_to_the_stronger():
    masks = torch.tensor([[[0.9, 0.9, 0.1]], [[0.1, 0.8, 0.8]]])
    region = torch.tensor([[True, True, True]])
    left, right = split_region(region, masks, torch.tensor([1.0, 1.0]))
    assert left.tolist() == [[True, True, False]] and right.tolist() == [[False, False, True]]


def test_labels_need_both_image_and_sound():
    image, sound = torch.tensor([5.0, 4.0, -9.0]), torch.tensor([-9.0, 4.0, 5.0])
    scores, map_overlap = label_scores(image, sound)
    assert int(scores.argmax()) == 1 and float(scores.sum()) == pytest.approx(1)
    assert label_scores(image, image)[1] == pytest.approx(1, abs=1e-5) and map_overlap < 0.7


def test_an_object_is_labelled_by_the_sound_of_its_own_concept_and_by_the_image_alone_without_one(segmenter, features):
    boxes = [(TOP, LEFT, "dog"), (TOP, RIGHT, "siren"), SCENE[2]]
    quiet = Concept(1, (("dog", 0.6),), 0.8, AXES[0])
    scores = {item.label: item.score for item in run(segmenter, features, boxes, concepts=(quiet,)).objects}
    assert set(scores) == {"dog", "siren"} and scores["dog"] == pytest.approx(scores["siren"], abs=0.05)
    heard = {t.label: t.score for t in run(segmenter, features, boxes, sound=(0.9, 0.1, 0.0, 0.0)).objects}
    assert heard["dog"] == pytest.approx(0.8) and heard["siren"] < 0.6


def test_an_object_that_two_factors_share_is_whole_where_they_are_merged_before_they_become_prompts(segmenter, features):
    """Head and tail of the dog: two factors, two prompts, two queries; by argmax each prompt wins the query of its own half."""
    head, tail = (F.normalize(AXES[0] + 0.2 * torch.eye(768)[k], dim=0) for k in (10, 11))  # a cosine of .96
    x_v = torch.cat([head.expand(100, -1), tail.expand(92, -1), AXES[2].expand(64, -1)]) * 10
    x_v = x_v * (0.9 + 0.2 * torch.rand(256, 1, generator=torch.Generator().manual_seed(0)))
    x_a = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(16, 4)
    made = Made([(slice(4, 14), LEFT, "dog"), (slice(14, 24), LEFT, "dog"), SCENE[2]], segmenter)
    made.made.clip_embeddings[:2] = torch.stack([head, tail])
    frame, found = VideoFrame(np.zeros((SIDE, SIDE, 3), np.uint8), 0), {}
    for merge in ("never", "auto"):
        factors = factorize(x_v, x_a, anchors(), FactorizationConfig(n_factors=3, merge=merge))
        concepts = (Concept(factors.sounding, (("dog", 1.0),), 0.8, AXES[0]),)
        config = SegmentationConfig(readout="argmax", split=False)
        found[merge] = made.segment(frame, features, factors, concepts, anchors(), config).objects[0].mask
    dog = outline(slice(4, 24), LEFT)
    share = {merge: (mask & dog).sum() / dog.sum() for merge, mask in found.items()}
    assert 0.4 < share["never"] < 0.6 and share["auto"] > 0.95


def test_loader_reads_alpha_beta_and_the_weights_folder(tmp_path, encoder):
    folder = tmp_path / "paper"
    folder.mkdir()
    words = Backbones(encoder, None, ("dog",))
    config = TacoConfig().updated({"models.name": "paper", "models.model_dir": str(tmp_path), "segmentation.beta": 0.8})
    with pytest.raises(WeightsError, match="taco weights fetch paper --dir"):
        load_segmenter(config, words)
    synthetic.save_fcclip(folder / "fcclip_cocopan.pth", **synthetic.TINY_FCCLIP)
    loaded = load_segmenter(config, words)
    assert (loaded.name, loaded.alpha, loaded.beta) == ("fcclip", 0.4, 0.8)
    with pytest.raises(ConfigError, match="models.name"):
        load_segmenter(TacoConfig().updated({"models.segmenter": "fcclip"}), words)
