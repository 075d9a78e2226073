"""``taco words``: the word bank, and each word's classes of sound and image."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from taco.backbones.base import WordSource
from taco.config import ModelsConfig

ANY = ("any words",)
SHOWN = 4  # classes of a word in the tables; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco words``."""
    from taco.cli import add_config_arguments

    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="look these up: one line each, exit status 1 if one is not known"
    )
    parser.add_argument("--markdown", action="store_true", help="print as the table in docs/words.md")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the bank or look words up; exit status 1 where a word cannot be listened for."""
    from taco.cli import config_from, print_json

    models = config_from(args).models
    known = sources(models)
    if args.words:
        answers = [look_up(word, known) for word in args.words]
        if args.json:
            print_json([answer for answer, _ in answers])
        else:
            print("\n".join(line for _, line in answers))
        return int(not all(answer["listened_for"] for answer, _ in answers))
    words = bank(known, models)
    one_sided = [source for source in known if not (source.ear and source.eye)]
    if args.json:
        listed = {"words": words, "one_sided": one_sided}
        print_json({"models": models.name, **{name: [asdict(source) for source in some] for name, some in listed.items()}})
    elif args.markdown:
        print(markdown(words), end="")
    else:
        print("\n".join(table(words)))
        more = f"; {len(one_sided)} more are known to one side only (`taco words WORD` says which)" if one_sided else ""
        print(
            f"{len(words)} words, sound from {_models(words, 'ear_models')}, image from {_models(words, 'eye_models')}{more}",
            file=sys.stderr,
        )
    return 0


def sources(models: ModelsConfig) -> list[WordSource]:
    """Every word that the configured sound or image models know, without loading a network.

    Models that take any words have no list: theirs are the words of ``models.word_bank``, or else their default ones.
    """
    if models.image.partition(":")[0] == "standin":
        from taco.backbones.stand_in import WORDS

        tones = ("a tone below 500 Hz", "a tone of 500 to 2000 Hz", "a tone above 2000 Hz")
        return [WordSource(word, (tone,), (word,), ("standin",), ("standin",)) for word, tone in zip(WORDS, tones)]
    if models.name == "embedded":
        from taco.backbones.embedded_models import word_sources

        return word_sources(models)
    from taco.backbones import open_models, paper_models
    from taco.backbones.word_bank import resolve_words

    own = open_models.IMAGE_MODEL if models.name == "open" else "openclip"
    sound, image = (models.audio or "msclap",), (models.image.partition("=")[0] or own,)
    return [WordSource(word, ANY, ANY, sound, image) for word in resolve_words(models.word_bank, paper_models.default_words())]


def bank(known: Sequence[WordSource], models: ModelsConfig) -> list[WordSource]:
    """The words that are listened for: those of ``models.word_bank``, else all known to both sides; ConfigError on others."""
    from taco.backbones.word_bank import resolve_words
    from taco.errors import ConfigError

    both = {source.word: source for source in known if source.ear and source.eye}
    chosen = resolve_words(models.word_bank, tuple(both))
    for word in chosen:
        if word not in both:
            raise ConfigError(f"models.word_bank: {look_up(word, known)[1]}")
    return [both[word] for word in chosen]


def look_up(word: str, known: Sequence[WordSource]) -> tuple[dict[str, Any], str]:
    """What is known of a word: values, and one line.

    Values: word, listened_for, ear and eye (its classes in the sound and the image models), nearest (a word, or None).
    """
    word = " ".join(word.split())
    by_name = {source.word.lower(): source for source in known}
    found = by_name.get(word.lower())
    if found and found.ear and found.eye:
        return _answer(word, found), f"{found.word}: sound: {format_classes(found.ear)}; image: {format_classes(found.eye)}"
    both = [source for source in known if source.ear and source.eye]
    near, why = _nearest(word, both)
    hint = f"; the nearest word is {near}{why}" if near else "; `taco words` lists the words"
    if found:
        side, classes, other = ("a sound", found.ear, "image") if found.ear else ("an image", found.eye, "sound")
        models = found.ear_models if found.ear else found.eye_models
        line = (
            f"only {side} model knows it ({', '.join(models) or 'class'}: {format_classes(classes)}), no {other} model, "
            "so it is not listened for"
        )
        return _answer(word, found, near), f"{found.word}: {line}{hint}"
    if any(source.ear == ANY for source in known):
        line = f"not in the bank, but these models take any words: --set 'models.word_bank=[{word}]'"
        return _answer(word, None, near), f"{word}: {line}"
    return _answer(word, None, near), f"{word}: neither a sound nor an image model knows it{hint}"


def _answer(word: str, source: WordSource | None, near: str | None = None) -> dict[str, Any]:
    listened = bool(source and source.ear and source.eye)
    sides = {"ear": list(source.ear) if source else [], "eye": list(source.eye) if source else []}
    return {"word": source.word if source else word, "listened_for": listened, **sides, "nearest": near}


def _nearest(word: str, both: Sequence[WordSource]) -> tuple[str | None, str]:
    """The word of the bank that is most alike, or that has a class of this name; and why, where it is a class."""
    low = word.lower()
    for field, side in (("ear", "sound"), ("eye", "image")):
        for source in both:
            names = [name for name in getattr(source, field) if low == name.lower() or low in name.lower().split(", ")]
            if names:
                return source.word, f" ({side}: {names[0]})"
    near = difflib.get_close_matches(low, [source.word.lower() for source in both], 1, 0.6)
    return (next(source.word for source in both if source.word.lower() == near[0]), "") if near else (None, "")


def format_classes(classes: Sequence[str], most: int = SHOWN) -> str:
    """Names of classes for people: the first ones, and how many more. Only the first synonym of each."""
    names = [re.split(r", (?![^(]*\))", name)[0] if len(classes) > 1 else name for name in classes]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def table(words: Sequence[WordSource]) -> list[str]:
    """Lines of the bank: word, classes of sound, classes of image."""
    rows = [("word", "sound", "image"), *((s.word, format_classes(s.ear, 3), format_classes(s.eye, 3)) for s in words)]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{word:{wide[0]}}  {sound:{wide[1]}}  {image}" for word, sound, image in rows]


def markdown(words: Sequence[WordSource]) -> str:
    """The bank as a Markdown table."""
    rows = ["| word | sound | image |", "|---|---|---|"]
    rows += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in (s.word, format_classes(s.ear), format_classes(s.eye))) + " |"
        for s in words
    ]
    return "\n".join(rows) + "\n"


def _models(words: Sequence[WordSource], side: str) -> str:
    return ", ".join(dict.fromkeys(name for source in words for name in getattr(source, side))) or "no model"
