"""Whatever stands on the command line: status 0, 1 or 2, at most one line of error, never a trace."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taco import cli, segment
from taco.cli import COMMANDS
from taco.config import all_settings
from taco.errors import WeightsError
from test.taco.cli.made_inputs import MadePipeline, make_clip, make_still
from test.taco.fuzzing import DAMAGE, damaged, fuzzed

# What takes minutes, opens a port or a device, or asks the network: only their arguments are tried.
PARSED_ONLY = ("bench", "live", "doctor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_clip(folder / "clip.mp4", 0.3)
    make_still(folder, 0.3)
    (folder / "words.txt").write_text("dog\ncat\n")
    (folder / "settings.yaml").write_text("audio.window_s: 0.5\n")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """run(words) -> status, with what it said checked."""
    import importlib

    monkeypatch.chdir(folder)
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TACO_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket.connect", lambda *a: (_ for _ in ()).throw(OSError(101, "no network in this test")))
    monkeypatch.setattr("taco.package_files._run", lambda *a, **k: (_ for _ in ()).throw(WeightsError("no network in this test")))
    monkeypatch.setattr(segment, "make_pipeline", MadePipeline)
    for name in PARSED_ONLY:
        monkeypatch.setattr(importlib.import_module(f"taco.cli.{name}"), "run", lambda args: 0)

    def run(words):
        capsys.readouterr()
        try:
            status = cli.main(list(words))
        except SystemExit as error:  # argparse: --help, --version, bad usage
            status = error.code
        printed, said = capsys.readouterr()
        assert status in (0, 1, 2), (words, status)
        assert "Traceback" not in said, (words, said)
        errors = [
            line for line in said.splitlines() if line.startswith("taco") and ": error: " in line or line.startswith("taco: ")
        ]
        if status:
            # What a look-up lacks is its result; without a command the help is told.
            assert errors or printed or (not words and said.startswith("usage: ")), (words, said)
        return status

    return run


KNOWN = (
    "--json --help --set --config --preset --models -o --out --every --start --end --fps --coco --html --no-overlay --overwrite "
    "--from --dir --url --markdown --model --data --split --method --seeds --limit --word --port --camera --mic --version "
    "clip.mp4 image.png sound.wav words.txt settings.yaml empty . none.mp4 -x.mp4 a:b /dev/null out out.onnx "
    "list verify path fetch embedded fcclip all s4 dog fast image 1 0 -1 0.5s 1e999 nan standin models.image=standin"
)
NAMES = [item.path for item in all_settings()]
WORDS = st.one_of(
    st.sampled_from(list(COMMANDS)),
    st.sampled_from(KNOWN.split()),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(("1", "[", "2000-13-45", "{a: *b}", "", "null", "[1, 2]", "x"))).map(
        "=".join
    ),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=8),
)


@fuzzed(150)
@given(st.sampled_from(list(COMMANDS)), st.lists(WORDS, max_size=6))
@example("config", ["--set", "audio.window_s=2000-13-45"])
@example("config", ["--config", "clip.mp4"])
@example("words", ["--set", "models.word_bank=[" + "a" * 300 + "]"])
@example("segment", ["/dev/null", "-o", "out"])
@example("explain", ["image.png", "none.wav"])
def test_any_command_line_ends_in_order(run, command, words):
    run([command, *words])


@fuzzed(60)
@given(st.lists(WORDS, max_size=5))
def test_any_words_end_in_order(run, words):
    run(words)


@fuzzed(60)
@given(st.sampled_from(("clip.mp4", "image.png", "sound.wav")), DAMAGE)
@example("clip.mp4", ("cut", 0.09375))  # leaves a video stream of no known kind
@example("clip.mp4", ("change", [(0.41015625, 128)]))  # metadata that are no UTF-8
def test_any_damaged_input_is_outlined_or_one_line(run, folder, tmp_path, name, damage):
    data = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(damaged(data, damage))
    other = [str(folder / "sound.wav")] if name == "image.png" else []
    picture = [str(folder / "image.png")] if name == "sound.wav" else []
    run(["segment", *picture, str(tmp_path / name), *other, "-o", str(tmp_path / "out"), "--overwrite"])
