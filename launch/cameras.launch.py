"""Several cameras, one microphone, one set of models in one process.

`ros2 launch taco_ros cameras.launch.py cameras:=front,rear image_topics:=/front/image_raw,/rear/image_raw`.
For every NAME: NAME/image in (remap with image_topics), taco_node/NAME/objects and its companions out.
"""

from pathlib import Path

from taco_ros import launching


def generate_launch_description():
    """What `ros2 launch` calls."""
    config = Path(__file__).parent.parent / "config"
    return launching.description(config, (*launching.SEVERAL_CAMERAS, *launching.SHARED), launching.several_cameras)
