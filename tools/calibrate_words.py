"""Measure where each word of musicnn and BirdNET stands while other things sound: two columns of embedded_words.csv.

Run: .venv/bin/python tools/calibrate_words.py [--write]. Needs ai-edge-litert for BirdNET's words. Sounds: every recording of the
stamps that is not in the test split, seven animals, the General MIDI programs that the test split does not use, drums and noises.
"""

import argparse
import csv

import numpy as np
import torch

from taco.backbones import embedded_models
from taco.config import ModelsConfig
from taco.errors import MediaError
from taco.evaluation.composed.scenes import LEVEL, NOISE_FLOOR, SOUND_RATE, coloured_noise, excerpt
from taco.evaluation.composed.soundfont import RATE
from taco.evaluation.composed.sources import SceneSources, catalogue
from taco.types import AudioWindow

ANIMALS = ("rooster", "frog", "owl", "cow", "cat", "pig", "sheep")


def sounds(sources: SceneSources, rng: np.random.Generator):
    """(word it is a sound of or "", one second of it at 48 kHz)."""
    known = {entry.source: entry for entry in catalogue("instruments") if entry.role == "sound"}
    names = sorted(path.relative_to(sources._root).as_posix() for path in sources._root.rglob("*.ogg"))
    names = [name for name in names if "_desc" not in name and not name.startswith("symbols")]
    names += [f"animals:{name}.mp3" for name in ANIMALS]
    for name in names:
        if name in known and known[name].split == "test":
            continue
        try:
            samples, rate = sources.sound(name)
        except MediaError:
            continue
        if len(samples) < 0.2 * rate:
            continue
        for _ in range(3 if ":" in name else 2):
            yield (known[name].word if name in known else ""), excerpt(samples, rate, SOUND_RATE, rng)
    sources._melody("kit", 0, 0)  # opens the instruments
    for program in range(120):
        source = f"gm:{program}"
        if source in known and known[source].split == "test":
            continue
        tune = np.random.default_rng(program)
        notes = [(0.4 * step, 0.4, int(tune.integers(48, 80)), 0.8) for step in range(9)]
        samples = sources._font.play(notes, program)
        if samples.any():
            yield (known[source].word if source in known else ""), excerpt(samples, RATE, SOUND_RATE, rng)
    for seed in range(3):
        yield "drums", excerpt(sources._melody("kit", 0, seed), RATE, SOUND_RATE, rng)
    for slope in (0.0, 0.5, 1.0) * 4:
        yield "", coloured_noise(SOUND_RATE, slope, rng) * LEVEL


def plain_logits(encoder, window: AudioWindow) -> dict[str, float]:
    """Each word's logit as its model gives it, the greater where two know it."""
    out: dict[str, float] = {}
    values, at = encoder.encode(window).values.mean(0), 0
    for head in encoder._heads:
        deviations = head.logits(values[at : at + head.dim]) / head.gain + head.offset
        for word, value in zip(head.words, deviations * head._deviations + head._means):
            out[word] = max(out.get(word, -np.inf), float(value))
        at += head.dim
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the numbers into the table")
    args = parser.parse_args()
    models = ModelsConfig(audio="musicnn+birdnet", allow_download=True)
    encoder = embedded_models.load(models).audio
    rng, owners, logits = np.random.default_rng(7), [], []
    for word, samples in sounds(SceneSources(), rng):
        noisy = np.clip(samples + coloured_noise(SOUND_RATE, 0.5, rng) * LEVEL * NOISE_FLOOR, -1, 1).astype(np.float32)
        owners.append(word)
        logits.append(plain_logits(encoder, AudioWindow(noisy, SOUND_RATE, 0)))
    words = list(logits[0])
    table = torch.tensor([[row[word] for word in words] for row in logits])
    path = embedded_models.Path(embedded_models.__file__).parent / "embedded_words.csv"
    lines = path.read_text().splitlines()
    out = []
    for line in lines:
        row = next(csv.reader([line]))
        if line.startswith("#") or row[0] not in words:
            out.append(line)
            continue
        other = table[[owner != row[0] for owner in owners], words.index(row[0])]
        out.append(",".join([*row[:6], f"{other.mean():.2f}", f"{other.std():.2f}"]))
        print(out[-1])
    print(f"{len(owners)} sounds")
    if args.write:
        path.write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
