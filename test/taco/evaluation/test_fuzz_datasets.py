"""Whatever a folder of a data set holds, it is read, or one line says what is wrong."""

import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taco.errors import MediaError
from taco.evaluation import datasets
from test.taco.evaluation import made_datasets
from test.taco.fuzzing import DAMAGE, damaged, fuzzed, told_or_done

LISTS = {
    "s4": "Single-source/s4_meta_data.csv",
    "ms3": "Multi-sources/ms3_meta_data.csv",
    "avss": "metadata.csv",
    "ade-sp": "prompted_segmentation.csv",
    "ade-sp-semantic": "prompted_segmentation.csv",
}
MAKERS = {"s4": made_datasets.s4, "ms3": made_datasets.ms3, "avss": made_datasets.avss}
CELLS = st.text(max_size=12) | st.sampled_from(
    ("nan", "inf", "-1e999", "../../..", "test", "v2", "x" * 256, "\x00", "774", "dog")
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{name: a folder with the data set}."""
    made = {name: make(tmp_path_factory.mktemp("whole") / name) for name, make in MAKERS.items()}
    ade = made_datasets.ade(tmp_path_factory.mktemp("whole") / "ade")
    return {**made, "ade-sp": ade, "ade-sp-semantic": ade}


def read(name, root, clips=1):
    """Reads the lists and the first clips, as an evaluation does."""
    dataset = datasets.load(name, root)
    return [clip.load() for clip in dataset.clips[:clips]]


@pytest.mark.parametrize("name", LISTS)
@fuzzed(60)
@given(st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=5), DAMAGE, st.booleans())
@example([["\n", "\r", "test"]], ("cut", 1.0), True)
@example([["a", "b", "inf", "inf"]], ("cut", 1.0), True)
@example([["x" * 256] * 4], ("cut", 1.0), True)
def test_any_list_is_read_or_one_line(name, whole, tmp_path, rows, damage, added):
    """Rows added to the list that belongs there, or the list damaged."""
    path = whole[name] / LISTS[name]
    kept = path.read_bytes()
    try:
        lines = "\n".join(",".join(row) for row in rows).encode("utf-8", "replace")
        path.write_bytes(kept + lines if added else damaged(kept, damage))
        told_or_done(lambda: read(name, whole[name]), MediaError)
    finally:
        path.write_bytes(kept)


@fuzzed(60)
@given(
    st.binary(max_size=40) | st.sampled_from((b"[" * 3000, b'{"a": NaN}', b'{"a": [1], "b": {}}', b"[1, 2]", b'{"": 0}', b"7"))
)
def test_any_list_of_classes_is_read_or_one_line(whole, data):
    path = whole["avss"] / "label2idx.json"
    kept = path.read_bytes()
    try:
        path.write_bytes(data)
        told_or_done(lambda: read("avss", whole["avss"]), MediaError)
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize("name", ("s4", "avss", "ade-sp"))
@fuzzed(40)
@given(st.integers(0, 30), DAMAGE)
def test_any_file_of_a_clip_is_read_or_one_line(name, whole, tmp_path, number, damage):
    clip = datasets.load(name, whole[name]).clips[0]
    path = clip.files()[number % len(clip.files())]
    kept = tmp_path / "kept"
    shutil.copyfile(path, kept)
    try:
        path.write_bytes(damaged(path.read_bytes(), damage))
        told_or_done(lambda: read(name, whole[name]), MediaError)
    finally:
        shutil.copyfile(kept, path)
