"""Every setting of TACO: the only owner of defaults, help texts, units and ranges.

YAML files, ROS parameters, command line options and ``docs/`` follow the dataclasses below. Names are paths: ``audio.window_s``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taco.config_node import DirectionConfig as DirectionConfig
from taco.config_node import MicrophoneConfig as MicrophoneConfig
from taco.config_node import NodeConfig as NodeConfig
from taco.config_node import TargetsConfig as TargetsConfig
from taco.config_schema import Section, Setting, flatten, setting, settings_in
from taco.errors import SHOWN, ConfigError


@dataclass(frozen=True, slots=True)
class AudioConfig(Section):
    """The sound window of a frame."""

    window_s: float = setting(1.0, "Length of the sound window of a frame.", unit="s", minimum=0.1, maximum=10.0)
    alignment: str = setting(
        "trailing",
        "Window before the image (trailing, no wait) or around it (centered: the paper's, waits half a window).",
        choices=("trailing", "centered"),
    )
    ring_s: float = setting(8.0, "Sound kept in memory.", unit="s", minimum=2.0, maximum=120.0)
    gap_tolerance_s: float = setting(
        0.005, "Holes and overlaps between chunks up to this long are ignored.", unit="s", minimum=0.0, maximum=0.1
    )
    bridge_s: float = setting(
        0.04,
        "Holes up to this long are bridged by the sound around them; a window over a longer one is refused. 0: all are refused.",
        unit="s",
        minimum=0.0,
        maximum=0.5,
    )
    bridge_share: float = setting(0.05, "... while they are at most this share of a window.", minimum=0.0, maximum=1.0)
    type: str = setting(
        "auto",
        "Message type of the audio topic; auto finds it from the topic at run time.",
        choices=("auto", "taco", "audio_common", "audio_common_unstamped", "audio_common_mgonzs13"),
    )
    stamp_reference: str = setting(
        "start",
        "What the stamp of a chunk marks: its start or its end; arrival: ignore it and use the time of arrival.",
        choices=("start", "end", "arrival"),
    )
    offset_s: float = setting(
        0.0, "Added to the stamps of the sound, to align it with the camera.", unit="s", minimum=-5.0, maximum=5.0, live=True
    )
    sample_rate: int = setting(
        16000, "Sample rate of raw PCM topics that do not state theirs.", unit="Hz", minimum=1000, maximum=768000
    )
    channels: int = setting(1, "Channels of raw PCM topics that do not state theirs.", minimum=1, maximum=64)


@dataclass(frozen=True, slots=True)
class ModelsConfig(Section):
    """Which frozen models run, where, and with which words."""

    name: str = setting(
        "embedded",
        "Set of models: embedded (small, closed vocabulary, no model hub), open (any word, small OpenCLIP and MSCLAP) or paper "
        "(OpenCLIP, MSCLAP, FC-CLIP).",
        choices=("embedded", "open", "paper"),
    )
    image: str = setting("", "Image encoder; empty: the set's (open: convnext_base_w; MobileCLIP2-S0, -S2, -S4).")
    audio: str = setting(
        "",
        "Audio encoder; empty: the set's (embedded: yamnet; musicnn, birdnet; joined: yamnet+birdnet. open, paper: msclap; "
        "laion-clap, pe-audio, pe-audio-video).",
    )
    segmenter: str = setting("", "Segmenter; empty: the set's.", choices=("", "activation", "fcclip", "sam3", "sam3_lite_text"))
    image_size: int = setting(
        0, "Side of the square that the image is resized to; 0: the encoder's own.", unit="px", minimum=0, maximum=2048
    )
    word_bank: tuple[str, ...] = setting(
        (), "Words to listen for, or the path of a text file with one word a line; empty: the models' own list.", live=True
    )
    still_tolerance: float = setting(
        3.0,
        "An image is not encoded again while no block of it (a 40th of its longer side) changes by more than this; 0: always.",
        unit="grey levels of 255",
        minimum=0.0,
        maximum=50.0,
        live=True,
    )
    model_dir: str = setting("", "Folder of the weights; empty: $TACO_MODEL_DIR, else the user's cache.")
    allow_download: bool = setting(False, "Allow downloads of missing weights at start-up.")
    device: str = setting("auto", "auto, cpu or cuda:N. A GPU that is asked for but missing is an error.")
    precision: str = setting("auto", "Number format of the encoders.", choices=("auto", "float32", "bfloat16", "float16"))
    engine: str = setting(
        "auto",
        "What runs the networks; auto: on a CPU an engine for those that it runs faster, else torch. See docs/models.md.",
        choices=("auto", "torch", "onnxruntime", "openvino", "tensorrt"),
    )
    threads: int = setting(0, "CPU threads of the models; 0: torch's choice.", minimum=0, maximum=256)


@dataclass(frozen=True, slots=True)
class FactorizationConfig(Section):
    """Soft non-negative co-factorization (paper section 3.3)."""

    solver: str = setting("block", "block: ours, fast. gradient: the paper's.", choices=("block", "gradient"))
    n_factors: int = setting(8, "K, number of factors.", minimum=1, maximum=64)
    reconstruction_weights: tuple[float, float] = setting((1.0, 1.0), "Weights of image and sound reconstruction (b1, b2).")
    penalty_weight: float = setting(
        125.0, "Weight of the semantic penalty (b3).", minimum=0.0, maximum=1e6, needs={"penalty": ("min", "mean")}
    )
    reverse_penalty_weight: float = setting(
        0.0, "Weight of the reverse penalty (b4).", minimum=0.0, maximum=1e6, needs={"penalty": ("min", "mean")}
    )
    penalty: str = setting(
        "min", "Factors that the penalty covers: the best one, their mean, or none.", choices=("min", "mean", "none")
    )
    descriptor: str = setting(
        "component", "Compare pooled components, or the factors themselves, with the words.", choices=("component", "factor")
    )
    temporal: str = setting(
        "causal", "Temporal consistency: with the past, over a clip, or none.", choices=("causal", "joint", "none")
    )
    temporal_weight: float = setting(
        1.0, "Weight of the temporal term.", minimum=0.0, maximum=100.0, needs={"temporal": ("causal", "joint")}
    )
    binding: str = setting(
        "recent",
        "Choose the sounding factor by the newest sound of the window (ours) or by the penalty (the paper's).",
        choices=("recent", "penalty"),
        needs={"solver": "block"},
    )
    start: str = setting(
        "guided",
        "Cold start of the block solver: clusters guided by the sound (ours), or k-means and random activations (the paper's).",
        choices=("guided", "random"),
        needs={"solver": "block"},
    )
    trust_region: float = setting(
        0.1,
        "How far the penalty may move an activation from its reconstruction; 0: no bound.",
        minimum=0.0,
        maximum=1.0,
        needs={"solver": "block", "binding": "recent", "descriptor": "component"},
    )
    merge: str = setting(
        "auto",
        "Merge image factors that show the same object into the sounding one (ours). auto: after the block solver with binding "
        "recent. always: after the paper's too. never: as in the paper.",
        choices=("auto", "always", "never"),
    )
    max_iterations: int = setting(
        0,
        "Most steps (gradient) or sweeps (block); 0: the solver's own, 1800 steps or 2 sweeps.",
        minimum=0,
        maximum=100_000,
    )
    learning_rate: float = setting(
        0.25,
        "Step of the gradient solver, halved at steps 500, 1000 and 1500.",
        minimum=1e-6,
        maximum=100.0,
        needs={"solver": "gradient"},
    )


@dataclass(frozen=True, slots=True)
class ConceptsConfig(Section):
    """From factors to words, and when to say nothing."""

    silence_dbfs: float = setting(
        -50.0, "Windows quieter than this count as silence.", unit="dBFS", minimum=-200.0, maximum=0.0, live=True
    )
    min_score: float = setting(0.4, "Sounding score below which nothing is reported.", minimum=0.0, maximum=1.0, live=True)
    hysteresis: float = setting(
        0.7, "Share of min_score that is enough for the words of the previous frame.", minimum=0.0, maximum=1.0, live=True
    )
    memory_s: float = setting(
        0.25,
        "Time constant for averaging sound probabilities over frames; 0: no averaging.",
        unit="s",
        minimum=0.0,
        maximum=5.0,
        live=True,
    )
    switch_margin: float = setting(
        0.4, "Log-odds by which another word must beat those of the previous frame.", minimum=0.0, maximum=5.0, live=True
    )
    min_structure: float = setting(
        0.0,
        "Ignore sound that departs less than this from steady noise (fans, wind); 0: off. For sound models that know no noises "
        "(musicnn): 0.4. Noise stays below 0.35, instruments above 0.85; fans, hair dryers and rain are noise.",
        minimum=0.0,
        maximum=2.0,
        live=True,
    )
    naming: str = setting(
        "auto",
        "joint: sound and image vote for factor and word (ours). factor: the sounding factor's nearest word (the paper's). "
        "auto: factor for image models compared by cosines (CLIP), joint for closed vocabularies.",
        choices=("auto", "joint", "factor"),
        live=True,
    )
    image_weight: float = setting(
        1.4, "Weight of the image's vote for a word; the sound's is 1.", minimum=0.0, maximum=100.0, live=True
    )
    max_concepts: int = setting(3, "Most sounding objects reported at once.", minimum=1, maximum=8, live=True)
    n_labels: int = setting(5, "Most words reported for an object.", minimum=1, maximum=100, live=True)
    n_heard: int = setting(
        5,
        "Most words reported for the sound itself, whether in view or in the word bank or not.",
        minimum=0,
        maximum=100,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class SegmentationConfig(Section):
    """From concepts to masks."""

    readout: str = setting(
        "minmax",
        "minmax: threshold the map scaled to [0, 1]. argmax: pixels where the factor wins.",
        choices=("minmax", "argmax"),
        live=True,
    )
    threshold: float = setting(0.5, "Least confidence of a pixel of the mask.", minimum=0.0, maximum=1.0, live=True)
    min_area: float = setting(0.001, "Smallest object, as a share of the image.", minimum=0.0, maximum=1.0, live=True)
    refine: str = setting(
        "auto",
        "Fit the mask to the object's outline: parts (of a class-agnostic network's outline, chosen by the factors), edges (of "
        "the image alone: cheap), none. auto: parts if the network is installed, else edges.",
        choices=("auto", "parts", "edges", "none"),
        live=True,
    )
    instances: str = setting(
        "together",
        "Several objects of one kind: together as one object, or apart.",
        choices=("together", "apart"),
        live=True,
    )
    split: bool = setting(
        True,
        "FC-CLIP: give every object inside the sounding region its own mask and label (ours); off: one for all (the paper's).",
        live=True,
    )
    track: bool = setting(False, "SAM 3: follow instances from image to image with its tracker, so that they keep their ids.")
    min_presence: float = setting(
        0.5,
        "SAM 3: least probability that the word is in the image; below it nothing is reported.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    alpha: float = setting(0.4, "FC-CLIP: weight of the frozen CLIP for classes seen in training.", minimum=0.0, maximum=1.0)
    beta: float = setting(1.0, "FC-CLIP: weight of the frozen CLIP for other classes (upstream: 0.8).", minimum=0.0, maximum=1.0)


@dataclass(frozen=True, slots=True)
class TrackingConfig(Section):
    """Stable ids of sounding objects over frames."""

    hold_s: float = setting(
        1.0, "An object that falls silent keeps its id for this long.", unit="s", minimum=0.0, maximum=60.0, live=True
    )
    min_similarity: float = setting(
        0.5, "Least similarity in place, word and look for two sightings to share an id.", minimum=0.0, maximum=1.0, live=True
    )


@dataclass(frozen=True, slots=True)
class TacoConfig:
    """All settings."""

    audio: AudioConfig = field(default_factory=AudioConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    factorization: FactorizationConfig = field(default_factory=FactorizationConfig)
    concepts: ConceptsConfig = field(default_factory=ConceptsConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    direction: DirectionConfig = field(default_factory=DirectionConfig)
    node: NodeConfig = field(default_factory=NodeConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> TacoConfig:
        """From nested mappings ({"audio": {"window_s": 1.0}}) or dotted names; ConfigError names what is wrong."""
        return cls().updated(flatten(values))

    @classmethod
    def from_yaml(cls, path: str | Path, base: TacoConfig | None = None) -> TacoConfig:
        """From a YAML file of nested or dotted names; a ROS parameter file is read too. base: has what the file leaves out."""
        import yaml

        try:
            values = yaml.safe_load(Path(path).read_text()) or {}
            found = next((i for i in values.values() if isinstance(i, Mapping) and "ros__parameters" in i), None)
            flat = flatten(found["ros__parameters"] if found else values)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # of a date that is none, of a node within itself
            raise ConfigError(f"config: wanted a readable YAML file, got {path}: {' '.join(str(error).split())}") from None
        except AttributeError:
            raise ConfigError(f"config: wanted a mapping of settings in {path}, got another kind of value") from None
        return (base or cls()).updated(flat)

    def updated(self, flat: Mapping[str, object]) -> TacoConfig:
        """A copy with settings, named by their dotted paths, changed."""
        known = {item.path: item for item in all_settings(self)}
        sections: dict[str, dict[str, object]] = {}
        for path, value in flat.items():
            if path not in known:
                near = difflib.get_close_matches(path, known, 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else "; see `taco config`"
                raise ConfigError(f"unknown setting {' '.join(path[:SHOWN].split())}{hint}")
            section, name = path.split(".")
            sections.setdefault(section, {})[name] = known[path].check(value)
        return dataclasses.replace(
            self, **{name: dataclasses.replace(getattr(self, name), **changes) for name, changes in sections.items()}
        )

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Nested plain mappings, tuples as lists; ``from_dict`` gives the same config back."""
        out: dict[str, dict[str, object]] = {}
        for item in all_settings(self):
            section, name = item.path.split(".")
            out.setdefault(section, {})[name] = list(item.value) if isinstance(item.value, tuple) else item.value
        return out


def unused_settings(config: TacoConfig) -> list[str]:
    """A line for every setting that was changed from its default, but has no effect beside the others."""
    return [
        f"{item.path} = {item.value!r} is not used: it needs {item.unmet}"
        for item in all_settings(config)
        if item.unmet and item.value != item.default
    ]


def all_settings(config: TacoConfig | None = None) -> Iterator[Setting]:
    """Every setting, in order."""
    config = config or TacoConfig()
    for section in dataclasses.fields(config):
        yield from settings_in(section.name, getattr(config, section.name))
