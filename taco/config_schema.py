"""What a setting is: a checked dataclass field with help, unit, range and choices."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taco.errors import ConfigError, shown

Needs = Mapping[str, tuple[object, ...]]


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[object] = (),
    live: bool = False,
    needs: Mapping[str, object] = {},
) -> Any:
    """A dataclass field with its help, unit, closed range or choices.

    live: may change while running. needs: for this setting to be used, the values that other settings of its section must
    have, by name: one value, or a tuple of which one will do.
    """
    meta = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": tuple(choices), "live": live}
    values = {name: value if isinstance(value, tuple) else (value,) for name, value in needs.items()}
    return field(default=default, metadata=meta | {"needs": values})


class Section:
    """Base of the sections: every value is checked against its type, range and choices when it is built."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for item in settings_in(type(self).__name__, self):
            object.__setattr__(self, item.path.rpartition(".")[2], item.check(item.value))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as ``taco.config.all_settings`` finds it.

    path: its dotted name.
    type, default, value: its type, default and present value.
    help, unit: what it is, and in which unit.
    minimum, maximum: its closed range, None where there is none.
    choices: the values to choose from; () where any will do.
    live: may it change while running?
    needs: as ``setting`` takes it.
    unmet: those needs that the other settings of its section do not meet, in words; "" where the setting is used.
    """

    path: str
    type: object
    default: object
    value: object
    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[object, ...]
    live: bool
    needs: Needs
    unmet: str

    def check(self, value: Any) -> Any:
        """``value`` in the setting's type and range, or ConfigError."""
        value = _coerce(self.path, self.type, value)
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(str(value), [str(c) for c in self.choices], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{self.path}: wanted one of {', '.join(map(repr, self.choices))}, got {shown(value)}{hint}")
        low, high = self.minimum, self.maximum
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise ConfigError(f"{self.path}: wanted {low} to {high} {self.unit}".rstrip() + f", got {shown(value)}")
        return value


def settings_in(prefix: str, section: Any) -> Iterator[Setting]:
    """The settings of one section, in order; ``prefix`` is the section's name."""
    hints = typing.get_type_hints(type(section))
    for item in dataclasses.fields(section):
        lacks = {name: values for name, values in item.metadata["needs"].items() if getattr(section, name) not in values}
        meta = dict(item.metadata)
        if meta["needs"]:
            meta["help"] += f" Used with {format_needs(meta['needs'])}."
        value, unmet = getattr(section, item.name), format_needs(lacks)
        yield Setting(f"{prefix}.{item.name}", hints[item.name], item.default, value, **meta, unmet=unmet)


def format_needs(needs: Needs) -> str:
    """Needs of a setting in words: "solver block, penalty min or mean"."""
    return ", ".join(f"{name} {' or '.join(map(str, values))}" for name, values in needs.items())


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one mapping of dotted names."""
    out: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.update(flatten(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


def _coerce(path: str, wanted: Any, value: Any) -> Any:
    """``value`` as the wanted type: lists become tuples, whole numbers become floats; ConfigError for all else."""
    origin = typing.get_origin(wanted)
    if origin is tuple:
        inner = typing.get_args(wanted)
        items = [value] if isinstance(value, str) else value
        try:
            items = list(items)
        except TypeError:
            raise ConfigError(f"{path}: wanted a list, got {shown(value)}") from None
        if inner[-1] is not Ellipsis and len(items) != len(inner):
            raise ConfigError(f"{path}: wanted {len(inner)} values, got {len(items)}")
        return tuple(_coerce(path, inner[0], item) for item in items)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{path}: wanted float, got {shown(value)}") from None
    if wanted is not types.NoneType and type(value) is wanted:
        return value
    raise ConfigError(f"{path}: wanted {wanted.__name__}, got {type(value).__name__} {shown(value)}")
