"""The schema of parameter files: what editors complete and check is what the nodes take."""

import json

import pytest
import yaml
from jsonschema import Draft7Validator

from taco_ros.parameter_schema import parameter_schema
from test import ROOT

SCHEMA = Draft7Validator(json.loads((ROOT / "config" / "taco.schema.json").read_text()))
FILES = [ROOT / "config" / "taco.yaml", *sorted((ROOT / "config" / "presets").glob("*.yaml"))]


def test_the_schema_is_the_one_that_the_code_writes():
    assert (ROOT / "config" / "taco.schema.json").read_text() == parameter_schema(), "run: make tables"
    Draft7Validator.check_schema(SCHEMA.schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_our_files_fit_and_name_the_schema(path):
    named = next(line for line in path.read_text().splitlines() if line.startswith("# yaml-language-server: $schema="))
    assert (path.parent / named.partition("$schema=")[2]).resolve() == ROOT / "config" / "taco.schema.json"
    SCHEMA.validate(yaml.safe_load(path.read_text()))


def problems(parameters, node="/**/taco_node"):
    return [error.message for error in SCHEMA.iter_errors({node: {"ros__parameters": parameters}})]


@pytest.mark.parametrize("node", ("taco_node", "/taco_node", "/robot1/taco_node", "/**"))
def test_other_ways_to_write_it_fit(node):
    assert not problems({"audio": {"window_s": 2}, "models.word_bank": ["dog"], "use_sim_time": True}, node)
    assert not problems({"qos_overrides./image.subscription.reliability": "reliable"}, node)


@pytest.mark.parametrize(
    "parameters",
    (
        {"audio.windows_s": 1.0},
        {"audio": {"windows_s": 1.0}},
        {"audio.window_s": 99.0},
        {"audio.window_s": "long"},
        {"models.engine": "onnx"},
        {"models.word_bank": "dog"},
        {"models.word_bank": [1]},
        {"factorization.reconstruction_weights": [1.0]},
        {"factorization.n_factors": 2.5},
        {"node.autostart": "yes"},
    ),
    ids=str,
)
def test_wrong_parameters_do_not_fit(parameters):
    assert problems(parameters)


def test_each_node_has_its_own_settings():
    assert not problems({"sample_rate": 48000}, "microphone") and problems({"sample_rate": 48000}, "taco_node")
    assert list(SCHEMA.iter_errors({"tako_node": {"ros__parameters": {}}})) and problems({}, "/x y/taco_node")
