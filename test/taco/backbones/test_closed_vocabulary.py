"""One sound encoder of several sound models, on made ones whose answers are known."""

import numpy as np
import pytest
import torch

from taco.backbones.closed_vocabulary import BANDS, LOGIT_LIMIT, STEPS, EmbeddedAudioEncoder, MusicnnHead
from taco.backbones.musicnn import HOP, TAGS


class Head:
    """The log-odds of a word are its feature times 10."""

    sample_rate, name, others = 16000, "made", ()

    def __init__(self, *words):
        self.words, self.dim = words, len(words)

    def tokens(self, samples):
        return torch.zeros(BANDS * STEPS, self.dim)

    def logits(self, values):
        return 10 * values


def test_log_odds_are_kept_within_limits_so_that_they_are_cosines():
    encoder = EmbeddedAudioEncoder([Head("dog", "cat")], ["dog", "cat"])
    values = torch.tensor([5.0, -0.3])
    assert encoder.log_odds(values).tolist() == [LOGIT_LIMIT, pytest.approx(-3.0)]
    projected = encoder.project(torch.stack([values, -values]))
    assert torch.allclose(projected.norm(dim=-1), torch.tensor(encoder.logit_scale))
    assert torch.allclose(projected @ encoder.encode_text(["dog"])[0], torch.tensor([LOGIT_LIMIT, -LOGIT_LIMIT]))


class Frames:
    """Stands for musicnn: a frame of every HOP samples is its own number, a part of the sound is their mean."""

    def tag_layer(self):
        return torch.zeros(len(TAGS), 1), torch.zeros(len(TAGS))

    def log_mel(self, sound):
        return torch.arange(sound.shape[1] // HOP, dtype=torch.float32)

    def frames(self, log_mel):
        return log_mel[None, None]

    def pooled(self, parts):
        return parts.mean(2)


def test_musicnns_tokens_are_of_halves_of_the_window_from_its_start_to_its_end():
    head = MusicnnHead(Frames(), {"guitar": ["guitar"]}, {"guitar": (0.0, 1.0)})
    frames = head.norm * head.tokens(np.zeros(62 * HOP, np.float32))[:, 0].view(BANDS, STEPS)
    assert torch.equal(frames[0], frames[1])
    starts = torch.tensor([0, 6, 12, 19, 25, 31])  # of 31 frames each, in 62
    assert torch.allclose(frames[0], starts + 15.0, atol=0.51)
