"""The taco command: exit status, one-line errors, settings from files and options."""

import json
import subprocess
import sys

import pytest

from taco import __version__
from taco.cli import COMMANDS, main
from taco.config import TacoConfig


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"taco {name}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["no-such-command"], ["config", "--nonsense"]])
def test_bad_usage_is_status_2(argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_each_action_on_weights_has_its_own_help(capsys):
    for action in ("list", "fetch", "verify", "path"):
        with pytest.raises(SystemExit):
            main(["weights", action, "--help"])
        told = capsys.readouterr().out
        assert f"taco weights {action}" in told and ("--from" in told) == (action == "fetch")


def test_taco_alone_prints_the_help(capsys):
    assert main([]) == 2
    printed = capsys.readouterr().err
    assert all(f"    {name} " in printed for name in COMMANDS)


def test_help_imports_no_command_and_no_model():
    code = (
        "import sys; from taco.cli import main; main([]); assert not {'torch', 'numpy', 'cv2', 'taco.config'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_config_prints_what_it_was_given(capsys):
    assert main(["config", "--json", "--set", "audio.window_s=2", "--set", "models.word_bank=[dog, siren]"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["audio"]["window_s"] == 2.0 and values["models"]["word_bank"] == ["dog", "siren"]


def test_yaml_output_is_a_config_file(tmp_path, capsys):
    assert main(["config", "--yaml"]) == 0
    path = tmp_path / "all.yaml"
    path.write_text(capsys.readouterr().out)
    assert TacoConfig.from_yaml(path) == TacoConfig()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["config", "--set", "audio.windows_s=2"], "did you mean audio.window_s"),
        (["config", "--set", "audio.window_s"], "NAME=VALUE"),
        (["config", "--config", "none.yaml"], "none.yaml"),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(argv, words, capsys):
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and message.startswith("taco: ")


def test_the_set_of_models_has_a_short_name(capsys):
    assert main(["config", "--json", "--models", "paper"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["name"] == "paper"
    assert main(["config", "--models", "papper"]) == 2
    assert "papper" in capsys.readouterr().err


def test_a_preset_counts_more_than_the_defaults_and_less_than_a_file(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("models.image_size: 416\n")
    sizes = []
    for options in ([], ["--preset", "fast"], ["--preset", "fast", "--config", str(tmp_path / "mine.yaml")]):
        assert main(["config", "--json", *options]) == 0
        values = json.loads(capsys.readouterr().out)
        sizes.append((values["models"]["image_size"], values["concepts"]["max_concepts"]))
    assert sizes[1:] == [(320, 1), (416, 1)] and sizes[0] != sizes[1]
    assert main(["config", "--preset", "fats"]) == 2
    assert "wanted one of accurate, default, fast," in capsys.readouterr().err


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "taco.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"taco {__version__}"


def test_a_setting_that_the_solver_does_not_use_is_said_once_and_stops_nothing(capsys):
    assert main(["config", "--set", "factorization.solver=gradient", "--set", "factorization.trust_region=0.2"]) == 0
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("taco: factorization.trust_region = 0.2 is not used: it needs solver block")
    assert "Not used with these settings: it needs solver block" in told.out
    assert main(["config", "--set", "factorization.solver=gradient"]) == 0 and not capsys.readouterr().err
