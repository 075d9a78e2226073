"""Settings as ROS parameters, from one walk over ``taco.config``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.parameter import Parameter

from taco.config import MicrophoneConfig, Setting, TacoConfig, all_settings, flatten
from taco.config_schema import settings_in
from taco.errors import ConfigError

ROS_PARAMETERS = ("use_sim_time", "start_type_description_service", "qos_overrides.")


def declared_by_ros(name: str) -> bool:
    """Whether ROS itself declares this parameter."""
    return name.startswith(ROS_PARAMETERS)


class Parameters:
    """The settings of one node as its parameters.

    node: an rclpy node; its parameters are declared here. config: a TacoConfig or one section of settings.
    Wrong values given at start do not stop the node: ``problem`` names them, and ``config`` raises on them.
    """

    def __init__(self, node, config):
        self._node = node
        self._default = config
        self._wrong: dict[str, str] = {}
        self.word_file: Path | None = None
        # rclpy has no public way to see parameters that were given but never declared
        given = {name: p.value for name, p in node._parameter_overrides.items() if p.type_ != Parameter.Type.NOT_SET}
        settings = {item.path: item for item in parameter_settings(config)}
        for name, value in given.items():
            if not declared_by_ros(name) and name not in settings:
                self._note(name, value)
        for name, item in settings.items():
            value = item.default
            if name in given and self._note(name, given[name]):
                value = from_parameter(item, given[name])
            self._declare(item, value)

    def _declare(self, item: Setting, value) -> None:
        if not isinstance(item.default, tuple):
            self._node.declare_parameter(item.path, item.check(value), descriptor(item), ignore_override=True)
            return
        # rclpy takes an empty list for bytes: declare the type, then set the value
        numbers = item.default and isinstance(item.default[0], float)
        kind = Parameter.Type.DOUBLE_ARRAY if numbers else Parameter.Type.STRING_ARRAY
        self._node.declare_parameter(item.path, kind, descriptor(item), ignore_override=True)
        self._node.set_parameters([Parameter(item.path, kind, list(value))])

    def _note(self, name: str, value) -> bool:
        try:
            with_parameters(self._default, {name: value})
        except ConfigError as error:
            self._wrong[name] = str(error)
            return False
        self._wrong.pop(name, None)
        return True

    @property
    def problem(self) -> str:
        """What is wrong with the parameters given at start, in one line; "" where all are right."""
        return "; ".join(self._wrong.values())

    def config(self):
        """The settings as the parameters are now; ConfigError where one given at start is wrong.

        A file of words is read here, off the models' thread; ``word_file`` is its path, None for words.
        """
        if self._wrong:
            raise ConfigError(self.problem)
        names = [item.path for item in parameter_settings(self._default)]
        config = with_parameters(self._default, {p.name: p.value for p in self._node.get_parameters(names)})
        if not isinstance(config, TacoConfig):
            return config
        from taco.backbones.word_bank import read_words, word_file  # loads torch, which the microphone starts without

        self.word_file = word_file(config.models.word_bank)
        return config.updated({"models.word_bank": tuple(read_words(self.word_file))}) if self.word_file else config

    def check_change(self, config, parameters: Iterable[Parameter], running: bool):
        """(SetParametersResult, changed config) for parameters to set. While ``running`` only live ones may change."""
        live = {item.path: item.live for item in parameter_settings(self._default)}
        ours = {p.name: p.value for p in parameters if not declared_by_ros(p.name)}
        frozen = [name for name in ours if running and not live.get(name, True)]
        if frozen:
            reason = f"{frozen[0]} cannot change while the node is configured; call deactivate and cleanup first"
            return SetParametersResult(successful=False, reason=reason), config
        try:
            config = with_parameters(config, ours)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error)), config
        for name in ours:
            self._wrong.pop(name, None)
        return SetParametersResult(successful=True), config


def parameter_settings(config) -> list[Setting]:
    """The settings of a TacoConfig (dotted paths) or of a single section (plain names)."""
    if isinstance(config, TacoConfig):
        return list(all_settings(config))
    return [dataclasses.replace(item, path=item.path.removeprefix(".")) for item in settings_in("", config)]


def with_parameters(config, flat: Mapping[str, object]):
    """``config`` with settings changed. flat: values as ROS gives them, by parameter. ConfigError names what is wrong."""
    known = {item.path: item for item in parameter_settings(config)}
    values = {name: from_parameter(known[name], value) if name in known else value for name, value in flat.items()}
    if isinstance(config, TacoConfig):
        return config.updated(values)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]}; known are {', '.join(known)}")
    return dataclasses.replace(config, **{name: known[name].check(value) for name, value in values.items()})


def from_parameter(item: Setting, value):
    """A parameter's value as the setting's: arrays as tuples without empty words, which stand for an empty list in ROS."""
    if isinstance(item.default, tuple):
        if value is None:
            return ()
        if not isinstance(value, str):
            return tuple(entry for entry in value if entry != "")
    return value


def descriptor(item: Setting) -> ParameterDescriptor:
    """Description with unit, choices and range."""
    notes = [f"Unit: {item.unit}." if item.unit else "", f"One of: {', '.join(map(str, item.choices))}." if item.choices else ""]
    notes.append("May change while running." if item.live else "")
    out = ParameterDescriptor(description=" ".join([item.help, *filter(None, notes)]))
    ranged = item.minimum is not None and item.maximum is not None
    if ranged and item.type is float:
        out.floating_point_range = [FloatingPointRange(from_value=float(item.minimum), to_value=float(item.maximum))]
        out.dynamic_typing = True  # so that `ros2 param set ... 1` works for a float
    elif ranged and item.type is int:
        out.integer_range = [IntegerRange(from_value=int(item.minimum), to_value=int(item.maximum), step=0)]
    return out


def parameter_file() -> str:
    """config/taco.yaml: every parameter of both nodes with its default, help, unit and range."""
    lines = [
        "# Parameters of the nodes, all at their defaults. Written by `make tables`.",
        "# Copy this file, keep the lines you change and pass it as params_file:=... to the launch file.",
        "# yaml-language-server: $schema=taco.schema.json",
    ]
    for node, config in (("taco_node", TacoConfig()), ("microphone", MicrophoneConfig())):
        lines += [f"/**/{node}:", "  ros__parameters:"]
        for item in parameter_settings(config):
            lines += [f"    # {_comment(item)}", f"    {item.path}: {_yaml(item.default)}"]
    return "\n".join(lines) + "\n"


def _comment(item: Setting) -> str:
    limits = " | ".join(str(choice) or '""' for choice in item.choices)
    if not limits and item.minimum is not None and item.maximum is not None:
        limits = f"{item.minimum:g} to {item.maximum:g}"
    limits = " ".join(filter(None, (limits, item.unit)))
    return item.help + (f" [{limits}]" if limits else "") + (" (live)" if item.live else "")


def _yaml(value) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def read_parameter_file(path: str | Path, node: str) -> dict[str, object]:
    """The parameters of one node in a file such as config/taco.yaml, flattened to dotted names."""
    import yaml

    sections = yaml.safe_load(Path(path).read_text())
    return flatten(sections[f"/**/{node}"]["ros__parameters"])
