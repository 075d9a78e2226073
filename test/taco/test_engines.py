"""ONNX networks: made here with onnx.helper, cut to the outputs that are asked for, run by whichever engine is installed."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from taco import engines
from taco.engines import ENGINES, Network, cut_graph, installed_engines, load_network
from taco.errors import MissingPackageError, ValueRangeError, WeightsError

INSTALLED = installed_engines()
SIZE = (6, 8)  # that the networks are written for
WEIGHTS = np.random.default_rng(1).normal(size=(2, 3, 3, 3)).astype(np.float32)


def need(*names):
    missing = [name for name in names if name not in INSTALLED]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: it is optional, `pip install {' '.join(missing)}`")


def info(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def network(nodes=(), outputs=(), inputs=(), ir_version=8):
    """relu = Relu(picture), both = relu + relu, edges = Conv(relu), gone = Sigmoid(Conv(both)); for pictures of 6 x 8."""
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["picture"], ["relu"]),
            helper.make_node("Add", ["relu", "relu"], ["both"]),
            helper.make_node("Conv", ["relu", "weights"], ["edges"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["both", "others"], ["hidden"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["hidden"], ["gone"]),
            *nodes,
        ],
        "made",
        [info("picture", (1, 3, *SIZE)), *inputs],
        [*(info(name, (1, n, *SIZE)) for name, n in (("relu", 3), ("both", 3), ("edges", 2), ("gone", 2))), *outputs],
        initializer=[numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(-WEIGHTS, "others")],
        value_info=[info("hidden", (1, 2, *SIZE))],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=ir_version).SerializeToString()


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "made.onnx"
    file.write_bytes(network())
    return file


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(1, 3, 4, 10)).astype(np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_gives_the_named_outputs_at_the_size_asked_for(path, values, engine):
    need(engine)
    run = load_network(path, ["both"], (4, 10), engine=engine)
    assert isinstance(run, Network) and run.engine == engine and run.size == (4, 10)
    found = run(values)
    assert list(found) == ["both"] and found["both"].dtype == torch.float32
    np.testing.assert_allclose(found["both"], 2 * np.maximum(values, 0), rtol=2e-2, atol=1e-2)  # half precision may be used


def test_both_engines_give_the_same(path, values):
    need(*ENGINES)
    one, other = (load_network(path, ["gone", "edges"], (4, 10), engine=engine)(values) for engine in ENGINES)
    assert list(one) == list(other) == ["gone", "edges"]
    for name in one:
        assert one[name].shape == other[name].shape == (1, 2, 4, 10)
        np.testing.assert_allclose(one[name], other[name], rtol=5e-2, atol=0.1)  # one may compute in half precision


def test_what_only_other_outputs_need_is_cut_away():
    graph = onnx.load_model_from_string(cut_graph(network(), ["edges"], (4, 10))).graph
    assert [node.op_type for node in graph.node] == ["Relu", "Conv"]
    assert [value.name for value in graph.output] == ["edges"]
    assert [value.name for value in graph.initializer] == ["weights"]


def test_the_cut_model_is_valid_and_all_its_sizes_follow_from_the_inputs():
    cut = onnx.load_model_from_string(cut_graph(network(), ["gone"], (4, 10)))
    onnx.checker.check_model(cut, full_check=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for part in [onnx.shape_inference.infer_shapes(cut, strict_mode=True).graph]
        for value in [*part.input, *part.value_info, *part.output]
    }
    assert shapes["picture"] == [1, 3, 4, 10] and shapes["hidden"] == shapes["gone"] == [1, 2, 4, 10]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_a_cut_model_keeps_to_the_standard_also_where_the_file_is_old(ir_version):
    packed = network(inputs=[info("weights", WEIGHTS.shape), info("others", WEIGHTS.shape)], ir_version=ir_version)
    cut = onnx.load_model_from_string(cut_graph(packed, ["edges"], (4, 10)))
    onnx.checker.check_model(cut)
    assert [value.name for value in cut.graph.input] == ["picture"]


@pytest.mark.parametrize("engine", ENGINES)
def test_old_files_that_list_their_constants_as_inputs_are_taken(tmp_path, path, values, engine):
    need(engine)
    old = tmp_path / "old.onnx"
    old.write_bytes(network(inputs=[info("weights", WEIGHTS.shape), info("others", WEIGHTS.shape)], ir_version=3))
    found, wanted = (load_network(file, ["edges"], (4, 10), engine=engine)(values)["edges"] for file in (old, path))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.skipif(not INSTALLED, reason="no engine is installed")
@pytest.mark.parametrize(
    "content, outputs, said",
    [
        (b"", ["relu"], "relu among none"),
        (b"no model", ["relu"], "damaged"),
        (network()[:-9], ["relu"], "damaged"),
        (network(), ["nose"], "nose among relu, both, edges, gone"),
        (network(inputs=[info("second", (1, 3, *SIZE))]), ["relu"], "2 inputs"),
        (network(nodes=[helper.make_node("Relu", ["both"], ["relu"])]), ["relu"], "damaged"),
        (network(nodes=[helper.make_node("Nonsense", ["both"], ["odd"])], outputs=[info("odd", (1,))]), ["odd"], "Nonsense"),
        (network().replace(b"picture", b"PICTURE", 1), ["relu"], "PICTURE"),  # the first node takes what nobody gives
    ],
    ids=["empty", "no model", "cut short", "output missing", "two inputs", "a name twice", "unknown step", "input missing"],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path, content, outputs, said):
    file = tmp_path / "bad.onnx"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=said) as caught:
        load_network(file, outputs, (4, 4))
    assert "\n" not in str(caught.value) and "bad.onnx" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="missing.onnx"):
        load_network(tmp_path / "missing.onnx", ["relu"], (4, 4), engine=INSTALLED[0])


def test_an_input_that_is_no_picture_is_refused():
    flat = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "flat", [info("x", (1, 3))], [info("y", (1, 3))])
    with pytest.raises(ValueError, match="2 dimensions"):
        cut_graph(helper.make_model(flat).SerializeToString(), ["y"], (4, 4))


def test_a_network_with_branches_inside_is_not_cut():
    inner = helper.make_graph([helper.make_node("Relu", ["both"], ["inside"])], "inner", [], [info("inside", (1, 3, *SIZE))])
    branch = helper.make_node("If", ["relu"], ["branch"], then_branch=inner, else_branch=inner)
    packed = network(nodes=[branch], outputs=[info("branch", (1, 3, *SIZE))])
    with pytest.raises(ValueError, match="branches"):
        cut_graph(packed, ["branch"], (4, 4))
    cut_graph(packed, ["both"], (4, 4))  # it is not in the way of outputs that do not need it


def test_no_engine_or_an_unknown_one_is_said(path, monkeypatch):
    with pytest.raises(ValueRangeError, match="tensorrt"):
        load_network(path, ["relu"], (4, 4), engine="tensorrt")
    monkeypatch.setattr(engines, "installed_engines", lambda: ())
    for engine in ("auto", "onnxruntime"):
        with pytest.raises(MissingPackageError, match="pip install"):
            load_network(path, ["relu"], (4, 4), engine=engine)


@pytest.mark.skipif(not INSTALLED, reason="no engine is installed")
def test_a_missing_onnx_package_is_said(path, monkeypatch):
    find = engines.importlib.util.find_spec
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    with pytest.raises(MissingPackageError, match="pip install onnx`"):
        load_network(path, ["relu"], (4, 4))


@pytest.mark.skipif(not INSTALLED, reason="wants an engine")
def test_a_cut_file_is_kept_and_a_damaged_one_is_made_anew(path, values, tmp_path, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    wanted = load_network(path, ["edges"], (4, 10))(values)["edges"]
    (kept,) = (tmp_path / "cache" / "engines").iterdir()
    before = kept.read_bytes()
    with monkeypatch.context() as once:
        once.setattr(engines, "cut_graph", lambda *_: pytest.fail("it was cut again"))
        assert torch.equal(load_network(path, ["edges"], (4, 10))(values)["edges"], wanted)
    kept.write_bytes(b"damaged")
    assert torch.equal(load_network(path, ["edges"], (4, 10))(values)["edges"], wanted) and kept.read_bytes() == before
    load_network(path, ["both"], (4, 10))
    assert len(list(kept.parent.iterdir())) == 2  # other outputs, another file


@pytest.mark.skipif(not INSTALLED, reason="wants an engine")
def test_without_a_writable_cache_it_runs_all_the_same(path, values, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, no folder")
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    assert load_network(path, ["edges"], (4, 10))(values)["edges"].shape == (1, 2, 4, 10)
