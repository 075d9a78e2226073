"""Outline what sounds and say it in French.

usage: python examples/own_language.py CLIP

The embedded models know English words only: the word bank stays English, and what is reported is translated. (The paper's models
take any text as words, but were trained on English captions.)
"""

import sys

from taco import TacoConfig, TacoPipeline
from taco.io.files import chunks, frames, pairs

FRENCH = {"dog": "chien", "chicken": "poule", "cat": "chat", "person": "personne", "piano": "piano", "train": "train"}


def main(clip: str) -> None:
    config = TacoConfig().updated({"models.word_bank": tuple(FRENCH)})
    pipeline = TacoPipeline(config)
    every_tenth = (frame for number, frame in enumerate(frames(clip)) if number % 10 == 9)
    for frame, window in pairs(every_tenth, chunks(clip), config.audio):
        scene = pipeline.process(frame, window)
        found = ", ".join(f"{FRENCH[item.label]} {item.score:.2f}" for item in scene.objects)
        print(f"{frame.stamp_ns / 1e9:.1f} s  {found or '-'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
