"""Readers on small trees in exactly the public layouts; nothing missing is found half-way through."""

import numpy as np
import pytest
from PIL import Image

from taco.errors import ConfigError, MediaError
from taco.evaluation import datasets
from test.taco.evaluation import made_datasets as trees

BUILD = {"s4": trees.s4, "ms3": trees.ms3, "avss": trees.avss, "ade-sp": trees.ade, "ade-sp-semantic": trees.ade}


def levels(clip, window_s=1.0):
    return [round(float(s.window.samples.mean()), 2) for s in clip.load(window_s)]


def test_s4(tmp_path):
    found = datasets.load("s4", trees.s4(tmp_path))
    assert [c.id for c in found.clips] == ["dog_barking/vid_a", "playing_violin/vid_b"]
    assert found.words == ("dog barking", "playing violin")
    assert (found.rules.metric, found.rules.temporal, found.rules.bank) == ("threshold", "joint", "general")
    samples = found.clips[0].load()
    assert [s.id for s in samples] == [f"dog_barking/vid_a/{i}" for i in range(5)]
    assert [s.frame.stamp_ns for s in samples] == [i * 10**9 for i in range(1, 6)]
    assert {s.word for s in samples} == {"dog barking"}
    for i, sample in enumerate(samples):
        assert sample.truth.dtype == bool and sample.truth.shape == (224, 224)
        assert sample.truth.sum() == 224 * 20 * (i + 1)
        assert (sample.window.start_ns, len(sample.window.samples)) == (i * 10**9, trees.RATE)
        assert sample.window.end_ns == sample.frame.stamp_ns
    assert levels(found.clips[0]) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_longer_windows_end_at_the_frame_and_never_see_the_future(tmp_path):
    clip = datasets.load("s4", trees.s4(tmp_path)).clips[0]
    windows = [s.window for s in clip.load(3.0)]
    assert [len(w.samples) / trees.RATE for w in windows] == [1, 2, 3, 3, 3]
    assert levels(clip, 3.0) == [0.1, 0.15, 0.2, 0.3, 0.4]


def test_s4_train_has_one_mask_a_video(tmp_path):
    clip = datasets.load("s4", trees.s4(tmp_path), "train").clips[0]
    assert [s.truth is not None for s in clip.load()] == [True, False, False, False, False]


def test_ms3(tmp_path):
    found = datasets.load("ms3", trees.ms3(tmp_path))
    assert [c.id for c in found.clips] == ["x1"]
    assert found.rules.bank == "general-first" and found.rules.temporal == "none"
    assert len(found.words) == 23
    assert [s.truth.sum() // 224 for s in found.clips[0].load()] == [20, 40, 60, 80, 100]


def test_avss(tmp_path):
    found = datasets.load("avss", trees.avss(tmp_path))
    assert found.words == ("background", "dog", "violin")
    assert (found.rules.metric, found.rules.readout, found.rules.bank) == ("semantic", "argmax", "specific")
    assert [len(c.images) for c in found.clips] == [5, 10]
    samples = found.clips[1].load()
    assert [sorted(np.unique(s.truth)) for s in samples[:2]] == [[0, 1], [0, 2]]
    assert samples[0].truth.shape == (224, 224)
    assert levels(found.clips[1]) == [round(level, 2) for level in trees.SECOND_LEVELS]


def test_ade_sp(tmp_path):
    found = datasets.load("ade-sp", trees.ade(tmp_path))
    assert [(c.class_id, c.word) for c in found.clips] == [(774, "dog"), (300, "cat"), (774, "dog")]
    (sample,) = found.clips[0].load()
    assert sample.class_id == 774
    share = sample.truth.mean()
    assert 0.44 < share < 60 / 130 and sample.truth[:, :100].all() and not sample.truth[:, 110:].any()
    assert len(sample.window.samples) == 7 * trees.RATE and sample.window.start_ns == 1_500_000_000  # the middle of 10 s


def test_ade_mask_leaves_out_pixels_between_classes(tmp_path):
    # the public runs resize class numbers bilinearly: between classes 0 and 512 lies 256 here and there
    seg = np.zeros((2, 2, 3), np.uint8)
    seg[:, 1, 0] = 20
    trees.save(tmp_path / "a_seg.png", seg)
    truth = datasets.ade_mask(tmp_path / "a_seg.png", 512)
    assert truth[:, -1].all() and truth.sum() == 224
    trees.save(tmp_path / "b_seg.png", np.repeat(seg, 112, 0).repeat(112, 1))
    assert datasets.ade_mask(tmp_path / "b_seg.png", 512).sum() == 224 * 112


def test_ade_sp_semantic(tmp_path):
    found = datasets.load("ade-sp-semantic", trees.ade(tmp_path))
    assert found.words == ("dog", "cat")
    assert [np.unique(c.load()[0].truth).tolist() for c in found.clips] == [[0, 1], [0, 2], [0, 1]]
    assert found.rules.readout == "minmax" and found.rules.metric == "semantic"


@pytest.mark.parametrize("name", BUILD)
def test_every_missing_piece_is_named_before_anything_is_read(name, tmp_path):
    BUILD[name](tmp_path)
    files = [p for clip in datasets.load(name, tmp_path).clips for p in clip.files()]
    gone = [files[0], files[-1], files[len(files) // 2]]
    for path in gone:
        path.unlink(missing_ok=True)
    with pytest.raises(MediaError, match=rf"{len(set(gone))} missing") as error:
        datasets.load(name, tmp_path)
    for path in gone:
        assert path.name in str(error.value) and str(path.parent.relative_to(tmp_path)) in str(error.value)


def test_wrong_lists_are_named(tmp_path):
    with pytest.raises(ConfigError, match="wanted one of s4, ms3"):
        datasets.load("s5", tmp_path)
    with pytest.raises(MediaError, match="--data"):
        datasets.load("s4", tmp_path / "nowhere")
    with pytest.raises(MediaError, match=r"s4_meta_data\.csv"):
        datasets.load("s4", tmp_path)
    trees.s4(tmp_path)
    with pytest.raises(MediaError, match="wanted rows of the split 'tets', got test, train"):
        datasets.load("s4", tmp_path, "tets")
    trees.table(tmp_path / "Single-source" / "s4_meta_data.csv", [{"name": "a", "split": "test"}])
    with pytest.raises(MediaError, match="none named category"):
        datasets.load("s4", tmp_path)
    with pytest.raises(MediaError, match=r"metadata\.csv.*label2idx\.json"):
        datasets.load("avss", tmp_path)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_binary_masks_in_any_mode(mode, tmp_path):
    trees.s4(tmp_path)
    found = datasets.load("s4", tmp_path)
    path = found.clips[0].truths[0]
    image = Image.fromarray(trees.mask(0))
    if mode == "P":
        image = Image.fromarray((trees.mask(0) > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 0, 0])
    (image if mode == "P" else image.convert(mode)).save(path)
    assert found.clips[0].load()[0].truth.sum() == 224 * 20


def test_masks_of_another_size_are_resized(tmp_path):
    trees.s4(tmp_path)
    found = datasets.load("s4", tmp_path)
    Image.fromarray(trees.mask(0, (448, 448))).save(found.clips[0].truths[0])
    assert found.clips[0].load()[0].truth.sum() == 224 * 20


def test_clips_can_be_sent_to_another_process(tmp_path):
    import pickle

    clip = datasets.load("ms3", trees.ms3(tmp_path)).clips[0]
    assert pickle.loads(pickle.dumps(clip)) == clip
