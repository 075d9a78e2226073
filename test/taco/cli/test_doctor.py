"""``taco doctor``: it tells what would run, and by its exit status whether it would."""

import json
import sys

import pytest

from taco import cli
from taco.cli import doctor
from taco.config import ModelsConfig
from test.taco import synthetic_weights as synthetic


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TACO_MODEL_DIR", raising=False)


def options(settings):
    return [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def test_a_whole_set_of_models_runs_a_frame(tmp_path, capsys):
    settings = synthetic.save_paper_set(tmp_path / "models")
    assert cli.main(["doctor", "--json", "--size", "64x48", *options(settings)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["runs"] and report["problems"] == []
    trial = report["trial"]
    assert set(trial["stage_ms"]) >= {"image", "sound", "factorize", "segment"} and all(v > 0 for v in trial["stage_ms"].values())
    assert trial["size"] == [48, 64] and trial["words"] == 4 and trial["peak_memory_mb"] > 50
    assert report["devices"]["device"] == "cpu" and report["devices"]["precision"] == "float32"
    assert {row["part"] for row in report["weights"]["files"]} == {"msclap", "gpt2", "fcclip"}
    assert report["packages"]["needed"]["torch"].startswith("2.")
    assert isinstance(report["ros"]["found"], bool) and isinstance(report["microphones"]["found"], list)


def test_missing_weights_stop_with_the_command(tmp_path, capsys):
    assert cli.main(["doctor", "--set", "models.name=paper", "--set", f"models.model_dir={tmp_path}"]) == 1
    page = capsys.readouterr().out
    assert f"run `taco weights fetch paper --dir {tmp_path}`" in page
    assert "missing  CLAP_weights_2023.pth" in page and page.strip().endswith("cannot run.")
    assert "one frame" not in page


def test_a_missing_extra_comes_before_missing_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert cli.main(["doctor", "--models", "paper", "--set", f"models.model_dir={tmp_path}"]) == 1
    extra, weights = (line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM"))
    assert "open_clip_torch" in extra and "taco-sounding[paper]" in extra and "taco weights fetch paper" in weights


def test_a_laptop_without_ros_is_no_error_of_python(monkeypatch, tmp_path):
    (tmp_path / "rclpy.py").write_text("raise ModuleNotFoundError(\"No module named 'rclpy'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.ros() == {"found": False, "why": "not installed (only needed on a robot)"}


def test_damaged_weights_are_found_by_the_trial(tmp_path, capsys):
    settings = synthetic.save_paper_set(tmp_path / "models")
    (tmp_path / "models" / "paper" / "fcclip_cocopan.pth").write_bytes(b"not weights")
    assert cli.main(["doctor", "--size", "64x48", *options(settings)]) == 1
    page = capsys.readouterr().out
    assert "PROBLEM   the trial run failed: FC-CLIP: wanted a whole checkpoint" in page


def test_a_missing_gpu_is_a_problem_not_a_silent_cpu(capsys):
    assert cli.main(["doctor", "--no-run", "--set", "models.device=cuda:5"]) == 1
    assert "models.device: wanted cuda:5" in capsys.readouterr().out


def test_the_page_names_every_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "ros", lambda: {"found": False, "why": "No module named 'rclpy'"})
    cards = {"found": [{"name": "USB mic", "channels": 2, "sample_rate": 48000}], "why": ""}
    monkeypatch.setattr(doctor, "microphones", lambda: cards)
    assert cli.main(["doctor", "--no-run", "--set", f"models.model_dir={tmp_path}"]) == 1
    page = capsys.readouterr().out
    for part in (
        "Python",
        "packages",
        "optional",
        "GPUs",
        "models    embedded",
        "weights",
        "ROS       No module",
        "USB mic (2 ch, 48000 Hz)",
    ):
        assert part in page
    assert "taco weights fetch embedded" in page


@pytest.mark.parametrize("size", ["640", "0x480", "640x", "99999x1", "axb"])
def test_wrong_sizes_are_bad_usage(size, capsys):
    assert cli.main(["doctor", "--size", size]) == 2
    assert "WxH" in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package-here"))
    found = doctor.packages(ModelsConfig())
    assert found["problems"] == ["no-such-package-here is not installed; run `pip install no-such-package-here`"]
