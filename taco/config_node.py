"""Settings of the ROS programs: node, targets, the sound's direction, microphone. ``taco.config`` joins them to the others."""

from __future__ import annotations

from dataclasses import dataclass

from taco.config_schema import Section, setting
from taco.errors import ConfigError

LEAST_RATE_HZ = 0.01  # ours: a frame in 100 s; a smaller rate is a slip, and its interval no sensible time to wait


@dataclass(frozen=True, slots=True)
class TargetsConfig(Section):
    """From outlined objects to a bearing, a position and markers."""

    min_score: float = setting(0.3, "Least score of a target.", minimum=0.0, maximum=1.0, live=True)
    hold_s: float = setting(
        1.0,
        "A target that falls silent is kept for this long, but not published.",
        unit="s",
        minimum=0.0,
        maximum=60.0,
        live=True,
    )
    switch_margin: float = setting(
        0.15, "Another object takes over when its score is higher by this much.", minimum=0.0, maximum=1.0, live=True
    )
    switch_after_s: float = setting(0.5, "... for this long.", unit="s", minimum=0.0, maximum=60.0, live=True)
    min_range_m: float = setting(0.1, "Shortest valid range.", unit="m", minimum=0.0, maximum=100.0, live=True)
    max_range_m: float = setting(20.0, "Longest valid range.", unit="m", minimum=0.1, maximum=1000.0, live=True)
    min_valid_pixels: int = setting(
        20, "Least number of valid depth pixels in a mask for a position.", minimum=1, maximum=1_000_000, live=True
    )
    min_valid_share: float = setting(0.1, "... and their least share of the mask.", minimum=0.0, maximum=1.0, live=True)
    max_spread: float = setting(
        0.25, "Largest valid spread of the range (robust deviation over median).", minimum=0.0, maximum=10.0, live=True
    )
    range_tolerance_s: float = setting(
        0.1,
        "Largest difference between the stamps of an image and of its depth image or scan.",
        unit="s",
        minimum=0.0,
        maximum=5.0,
        live=True,
    )
    rectified: bool = setting(False, "The images are rectified already: use the calibration's projection, not its lens model.")
    speaker_words: tuple[str, ...] = setting(
        ("person",), "Words of a speaking person, whose bearing is published on ~/speaker.", live=True
    )
    target_frame: str = setting("", "Publish bearing and pose in this frame (needs tf2_ros); empty: the camera's frame.")
    marker_length_m: float = setting(
        1.0, "Length of the bearing's arrow where no range is known.", unit="m", minimum=0.01, maximum=100.0, live=True
    )
    marker_lifetime_s: float = setting(
        0.5, "Markers that are not renewed vanish after this time.", unit="s", minimum=0.05, maximum=60.0, live=True
    )


@dataclass(frozen=True, slots=True)
class DirectionConfig(Section):
    """The sound's direction, where a microphone array measures it; nothing changes while none comes."""

    type: str = setting(
        "vector",
        "Message type of the topic sound_direction: geometry_msgs/Vector3Stamped or odas_ros_msgs/OdasSstArrayStamped.",
        choices=("vector", "odas"),
    )
    weight: float = setting(
        0.9,
        "Share of its score that an object loses which the sound does not come from; 0: directions are ignored.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    tolerance_deg: float = setting(
        15.0, "Standard deviation of a direction.", unit="degrees", minimum=1.0, maximum=90.0, live=True
    )
    mount: str = setting(
        "tf",
        "How the array stands to the camera: by tf from the message's frame_id, or fixed by yaw_deg.",
        choices=("tf", "fixed"),
    )
    yaw_deg: float = setting(
        0.0,
        "Heading of the array's x axis (y left, z up), counter-clockwise from the camera's, for mount=fixed.",
        unit="degrees",
        minimum=-360.0,
        maximum=360.0,
    )


@dataclass(frozen=True, slots=True)
class NodeConfig(Section):
    """The live node."""

    autostart: bool = setting(True, "Configure and activate at start.")
    lazy: bool = setting(False, "Subscribe only while the outputs have subscribers.")
    max_age_s: float = setting(
        0.5,
        "Drop frames that are older than this when their turn comes; 0: keep all.",
        unit="s",
        minimum=0.0,
        maximum=60.0,
        live=True,
    )
    max_rate_hz: float = setting(
        0.0, "Most frames processed per second, at least 0.01; 0: no limit.", unit="Hz", minimum=0.0, maximum=1000.0, live=True
    )
    stuck_s: float = setting(
        60.0,
        "A frame that takes the models longer than this, and than five times the warm-up, ends the process with an error, for a "
        "supervisor to start it again.",
        unit="s",
        minimum=1.0,
        maximum=3600.0,
        live=True,
    )
    image_transport: str = setting("raw", "Subscribe to raw or compressed images.", choices=("raw", "compressed"))
    max_pixels: int = setting(
        33_554_432,
        "Larger images are dropped before they are decoded; an 8K image fits.",
        unit="px",
        minimum=1,
        maximum=89_000_000,
    )
    rotation: int = setting(0, "Clockwise rotation of the camera image before use.", unit="degrees", choices=(0, 90, 180, 270))
    viewer: str = setting(
        "",
        "Show the results in Rerun: rerun opens its window, rerun+http://HOST:9876/proxy sends to one, a path *.rrd saves.",
    )
    mirror: bool = setting(False, "Mirror the camera image left to right before use.")
    no_image_warning_s: float = setting(
        5.0,
        "In /diagnostics: a warning after this long without an image, an error after this long without an answer to images.",
        unit="s",
        minimum=0.5,
        maximum=600.0,
    )
    cameras: tuple[str, ...] = setting(
        (), "Names of several cameras that share the models and the sound: NAME/image in, ~/NAME/objects out; empty: one camera."
    )

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        if 0.0 < self.max_rate_hz < LEAST_RATE_HZ:
            raise ConfigError(f"node.max_rate_hz: wanted 0 or {LEAST_RATE_HZ:g} to 1000 Hz, got {self.max_rate_hz!r}")


@dataclass(frozen=True, slots=True)
class MicrophoneConfig(Section):
    """The node that publishes a sound device as AudioChunk messages."""

    device: str = setting("", "Name (or part of it) or number of the input device; empty: the system's default.")
    sample_rate: int = setting(16000, "Samples per second and channel.", unit="Hz", minimum=1000, maximum=768000)
    channels: int = setting(1, "Channels to record.", minimum=1, maximum=64)
    block_s: float = setting(0.05, "Length of a published chunk.", unit="s", minimum=0.005, maximum=1.0)
    frame_id: str = setting("microphone", "Coordinate frame named in the headers.")
    reopen_s: float = setting(1.0, "Wait before reopening a lost device.", unit="s", minimum=0.1, maximum=60.0)
    silent_s: float = setting(3.0, "Reopen a device that delivers nothing for this long.", unit="s", minimum=0.5, maximum=60.0)
