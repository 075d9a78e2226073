"""Several cameras, one microphone, one set of models in one process.

`ros2 launch taco_ros cameras.launch.py cameras:=front,rear image_topics:=/front/image_raw,/rear/image_raw`.
For every NAME: NAME/image in (remap with image_topics), taco_node/NAME/objects and its companions out.
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

DEFAULTS = PathJoinSubstitution([FindPackageShare("taco_ros"), "config", "taco.yaml"])

ARGUMENTS = (
    ("namespace", "", "Namespace of the node and of its relative topics."),
    ("params_file", DEFAULTS, "Parameter file; copy config/taco.yaml and change what you need."),
    ("cameras", "front,rear", "Names of the cameras, separated by commas."),
    ("image_topics", "", "Their topics in the same order, separated by commas; empty: NAME/image."),
    ("compressed", "false", "true: subscribe to the topics' /compressed."),
    ("audio_topic", "audio", "Sound topic, shared by all cameras."),
    ("use_sim_time", "false", "true: use /clock."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)


def words_of(text: str) -> list[str]:
    """The parts of a comma-separated list, brackets allowed."""
    return [part.strip() for part in text.strip("[] ").split(",") if part.strip()]


def remappings_from(cameras: list[str], topics: list[str], audio_topic: str) -> list[tuple[str, str]]:
    """Remappings of the node; ValueError where there are not as many topics as cameras."""
    if topics and len(topics) != len(cameras):
        raise ValueError(f"image_topics: wanted {len(cameras)} topics for {', '.join(cameras)}, got {len(topics)}")
    return [("audio", audio_topic), *((f"{name}/image", topic) for name, topic in zip(cameras, topics))]


def nodes(context):
    """The node, once the arguments are known."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    cameras = words_of(value("cameras"))
    own = {
        "node.cameras": cameras,
        "node.image_transport": "compressed" if value("compressed").lower() in ("true", "1") else "raw",
        "use_sim_time": value("use_sim_time").lower() in ("true", "1"),
    }
    return [
        Node(
            package="taco_ros",
            executable="taco_node",
            name="taco_node",
            namespace=value("namespace"),
            output="screen",
            parameters=[value("params_file"), own],
            remappings=remappings_from(cameras, words_of(value("image_topics")), value("audio_topic")),
            ros_arguments=["--log-level", value("log_level")],
        )
    ]


def generate_launch_description():
    """What `ros2 launch` calls."""
    arguments = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    return LaunchDescription([*arguments, OpaqueFunction(function=nodes)])
