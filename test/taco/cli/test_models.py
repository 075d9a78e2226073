"""``taco models``: what each set needs, and the speed of those that can be run."""

import json

from taco.cli import doctor, main, models


def test_needs_are_listed_without_a_run(tmp_path, capsys):
    assert main(["models", "--no-run", "--json", "--dir", str(tmp_path)]) == 0
    rows = {tuple(row["settings"].values()): row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [("embedded",), ("open", "MobileCLIP2-S0"), ("open",), ("paper",)]
    assert rows[("open",)]["missing"] == ["convnext_base_w", "gpt2", "msclap"] and rows[("open",)]["download_mb"] == 1410
    assert rows[("open",)]["licences"] == ["MIT", "MS-PL"] and "apple-amlr" in rows[("open", "MobileCLIP2-S0")]["licences"]
    assert not any("frame_ms" in row for row in rows.values())


def test_a_missing_set_is_timed_on_random_weights_where_it_can_be(monkeypatch):
    ran = []

    def trial(config, size, backbones=None):
        ran.append((config.models.name, backbones))
        return {"frame_ms": 12.3, "stage_ms": {"image": 10.0}, "peak_memory_mb": 400, "engine": "torch", "problems": []}

    class Here:
        """A pool that runs in this process."""

        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def submit(self, work, *args):
            value = work(*args)
            return type("Future", (), {"result": lambda self: value})()

    monkeypatch.setattr(models, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(doctor, "trial", trial)
    monkeypatch.setattr("taco.backbones.untrained.load", lambda models: "random towers")
    assert models.measured({"models.name": "open"}, ["msclap"])["weights"] == "random"
    assert models.measured({"models.name": "embedded"}, [])["weights"] == "own"
    assert models.measured({"models.name": "paper"}, ["fcclip"]) == {"why": "not run: fcclip missing"}
    assert ran == [("open", "random towers"), ("embedded", None)]
    row = {
        "for": "any word",
        "settings": {"models.name": "open"},
        "download_mb": 1410,
        "licences": ["MIT"],
        "missing": ["msclap"],
    }
    line = models.table([row | models.measured({"models.name": "open"}, ["msclap"])])[1]
    assert "400 MB" in line and "12 ms" in line and "random; MIT" in line
