"""config/taco.schema.json: a JSON Schema of the parameter files, from the settings; editors complete and check with it."""

from __future__ import annotations

import json
from typing import get_args, get_origin

from taco.config import MicrophoneConfig, Setting, TacoConfig
from taco_ros.parameters import parameter_settings

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
# ROS's own parameters, see ``declared_by_ros``.
OF_ROS = {
    "use_sim_time": {"type": "boolean", "description": "Use /clock."},
    "start_type_description_service": {"type": "boolean"},
    "qos_overrides": {"type": "object"},
}


def parameter_schema() -> str:
    """The schema as text. Under a node's name its settings stand by dotted name, or nested by section: ROS reads both."""
    sections: dict[str, dict] = {}
    dotted = {}
    for item in parameter_settings(TacoConfig()):
        section, name = item.path.split(".")
        sections.setdefault(section, {"type": "object", "properties": {}, "additionalProperties": False})
        sections[section]["properties"][name] = _value(item)
        dotted[item.path] = {"$ref": f"#/definitions/{section}/properties/{name}"}
    nested = {section: {"$ref": f"#/definitions/{section}"} for section in sections}
    microphone = {item.path: _value(item) for item in parameter_settings(MicrophoneConfig())}
    nodes = {"taco_node": _parameters(dotted | nested), "microphone": _parameters(microphone)}
    references = {name: {"$ref": f"#/definitions/{name}"} for name in nodes}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Parameters of taco_ros; written by `make tables`",
        "definitions": sections | nodes,
        "type": "object",
        "patternProperties": {rf"^(/(\S*/)?)?{name}$": reference for name, reference in references.items()}
        | {r"^/\*\*$": {"anyOf": list(references.values())}},
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=1) + "\n"


def _parameters(values: dict) -> dict:
    """What stands under the name of a node."""
    inner = {
        "type": "object",
        "properties": values | OF_ROS,
        "patternProperties": {r"^qos_overrides\.": {}},
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"ros__parameters": inner},
        "required": ["ros__parameters"],
        "additionalProperties": False,
    }


def _value(item: Setting) -> dict:
    """The schema of one value."""
    out: dict[str, object] = {"description": f"{item.help} [{item.unit}]" if item.unit else item.help}
    if get_origin(item.type) is tuple:
        inner = get_args(item.type)
        out |= {"type": "array", "items": {"type": TYPES[inner[0]]}, "default": list(item.default)}
        if inner[-1] is not Ellipsis:
            out |= {"minItems": len(inner), "maxItems": len(inner)}
    else:
        out |= {"type": TYPES[item.type], "default": item.default}
    if item.choices:
        out["enum"] = list(item.choices)
    limits = {"minimum": item.minimum, "maximum": item.maximum}
    return out | {name: limit for name, limit in limits.items() if limit is not None}
