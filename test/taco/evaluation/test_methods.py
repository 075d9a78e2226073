"""Every method through the same pipeline, on made models whose right answer is known."""

import dataclasses

import numpy as np
import pytest
import torch

from taco.config import TacoConfig
from taco.errors import ConfigError
from taco.evaluation import metrics
from taco.evaluation.datasets import EvaluationFrame
from taco.evaluation.methods import BY_U, METHODS, MethodRunner, as_factors, method_named, resized, u_map
from taco.factorization import nearest_words
from taco.types import AudioWindow
from test.taco.evaluation import made_models as models


def sample(left="red", right="blue", sounds="blue", told=None):
    frame, masks = models.picture(left, right)
    truth = masks.get(sounds, np.zeros(frame.size, bool))
    return EvaluationFrame(f"{left}-{right}-{sounds}", frame, models.tone(sounds), truth, 0, sounds if told is None else told)


CONFIG = TacoConfig().updated({"factorization.n_factors": 4})


@pytest.fixture(scope="module")
def method_runner():
    return MethodRunner(CONFIG, pipeline=models.pipeline(CONFIG))


def iou(outcome, truth):
    return metrics.mask_iou(resized(outcome.map, truth.shape) > 0.5, truth)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"no-sound", "no-penalty", "no-min", "no-component"}))
def test_methods_that_hear_find_the_sounding_thing(name, method_runner):
    wanted = sample(sounds="blue")
    (found,) = method_runner.run(name, [wanted], settings={"factorization.max_iterations": 120} if name == "gradient" else None)
    assert iou(found, wanted.truth) > 0.5, name
    assert found.label == "blue" and 0 <= found.score <= 1
    assert found.map.min() >= 0 and found.map.max() <= 1 and found.winner.shape == found.map.shape


@pytest.mark.parametrize("name", (*METHODS, *BY_U))
def test_every_method_gives_a_whole_outcome(name, method_runner):
    (found,) = method_runner.run(name, [sample()], settings={"factorization.max_iterations": 20})
    assert found.map.ndim == 2 and np.isfinite(found.map).all()
    assert found.label in models.WORDS and found.ms["image"] > 0


@pytest.mark.parametrize("name", BY_U)
def test_a_variant_read_out_by_u_shows_the_activations_of_its_own_factor(name, method_runner):
    wanted, settings = sample(sounds="blue"), {"factorization.max_iterations": 20}
    (found,), (plain,) = (method_runner.run(n, [wanted], settings=settings, seed=3) for n in (name, name.removeprefix("u-")))
    features, _ = method_runner.encoded(wanted)
    assert torch.equal(found.factorization.visual_activations, plain.factorization.visual_activations)
    assert np.array_equal(found.map, u_map(features, plain.factorization, found.factor)) and found.label == plain.label
    assert found.map.shape == (models.GRID, models.GRID) != plain.map.shape
    assert method_named(name).settings == METHODS[name.removeprefix("u-")].settings


def test_methods_without_a_factorization_have_no_u(method_runner):
    with pytest.raises(ConfigError, match="--method: wanted one of .*u-gradient"):
        method_runner.run("u-late-fusion", [sample()])


def test_the_papers_solver_reports_what_the_live_line_would(method_runner):
    """With a closed vocabulary eye and ear name the factor together, whichever solver found it."""
    wanted = sample(sounds="blue")
    (found,) = method_runner.run("gradient", [wanted], settings={"factorization.max_iterations": 60})
    assert found.label == found.objects[0].label == "blue" and found.score > 0


@pytest.mark.parametrize("temporal", ["none", "joint"])
def test_noise_scores_nothing_as_in_the_live_line_and_is_mapped_all_the_same(temporal, method_runner):
    wanted = sample(sounds="blue")
    noise = np.random.default_rng(0).normal(0, 0.1, wanted.window.sample_rate).astype(np.float32)
    noisy = dataclasses.replace(wanted, window=AudioWindow(noise, wanted.window.sample_rate, wanted.window.start_ns))
    config = CONFIG.updated({"concepts.min_structure": 0.4})
    strict = MethodRunner(config, pipeline=method_runner.base.sibling(config))
    clear, deaf = (strict.run("taco", [one] * 2, temporal=temporal)[0] for one in (wanted, noisy))
    assert clear.score > 0.5 and deaf.score == 0 < method_runner.run("taco", [noisy])[0].score
    assert deaf.factorization is not None and deaf.map.any()  # maps are judged whatever the score


def test_no_sound_does_not_hear_and_true_word_needs_no_sound(method_runner):
    frame, masks = models.picture("red", "blue")
    frame.rgb[16:48, 40:56] = (90, 90, 130)  # the blue thing is pale: red is the strongest evidence
    told = EvaluationFrame("x", frame, models.tone("blue"), masks["blue"], 0, "blue")
    assert method_runner.run("no-sound", [told])[0].label == "red"
    assert method_runner.run("a-fcclip", [told])[0].label == "blue"
    deaf = EvaluationFrame("y", frame, models.tone("green"), masks["blue"], 0, "blue")
    (found,) = method_runner.run("true-word", [deaf])
    assert found.label == "blue" and iou(found, masks["blue"]) > 0.5


def test_late_fusion_corrects_a_word_that_is_not_in_view(method_runner):
    # heard: mostly green, some blue; seen: red and blue only
    frame, masks = models.picture("red", "blue")
    mixed = models.tone("green", level=0.14).samples + models.tone("blue", level=0.11).samples
    window = models.AudioWindow(mixed, models.RATE, 0)
    heard = EvaluationFrame("z", frame, window, masks["blue"], 0, "blue")
    assert method_runner.run("a-fcclip", [heard])[0].label == "green"
    assert method_runner.run("late-fusion", [heard])[0].label == "blue"


def test_true_word_refuses_frames_without_a_word(method_runner):
    with pytest.raises(ConfigError, match="true-word: wanted a data set that tells what sounds"):
        method_runner.run("true-word", [sample(told="")])


def test_a_frame_is_encoded_once_for_all_methods():
    method_runner = MethodRunner(CONFIG, pipeline=models.pipeline(CONFIG))
    frames = [sample(), sample("green", "red", "red")]
    for name in ("taco", "u", "late-fusion", "true-word", "taco"):
        method_runner.run(name, frames)
    assert method_runner.base.backbones.image.passes == 2
    method_runner.forget()
    method_runner.run("taco", frames[:1])
    assert method_runner.base.backbones.image.passes == 3


def test_same_seed_same_answer_and_clips_do_not_see_each_other(method_runner):
    frames = [sample(), sample("green", "red", "red"), sample("blue", "green", "green")]
    first = method_runner.run("taco", frames, seed=3, temporal="causal")
    method_runner.run("taco", frames[::-1], seed=9, temporal="causal")
    again = method_runner.run("taco", frames, seed=3, temporal="causal")
    for a, b in zip(first, again):
        assert np.array_equal(a.map, b.map) and a.score == b.score


def test_none_takes_frames_alone_and_causal_carries_the_past(method_runner):
    frames = [sample(), sample(), sample()]
    alone = method_runner.run("taco", frames, temporal="none")
    assert {o.factorization.restart for o in alone} == {"cold"}
    carried = method_runner.run("taco", frames, temporal="causal")
    assert [o.factorization.restart for o in carried] == ["cold", "", ""]


def test_joint_solves_the_clip_as_one_problem(method_runner):
    frames = [sample(), sample(), sample("red", "blue", "red")]
    settings = {"factorization.solver": "gradient", "factorization.max_iterations": 80}
    joint = method_runner.run("taco", frames, temporal="joint", settings=settings)
    assert len(joint) == 3 and all(o.factorization is not None for o in joint)
    pulled = method_runner.run("taco", frames, temporal="joint", settings={**settings, "factorization.temporal_weight": 50.0})
    alone = method_runner.run("no-temporal", frames, temporal="joint", settings=settings)

    def alike(outcomes):
        a, b = (o.factorization.visual_factors[o.factorization.sounding] for o in outcomes[1:])
        return float(torch.cosine_similarity(a, b, 0))

    assert alike(pulled) > alike(alone)


def test_words_stand_where_factors_stand(method_runner):
    features, audio = method_runner.encoded(sample())
    factors = as_factors(method_runner.anchors, [2], features.tokens, audio)
    assert factors.sounding == 2 and factors.visual_factors.shape == (3, 4)
    assert factors.visual_activations.min() >= 0 and factors.visual_activations.max() <= 1
    assert nearest_words(factors, method_runner.anchors, 1)[0][0][0] == "green"


def test_clamping_cuts_the_negative_part_of_the_prompt(method_runner):
    features, audio = method_runner.encoded(sample())
    anchors = method_runner.anchors
    odd = type(anchors)(anchors.words, anchors.visual - 0.5, anchors.audio, None, 1.0)
    assert as_factors(odd, [0], features.tokens, audio).visual_factors.min() < 0
    assert as_factors(odd, [0], features.tokens, audio, clamp=True).visual_factors.min() == 0


def test_unknown_methods_name_the_nearest(method_runner):
    with pytest.raises(ConfigError, match="did you mean late-fusion"):
        method_runner.run("late-fussion", [sample()])


def test_resizing_aligns_corners():
    out = resized(np.array([[0.0, 1.0], [0.0, 1.0]], np.float32), (3, 5), "bilinear")
    assert np.allclose(out, [[0, 0.25, 0.5, 0.75, 1]] * 3)


# --- with FC-CLIP's decoder: raw maps, decoded once for all methods


@pytest.fixture(scope="module")
def clip_bench(tmp_path_factory):
    from taco.backbones.base import Backbones
    from taco.backbones.openclip import OpenCLIPImageEncoder
    from taco.pipeline import TacoPipeline
    from taco.segmentation.fcclip import FCCLIPSegmenter
    from test.taco import synthetic_weights as synthetic

    path = tmp_path_factory.mktemp("evaluation") / "fcclip_cocopan.pth"
    synthetic.save_fcclip(path, **synthetic.TINY_FCCLIP)
    encoder = OpenCLIPImageEncoder(*synthetic.tiny_clip(), image_size=synthetic.TINY_SIDE)
    config = TacoConfig().updated({"factorization.n_factors": 3})
    both = Backbones(encoder, models.Ear(), models.WORDS)
    segmenter = FCCLIPSegmenter.from_checkpoint(path, encoder)
    return MethodRunner(config, pipeline=TacoPipeline(config, backbones=both, segmenter=segmenter))


def scaled(values):
    return ((values - values.min()) / (values.max() - values.min())).numpy()


def test_every_method_runs_on_fcclip_and_the_image_is_decoded_once(clip_bench):
    frame, passes = sample(), []
    settings = {"factorization.max_iterations": 5}
    decoder = clip_bench.base.segmenter.decoder
    hook = decoder.register_forward_hook(lambda *_: passes.append(1))
    found = {name: clip_bench.run(name, [frame], settings=settings)[0] for name in METHODS}
    assert len(passes) == 1
    clip_bench.forget()
    clip_bench.run("taco", [frame], settings=settings)
    assert len(passes) == 2
    hook.remove()
    side = clip_bench.encoded(frame)[0].size
    for name, one in found.items():
        assert one.map.shape == (one.winner.shape if name == "u" else side), name
        assert one.map.min() == 0 and one.map.max() == pytest.approx(1), name


def test_papers_solver_takes_the_raw_map_of_its_own_factor_and_the_nearest_word(clip_bench):
    frame = sample()
    (found,) = clip_bench.run("gradient", [frame], settings={"factorization.max_iterations": 5})
    features, _ = clip_bench.encoded(frame)
    factors = found.factorization
    maps = clip_bench.base.segmenter.maps(features, factors.visual_factors)
    assert np.allclose(found.map, scaled(maps[factors.sounding]), atol=1e-6)
    assert np.array_equal(found.winner, (maps.argmax(0) == factors.sounding).numpy())
    cosines = torch.nn.functional.cosine_similarity(factors.visual_factors[factors.sounding][None], clip_bench.anchors.visual)
    assert found.label == clip_bench.anchors.words[int(cosines.argmax())]


def test_a_word_is_prompted_among_the_whole_bank(clip_bench):
    frame = sample(sounds="green")
    (found,) = clip_bench.run("a-fcclip", [frame])
    features, _ = clip_bench.encoded(frame)
    maps = clip_bench.base.segmenter.maps(features, clip_bench.anchors.visual)
    assert found.label == "green" and np.allclose(found.map, scaled(maps[1]), atol=1e-6)
    (clamped,) = clip_bench.run("a+-fcclip", [frame])
    maps = clip_bench.base.segmenter.maps(features, clip_bench.anchors.visual.clamp_min(0))
    assert np.allclose(clamped.map, scaled(maps[1]), atol=1e-6) and not np.array_equal(clamped.map, found.map)


def test_the_ceiling_is_told_every_sounding_word_even_with_the_papers_solver(clip_bench):
    frame, masks = models.picture("red", "blue")
    sounding_objects = (("blue", masks["blue"]), ("red", masks["red"]))
    both = EvaluationFrame("both", frame, models.tone("blue"), masks["red"] | masks["blue"], 0, "", sounding_objects)
    papers = MethodRunner(clip_bench.config.updated({"factorization.solver": "gradient"}), pipeline=clip_bench.base)
    papers.base.config = papers.config
    (found,) = papers.run("true-word", [both])
    features, _ = papers.encoded(both)
    maps = papers.base.segmenter.maps(features, papers.anchors.visual)
    assert np.allclose(found.map, np.maximum(scaled(maps[2]), scaled(maps[0])), atol=1e-6)
    papers.base.config = clip_bench.config
