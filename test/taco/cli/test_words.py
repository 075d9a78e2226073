"""``taco words``: the bank as tables, and one line for any word."""

import json

import pytest

from taco import cli
from taco.backbones import embedded_models
from taco.backbones.base import WordSource
from taco.cli import words
from taco.config import ModelsConfig
from taco.errors import ConfigError
from test import ROOT

MADE = [
    WordSource("dog", ("Dog", "Bark", "Yip"), tuple(f"dog {i}, hound" for i in range(9)), ("yamnet",), ("lite0",)),
    WordSource("person", ("Speech", "Laughter"), ("person",), ("yamnet",), ("person",)),
    WordSource("skateboard", ("Skateboard",), (), ("yamnet",), ()),
    WordSource("banana", (), ("banana",), (), ("lite0",)),
]


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(embedded_models, "word_sources", lambda models: MADE, raising=False)


def test_the_bank_is_the_words_that_sound_and_image_models_know(made, capsys):
    assert cli.main(["words"]) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["word", "dog", "person"]
    assert "dog 0, dog 1, dog 2 and 6 more" in told.out
    assert "2 words, sound from yamnet, image from lite0, person; 2 more are known to one side only" in told.err


def test_json_has_every_class_and_the_words_of_one_side(made, capsys):
    assert cli.main(["words", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["word"] for entry in told["words"]] == ["dog", "person"] and len(told["words"][0]["eye"]) == 9
    assert [(entry["word"], entry["ear"], entry["eye"]) for entry in told["one_sided"]] == [
        ("skateboard", ["Skateboard"], []),
        ("banana", [], ["banana"]),
    ]


def test_a_word_of_one_side_is_reported_with_that_side(made, capsys):
    assert cli.main(["words", "banana", "skateboard"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("banana: only an image model knows it (lite0: banana), no sound model, so it is not listened for")
    assert second.startswith("skateboard: only a sound model knows it (yamnet: Skateboard), no image model")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("dogs", "neither a sound nor an image model knows it; the nearest word is dog"),
        ("bark", "the nearest word is dog (sound: Bark)"),
        ("hound", "the nearest word is dog (image: dog 0, hound)"),
        ("submarine", "neither a sound nor an image model knows it; `taco words` lists the words"),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest_known_one(made, capsys, word, says):
    assert cli.main(["words", word]) == 1
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and told.startswith(f"{word}: ") and says in told


def test_known_words_are_looked_up_in_any_case(made, capsys):
    assert cli.main(["words", "DOG", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["word"] == "dog" and answer["listened_for"] and answer["ear"] == ["Dog", "Bark", "Yip"]


def test_a_chosen_bank_of_one_word_is_listed_and_a_wrong_one_is_refused(made, capsys):
    assert cli.main(["words", "--json", "--set", "models.word_bank=[person]"]) == 0
    assert [entry["word"] for entry in json.loads(capsys.readouterr().out)["words"]] == ["person"]
    assert cli.main(["words", "--set", "models.word_bank=[dog, banana]"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("taco: models.word_bank: banana: only an image model knows it") and error.count("\n") == 1
    with pytest.raises(ConfigError, match="dogg: neither a sound nor an image model knows it; the nearest word is dog"):
        words.bank(MADE, ModelsConfig(word_bank=("dogg",)))


def test_models_that_take_any_words_say_so_without_loading_anything(tmp_path, capsys):
    settings = ["--set", "models.name=paper", "--set", f"models.model_dir={tmp_path}"]
    assert cli.main(["words", *settings, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["words"]) == 527
    assert cli.main(["words", "robot vacuum", *settings]) == 1
    assert "these models take any words: --set 'models.word_bank=[robot vacuum]'" in capsys.readouterr().out
    assert cli.main(["words", "robot vacuum", *settings, "--set", "models.word_bank=[robot vacuum, dog]"]) == 0


def test_the_stand_in_has_its_words_too(capsys):
    assert cli.main(["words", "--set", "models.image=standin:5"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["word", "red", "green", "blue"]


def test_only_the_first_of_a_classes_names_is_shown_and_brackets_stay_whole():
    assert words.format_classes(("Roaring cats (lions, tigers)", "Bell, gong")) == "Roaring cats (lions, tigers), Bell"
    assert (
        words.format_classes(("Bee, wasp, etc.",)) == "Bee, wasp, etc."
        and words.format_classes(("a", "b", "c"), 2) == "a, b and 1 more"
    )


def test_markdown_cells_cannot_break_the_table():
    text = words.markdown([WordSource("a|b", ("x",), ("y",))])
    assert text.splitlines()[2] == "| a\\|b | x | y |"


@pytest.mark.data
def test_the_documents_table_is_the_one_that_the_code_prints():
    text = (ROOT / "docs/words.md").read_text()
    models = ModelsConfig()
    table = words.markdown(words.bank(words.sources(models), models))
    assert table in text, "run: make tables"


@pytest.mark.data
def test_the_bank_is_the_one_that_the_models_listen_for():
    models = ModelsConfig()
    told = [source.word for source in words.bank(words.sources(models), models)]
    assert told == list(embedded_models.load(models).words) and len(told) >= 75
