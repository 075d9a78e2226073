"""Whatever a file of settings or of words holds, it is read, or one line says why not."""

import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from taco.backbones.word_bank import read_words, resolve_words
from taco.config import TacoConfig, all_settings
from taco.errors import ConfigError
from test.taco.fuzzing import fuzzed, told_or_done

NAMES = [item.path for item in all_settings()]
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=20),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=8),
    st.sampled_from(sorted({str(choice) for item in all_settings() for choice in item.choices})),
)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
KEYS = st.sampled_from(NAMES) | st.sampled_from([name.partition(".")[0] for name in NAMES]) | st.text(max_size=12)


def in_range(config):
    """Every value of a config that was accepted is of its type and in its range."""
    for item in all_settings(config):
        assert item.check(item.value) == item.value
        assert not (isinstance(item.value, float) and not math.isfinite(item.value)), item.path
    assert TacoConfig.from_dict(config.to_dict()) == config


@fuzzed(150)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
@example({"audio.window_s": 10**400})
@example({"factorization.reconstruction_weights": [1.0, math.inf]})
def test_any_values_are_settings_or_one_line(values):
    config = told_or_done(lambda: TacoConfig.from_dict(values), ConfigError)
    if config is not None:
        in_range(config)


@fuzzed(80)
@given(st.data())
def test_any_values_of_their_type_are_settings_or_one_line(data):
    """Most of them are accepted, so that values meet each other."""
    items = data.draw(st.lists(st.sampled_from(list(all_settings())), max_size=5))
    kinds = {bool: st.booleans(), int: st.integers(-1, 300), float: st.floats(-1, 100), str: st.text(max_size=6)}
    values = {
        item.path: data.draw(st.sampled_from(item.choices) if item.choices else kinds.get(item.type, VALUES)) for item in items
    }
    config = told_or_done(lambda: TacoConfig().updated(values), ConfigError)
    if config is not None:
        in_range(config)


LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(lambda pair: yaml.safe_dump({pair[0]: pair[1]}, allow_unicode=True)),
    st.text(max_size=40),
    st.sampled_from(
        ("a: &a {b: *a}", "date: 2000-13-45", "x: !!int nine", "x: !!python/object:os.system", "- a", "%YAML 9", "x: ? y")
    ),
)


@fuzzed(150)
@given(st.lists(LINES, max_size=4).map("\n".join).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=60))
@example(b"audio: &a {window_s: *a}")
@example(b"audio.window_s: 2000-13-45")
@example(b"\xff\xfe\x00")
@example(b"[" * 3000)
@example(b"audio.window_s: " + b"9" * 5000)
def test_any_file_is_settings_or_one_line(tmp_path, text):
    (tmp_path / "a.yaml").write_bytes(text)
    config = told_or_done(lambda: TacoConfig.from_yaml(tmp_path / "a.yaml"), ConfigError)
    if config is not None:
        in_range(config)


@fuzzed(200)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_any_file_is_words_or_one_line_that_does_not_quote_it(tmp_path, data):
    (tmp_path / "words.txt").write_bytes(data)
    words = told_or_done(lambda: read_words(tmp_path / "words.txt"), ConfigError)
    if words is None:
        with pytest.raises(ConfigError) as error:
            read_words(tmp_path / "words.txt")
        said = str(error.value).replace(str(tmp_path), "")
        lines = [line for line in data.decode("utf-8", "ignore").splitlines() if len(line) > 12]
        assert not any(line in said for line in lines)
    else:
        assert all(word and len(word) <= 80 and not word.startswith("#") and "\n" not in word for word in words)


@fuzzed(200)
@given(st.lists(st.text(max_size=30), max_size=5))
@example(["\x00"])
@example(["~nobody/words.txt"])
@example(["a" * 5000 + ".txt"])
def test_any_list_is_words_or_one_line(words):
    found = told_or_done(lambda: resolve_words(words, ("dog",)), ConfigError)
    if found is not None:
        assert len(set(found)) == len(found) and all(word == " ".join(word.split()) and word for word in found)
