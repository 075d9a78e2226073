"""Start taco_node, and if wished the microphone node and RViz.

`ros2 launch taco_ros taco.launch.py --show-args` lists the arguments.
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

DEFAULTS = PathJoinSubstitution([FindPackageShare("taco_ros"), "config", "taco.yaml"])
RVIZ = PathJoinSubstitution([FindPackageShare("taco_ros"), "config", "taco.rviz"])

# name, default, description. An empty default of a setting leaves it to the parameter file.
ARGUMENTS = (
    ("namespace", "", "Namespace of the nodes and of their relative topics."),
    ("params_file", DEFAULTS, "Parameter file; copy config/taco.yaml and change what you need."),
    ("image_topic", "image", "Camera topic (sensor_msgs/Image); with compressed:=true without its /compressed."),
    ("compressed", "false", "true: subscribe to IMAGE_TOPIC/compressed (sensor_msgs/CompressedImage)."),
    ("audio_topic", "audio", "Sound topic: taco_ros/AudioChunk, or AudioDataStamped or AudioStamped of audio_common_msgs."),
    ("microphone", "false", "true: also start the microphone node, publishing on audio_topic."),
    ("mic_device", "", "Sound device of the microphone node: a part of its name, or its number (microphone --list)."),
    ("camera_info_topic", "camera_info", "Calibration of the camera (sensor_msgs/CameraInfo), for bearings."),
    ("depth_topic", "depth", "Depth image registered to the camera (32FC1 m or 16UC1 mm), for positions."),
    ("scan_topic", "scan", "Laser scan (sensor_msgs/LaserScan), for positions without depth."),
    ("viewer", "", "rerun: open the Rerun viewer; rerun+http://HOST:9876/proxy: send to one; a path .rrd: save."),
    ("device", "", "Where the models run: auto, cpu or cuda:N. A GPU asked for and missing is an error."),
    ("model_dir", "", "Folder of the models' weights."),
    ("models", "", "Set of models: embedded or paper."),
    ("word_bank", "", "Words to listen for (`taco words` lists them), separated by commas, or a text file with a word a line."),
    ("rviz", "false", "true: also start RViz with the overlay, the mask and the markers."),
    ("autostart", "true", "true: configure and activate the node at once; false: wait for a lifecycle manager."),
    ("use_sim_time", "false", "true: use /clock (simulation, `ros2 bag play --clock`)."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)
SETTINGS = {"viewer": "node.viewer", "device": "models.device", "model_dir": "models.model_dir", "models": "models.name"}


def is_true(text: str) -> bool:
    """The value of a yes/no argument."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"wanted true or false, got {text!r}")
    return text.lower() in ("true", "1")


def parameters_from(value) -> dict:
    """Parameters of taco_node that arguments set. value: name of an argument -> its text."""
    out = {path: value(name) for name, path in SETTINGS.items() if value(name)}
    words = [word.strip() for word in value("word_bank").split(",") if word.strip()]
    if words:
        out["models.word_bank"] = words
    if is_true(value("compressed")):
        out["node.image_transport"] = "compressed"
    out["node.autostart"] = is_true(value("autostart"))
    out["use_sim_time"] = is_true(value("use_sim_time"))
    return out


def nodes(context):
    """The nodes, once the arguments are known."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    common = {
        "package": "taco_ros",
        "namespace": value("namespace"),
        "output": "screen",
        "ros_arguments": ["--log-level", value("log_level")],
    }
    remaps = {
        "image": "image_topic",
        "audio": "audio_topic",
        "camera_info": "camera_info_topic",
        "depth": "depth_topic",
        "scan": "scan_topic",
    }
    actions = [
        Node(
            executable="taco_node",
            name="taco_node",
            parameters=[value("params_file"), parameters_from(value)],
            remappings=[(topic, value(name)) for topic, name in remaps.items()],
            **common,
        )
    ]
    if is_true(value("microphone")):
        device = {"device": value("mic_device")} if value("mic_device") else {}
        actions.append(
            Node(
                executable="microphone",
                name="microphone",
                parameters=[value("params_file"), {**device, "use_sim_time": is_true(value("use_sim_time"))}],
                remappings=[("audio", value("audio_topic"))],
                **common,
            )
        )
    if is_true(value("rviz")):
        # The topics in the file are those of a node without a namespace; RViz runs in the same namespace and they are relative.
        actions.append(Node(package="rviz2", executable="rviz2", arguments=["-d", RVIZ], namespace=value("namespace")))
    return actions


def generate_launch_description():
    """What `ros2 launch` calls."""
    arguments = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    return LaunchDescription([*arguments, OpaqueFunction(function=nodes)])
