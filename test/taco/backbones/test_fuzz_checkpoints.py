"""Whatever a file of weights holds, it is loaded, or one line says what is wrong; no code runs, and memory stays bounded."""

import io
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from taco.backbones.checkpoint import read_state_dict
from taco.backbones.tensorflow_files import read_bundle, read_constants
from taco.backbones.yamnet import YAMNet
from taco.engines import load_network
from taco.errors import WeightsError
from taco.weights import checksums
from test.taco.backbones.test_embedded_models import bundle_files
from test.taco.fuzzing import DAMAGE, damaged, fuzzed, told_or_done

TENSORS = {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.ones(4), "count": torch.tensor(3)}


class _Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def files(folder):
    """{loader: (bytes of a good file, its name, what reads it)}, of every format that there is."""
    torch.save({"state_dict": TENSORS, "epoch": 3, "lr": np.float32(0.1)}, folder / "zip.pt")
    torch.save(TENSORS, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(TENSORS, folder / "a.safetensors")
    return {
        "torch zip": (folder / "zip.pt", lambda path: read_state_dict(path, "model")),
        "torch old": (folder / "old.pt", lambda path: read_state_dict(path, "model")),
        "safetensors": (folder / "a.safetensors", lambda path: read_state_dict(path, "model")),
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return files(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("format", ("torch zip", "torch old", "safetensors"))
@fuzzed(150)
@given(DAMAGE)
def test_any_checkpoint_is_loaded_or_one_line(format, good, tmp_path, damage):
    path, read = good[format]
    other = tmp_path / path.name
    other.write_bytes(damaged(path.read_bytes(), damage))
    found = told_or_done(lambda: read(other), WeightsError)
    if found is not None:
        assert all(isinstance(value, torch.Tensor) for value in found.values())
        assert sum(value.numel() for value in found.values()) < 1000


OPCODES = [op for op in vars(pickle).values() if isinstance(op, bytes) and len(op) == 1]
PICKLES = st.lists(st.sampled_from(OPCODES) | st.binary(max_size=6), max_size=30).map(b"".join)


@fuzzed(150)
@given(PICKLES, st.booleans())
@example(b"cos\nsystem\n(S'touch /tmp/x'\ntR.", False)
def test_any_pickle_is_refused_in_one_line(tmp_path, code, zipped):
    path = tmp_path / "a.pt"
    path.write_bytes(code)
    if zipped:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
            packed.writestr("a/data.pkl", code)
            packed.writestr("a/version", b"3\n")
    told_or_done(lambda: read_state_dict(path, "model"), WeightsError)


def test_no_checkpoint_runs_code_wherever_it_lies(tmp_path):
    for number, hidden in enumerate(
        ({"state_dict": _Runs(tmp_path / "ran")}, [_Runs(tmp_path / "ran")], _Runs(tmp_path / "ran"))
    ):
        for new in (True, False):
            torch.save(hidden, tmp_path / f"{number}.pt", _use_new_zipfile_serialization=new)
            with pytest.raises(WeightsError, match="code that weights do not need|truncated or of another kind"):
                read_state_dict(tmp_path / f"{number}.pt", "model")
    assert not (tmp_path / "ran").exists()


@fuzzed(150)
@given(DAMAGE, DAMAGE)
def test_any_tensorflow_checkpoint_is_loaded_or_one_line(tmp_path, one, other):
    index, data = bundle_files(tmp_path, {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)})
    index.write_bytes(damaged(index.read_bytes(), one))
    data.write_bytes(damaged(data.read_bytes(), other))
    told_or_done(lambda: read_bundle(index, data), WeightsError)


def graph():
    """A frozen graph of two constants: one written out, one number for all."""

    def field(number, value):
        return bytes([number << 3 | 2, len(value)]) + value

    def node(name, shape, numbers):
        dims = b"".join(field(2, bytes([1 << 3, side])) for side in shape)
        tensor = bytes([1 << 3, 1]) + field(2, dims) + field(4, np.asarray(numbers, np.float32).tobytes())
        value = field(1, b"value") + field(2, field(8, tensor))
        return field(1, field(1, name) + field(2, b"Const") + field(5, value))

    return node(b"a", (2, 3), range(6)) + node(b"b", (4, 5), [1.0])


@fuzzed(200)
@given(DAMAGE)
@example(("cut", 1.0))
def test_any_frozen_graph_is_loaded_or_one_line(tmp_path, damage):
    (tmp_path / "g.pb").write_bytes(damaged(graph(), damage))
    found = told_or_done(lambda: read_constants(tmp_path / "g.pb"), WeightsError)
    if damage == ("cut", 1.0):
        assert found["a"].shape == (2, 3) and (found["b"] == np.ones((4, 5))).all()


@fuzzed(40)
@given(st.binary(max_size=300), st.booleans())
def test_any_network_is_loaded_or_one_line(tmp_path, data, zipped):
    """Of YAMNet and of what an inference engine loads."""
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    if zipped:
        with zipfile.ZipFile(path, "a") as packed:
            packed.writestr("yamnet_label_list.txt", "Speech\n")
    told_or_done(lambda: YAMNet.from_file(path), WeightsError)
    told_or_done(lambda: load_network(path, ["out"], (32, 32)), WeightsError)


def onnx_file():
    from onnx import TensorProto, helper

    node = helper.make_node("Relu", ["image"], ["out"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 32, 32]) for name in ("image", "out")]
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    buffer = io.BytesIO()
    buffer.write(model.SerializeToString())
    return buffer.getvalue()


@fuzzed(60)
@given(DAMAGE)
@example(("change", [(0.59375, 128)]))
def test_any_damaged_network_is_loaded_or_one_line(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.onnx").write_bytes(damaged(onnx_file(), damage))
    told_or_done(lambda: load_network(tmp_path / "a.onnx", ["out"], (32, 32)), WeightsError)


@fuzzed(80)
@given(
    st.binary(max_size=60) | st.sampled_from((b"[]", b'{"a.pt": 3}', b'{"a.pt": {"sha256": 3}}', b"[" * 3000, b'{"a.pt": {}}'))
)
def test_any_record_of_checksums_is_heeded_or_made_anew(tmp_path, data):
    path = tmp_path / "a.pt"
    path.write_bytes(random.Random(0).randbytes(100))
    (tmp_path / checksums.NAME).write_bytes(data)
    told_or_done(lambda: checksums.check(path), WeightsError)
