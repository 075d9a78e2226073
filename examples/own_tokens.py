"""Factorize your own tokens: the co-factorization alone, without images, sounds or models.

usage: python examples/own_tokens.py

Two objects cover the halves of a 6 x 8 grid; the sound is the second one's. Both spaces share a bank of five words.
"""

import torch

from taco import factorize
from taco.config import FactorizationConfig
from taco.types import Anchors

WORDS = ("dog", "car", "rain", "bell", "voice")


def main() -> None:
    random = torch.Generator().manual_seed(0)
    image_words, sound_words = torch.randn(5, 64, generator=random), torch.randn(5, 32, generator=random)
    anchors = Anchors(WORDS, image_words, sound_words, audio_projection=None, audio_logit_scale=20.0)

    right_half = (torch.arange(48) % 8 >= 4)[:, None]
    visual = torch.where(right_half, image_words[3], image_words[0]) + 0.3 * torch.randn(48, 64, generator=random)
    audio = sound_words[3] + 0.3 * torch.randn(10, 32, generator=random)

    result = factorize(visual, audio, anchors, FactorizationConfig(n_factors=3), generator=random)

    activation = result.visual_activations[:, result.sounding].reshape(6, 8)
    print(f"factor {result.sounding} sounds; its activation on the image:")
    for row in activation:
        print(" ".join(f"{value:4.2f}" for value in row))
    inside, outside = activation[:, 4:].mean(), activation[:, :4].mean()
    print(f"mean on the bell's half {inside:.2f}, on the dog's half {outside:.2f}")


if __name__ == "__main__":
    main()
