"""Settings: one owner of every default, misspelt names found, ranges kept."""

import dataclasses

import pytest
import yaml

from taco.cli import main
from taco.config import FactorizationConfig, TacoConfig, all_settings, unused_settings
from taco.errors import ConfigError, TacoError


def test_every_setting_explains_itself_and_its_default_is_allowed():
    settings = list(all_settings())
    assert len({item.path for item in settings}) == len(settings) > 40
    for item in settings:
        assert item.help.strip().endswith((".", "?")), item.path
        assert item.check(item.default) == item.default
        if item.type in (int, float) and not item.choices:
            assert item.minimum is not None and item.maximum is not None, f"{item.path} has no range"


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TacoConfig().audio.window_s = 2.0


def test_dict_and_yaml_give_the_same_config_back(tmp_path):
    config = TacoConfig.from_dict({"audio": {"window_s": 2}, "models.word_bank": ["dog", "siren"]})
    assert config.audio.window_s == 2.0 and config.models.word_bank == ("dog", "siren")
    assert TacoConfig.from_dict(config.to_dict()) == config
    path = tmp_path / "taco.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert TacoConfig.from_yaml(path) == config
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": config.to_dict()}}))
    assert TacoConfig.from_yaml(path) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"audio": {"windows_s": 1.0}}, "did you mean audio.window_s"),
        ({"nonsense": 3}, "unknown setting nonsense"),
        ({"audio.window_s": 99}, "wanted 0.1 to 10.0 s, got 99.0"),
        ({"audio.window_s": float("nan")}, "got nan"),
        ({"audio.window_s": "long"}, "wanted float, got str"),
        ({"audio.window_s": True}, "wanted float, got bool"),
        ({"factorization.n_factors": 2.5}, "wanted int"),
        ({"factorization.solver": "blok"}, "did you mean block"),
        ({"factorization.reconstruction_weights": [1.0]}, "wanted 2 values, got 1"),
        ({"models.word_bank": 3}, "wanted a list"),
    ],
)
def test_wrong_settings_are_named_in_one_line(values, words):
    with pytest.raises(ConfigError, match=words) as caught:
        TacoConfig.from_dict(values)
    assert "\n" not in str(caught.value) and isinstance(caught.value, (TacoError, ValueError))


def test_sections_check_themselves_when_built():
    with pytest.raises(ValueError, match="n_factors"):
        FactorizationConfig(n_factors=0)


def test_unreadable_yaml(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\n  b")
    with pytest.raises(ConfigError, match="broken.yaml") as caught:
        TacoConfig.from_yaml(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="missing.yaml"):
        TacoConfig.from_yaml(tmp_path / "missing.yaml")
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="mapping"):
        TacoConfig.from_yaml(path)


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [
        ({}, {"learning_rate": "solver gradient"}),
        ({"solver": "gradient"}, {"binding": "solver block", "start": "solver block", "trust_region": "solver block"}),
        ({"binding": "penalty"}, {"learning_rate": "solver gradient", "trust_region": "binding recent"}),
        ({"descriptor": "factor"}, {"learning_rate": "solver gradient", "trust_region": "descriptor component"}),
        (
            {"penalty": "none", "temporal": "none", "solver": "gradient"},
            {
                "binding": "solver block",
                "start": "solver block",
                "trust_region": "solver block",
                "penalty_weight": "penalty min or mean",
                "reverse_penalty_weight": "penalty min or mean",
                "temporal_weight": "temporal causal or joint",
            },
        ),
    ],
)
def test_what_a_setting_needs_and_lacks_is_known(changes, unmet):
    config = TacoConfig(factorization=FactorizationConfig(**changes))
    found = {item.path: item.unmet for item in all_settings(config) if item.unmet}
    assert found == {f"factorization.{name}": lacks for name, lacks in unmet.items()}
    assert unused_settings(config) == [], "all at their defaults: nobody asked for them"


def test_changed_settings_without_use_are_told_in_one_line_each():
    config = TacoConfig.from_dict({"factorization": {"solver": "gradient", "start": "random", "trust_region": 0.3}})
    assert unused_settings(config) == [
        "factorization.start = 'random' is not used: it needs solver block",
        "factorization.trust_region = 0.3 is not used: it needs solver block",
    ]
    used = {"factorization": {"solver": "gradient", "learning_rate": 0.1, "penalty_weight": 7.0, "temporal_weight": 2.0}}
    assert unused_settings(TacoConfig.from_dict(used)) == []


def test_the_command_says_what_is_not_used_and_the_table_what_it_needs(capsys):
    assert main(["config"]) == 0
    plain = capsys.readouterr().out
    assert plain.count("Not used with these settings") == 1
    assert "Not used with these settings: it needs solver gradient." in plain.split("factorization.learning_rate")[1]
    assert main(["config", "--set", "factorization.solver=gradient"]) == 0
    paper = capsys.readouterr().out
    for name in ("binding", "start", "trust_region"):
        after = paper.split(f"factorization.{name} =")[1].splitlines()
        assert after[2].strip() == "Not used with these settings: it needs solver block."
    assert main(["config", "--markdown"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "factorization.trust_region" in line)
    assert row.endswith("Used with solver block, binding recent, descriptor component. |")
