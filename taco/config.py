"""Every setting of TACO: the only owner of defaults, help texts, units and ranges.

YAML files, ROS parameters, command line options and the tables in ``docs/`` are made from, or
compared with, the dataclasses below. A setting is named by its dotted path: ``audio.window_s``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taco.config_schema import Checked, Setting, flatten, setting, settings_of
from taco.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AudioConfig(Checked):
    """The sound window of a frame."""

    window_s: float = setting(1.0, "Length of the sound window of a frame.", unit="s", minimum=0.1, maximum=10.0)
    alignment: str = setting(
        "trailing",
        "Window before the image (trailing, no wait) or around it (centered: the paper's, waits half a window).",
        choices=("trailing", "centered"),
    )
    ring_s: float = setting(8.0, "Sound kept in memory.", unit="s", minimum=2.0, maximum=120.0)
    gap_tolerance_s: float = setting(
        0.005, "Holes and overlaps between chunks up to this long are smoothed over.", unit="s", minimum=0.0, maximum=0.1
    )
    type: str = setting(
        "auto",
        "Message type of the audio topic; auto finds it from the topic at run time.",
        choices=("auto", "taco", "audio_common", "audio_common_unstamped", "audio_common_mgonzs13"),
    )
    stamp_reference: str = setting(
        "start", "What the stamp of a chunk tells: its start, its end, or use the arrival.", choices=("start", "end", "arrival")
    )
    offset_s: float = setting(
        0.0, "Added to the stamps of the sound, to align it with the camera.", unit="s", minimum=-5.0, maximum=5.0, live=True
    )
    sample_rate: int = setting(
        16000, "Sample rate of raw PCM topics that do not tell theirs.", unit="Hz", minimum=1000, maximum=768000
    )
    channels: int = setting(1, "Channels of raw PCM topics that do not tell theirs.", minimum=1, maximum=64)


@dataclass(frozen=True, slots=True)
class ModelsConfig(Checked):
    """Which frozen models run, where, and with which words."""

    name: str = setting(
        "embedded",
        "Set of models: embedded (small, closed vocabulary, no model hub) or paper (OpenCLIP, MSCLAP, FC-CLIP).",
        choices=("embedded", "paper"),
    )
    image: str = setting("", "Image encoder; empty takes the set's.")
    audio: str = setting("", "Sound encoder; empty takes the set's (embedded: yamnet; musicnn, birdnet or several joined by +).")
    segmenter: str = setting("", "Segmenter; empty takes the set's.", choices=("", "activation", "fcclip"))
    image_size: int = setting(
        0, "Side of the square that the image is resized to; 0 takes the encoder's own.", unit="px", minimum=0, maximum=2048
    )
    word_bank: tuple[str, ...] = setting(
        (), "Words to listen for, or one path of a text file with a word a line; empty takes the models' own list.", live=True
    )
    model_dir: str = setting("", "Folder of the weights; empty takes $TACO_MODEL_DIR, else the user's cache.")
    allow_download: bool = setting(False, "May a start download missing weights?")
    device: str = setting("auto", "auto, cpu or cuda:N. A GPU asked for and missing is an error.")
    precision: str = setting("auto", "Numbers used in the encoders.", choices=("auto", "float32", "bfloat16", "float16"))
    threads: int = setting(0, "CPU threads of the models; 0 leaves torch's choice.", minimum=0, maximum=256)


@dataclass(frozen=True, slots=True)
class FactorizationConfig(Checked):
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
    penalty: str = setting("min", "Over which factors the penalty goes.", choices=("min", "mean", "none"))
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
        "Sounding factor by the newest sound of the window (ours) or by the penalty (the paper's).",
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
        "How far the penalty may move an activation from its reconstruction; 0 sets no bound.",
        minimum=0.0,
        maximum=1.0,
        needs={"solver": "block", "binding": "recent", "descriptor": "component"},
    )
    merge: str = setting(
        "auto",
        "Image factors that show what the sounding one shows go into it (ours). auto: after the block solver with binding "
        "recent. always: after the paper's too. never: as the paper.",
        choices=("auto", "always", "never"),
    )
    max_iterations: int = setting(
        0,
        "Steps (gradient) or sweeps (block) at most; 0 takes the solver's own: 1800 steps, 2 sweeps.",
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
class ConceptsConfig(Checked):
    """From factors to words, and when to say nothing."""

    silence_dbfs: float = setting(
        -50.0, "Windows quieter than this count as silence.", unit="dBFS", minimum=-200.0, maximum=0.0, live=True
    )
    min_score: float = setting(0.4, "Sounding score below which nothing is reported.", minimum=0.0, maximum=1.0, live=True)
    hysteresis: float = setting(
        0.7, "Share of min_score that is enough for the word of the frame before.", minimum=0.0, maximum=1.0, live=True
    )
    memory_s: float = setting(
        0.25,
        "What is heard is averaged over frames with this time constant; 0 hears every frame by itself.",
        unit="s",
        minimum=0.0,
        maximum=5.0,
        live=True,
    )
    switch_margin: float = setting(
        0.4, "Log-odds by which another word must beat the words of the frame before.", minimum=0.0, maximum=5.0, live=True
    )
    min_structure: float = setting(
        0.0,
        "Sound that departs less than this from steady noise of any colour (fans, wind) gives nothing; 0: off. For ears that "
        "know no noises (musicnn): 0.4. Noise stays below 0.35, instruments above 0.85; fans, hair dryers and rain are noise.",
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
        1.4, "Weight of the image's vote for a word beside the sound's.", minimum=0.0, maximum=100.0, live=True
    )
    max_concepts: int = setting(3, "Sounding things reported at once at most.", minimum=1, maximum=8, live=True)
    n_labels: int = setting(5, "Words reported for an object.", minimum=1, maximum=100, live=True)
    n_heard: int = setting(
        5, "Words reported at most of what is heard, in view or not, in the bank or not.", minimum=0, maximum=100, live=True
    )


@dataclass(frozen=True, slots=True)
class SegmentationConfig(Checked):
    """From concepts to masks."""

    readout: str = setting(
        "minmax", "Map scaled to [0, 1], or pixels where the factor wins.", choices=("minmax", "argmax"), live=True
    )
    threshold: float = setting(0.5, "Confidence from which a pixel belongs to the mask.", minimum=0.0, maximum=1.0, live=True)
    min_area: float = setting(0.001, "Smallest object, as a share of the image.", minimum=0.0, maximum=1.0, live=True)
    refine: str = setting(
        "auto",
        "Fit the mask to the thing's outline: parts (of a class-agnostic network's outline, chosen by the factors), edges (of "
        "the image alone: cheap), none. auto: parts where the network is there, else edges.",
        choices=("auto", "parts", "edges", "none"),
        live=True,
    )
    instances: str = setting(
        "together",
        "Several of a kind: together in one object, or apart, an object for each.",
        choices=("together", "apart"),
        live=True,
    )
    split: bool = setting(
        True,
        "FC-CLIP: give every thing inside the sounding region its own mask and label (ours; off: one, the paper's).",
        live=True,
    )
    alpha: float = setting(0.4, "FC-CLIP: weight of the frozen CLIP for classes seen in training.", minimum=0.0, maximum=1.0)
    beta: float = setting(1.0, "FC-CLIP: weight of the frozen CLIP for other classes (upstream: 0.8).", minimum=0.0, maximum=1.0)


@dataclass(frozen=True, slots=True)
class TrackingConfig(Checked):
    """Stable ids of sounding things over frames."""

    hold_s: float = setting(
        1.0, "A thing that falls silent keeps its id for this long.", unit="s", minimum=0.0, maximum=60.0, live=True
    )
    min_similarity: float = setting(
        0.5, "How alike in place, word and look two sightings must be to share an id.", minimum=0.0, maximum=1.0, live=True
    )


@dataclass(frozen=True, slots=True)
class TargetsConfig(Checked):
    """From outlined things to a bearing, a position and markers."""

    min_score: float = setting(0.3, "Score below which a thing is no target.", minimum=0.0, maximum=1.0, live=True)
    hold_s: float = setting(
        1.0, "A target unheard for less than this is kept, but not published.", unit="s", minimum=0.0, maximum=60.0, live=True
    )
    switch_margin: float = setting(
        0.15, "Another thing takes over when its score is higher by this much.", minimum=0.0, maximum=1.0, live=True
    )
    switch_after_s: float = setting(0.5, "... and has been for this long.", unit="s", minimum=0.0, maximum=60.0, live=True)
    min_range_m: float = setting(0.1, "Nearest range that is believed.", unit="m", minimum=0.0, maximum=100.0, live=True)
    max_range_m: float = setting(20.0, "Farthest range that is believed.", unit="m", minimum=0.1, maximum=1000.0, live=True)
    min_valid_pixels: int = setting(
        20, "Valid depth pixels that a mask must hold for a position.", minimum=1, maximum=1_000_000, live=True
    )
    min_valid_share: float = setting(0.1, "... and their share of the mask.", minimum=0.0, maximum=1.0, live=True)
    max_spread: float = setting(
        0.25, "Largest spread of the range (robust deviation over median) that is believed.", minimum=0.0, maximum=10.0, live=True
    )
    range_tolerance_s: float = setting(
        0.1, "Depth or scan whose stamp differs more from the image's is not used.", unit="s", minimum=0.0, maximum=5.0, live=True
    )
    rectified: bool = setting(False, "The images are rectified already: use the calibration's projection, not its lens model.")
    target_frame: str = setting("", "Publish bearing and pose in this frame (needs tf2_ros); empty keeps the camera's frame.")
    marker_length_m: float = setting(
        1.0, "Length of the bearing's arrow where no range is known.", unit="m", minimum=0.01, maximum=100.0, live=True
    )
    marker_lifetime_s: float = setting(
        0.5, "Markers that are not renewed vanish after this.", unit="s", minimum=0.05, maximum=60.0, live=True
    )


@dataclass(frozen=True, slots=True)
class NodeConfig(Checked):
    """The live node."""

    autostart: bool = setting(True, "Configure and activate at start.")
    lazy: bool = setting(False, "Subscribe only while somebody listens.")
    max_age_s: float = setting(
        0.5,
        "Frames older than this when their turn comes are dropped; 0 keeps all.",
        unit="s",
        minimum=0.0,
        maximum=60.0,
        live=True,
    )
    max_rate_hz: float = setting(
        0.0, "Frames processed a second at most; 0 sets no limit.", unit="Hz", minimum=0.0, maximum=1000.0, live=True
    )
    image_transport: str = setting("raw", "Subscribe to raw or compressed images.", choices=("raw", "compressed"))
    rotation: int = setting(
        0, "How far the camera image is turned clockwise before use.", unit="degrees", choices=(0, 90, 180, 270)
    )
    viewer: str = setting(
        "", "Show what is found in Rerun: rerun opens its window, rerun+http://HOST:9876/proxy sends to one, a path .rrd saves."
    )
    mirror: bool = setting(False, "Mirror the camera image left to right before use.")
    no_image_warning_s: float = setting(5.0, "Warn when no image came for this long.", unit="s", minimum=0.5, maximum=600.0)
    cameras: tuple[str, ...] = setting(
        (), "Names of several cameras that share the models and the sound: NAME/image in, ~/NAME/objects out; empty: one camera."
    )


@dataclass(frozen=True, slots=True)
class MicrophoneConfig(Checked):
    """The node that publishes a sound device as AudioChunk messages."""

    device: str = setting("", "Name (a part of it will do) or number of the input device; empty takes the system's default.")
    sample_rate: int = setting(16000, "Samples per second and channel.", unit="Hz", minimum=1000, maximum=768000)
    channels: int = setting(1, "Channels to record.", minimum=1, maximum=64)
    block_s: float = setting(0.05, "Length of a published chunk.", unit="s", minimum=0.005, maximum=1.0)
    frame_id: str = setting("microphone", "Coordinate frame named in the headers.")
    reopen_s: float = setting(1.0, "Wait before a lost device is opened again.", unit="s", minimum=0.1, maximum=60.0)
    silent_s: float = setting(
        3.0, "A device that delivers nothing for this long is opened again.", unit="s", minimum=0.5, maximum=60.0
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
    node: NodeConfig = field(default_factory=NodeConfig)

    @classmethod
    def from_dict(cls, values: Mapping) -> TacoConfig:
        """From nested mappings ({"audio": {"window_s": 1.0}}) or dotted names; ConfigError names what is wrong."""
        return cls().updated(flatten(values))

    @classmethod
    def from_yaml(cls, path: str | Path) -> TacoConfig:
        """From a YAML file of nested or dotted names; a ROS parameter file is read too."""
        import yaml

        try:
            values = yaml.safe_load(Path(path).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"config: wanted a readable YAML file, got {path}: {error}".replace("\n", " ")) from None
        if not isinstance(values, Mapping):
            raise ConfigError(f"config: wanted a mapping of settings in {path}, got {type(values).__name__}")
        for inner in values.values():
            if isinstance(inner, Mapping) and "ros__parameters" in inner:
                values = inner["ros__parameters"]
                break
        return cls.from_dict(values)

    def updated(self, flat: Mapping[str, object]) -> TacoConfig:
        """A copy with settings, named by their dotted paths, changed."""
        known = {item.path: item for item in walk(self)}
        sections: dict[str, dict] = {}
        for path, value in flat.items():
            if path not in known:
                near = difflib.get_close_matches(path, known, 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else "; see `taco config`"
                raise ConfigError(f"unknown setting {path}{hint}")
            section, name = path.split(".")
            sections.setdefault(section, {})[name] = known[path].check(value)
        return dataclasses.replace(
            self, **{name: dataclasses.replace(getattr(self, name), **changes) for name, changes in sections.items()}
        )

    def to_dict(self) -> dict:
        """Nested plain mappings, tuples as lists; ``from_dict`` gives the same config back."""
        out: dict[str, dict] = {}
        for item in walk(self):
            section, name = item.path.split(".")
            out.setdefault(section, {})[name] = list(item.value) if isinstance(item.value, tuple) else item.value
        return out


def unused(config: TacoConfig) -> list[str]:
    """A line for every setting that was changed from its default and that others of the same config leave without use."""
    return [
        f"{item.path} = {item.value!r} is not used: it needs {item.unmet}"
        for item in walk(config)
        if item.unmet and item.value != item.default
    ]


def walk(config: TacoConfig | None = None) -> Iterator[Setting]:
    """Every setting, in order."""
    config = config or TacoConfig()
    for section in dataclasses.fields(config):
        yield from settings_of(section.name, getattr(config, section.name))
